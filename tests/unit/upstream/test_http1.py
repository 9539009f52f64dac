"""Answers read off bytes, however they are cut, compared with what `http.client` makes of the same bytes."""

import http.client
import io
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream.http1 import (
    MAX_HEAD_BYTES,
    MAX_INTERIM_ANSWERS,
    MAX_TRAILER_BYTES,
    BadAnswer,
    BodyReader,
    Framing,
    HeadReader,
)
from tests.support.growth import assert_grows_linearly

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
Read = tuple[int, dict[str, str], bytes, bool, bytes, bool]
"""Status, headers, body, whether it is whole, what is beyond it, whether the connection may be used again."""


def read(pieces: Iterable[bytes], *, ends: bool = False) -> Read | None:
    """What comes of the pieces, and of the connection's end after them; None: not even a head."""
    heads = HeadReader()
    head = reader = None
    body = b""
    for piece in pieces:
        if reader is None:
            if (found := heads.feed(piece)) is None:
                continue
            head, piece = found
            reader = BodyReader(head)
        body += reader.feed(piece)
    if head is None or reader is None:
        return None
    if ends:
        reader.end()
    return head.status, head.headers, body, reader.is_whole, reader.surplus, head.keeps_open


class _Bytes:
    """A socket as far as `http.client` cares."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def oracle(data: bytes) -> tuple[int, dict[str, str], bytes]:
    response = http.client.HTTPResponse(_Bytes(data))  # type: ignore[arg-type]
    response.begin()
    headers: dict[str, str] = {}
    for name, value in response.getheaders():
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return response.status, headers, response.read()


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    at = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(at) if end > start]


TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_!#$%&'*+.^`|~", min_size=1, max_size=12)
VALUE = st.text(
    st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f\x85\xa0,"),
    min_size=1,
    max_size=20,
)
OWN = {"content-length", "transfer-encoding", "connection"}
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@st.composite
def answers(draw: Any) -> tuple[bytes, bytes]:
    """A well-formed answer and its body."""
    eol = draw(st.sampled_from([b"\r\n", b"\r\n", b"\n"]))
    status = draw(st.sampled_from([200, 201, 400, 404, 429, 500, 503]))
    names = draw(st.lists(st.tuples(TOKEN, VALUE), max_size=5))
    lines = [f"{name}: {value}".encode("latin-1") for name, value in names if name.lower() not in OWN]
    body = draw(st.binary(max_size=300))
    framing = draw(st.sampled_from(list(Framing)))
    if framing is Framing.LENGTH:
        lines.append(b"Content-Length: %d" % len(body))
        framed = body
    elif framing is Framing.CHUNKED:
        lines.append(draw(st.sampled_from([b"Transfer-Encoding: chunked", b"transfer-encoding:Chunked"])))
        framed = b""
        for piece in cut(body, draw(CUTS)):
            size = draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % len(piece)
            framed += size + draw(st.sampled_from([b"", b";a=b", b" ;x"])) + b"\r\n" + piece + b"\r\n"
        framed += b"0\r\n" + draw(st.sampled_from([b"", b"X-Trailer: 1\r\n", b"A: b\r\nC: d\r\n"])) + b"\r\n"
    else:
        framed = body
    head = eol.join([b"HTTP/1.%d %d Reason" % (draw(st.integers(0, 1)), status), *lines, b"", b""])
    return head + framed, body


@given(answers(), CUTS)
def test_any_cuts_give_what_http_client_reads(sample: tuple[bytes, bytes], cuts: list[int]) -> None:
    data, body = sample
    got = read(cut(data, cuts), ends=True)
    assert got is not None
    assert (got[2], got[3], got[4]) == (body, True, b"")
    status, headers, oracles_body = oracle(data)
    assert (got[0], got[2]) == (status, oracles_body)
    assert {name: value.strip() for name, value in headers.items()} == got[1]


SAMPLES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX: y\r\n\r\nhello world",
    CHUNKED + b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\ncontent-length:11\n\nhello world",
]


@pytest.mark.parametrize("data", SAMPLES)
def test_every_boundary_gives_the_same(data: bytes) -> None:
    whole = read([data])
    assert whole is not None
    assert whole[2:5] == (b"hello world", True, b"")
    assert read([data[i : i + 1] for i in range(len(data))]) == whole
    for first in range(1, len(data)):
        assert read([data[:first], data[first:]]) == whole


@pytest.mark.parametrize("data", SAMPLES[:2])
def test_an_answer_that_is_cut_anywhere_is_never_whole(data: bytes) -> None:
    for end in range(len(data)):
        got = read([data[:end]], ends=True)
        assert got is None or not got[3]


@given(st.sampled_from(SAMPLES[:2]), st.integers(0, 200), st.binary(min_size=1, max_size=3), CUTS)
def test_what_is_accepted_of_broken_bytes_is_what_http_client_reads(
    data: bytes, at: int, noise: bytes, cuts: list[int]
) -> None:
    """An answer that is taken for whole must not be longer or shorter than for anybody else."""
    at %= len(data)
    broken = data[:at] + noise + data[at + len(noise) :]
    try:
        got = read(cut(broken, cuts))
    except BadAnswer:
        return
    if got is None or not got[3] or got[0] < 200:
        return
    try:
        status, _, body = oracle(broken)
    except (http.client.HTTPException, ValueError):
        return  # http.client is stricter about a few things, such as how many headers there are
    assert (got[0], got[2]) == (status, body)


@given(st.sampled_from(SAMPLES), st.binary(min_size=1, max_size=400), CUTS)
def test_bytes_beyond_an_answer_are_kept_apart(data: bytes, beyond: bytes, cuts: list[int]) -> None:
    got = read(cut(data + beyond, cuts))
    assert got is not None
    assert got[2:5] == (b"hello world", True, beyond)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nname : space before the colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: 3\rContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n folded\rContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5_0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        CHUNKED + b"5\r\nhelloX\r\n",
        CHUNKED + b"5\r\nhello\n",
        CHUNKED + b"-5\r\nhello\r\n",
        CHUNKED + b"0x5\r\nhello\r\n",
        CHUNKED + b"+5\r\nhello\r\n",
        CHUNKED + b" 5\r\nhello\r\n",
        CHUNKED + b"5_0\r\nhello\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"5\nhello\r\n",
        CHUNKED + b"f" * 20 + b"\r\n",
        CHUNKED + b"5;" + b"x" * 5000,
        CHUNKED + b"0\r\n" + b"X: y\r\n" * MAX_TRAILER_BYTES,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD_BYTES + b"\r\n",
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_what_can_be_read_in_two_ways_or_none_is_refused(data: bytes, size: int) -> None:
    with pytest.raises(BadAnswer):
        read([data[at : at + size] for at in range(0, len(data), size)])


@pytest.mark.parametrize(
    ("head", "framing", "keeps_open"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3", Framing.LENGTH, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3", Framing.LENGTH, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: Close", Framing.LENGTH, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3", Framing.LENGTH, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive", Framing.LENGTH, True),
        (b"HTTP/1.1 204 No Content", Framing.LENGTH, True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9", Framing.LENGTH, True),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x", Framing.LENGTH, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", Framing.CHUNKED, True),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            Framing.CHUNKED,
            True,
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3", Framing.CHUNKED, False),
        (b"HTTP/1.1 200 OK", Framing.CLOSE, False),
        (b"HTTP/1.1 200", Framing.CLOSE, False),
    ],
)
def test_framing_and_the_connections_future(head: bytes, framing: Framing, keeps_open: bool) -> None:
    found = HeadReader().feed(head + b"\r\n\r\n")
    assert found is not None
    assert (found[0].framing, found[0].keeps_open) == (framing, keeps_open)


ODD_LINES = [
    b"\r\n",
    b"X-A: b\r\n",
    b"Content-Length: 5\r\n",
    b"content-length:5 \r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 404\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
]
ODDITIES = st.sampled_from([*ODD_LINES, *(bytes([byte]) for byte in b"Xa:( \t\r\n\0\x85\xff5")])


def head_of(pieces: Iterable[bytes]) -> tuple[object, ...] | str | None:
    heads = HeadReader()
    try:
        for piece in pieces:
            if (found := heads.feed(piece)) is not None:
                head, rest = found
                return head.status, head.headers, head.framing, head.length, head.keeps_open, rest
    except BadAnswer as error:
        return str(error)
    return None


@given(
    st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 \r\n", b"HTTP/1."]),
    st.lists(ODDITIES, max_size=14),
)
def test_a_head_that_comes_whole_is_read_as_one_that_comes_in_two(start: bytes, odd: list[bytes]) -> None:
    """There is a short way for whole heads of the usual form; it must not be a way of its own."""
    data = start + b"".join(odd) + b"\r\n\r\nrest"
    assert head_of([data]) == head_of([data[:1], data[1:]])


def test_a_head_ends_at_its_first_blank_line_however_it_comes() -> None:
    data = b"HTTP/1.1 200 OK\r\nX: y\n\r\n\r\nrest"
    whole = read([data], ends=True)
    assert whole is not None
    assert whole[2] == b"\r\nrest"
    assert read([data[at : at + 1] for at in range(len(data))], ends=True) == whole


def test_headers_have_lower_case_names_and_folded_lines_are_one() -> None:
    data = b"HTTP/1.1 200 OK\r\nX-A: one\r\n two\r\nx-a: three\r\nX-B:\t4 \r\n\r\n"
    found = HeadReader().feed(data)
    assert found is not None
    assert found[0].headers == {"x-a": "one two, three", "x-b": "4"}


def test_interim_answers_have_an_end() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    assert read([hints * MAX_INTERIM_ANSWERS, SAMPLES[0]]) == read([SAMPLES[0]])
    with pytest.raises(BadAnswer):
        read([hints] * (MAX_INTERIM_ANSWERS + 1))


def test_time_is_linear_in_the_input() -> None:
    def chunks(count: int) -> object:
        return read([CHUNKED, b"5\r\nhello\r\n" * count, b"0\r\n\r\n"])

    def bytewise(count: int) -> object:
        data = CHUNKED + b"%x\r\n" % count + b"x" * count + b"\r\n0\r\n\r\n"
        return read([data[at : at + 1] for at in range(len(data))])

    def long_head(count: int) -> object:
        data = b"HTTP/1.1 200 OK\r\nX: " + b"y" * count + b"\r\n\r\n"
        return read([data[at : at + 1] for at in range(len(data))])

    assert_grows_linearly(chunks, 20_000)
    assert_grows_linearly(bytewise, 4_000)
    assert_grows_linearly(long_head, 4_000)
