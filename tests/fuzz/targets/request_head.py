"""Requests: read as gunicorn reads them, however they come, and nothing else is raised."""

from collections.abc import Iterator

from gunicorn.http.errors import NoMoreData, ParseException

from tests.fuzz.target import Material, Target, cut
from tests.support.request_readings import PEER, by_gunicorn, by_us, config
from tests.support.smuggling import VECTORS

CONFIGS = (
    config(),
    config(forwarded_allow_ips="*"),
    config(header_map="refuse", limit_request_fields=4),
    config(limit_request_line=40, limit_request_field_size=30),
)
PEERS = (PEER, ("192.0.2.7", 1))


def check(data: bytes) -> None:
    material = Material(data)
    cfg, peer, seed = material.one_of(CONFIGS), material.one_of(PEERS), material.byte()
    wire = material.rest()
    whole = by_us([wire], cfg, peer)
    assert whole == by_gunicorn([wire], cfg, peer)
    pieces = cut(wire, seed)
    seen, end, sent = by_us(pieces, cfg, peer)
    assert (seen, end, sent) == by_gunicorn(pieces, cfg, peer)
    assert end is None or issubclass(end, ParseException | NoMoreData), end


def seeds() -> Iterator[bytes]:
    for number, vector in enumerate(VECTORS):
        wire = vector.sent_as(number)
        if len(wire) <= TARGET.max_bytes:
            yield bytes((number % len(CONFIGS), number % 2, number % 251)) + wire


TARGET = Target(
    "request_head",
    check,
    seeds,
    words=(
        *(b"POST /v1/messages HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n", b"HTTP/1.0", b"HTTP/1.1", b"\r\n\r\n"),
        *(
            b"Content-Length: ",
            b"Transfer-Encoding: chunked\r\n",
            b"Expect: 100-continue\r\n",
            b"Host: a\r\n",
        ),
        *(b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Upgrade: h2c\r\n", b"0\r\n\r\n"),
        *(b"X-Forwarded-Proto: https\r\n", b"X-Forwarded-Ssl: on\r\n", b"SCRIPT_NAME: /a\r\n", b"%2F", b"\t"),
        *(b"X_Forwarded_For: a\r\n", b";a=b\r\n", b"\r\n ", b"http://h/a"),
    ),
)
