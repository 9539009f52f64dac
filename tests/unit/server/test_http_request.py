"""Requests read in one go, beside gunicorn's own reading of the same bytes: the two may never differ."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.server.http_request import PlainRequest, RequestReading
from tests.support.request_readings import LISTENER, PEER, Pieces, by_gunicorn, by_us, config, reader_of
from tests.support.smuggling import VECTORS

USUAL = (
    b"POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: weir.test\r\nAuthorization: Bearer sk-1\r\n"
    b"Content-Type: application/json\r\nUser-Agent: OpenAI/Python 2.8.1\r\nX-Stainless-OS: Linux\r\n"
    b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody"
)

DEFAULTS = config()

methods = st.sampled_from(
    ["POST", "GET", "HEAD", "OPTIONS", "PUT", "CONNECT", "post", "PROPFIND", "", "P\x00", "A"]
)
targets = st.one_of(
    st.sampled_from(
        [
            "/",
            "/v1/chat/completions",
            "/a?b=c?d",
            "/a%2Fb%00?%41",
            "//a/b",
            "/a#b",
            "/a?b#c",
            "*",
            "http://h/a",
        ]
    ),
    st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=12).map(lambda text: f"/{text}"),
    st.text(st.sampled_from("/?#%[]:;@ \\abc.25é"), max_size=12),
)
versions = st.sampled_from(
    ["HTTP/1.1"] * 12 + ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", ""]
)
names = st.one_of(
    st.sampled_from(
        [
            *(
                "Host",
                "host",
                "Content-Type",
                "Content-Length",
                "content-length",
                "Transfer-Encoding",
                "Expect",
            ),
            *(
                "Connection",
                "Upgrade",
                "X-Forwarded-Proto",
                "X-Forwarded-Ssl",
                "X-Forwarded-Protocol",
                "Cookie",
            ),
            *(
                "X-Forwarded-For",
                "X_Forwarded_For",
                "SCRIPT_NAME",
                "Accept",
                "Authorization",
                "x-api-key",
                "",
                " a",
            ),
        ]
    ),
    st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=8),
    st.text(st.sampled_from("abXY-_09!~"), min_size=1, max_size=8),
)
values = st.one_of(
    st.sampled_from(
        [
            *(
                "0",
                "3",
                "03",
                "4",
                "-1",
                "+3",
                "3,3",
                "\xb2",
                "chunked",
                "gzip, chunked",
                "identity",
                "close",
                "Close",
            ),
            *(
                "keep-alive",
                "close, te",
                "100-continue",
                "100-Continue",
                "200-ok",
                "https",
                "http",
                "on",
                "ssl",
            ),
            *(
                "h2c",
                "websocket",
                "text/plain",
                "a\tb",
                "a:b",
                "",
                " ",
                "\t",
                "a\r\n b",
                "a\nb",
                "a\rb",
                "a\x00b",
            ),
        ]
    ),
    st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=10),
    st.text(st.sampled_from("abc ,;=\"'/"), max_size=30),
)
spaces = st.sampled_from(["", " ", " ", " ", "  ", "\t", " \t "])
fields = st.builds(lambda name, a, value, b: f"{name}:{a}{value}{b}", names, spaces, values, spaces)
ends = st.sampled_from(["\r\n"] * 40 + ["\n", "\r", "\r\r\n"])
bodies = st.sampled_from([b"", b"abc", b"abcd", b"3\r\nabc\r\n0\r\n\r\n", b"0\r\n\r\n", b"\r\n"])
usual_fields = st.sampled_from(
    ["Host: a", "Content-Length: 3", "User-Agent: b c", "Connection: keep-alive", "Accept: */*"]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    is_odd = draw(st.booleans())
    method, target = (draw(methods), draw(targets)) if is_odd else ("POST", "/v1/messages?beta=true")
    lines = [f"{method} {target} {draw(versions)}"]
    lines += draw(st.lists(usual_fields, unique=True, max_size=4))
    lines += draw(st.lists(fields, max_size=3))
    text = "".join(line + (draw(ends) if is_odd else "\r\n") for line in lines)
    return text.encode("latin-1") + b"\r\n" + draw(bodies)


@st.composite
def wires(draw: st.DrawFn) -> list[bytes]:
    """One to three requests on a connection, which come in pieces cut anywhere."""
    wire = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    cuts = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=4)))
    return [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


@example([USUAL + USUAL])
@given(wires())
def test_no_request_is_read_in_another_way_than_gunicorn_reads_it(pieces: list[bytes]) -> None:
    assert by_us(pieces, DEFAULTS) == by_gunicorn(pieces, DEFAULTS)


@given(requests(), st.integers(0, 400), st.binary(min_size=0, max_size=2), st.integers(0, 2))
def test_nor_is_one_with_bytes_put_in_or_taken_out(wire: bytes, at: int, put: bytes, taken: int) -> None:
    spoilt = [wire[:at] + put + wire[at + taken :]]

    assert by_us(spoilt, DEFAULTS) == by_gunicorn(spoilt, DEFAULTS)


@given(
    requests(),
    st.fixed_dictionaries(
        {},
        optional={
            "limit_request_line": st.sampled_from([0, 20, 35, 9000]),
            "limit_request_fields": st.sampled_from([1, 3, 100]),
            "limit_request_field_size": st.sampled_from([0, 10, 20, 9000]),
            "header_map": st.sampled_from(["drop", "refuse", "dangerous"]),
            "forwarded_allow_ips": st.sampled_from(["127.0.0.1", "10.0.0.0/8", "*", ""]),
            "secure_scheme_headers": st.sampled_from([{}, {"X-FORWARDED-PROTO": "https"}, {"X_Y": "on"}]),
            "forwarder_headers": st.sampled_from(["", "SCRIPT_NAME,PATH_INFO"]),
            "permit_obsolete_folding": st.booleans(),
            "strip_header_spaces": st.booleans(),
            "permit_unconventional_http_method": st.booleans(),
            "casefold_http_method": st.booleans(),
        },
    ),
    st.sampled_from([PEER, ("192.0.2.7", 1), ("::1", 1, 0, 0), ""]),
)
def test_nor_with_other_settings_or_from_another_peer(
    wire: bytes, settings: dict[str, Any], peer: Any
) -> None:
    cfg = config(**settings)

    assert by_us([wire], cfg, peer) == by_gunicorn([wire], cfg, peer)


@pytest.mark.parametrize("size", [1, 7, 1000, 8192])
def test_nor_is_any_request_that_attackers_write(size: int) -> None:
    for number, vector in enumerate(VECTORS):
        wire = vector.sent_as(number)
        if size == 1 and len(wire) > 2000:
            continue
        pieces = [wire[at : at + size] for at in range(0, len(wire), size)]

        assert by_us(pieces, DEFAULTS) == by_gunicorn(pieces, DEFAULTS), vector.name


def test_what_programs_and_browsers_send_is_read_in_one_go() -> None:
    browser = b"GET /admin/?page=2 HTTP/1.1\r\nHost: a\r\nCookie: s=1\r\nX-Forwarded-Proto: https\r\n\r\n"

    reader = reader_of(USUAL + browser)

    first, second = reader.next_request(), reader.next_request()
    assert isinstance(first, PlainRequest)
    assert first.body.read() == b"body"
    assert isinstance(second, PlainRequest)
    assert second.environ["wsgi.url_scheme"] == "https"
    assert reader.next_request() is None


def test_a_stranger_does_not_say_the_scheme() -> None:
    wire = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n"

    request = reader_of(wire, peer=("192.0.2.7", 1)).next_request()

    assert isinstance(request, PlainRequest)
    assert request.scheme == "http"


def test_a_body_that_comes_later_is_read_when_it_is_asked_for() -> None:
    socket = Pieces([USUAL[:-3], USUAL[-3:] + USUAL])
    reader = RequestReading(config()).reader(socket, LISTENER, PEER)

    request = reader.next_request()

    assert isinstance(request, PlainRequest)
    assert request.body.read() == b"body"
    assert isinstance(reader.next_request(), PlainRequest)


@pytest.mark.parametrize(
    "settings",
    [
        {"proxy_protocol": "auto"},
        {"http2_cleartext": "both"},
        {"certfile": "tests/conftest.py", "keyfile": "tests/conftest.py"},
    ],
)
def test_other_protocols_are_left_to_gunicorn(settings: dict[str, Any]) -> None:
    assert not RequestReading(config(**settings)).is_http1
    assert RequestReading(config()).is_http1
