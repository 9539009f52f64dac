"""What an upstream's head may bring to the client: nothing it is not meant to, and never another's answer."""

import json

import pytest

from simulator import Script
from tests.support import sse
from tests.support.lab import CHAT, Lab

ANSWER = sse.chat_answer(sse.USAGE_9_2)
OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"Content-Type: application/json\r\n"
FRAMED = JSON + b"Content-Length: %d\r\n" % len(ANSWER)
SECOND = OK + b"Content-Type: application/json\r\nContent-Length: 14\r\n\r\n" + b'{"stolen":"y"}'
ALLOWED = {
    *(
        "server",
        "date",
        "connection",
        "content-type",
        "content-length",
        "transfer-encoding",
        "content-encoding",
    ),
    *("x-request-id", "request-id", "cache-control", "retry-after", "retry-after-ms", "x-should-retry"),
}


def raw(fields: bytes, body: bytes = ANSWER, line: bytes = OK) -> bytes:
    return line + fields + b"\r\n" + body


CHUNKED_ANSWER = b"%x\r\n%b\r\n0\r\n" % (len(ANSWER), ANSWER)

HEADS = {
    "a cookie": raw(FRAMED + b"Set-Cookie: injected=1\r\n"),
    "a place": raw(FRAMED + b"Location: http://injected/\r\n"),
    "names of servers": raw(FRAMED + b"Server: injected\r\nVia: 1.1 injected\r\nX-Powered-By: injected\r\n"),
    "the account": raw(FRAMED + b"openai-organization: injected\r\nx-ratelimit-limit-tokens: 1\r\n"),
    "other ids": raw(FRAMED + b"x-request-id: injected\r\nrequest-id: injected\r\n"),
    "cross-origin leave": raw(FRAMED + b"Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n"),
    "link and refresh": raw(FRAMED + b"Link: <injected>\r\nRefresh: 0;url=injected\r\nAlt-Svc: injected\r\n"),
    "a folded header": raw(FRAMED + b"Cache-Control: a\r\n X-Injected: 1\r\n"),
    "a header folded by a tab": raw(FRAMED + b"Cache-Control: a\r\n\tX-Injected: 1\r\n"),
    "a lone LF": raw(FRAMED + b"Cache-Control: a\nX-Injected: 1\r\n"),
    "a lone CR": raw(FRAMED + b"Cache-Control: a\rX-Injected: 1\r\n"),
    "LF and CR": raw(FRAMED + b"Cache-Control: a\n\rX-Injected: 1\r\n"),
    "NUL": raw(FRAMED + b"Cache-Control: a\0X-Injected: 1\r\n"),
    "vertical tab": raw(FRAMED + b"Cache-Control: a\x0bX-Injected: 1\r\n"),
    "form feed": raw(FRAMED + b"Retry-After: 1\x0cX-Injected: 1\r\n"),
    "escape": raw(FRAMED + b"Retry-After: 1\x1bX-Injected: 1\r\n"),
    "DEL": raw(FRAMED + b"Retry-After: 1\x7fX-Injected: 1\r\n"),
    "NEL": raw(FRAMED + b"Retry-After: 1\x85 2\r\n"),
    "the type folded": raw(b"Content-Type: application/json\r\n X-Injected: 1\r\n" + FRAMED),
    "the type twice": raw(FRAMED + b"Content-Type: text/html\r\n"),
    "the coding folded": raw(FRAMED + b"Content-Encoding: identity\r\n X-Injected: 1\r\n"),
    "an unknown coding": raw(FRAMED + b"Content-Encoding: injected\r\n"),
    "a space before the colon": raw(FRAMED + b"X-Injected : 1\r\n"),
    "no colon": raw(FRAMED + b"X-Injected\r\n"),
    "no name": raw(FRAMED + b": injected\r\n"),
    "a header withdrawn": raw(FRAMED + b"Cache-Control: injected\r\nConnection: cache-control\r\n"),
    "hop-by-hop headers": raw(FRAMED + b"Keep-Alive: injected\r\nUpgrade: injected\r\nProxy-Authenticate: injected\r\n"),
    "a header of 60 kB": raw(FRAMED + b"X-Injected: " + b"a" * 60_000 + b"\r\n"),
    "a hundred headers more": raw(FRAMED + b"".join(b"X-Injected-%d: a\r\n" % n for n in range(110))),
    "an early hint": b"HTTP/1.1 103 Early Hints\r\nLink: <injected>\r\nSet-Cookie: injected\r\n\r\n" + raw(FRAMED),
    "many interim answers": b"HTTP/1.1 100 Continue\r\nX-Injected: 1\r\n\r\n" * 20 + raw(FRAMED),
    "a reason phrase": raw(FRAMED, line=b"HTTP/1.1 200 X-Injected: 1\r\n"),
    "no reason phrase": raw(FRAMED, line=b"HTTP/1.1 200\r\n"),
    "a status of four digits": raw(FRAMED, line=b"HTTP/1.1 2000 OK\r\n"),
    "another protocol": raw(FRAMED, line=b"ICY 200 OK\r\n"),
    "switching protocols": raw(b"Upgrade: injected\r\nConnection: upgrade\r\n", line=b"HTTP/1.1 101 Go\r\n"),
    "length and chunked": raw(FRAMED + b"Transfer-Encoding: chunked\r\n", CHUNKED_ANSWER + b"\r\n"),
    "trailers": raw(JSON + b"Transfer-Encoding: chunked\r\nTrailer: x\r\n", CHUNKED_ANSWER + b"X-Injected: 1\r\n\r\n"),
    "an unknown transfer coding": raw(JSON + b"Transfer-Encoding: injected\r\n"),
    "two lengths": raw(FRAMED + b"Content-Length: 3\r\n"),
    "a length that is none": raw(JSON + b"Content-Length: +5\r\n"),
    "a negative length": raw(JSON + b"Content-Length: -1\r\n"),
    "a length of 5000 digits": raw(JSON + b"Content-Length: " + b"9" * 5000 + b"\r\n"),
    "a second answer behind it": raw(FRAMED) + SECOND,
    "a second answer within a 204": raw(b"", SECOND, line=b"HTTP/1.1 204 No Content\r\n"),
    "a second answer within a 304": raw(b"", SECOND, line=b"HTTP/1.1 304 Not Modified\r\n"),
    "an error that repeats headers": raw(
        JSON + b"Set-Cookie: injected\r\nContent-Length: 43\r\n",
        b'{"error":{"message":"a\\r\\nX-Injected: 1\\r\\n"}}'[:43],
        line=b"HTTP/1.1 400 Bad\r\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_an_upstream_head_brings_nothing_with_it(lab: Lab, name: str) -> None:
    played = lab.send(CHAT, lab.body(CHAT, Script.raw(HEADS[name])))

    head = played.response.headers
    assert set(head) <= ALLOWED
    if "folded" not in name:  # a fold is a space (RFC 9112 §5.2), and what follows it no header
        assert "njected" not in "".join(head.values())
    assert head["x-request-id"] == played.record["_id"]
    assert b"stolen" not in played.body
    if played.response.status == 200:
        assert played.body == ANSWER
    # The connection, if it was kept, has nothing left on it for the next request.
    lab.weir.forgive_keys()
    following = lab.plain(CHAT, ANSWER)
    assert (following.response.status, following.body) == (200, ANSWER)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
def test_no_redirect_is_followed(lab: Lab, status: int) -> None:
    """It would take the key, the prompt or the client anywhere."""
    place = f"{lab.upstream.url}/elsewhere"
    answer = raw(
        f"Location: {place}\r\nContent-Length: 0\r\n".encode(), b"", line=b"HTTP/1.1 %d Go\r\n" % status
    )
    played = lab.send(CHAT, lab.body(CHAT, Script.raw(answer)))

    assert played.response.status == 502
    assert "location" not in played.response.headers
    assert "elsewhere" not in json.dumps(played.record, default=str) + played.body.decode()
    assert [entry["path"] for entry in played.entries] == [CHAT] * len(played.entries)
