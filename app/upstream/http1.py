"""Reading HTTP/1.1 answers off bytes as they arrive (RFC 9112), without any I/O.

Strict: what cannot be read in one way only is refused, since whoever guesses where an answer ends gives its
rest to the next request on the connection. Bytes beyond an answer are kept apart, so that the connection can
be given up.
"""

import re
from enum import Enum
from typing import Final

# More interim answers than this before the final one are an upstream gone wrong.
MAX_INTERIM_ANSWERS: Final = 100
MAX_HEAD_BYTES: Final = 64 * 1024
"""Status line and headers are not longer than this."""
MAX_TRAILER_BYTES: Final = 16 * 1024
"""Nor is the trailer after a chunked body; it is not looked at."""
_MAX_SIZE_LINE = 4 * 1024
_MAX_LENGTH_DIGITS = 18
_MAX_SIZE_DIGITS = 15

_FINAL = 200
_SWITCHING_PROTOCOLS = 101
_BODILESS = frozenset({204, 304})

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_USUAL_HEAD = re.compile(
    rb"HTTP/1\.(\d) ([2-9]\d\d)(?: [^\r\n\0]*+)?\r\n((?:" + _TOKEN + rb"+:[^\r\n]*+\r\n)*+)\r\n"
)
"""A head as nearly all servers send it: of a final answer, no field folded, no line ended but by CRLF."""
_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.(\d) ([1-9]\d\d)(?: [^\r\n\0]*)?")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*(.*?)[ \t]*", re.DOTALL)
_LINE_END = re.compile(rb"\r?\n")
_CRLF = b"\r\n"
_SIZE = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[^\r\n]*)?")


class BadAnswer(Exception):
    """The bytes are no HTTP answer, or one that can be read in two ways."""


class Framing(Enum):
    """How the end of a body is told."""

    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


_CHUNKED: Final = Framing.CHUNKED
"""At hand: CPython 3.11 takes ten times as long to look up a member of an enumeration."""


class AnswerHead:
    """Status and headers of a final answer.

    Header names are in lower case; a name that came more than once has its values joined with a comma
    (RFC 9110 §5.3). `length` is meant for `Framing.LENGTH`. `keeps_open` says whether the connection may be
    used again once the body has ended.
    """

    __slots__ = ("framing", "headers", "keeps_open", "length", "status")

    def __init__(self, minor: int, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers
        self.framing, self.length = _framing(status, headers)
        options = headers.get("connection", "").lower()
        keeps = "close" not in options and (minor >= 1 or "keep-alive" in options)
        self.keeps_open = keeps and self.framing is not Framing.CLOSE and status >= _FINAL
        if "transfer-encoding" in headers and "content-length" in headers:
            self.keeps_open = False  # RFC 9112 §6.1: an attempt to make two readers disagree, perhaps


class HeadReader:
    """Collects bytes until the head of the final answer is there; interim answers before it are dropped."""

    __slots__ = ("_buffer", "_interim", "is_untouched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._interim = 0
        self.is_untouched = True
        """Whether not a byte has come yet."""

    def feed(self, data: bytes) -> tuple[AnswerHead, bytes] | None:
        """Return the head and what follows it, None while it is not complete; raises `BadAnswer`."""
        self.is_untouched = False
        seen = len(self._buffer)
        if not seen and (usual := _USUAL_HEAD.match(data)) is not None:
            return _usual_head(usual), data[usual.end() :]
        if seen:
            self._buffer += data
            data = bytes(self._buffer) if _END.search(self._buffer, max(0, seen - 3)) else b""
        while data:
            end = _head_end(data)
            if end is None:
                break
            head = _parse_head(data[: end[0]])
            data = data[end[1] :]
            self._buffer.clear()
            if head.status >= _FINAL or head.status == _SWITCHING_PROTOCOLS:
                return head, data
            self._interim += 1
            if self._interim > MAX_INTERIM_ANSWERS:
                raise BadAnswer("too many interim answers")
        if data:
            self._buffer[:] = data
        if len(self._buffer) > MAX_HEAD_BYTES:
            raise BadAnswer("the head is too long")
        if not b"HTTP/1.".startswith(self._buffer[:7]):
            raise BadAnswer("no status line")
        return None


class BodyReader:
    """Takes the bytes after a head and returns those of the body.

    `is_whole` once the body has ended as it should; `surplus` is whatever came behind it.
    """

    __slots__ = ("_left", "_pending", "_trailer_size", "framing", "is_whole", "surplus")

    def __init__(self, head: AnswerHead) -> None:
        self.framing = head.framing
        self.surplus = b""
        # Of the body, or of the chunk that is under way (its CRLF included).
        self._left = head.length
        self._pending = b""
        # How much of the trailer has come, None before it begins.
        self._trailer_size: int | None = None
        self.is_whole = head.framing is Framing.LENGTH and not head.length

    def feed(self, data: bytes) -> bytes:
        """Return the body bytes among `data`; no bytes do not mean the end. Raises `BadAnswer`."""
        if self.is_whole:
            self.surplus += data
            return b""
        if self.framing is _CHUNKED:
            if not self._left and not self._pending and self._trailer_size is None:
                # One whole chunk in one read, as live streams come.
                at = data.find(_CRLF) + 2
                length = _SIZES.get(data[: at - 2])
                if length and 1 < at == len(data) - length - 2 and data.endswith(_CRLF):
                    return data[at:-2]
            return self._feed_chunked(data)
        return data if self.framing is Framing.CLOSE else self._feed_length(data)

    def end(self) -> bool:
        """Note that the connection has ended; return whether that leaves the body whole."""
        if self.framing is Framing.CLOSE:
            self.is_whole = True
        return self.is_whole

    def _feed_length(self, data: bytes) -> bytes:
        left = self._left - len(data)
        if left > 0:
            self._left = left
            return data
        body = data
        if left:
            body, self.surplus = data[: self._left], data[self._left :]
        self._left = 0
        self.is_whole = True
        return body

    def _feed_chunked(self, data: bytes) -> bytes:
        """Cut out whole chunks in one go, however many there are; what is unfinished is kept."""
        at, size = 0, len(data)
        pieces: list[bytes] = []
        if self._left:
            at = self._continue_chunk(data, pieces)
        elif self._pending:
            data = self._pending + data
            size = len(data)
            self._pending = b""
        if self._trailer_size is not None:
            self._read_trailer(data)
            return b""
        while at < size:
            line_end = data.find(_CRLF, at)
            if line_end < 0:
                self._keep_size_line(data[at:])
                break
            length = _chunk_size(data[at:line_end])
            at = line_end + 2
            if not length:
                self._trailer_size = 0
                self._read_trailer(data[at:])
                break
            end = at + length
            if end + 2 > size:
                self._left = end + 2 - at
                self._continue_chunk(data[at:], pieces)
                break
            if data[end] != 13 or data[end + 1] != 10:  # CRLF
                raise BadAnswer("a chunk is longer than it said")
            pieces.append(data[at:end])
            at = end + 2
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _continue_chunk(self, data: bytes, pieces: list[bytes]) -> int:
        """Take what `data` begins with of the chunk under way; return where it ends there."""
        left = self._left
        taken = min(left, len(data))
        body = min(taken, max(0, left - 2))
        if body:
            pieces.append(data[:body])
        # Of the CRLF behind the chunk, `left` says how much is still to come.
        expected = _CRLF[2 - (left - body) : 2 - (left - taken)] if left - body <= 2 else b""
        if data[body:taken] != expected:
            raise BadAnswer("a chunk is longer than it said")
        self._left = left - taken
        return taken

    def _keep_size_line(self, line: bytes) -> None:
        if len(line) > _MAX_SIZE_LINE:
            raise BadAnswer("a chunk's size is too long")
        if not _may_be_size(line):
            raise BadAnswer("no chunk size")
        self._pending = line

    def _read_trailer(self, data: bytes) -> None:
        """Pass over the trailer's fields; with the blank line behind them the body is whole."""
        at = 0
        while (end := data.find(b"\n", at)) >= 0:
            is_blank = data[at:end] in (b"", b"\r")
            at = end + 1
            if is_blank:
                self.is_whole = True
                self.surplus = data[at:]
                return
        self._pending = data[at:]
        self._trailer_size = (self._trailer_size or 0) + at
        if self._trailer_size + len(self._pending) > MAX_TRAILER_BYTES:
            raise BadAnswer("the trailer is too long")


def _head_end(buffer: bytes) -> tuple[int, int] | None:
    """Return where the head ends and where the body begins."""
    at = buffer.find(b"\r\n\r\n")
    # A line that ends in LF alone may have its blank line just before, and share a CRLF with what was found.
    if at >= 0 and b"\n\n" not in buffer[:at] and b"\n\r\n" not in buffer[: at + 2]:
        return at, at + 4
    match = _END.search(buffer)
    return (match.start(), match.end()) if match else None


def _may_be_size(line: bytes) -> bool:
    text = line.removesuffix(b"\r")
    return not text or _SIZE.fullmatch(text) is not None


def _chunk_size(line: bytes) -> int:
    length = _SIZES.get(line)
    if length is not None:
        return length
    match = _SIZE.fullmatch(line)
    if match is None or len(match[1].lstrip(b"0")) > _MAX_SIZE_DIGITS:
        raise BadAnswer("no chunk size")
    return int(match[1], 16)


_SIZES: Final = {b"%x" % size: size for size in range(4096)}
"""The sizes that chunks of streams have, as nearly every server writes them."""


def _usual_head(match: re.Match[bytes]) -> AnswerHead:
    """Make of a usual head what `_parse_head` would, in a fifth of the time."""
    minor, status, fields = match.groups()
    headers: dict[str, str] = {}
    for line in fields.decode("latin-1").split("\r\n"):
        if not line:
            break  # behind the last CRLF
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return AnswerHead(int(minor), int(status), headers)


def _parse_head(head: bytes) -> AnswerHead:
    """Parse any head at all; raises `BadAnswer`."""
    lines = head.split(_CRLF)
    if any(b"\n" in line for line in lines):
        lines = _LINE_END.split(head)
    if any(b"\r" in line for line in lines):
        raise BadAnswer("a CR that ends no line")  # for some readers it ends one
    status = _STATUS_LINE.fullmatch(lines[0])
    if status is None:
        raise BadAnswer("no status line")
    headers: dict[str, str] = {}
    name = ""
    for line in lines[1:]:
        if line[:1] in (b" ", b"\t") and name:
            # Folded (RFC 9112 §5.2): to be read as if it were one line.
            headers[name] = f"{headers[name]} {line.strip().decode('latin-1')}".strip()
            continue
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadAnswer("a header that is none")
        name, value = match[1].decode("ascii").lower(), match[2].decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return AnswerHead(int(status[1]), int(status[2]), headers)


def _framing(status: int, headers: dict[str, str]) -> tuple[Framing, int]:
    """Return the framing by RFC 9112 §6.3, for answers to requests that have a body in their answer."""
    if status < _FINAL or status in _BODILESS:
        return Framing.LENGTH, 0
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if {part.strip(" \t").lower() for part in coding.split(",")} != {"chunked"}:
            raise BadAnswer("a transfer coding that was not asked for")
        return Framing.CHUNKED, 0
    text = headers.get("content-length")
    if text is None:
        return Framing.CLOSE, 0
    if len(text) <= _MAX_LENGTH_DIGITS and text.isascii() and text.isdigit():
        return Framing.LENGTH, int(text)
    lengths = {part.strip(" \t") for part in text.split(",")}
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit()) or len(length) > _MAX_LENGTH_DIGITS:
        raise BadAnswer("a length that is none")
    return Framing.LENGTH, int(length)
