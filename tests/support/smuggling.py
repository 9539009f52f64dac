"""Requests as attackers write them: what each one's bytes are, and what has to come of them.

Every vector is one connection. Its first request carries the marker `first`, what it tries to smuggle the
marker `hidden`; behind it comes a plain request with the marker `tail`, which ends the connection. By RFC
9112 each of them is either one request or none:

- served: `first` reaches the upstream with its exact body, and so does `tail`; two answers
- refused: one answer of 4xx or 5xx, nothing reaches the upstream, the connection ends
- and a few in between, which say what they expect
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.weir_process import CLIENT_KEY

PATH = "/v1/chat/completions"
HOST = b"Host: weir.test\r\n"
AUTH = b"Authorization: Bearer " + CLIENT_KEY.encode() + b"\r\n"
SERVED, REFUSED = (200, 200), (400,)
CONTROLS = [*range(0x01, 0x09), *range(0x0B, 0x0D), *range(0x0E, 0x20), 0x7F]


@dataclass(frozen=True)
class Vector:
    """`wire` has the marks that `sent_as` fills in; `statuses` of all answers, 400 standing for any refusal.

    `reach` says which markers reach the upstream; `ends` that the client stops sending after it, since the
    server is right to wait for more.
    """

    name: str
    wire: bytes
    statuses: tuple[int, ...] = SERVED
    reach: tuple[str, ...] = ("first", "tail")
    ends: bool = False

    def sent_as(self, number: int) -> bytes:
        """The bytes to send, with markers of its own."""
        return self.wire.replace(b"@@@@", b"%04d" % number)


def body(marker: str) -> bytes:
    """A JSON body of the same length in every run."""
    text = f'{{"model":"gpt-test","messages":[{{"role":"user","content":"v@@@@-{marker}"}}]}}'
    return text.encode()


FIRST, HIDDEN, TAIL_BODY = body("first"), body("hidden"), body("tail")


def post(
    fields: bytes,
    payload: bytes,
    *,
    line: bytes = b"POST " + PATH.encode() + b" HTTP/1.1\r\n",
    host: bytes = HOST,
    auth: bytes = AUTH,
) -> bytes:
    """A request with these header lines besides Host and credential."""
    return line + host + auth + fields + b"\r\n" + payload


def length(payload: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(payload)


def chunks(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(payload), payload)


CHUNKED = b"Transfer-Encoding: chunked\r\n"
TAIL = post(length(TAIL_BODY) + b"Connection: close\r\n", TAIL_BODY)
PLAIN = post(length(FIRST), FIRST)
INNER = post(length(HIDDEN), HIDDEN)


def served(name: str, wire: bytes) -> Vector:
    return Vector(name, wire + TAIL)


def refused(name: str, wire: bytes, status: int = 400) -> Vector:
    return Vector(name, wire + TAIL, (status,), ())


def _coding_values() -> Iterator[Vector]:
    for value in (b"chunked", b"Chunked", b"CHUNKED", b"chunked  ", b"\tchunked", b" \t chunked\t"):
        yield served(f"coding {value!r}", post(b"Transfer-Encoding:" + value + b"\r\n", chunks(FIRST)))
    odd = [
        b"", b"identity", b"xchunked", b"chunkedx", b"chunk", b"chunked, chunked", b"chunked,", b",chunked",
        b"chunked;q=1", b'"chunked"', b"'chunked'", b"gzip", b"gzip, chunked", b"chunked, gzip",
        b"identity, chunked", b"chunked, identity", b"deflate, chunked", b"x-gzip, chunked", b"br, chunked",
        b"chunked x", b"x chunked", b"chunked\xa0", b"chunked\x0b", b"\x0cchunked", b"chunked\x00",
        b"chunked\r", b"ch\xffunked", b"cow", b"chunked\\r\\n", b"{chunked}",
    ]  # fmt: skip
    for value in odd:
        fields = b"Transfer-Encoding: " + value + b"\r\n"
        yield refused(f"coding {value!r}", post(fields, chunks(FIRST)))
    for value in (b"chunked", b"CHUNKED", b"identity", b"xchunked", b"gzip, chunked", b"chunked, identity"):
        coding = b"Transfer-Encoding: " + value + b"\r\n"
        smuggling = b"0\r\n\r\n" + INNER
        both = length(smuggling) + coding
        yield refused(f"length, then coding {value!r}", post(both, smuggling))
        yield refused(f"coding {value!r}, then length", post(coding + length(smuggling), smuggling))
        yield refused(
            f"short length and coding {value!r}", post(coding + b"Content-Length: 4\r\n", smuggling)
        )
    for second in (b"chunked", b"identity", b"x"):
        fields = CHUNKED + b"Transfer-Encoding: " + second + b"\r\n"
        yield refused(f"a second coding {second!r}", post(fields, chunks(FIRST)))
        fields = b"Transfer-Encoding: " + second + b"\r\n" + CHUNKED
        yield refused(f"a coding {second!r} before", post(fields, chunks(FIRST)))


def _length_values() -> Iterator[Vector]:
    size = b"%d" % len(FIRST)
    for value in (b"00" + size, size + b" ", size + b"\t", b"\t" + size):
        yield served(f"length {value!r}", post(b"Content-Length:" + value + b"\r\n", FIRST))
    odd = [
        b"", b" ", b"+" + size, b"-" + size, b"-1", b"0x50", b"0b1", size + b".0", b"8e1", size + b"x",
        size + b" " + size, size + b"," + size, size + b", " + size, size + b";", b"\xc2\xb2", b"\xb2",
        b"\xef\xbc\x98\xef\xbc\x90", b"8_0", size + b"\x0b", size + b"\xa0", size + b"\x00", b"\x00" + size,
        b"'" + size + b"'", b'"' + size + b'"', b"(" + size + b")", b"9" * 5000, b"nan", b"inf", b"1 0",
    ]  # fmt: skip
    for value in odd:
        fields = b"Content-Length: " + value + b"\r\n"
        name = value if len(value) < 100 else b"of 5000 digits"
        yield refused(f"length {name!r}", post(fields, FIRST + INNER))
    again = b"Content-Length: %d\r\n" % (len(FIRST) + len(INNER))
    yield refused("two lengths alike", post(length(FIRST) * 2, FIRST))
    yield refused("two lengths, the longer last", post(length(FIRST) + again, FIRST + INNER))
    yield refused("two lengths, the longer first", post(again + length(FIRST), FIRST + INNER))
    yield refused("two lengths, one in other case", post(length(FIRST) + again.lower(), FIRST + INNER))
    huge = post(b"Content-Length: 999999999999999999\r\n", FIRST)
    yield refused("a length of exabytes", huge, 413)


def _names() -> Iterator[Vector]:
    odd = [
        b"%b :", b"%b\t:", b"%b\x00:", b"\x00%b:", b"%b\x0b:", b"%b\xa0:", b"\xef\xbb\xbf%b:", b'"%b":',
        b"(%b):", b"%b,:", b"%b\r:", b"%b\x7f:", b"[%b]:", b"%b/:", b"%b=:", b"%b;x:", b"%b@:", b"%b\\:",
        b" %b:", b"\t%b:", b"%b",
    ]  # fmt: skip
    for shape in odd:
        name = shape % b"Content-Length"
        yield refused(f"name {name!r}", post(name + b" %d\r\n" % len(FIRST), FIRST))
        name = shape % b"Transfer-Encoding"
        yield refused(f"name {name!r}", post(length(FIRST) + name + b" chunked\r\n", FIRST))
    yield refused("no name at all", post(length(FIRST) + b": x\r\n", FIRST))
    # Dropped, as if it were not there: what no reader takes for a framing header frames nothing.
    yield served("an underscore for a hyphen", post(length(FIRST) + b"Transfer_Encoding: chunked\r\n", FIRST))
    yield served("a length with an underscore", post(length(FIRST) + b"Content_Length: 3\r\n", FIRST))
    yield served("a key with an underscore", post(length(FIRST) + b"x_api_key: sk-other\r\n", FIRST))
    yield served("a path set by a header", post(length(FIRST) + b"PATH_INFO: /metrics\r\n", FIRST))
    yield served("a mount set by a header", post(length(FIRST) + b"SCRIPT_NAME: /v1\r\n", FIRST))


def _lines() -> Iterator[Vector]:
    for fold in (b"\r\n ", b"\r\n\t", b"\r\n  \t "):
        yield refused(f"folded coding {fold!r}", post(b"Transfer-Encoding:" + fold + b"chunked\r\n", b""))
        yield refused(f"folded length {fold!r}", post(b"Content-Length:" + fold + b"5\r\n", FIRST))
        yield refused(f"folded host {fold!r}", post(length(FIRST), FIRST, host=b"Host:" + fold + b"a\r\n"))
        auth = AUTH.replace(b" ", fold, 1)
        yield refused(f"folded credential {fold!r}", post(length(FIRST), FIRST, auth=auth))
        yield refused(
            f"folded agent {fold!r}", post(length(FIRST) + b"User-Agent: a" + fold + b"b\r\n", FIRST)
        )
    for end in (b"\n", b"\r", b"\n\r", b"\r\r\n", b"\n\n", b"\r\n\n", b"\0\r\n"):
        if end != b"\r\n\n":
            fields = length(FIRST) + b"X-A: b" + end + b"X-Injected: 1\r\n"
            yield refused(f"a header ended by {end!r}", post(fields, FIRST))
        line = b"POST " + PATH.encode() + b" HTTP/1.1" + end
        yield refused(f"a request line ended by {end!r}", post(length(FIRST), FIRST, line=line))
    for code in CONTROLS:
        value = b"User-Agent: a%bX-Injected: 1\r\n" % bytes([code])
        yield refused(f"control {code:#04x} in a value", post(length(FIRST) + value, FIRST))
    for code in (0x00, 0x01, 0x09, 0x0B, 0x1F, 0x7F, 0x80, 0xFF):
        line = b"POST " + PATH.encode() + b"?a=%bb HTTP/1.1\r\n" % bytes([code])
        yield refused(f"byte {code:#04x} in the target", post(length(FIRST), FIRST, line=line))


def _request_lines() -> Iterator[Vector]:
    path = PATH.encode()
    bad = [
        b"post %b HTTP/1.1", b"P OST %b HTTP/1.1", b"POST  %b HTTP/1.1", b"POST %b  HTTP/1.1",
        b"POST\t%b\tHTTP/1.1", b"POST %b HTTP/1.1 ", b"POST %b HTTP/1.1x", b"POST %b HTTP/1.10",
        b"POST %b HTTP/2.0", b"POST %b HTTP/0.9", b"POST %b http/1.1", b"POST %b HTTP/1,1", b"POST %b",
        b"POST %b HTTP/", b"POST %b ICY/1.1", b" POST %b HTTP/1.1", b"\0POST %b HTTP/1.1", b"P\0ST %b HTTP/1.1",
        b"POST %b HTTP/1.1 HTTP/1.1", b"POST %b x HTTP/1.1", b"PO\xffST %b HTTP/1.1", b"{} %b HTTP/1.1",
        b"POST %b?" + b"a" * 9000 + b" HTTP/1.1", b"\n POST %b HTTP/1.1", b"\r\n\r\nPOST %b HTTP/1.1",
    ]  # fmt: skip
    for shape in bad:
        line = shape % path
        name = line if len(line) < 200 else b"of 9000 bytes"
        yield refused(f"request line {name!r}", post(length(FIRST), FIRST, line=line + b"\r\n"))
    good = [
        b"\r\nPOST %b HTTP/1.1", b"POST http://weir.test%b HTTP/1.1", b"POST http://evil.test%b HTTP/1.1",
        b"POST https://evil.test:443%b HTTP/1.1", b"POST http://a:b@evil.test%b HTTP/1.1",
        b"POST %b#fragment HTTP/1.1", b"POST %b?x=%%0d%%0aX-Injected:%%201 HTTP/1.1", b"POST %b?x=%%00 HTTP/1.1",
        b"POST %b? HTTP/1.1", b"POST %b??a HTTP/1.1", b"POST %b?a=b%%23c HTTP/1.1",
        b"POST %b?[]{}|\\^`'\"<> HTTP/1.1", b"POST %b?%%zz%%1 HTTP/1.1", b"POST %b?http://evil.test/ HTTP/1.1",
        b"POST %b?a=../../b HTTP/1.1", b"POST %b?" + b"a" * 4000 + b" HTTP/1.1",
    ]  # fmt: skip
    for shape in good:
        line = shape % path
        name = line if len(line) < 200 else b"of 4000 bytes"
        yield served(f"request line {name!r}", post(length(FIRST), FIRST, line=line + b"\r\n"))
    elsewhere = [
        b"/v1/chat/completions%0d%0aX-Injected:%201", b"/v1/../v1/chat/completions", b"/v1/%2e%2e/metrics",
        b"/v1/chat/completions%00", b"//evil.test/v1/chat/completions",
        b"/v1/http://evil.test/", b"/v1/chat/completions%23", b"/v1/chat/completions%3fa",
    ]  # fmt: skip
    line = b"POST /v1/chat/completions;x=1 HTTP/1.1\r\n"
    yield served("a parameter of the path", post(length(FIRST), FIRST, line=line))
    for target in elsewhere:
        line = b"POST " + target + b" HTTP/1.1\r\n"
        yield Vector(
            f"target {target!r}", post(length(FIRST), FIRST, line=line) + TAIL, (404, 200), ("tail",)
        )
    for target in (b"evil.test:80", b"*", b"v1/chat/completions", b"", b"evil.test", b"@evil.test/v1"):
        line = b"POST " + target + b" HTTP/1.1\r\n"
        yield refused(f"target {target!r}", post(length(FIRST), FIRST, line=line))
    line = b"CONNECT evil.test:443 HTTP/1.1\r\n"
    yield Vector("a tunnel", post(length(FIRST), FIRST, line=line) + TAIL, (404,), ())


def _chunk_lines() -> Iterator[Vector]:
    size, rest = b"%x" % len(FIRST), b"\r\n" + FIRST + b"\r\n0\r\n\r\n"
    good = [
        size.upper(), b"000" + size, size + b";a", size + b";a=b", size + b" ; a = b", size + b';a="b;c"',
        size + b";a;b;c=d", size + b';a="\\""',
    ]  # fmt: skip
    for line in good:
        yield served(f"chunk size {line!r}", post(CHUNKED, line + rest))
    bad = [
        b"", b"0x" + size, b"+" + size, b"-" + size, b" " + size, size + b" ", size + b"\t", size + b"g",
        size + b"\x00", b"\x00" + size, size + b"_0", size + b",", size + b"\x0b", b"\xef\xbc\x95", size + b";",
        size + b";\n", size + b";a\nb", size + b";a=\r", size + b';a="', size + b"; a=b c", size + b";=b",
        size + b";a=b;", size + b"\r", b"-1", b"FFFFFFFFFFFFFFFFG", size + b";" + b"a" * 20_000,
        size + b";\x00=1", size + b' ;a="\r\n0\r\n\r\n',
    ]  # fmt: skip
    for line in bad:
        name = line if len(line) < 200 else b"with a long extension"
        yield refused(f"chunk size {name!r}", post(CHUNKED, line + rest + INNER))
    for end in (b"\n", b"\r", b"", b"\r\r", b"xx\r\n", b"\n\r"):
        cut = size + b"\r\n" + FIRST + end + b"0\r\n\r\n"
        yield refused(f"a chunk ended by {end!r}", post(CHUNKED, cut + INNER))
    for end in (b"\n", b"\r", b"\n\n"):
        cut = size + end + FIRST + b"\r\n0\r\n\r\n"
        yield refused(f"a chunk size ended by {end!r}", post(CHUNKED, cut + INNER))
    before, mark, after = FIRST.partition(b"@@@@")
    parts = [*(bytes([byte]) for byte in before), mark, *(bytes([byte]) for byte in after)]
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    yield served("a chunk for nearly each byte", post(CHUNKED, pieces + b"0\r\n\r\n"))
    whole = size + b"\r\n" + FIRST + b"\r\n"
    for last in (b"0", b"000", b"0;a=b", b"00000000000000000000"):
        yield served(f"last chunk {last!r}", post(CHUNKED, whole + last + b"\r\n\r\n"))
    yield served("a trailer", post(CHUNKED, whole + b"0\r\nX-Trailer: 1\r\n\r\n"))
    yield served("a trailer for the upstream", post(CHUNKED, whole + b"0\r\nUser-Agent: injected\r\n\r\n"))
    trailers = [
        b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Host: evil", b"Authorization: Bearer x",
        b"TE: x", b"X-A", b"X A: b", b"X-A: b\n", b"X-A: b\r\n c", b"X-A: \x00", b": x", b"X-A : b", b"X\xff: b",
        b"X-Long: " + b"a" * 20_000,
    ]  # fmt: skip
    for trailer in trailers:
        name = trailer if len(trailer) < 200 else b"of 20000 bytes"
        payload = whole + b"0\r\n" + trailer + b"\r\n\r\n"
        yield refused(f"trailer {name!r}", post(CHUNKED, payload))
    unended = post(CHUNKED, whole + b"0\r\n")
    yield Vector("no end after the last chunk", unended, (400,), (), ends=True)
    yield Vector("a chunk that is cut", post(CHUNKED, b"ff\r\n" + FIRST), (400,), (), ends=True)
    yield Vector("a body that is cut", post(b"Content-Length: 200\r\n", FIRST), (400,), (), ends=True)


def _connections() -> Iterator[Vector]:
    old = b"POST " + PATH.encode() + b" HTTP/1.0\r\n"
    yield refused("chunks in HTTP/1.0", post(CHUNKED, chunks(FIRST), line=old))
    yield refused(
        "chunks in a kept HTTP/1.0", post(CHUNKED + b"Connection: keep-alive\r\n", chunks(FIRST), line=old)
    )
    once = post(length(FIRST), FIRST, line=old) + TAIL
    yield Vector("HTTP/1.0 ends the connection", once, (200,), ("first",))
    yield served(
        "HTTP/1.0 that is kept", post(length(FIRST) + b"Connection: keep-alive\r\n", FIRST, line=old)
    )
    closing = post(length(FIRST) + b"Connection: close\r\n", FIRST) + TAIL
    yield Vector("a request after the last", closing, (200,), ("first",))
    for value in (
        b"Content-Length",
        b"Transfer-Encoding, Authorization",
        b"keep-alive, x",
        b"upgrade",
        b"TE",
    ):
        fields = length(FIRST) + b"Connection: " + value + b"\r\n"
        yield served(f"connection {value!r}", post(fields, FIRST))
    h2c = b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    yield served("an upgrade to HTTP/2", post(length(FIRST) + h2c, FIRST))
    websocket = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAA\r\n"
    yield served("an upgrade to websocket", post(length(FIRST) + websocket, FIRST))
    yield refused("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield served("an expectation", post(length(FIRST) + b"Expect: 100-continue\r\n", FIRST))
    yield refused("an unknown expectation", post(length(FIRST) + b"Expect: more\r\n", FIRST), 417)
    yield refused("two hosts", post(length(FIRST) + b"Host: evil.test\r\n", FIRST))
    yield refused("two content types", post(length(FIRST) + b"Content-Type: a/b\r\n" * 2, FIRST))
    yield served("no host", post(length(FIRST), FIRST, host=b""))
    other_host = b"Host: evil.test\r\nX-Forwarded-Host: evil.test\r\nForwarded: host=evil.test\r\n"
    yield served("another host", post(length(FIRST), FIRST, host=other_host))
    two = post(length(FIRST) + AUTH.replace(CLIENT_KEY.encode(), b"sk-other"), FIRST) + TAIL
    yield Vector("two credentials", two, (401, 200), ("tail",))
    conflict = post(length(FIRST) + b"x-api-key: sk-other\r\n", FIRST) + TAIL
    yield Vector("credentials that differ", conflict, (401, 200), ("tail",))
    yield refused("a header of 9000 bytes", post(length(FIRST) + b"X-A: " + b"a" * 9000 + b"\r\n", FIRST))
    many = b"".join(b"X-%d: a\r\n" % number for number in range(150))
    yield refused("150 headers", post(length(FIRST) + many, FIRST))
    spaced = b" " * 10 + FIRST + b"\r\n" * 3
    yield served("white space around the body", post(length(spaced), spaced))
    inner = post(length(INNER), INNER) + TAIL
    yield Vector("a request as the body", inner, (400, 200), ("tail",))
    get = b"GET /v1/models HTTP/1.1\r\n"
    for fields, payload in ((length(INNER), INNER), (CHUNKED, chunks(INNER))):
        wire = post(fields, payload, line=get) + TAIL
        reach = ("tail",) if fields != CHUNKED else ()
        # Nobody reads the body of a GET: of chunks nobody knows the length, so the connection ends.
        yield Vector(f"a GET with a body ({fields!r})", wire, (200, 200) if reach else (200,), reach)
    unread = post(length(INNER), INNER, auth=b"Authorization: Bearer sk-unknown\r\n") + TAIL
    yield Vector("a request in the body of a stranger", unread, (401, 200), ("tail",))


def _for_the_upstream() -> Iterator[Vector]:
    names = (
        b"User-Agent",
        b"Accept",
        b"Content-Type",
        b"OpenAI-Beta",
        b"Anthropic-Beta",
        b"Anthropic-Version",
    )
    values = (b"", b"a\tb", b"\xe9\xff", b"x" * 7000, b"a: b", b'a, b;c="d"', b"\\r\\nX-Injected: 1")
    for name in names:
        for value in values:
            shown = value if len(value) < 100 else b"of 7000 bytes"
            fields = length(FIRST) + name + b": " + value + b"\r\n"
            yield served(f"{name.decode()}: {shown!r}", post(fields, FIRST))
        if name != b"Content-Type":
            twice = length(FIRST) + name + b": a\r\n" + name.lower() + b": b\r\n"
            yield served(f"{name.decode()} twice", post(twice, FIRST))
    for name in (
        b"X-Injected", b"Cookie", b"Proxy-Authorization", b"X-Forwarded-For", b"Via", b"TE", b"Trailer",
        b"Proxy", b"Proxy-Connection", b"Keep-Alive", b"X-HTTP-Method-Override", b"X-Original-URL",
        b"X-Rewrite-URL", b"Range", b"If-None-Match", b"Referer", b"Origin", b"X-Request-Id", b"Max-Forwards",
    ):  # fmt: skip
        yield served(f"{name.decode()} stays here", post(length(FIRST) + name + b": injected\r\n", FIRST))


VECTORS = [
    *_coding_values(),
    *_length_values(),
    *_names(),
    *_lines(),
    *_request_lines(),
    *_chunk_lines(),
    *_connections(),
    *_for_the_upstream(),
]
