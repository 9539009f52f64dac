"""HTTP/1.1 answers: the same however they come; what is taken for whole is what http.client reads."""

import http.client
import io
from collections.abc import Iterator

from app.upstream.http1 import AnswerHead, BadAnswer, BodyReader, HeadReader
from tests.fuzz.target import Material, Target, cut


def check(data: bytes) -> None:
    material = Material(data)
    ends, seed = bool(material.byte() % 2), material.byte()
    wire = material.rest()
    whole, pieces = Reading([wire], ends), Reading(cut(wire, seed), ends)
    assert whole.is_bad == pieces.is_bad
    if whole.is_bad:
        # What came before the bad bytes may have been passed on, as far as it was seen apart from them.
        assert pieces.body.startswith(whole.body) or whole.body.startswith(pieces.body)
        return
    assert whole.described() == pieces.described()
    assert len(whole.body) + len(whole.surplus) <= len(wire)
    assert wire.endswith(whole.surplus)
    if whole.head is not None and whole.is_whole:
        assert_as_others_read_it(whole.head, whole.body, wire)


class Reading:
    """What comes of these bytes and, if `ends`, of the connection's end behind them."""

    def __init__(self, reads: list[bytes], ends: bool) -> None:
        self.head: AnswerHead | None = None
        self.body, self.is_bad = b"", False
        self._reader: BodyReader | None = None
        heads = HeadReader()
        try:
            for read in reads:
                if self._reader is None:
                    if (found := heads.feed(read)) is None:
                        continue
                    self.head, read = found
                    self._reader = BodyReader(self.head)
                self.body += self._reader.feed(read)
            if ends and self._reader is not None:
                self._reader.end()
        except BadAnswer:
            self.is_bad = True

    @property
    def is_whole(self) -> bool:
        return self._reader is not None and self._reader.is_whole

    @property
    def surplus(self) -> bytes:
        return b"" if self._reader is None else self._reader.surplus

    def described(self) -> tuple[object, ...]:
        head = self.head
        terms = head and (head.status, head.headers, head.framing, head.length, head.keeps_open)
        return terms, self.body, self.is_whole, self.surplus


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def assert_as_others_read_it(head: AnswerHead, body: bytes, wire: bytes) -> None:
    """An answer that is taken for whole must not be longer or shorter for anybody else."""
    if head.status in (204, 304):
        return  # which have no body, but for http.client where they say that they are chunked
    framing = ("transfer-encoding", "content-length")
    if any("," in head.headers.get(name, "") for name in framing):
        return  # what is said twice, http.client does not read
    response = http.client.HTTPResponse(_Bytes(wire))  # type: ignore[arg-type]
    try:
        response.begin()
        if any((value := response.getheader(name, "")) != value.strip() for name in framing):
            return  # nor what is folded, or has a tab behind it
        others = response.read()
    except (http.client.HTTPException, ValueError):
        return  # it is stricter about a few things, such as how many headers there are
    if response.status >= 200:  # of interim answers, it knows one
        assert (response.status, others) == (head.status, body)


def seeds() -> Iterator[bytes]:
    for number, wire in enumerate(_SEEDS):
        for seed in (0, 5):
            yield bytes((number, seed)) + wire


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_SEEDS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX: y\r\n\r\nhello world",
    _CHUNKED + b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\ncontent-length:11\n\nhello world",
    b"HTTP/1.0 200 OK\r\nContent-Type: a\r\n\r\nuntil the end",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nmore",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabcmore",
    b"HTTP/1.1 200 OK\r\nX-A: one\r\n two\r\nx-a: three\r\nContent-Length: 0\r\n\r\n",
    _CHUNKED + b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    _CHUNKED + b"0005\r\nhello\r\n0\n\n",
    _CHUNKED + b"5\r\nhelloX\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    b"SSH-2.0\r\n\r\n",
)

TARGET = Target(
    "http1_answer",
    check,
    seeds,
    words=(
        *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 404 \n", b"HTTP/1.1 100 Continue\r\n\r\n", b"\r\n\r\n", b"\n\n"),
        *(
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n",
            b"0\r\n\r\n",
        ),
        *(b"5\r\nhello\r\n", b";a=b", b"\r\n ", b"\t", b"\r", b"\0", b"keep-alive", b", "),
    ),
    max_bytes=512,
)
