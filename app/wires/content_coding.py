"""Decoding compressed bodies incrementally and under a cap (RFC 9110 §8.4.1).

Used twice: for request bodies, where a small body may inflate to anything, and for upstream answers that
come compressed although `identity` was asked for.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import brotli
import zstandard

FREE_BYTES = 8 * 1024 * 1024
# JSON and event streams compress to a tenth, seldom to a fiftieth; a bomb to a thousandth and far less.
MOST_INFLATION = 100

# gzip members, or zstd frames, of one body: each costs some microseconds, whatever is in it.
MOST_MEMBERS = 10_000

_STEP = 256 * 1024
_BROTLI_SLICE = 64 * 1024
_SLICE = 4096
_ZSTD_SLICE = 128
_ZLIB_HEADER_SIZE = 2
_DEFLATE = 8


class CodingError(Exception):
    """The bytes are not what their `Content-Encoding` says."""


class BodyTooLarge(Exception):
    """Decoding went past the cap."""


class Decoder(Protocol):
    """An incremental decoder of one content coding."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded pieces of the next bytes, each of bounded size; raises `CodingError`."""


class _Identity:
    def decode(self, data: bytes) -> Iterator[bytes]:
        yield data


class _Members:
    """Counts the members of one body."""

    def __init__(self) -> None:
        self._left = MOST_MEMBERS

    def next(self) -> None:
        """Begin another member; raises `CodingError` if it is one too many."""
        self._left -= 1
        if self._left < 0:
            raise CodingError("it has too many members")


class _Zlib:
    """gzip (many members) and zlib; raw deflate, which some servers send as `deflate`."""

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._inflater = zlib.decompressobj(wbits)
        self._members = _Members()
        # The first bytes of a `deflate` body, until they show whether it has zlib's header.
        self._head: bytes | None = b"" if wbits == zlib.MAX_WBITS else None

    def decode(self, data: bytes) -> Iterator[bytes]:
        # In slices, since what a step leaves over is copied: many tiny members would cost their square.
        for start in range(0, len(data), _SLICE):
            yield from self._decode_slice(data[start : start + _SLICE])

    def _decode_slice(self, data: bytes) -> Iterator[bytes]:
        if self._head is not None:
            data = self._head + data
            if len(data) < _ZLIB_HEADER_SIZE:
                self._head = data
                return
            self._head = None
            if not _has_zlib_header(data):
                self._wbits = -zlib.MAX_WBITS
                self._inflater = zlib.decompressobj(self._wbits)
        while data:
            if self._inflater.eof:
                # Another gzip member may follow; zero padding after the last one is tolerated.
                data = data.lstrip(b"\0")
                if not data:
                    return
                self._members.next()
                self._inflater = zlib.decompressobj(self._wbits)
            piece = self._inflate(data)
            yield piece
            data = self._inflater.unconsumed_tail or self._inflater.unused_data
            while len(piece) == _STEP and not data:
                # All input is taken, but what it stands for may not have fitted into the step.
                piece = self._inflate(b"")
                yield piece

    def _inflate(self, data: bytes) -> bytes:
        try:
            return self._inflater.decompress(data, _STEP)
        except zlib.error as error:
            raise CodingError(str(error)) from None


def _has_zlib_header(data: bytes) -> bool:
    """Check for zlib's header (RFC 1950 §2.2): method 8 (deflate), both bytes together a multiple of 31."""
    return data[0] & 0x0F == _DEFLATE and int.from_bytes(data[:_ZLIB_HEADER_SIZE], "big") % 31 == 0


class _Brotli:
    def __init__(self) -> None:
        self._decompressor: Any = brotli.Decompressor()

    def decode(self, data: bytes) -> Iterator[bytes]:
        # In slices, since one call takes in all that brings nothing out.
        for start in range(0, len(data), _BROTLI_SLICE):
            yield from self._decode_slice(data[start : start + _BROTLI_SLICE])

    def _decode_slice(self, data: bytes) -> Iterator[bytes]:
        try:
            piece = self._decompressor.process(data, output_buffer_limit=_STEP)
            yield piece  # if empty, too: whoever takes it may rest here
            # All input may be taken although what it stands for has not come: of what was flushed, there is a
            # window at most at a time.
            while piece:
                piece = self._decompressor.process(b"", output_buffer_limit=_STEP)
                yield piece
        except brotli.error as error:
            raise CodingError(str(error)) from None


class _Zstd:
    """zstd frames; the window is capped as RFC 9659 asks of HTTP (8 MiB)."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024)
        self._frame = self._decompressor.decompressobj(write_size=_STEP)
        self._members = _Members()

    def decode(self, data: bytes) -> Iterator[bytes]:
        # Fed in small slices, since one call returns all it decoded: a block of 128 KiB may take only
        # 4 bytes (RFC 8878 §3.1.1.2), so a slice gives at most 4 MiB.
        for start in range(0, len(data), _ZSTD_SLICE):
            yield from self._decode_step(data[start : start + _ZSTD_SLICE])

    def _decode_step(self, step: bytes) -> Iterator[bytes]:
        while step:
            try:
                yield self._frame.decompress(step)
            except zstandard.ZstdError as error:
                raise CodingError(str(error)) from None
            if not self._frame.eof:
                return
            step = self._frame.unused_data
            self._members.next()
            self._frame = self._decompressor.decompressobj(write_size=_STEP)


_DECODERS: dict[str, Callable[[], Decoder]] = {
    "identity": _Identity,
    "gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "x-gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "deflate": lambda: _Zlib(zlib.MAX_WBITS),
    "br": _Brotli,
    "zstd": _Zstd,
}


def decoder_for(content_encoding: str) -> Decoder | None:
    """Return a decoder for a `Content-Encoding` value; None for an unknown one (or stacked codings)."""
    factory = _DECODERS.get(content_encoding.strip().lower() or "identity")
    return factory() if factory else None


class _Bounded:
    """A decoder that gives up on what inflates beyond all measure, before it has taken time and memory."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._left = FREE_BYTES

    def decode(self, data: bytes) -> Iterator[bytes]:
        self._left += MOST_INFLATION * len(data)
        for piece in self._decoder.decode(data):
            self._left -= len(piece)
            if self._left < 0:
                raise CodingError("it inflates beyond all measure")
            yield piece


def require_decoder(content_encoding: str) -> Decoder:
    """Return the decoder for an answer; raises `CodingError` for an unknown coding.

    What cannot be read cannot be metered. The decoder raises `CodingError`, too, for an answer that inflates
    by more than `FREE_BYTES` and `MOST_INFLATION` times its size.
    """
    decoder = decoder_for(content_encoding)
    if decoder is None:
        raise CodingError(f"unknown content coding {content_encoding[:40]!r}")
    return _Bounded(decoder)


def decode_all(
    data: bytes, decoder: Decoder, limit: int, took: Callable[[int], None] = lambda size: None
) -> bytes:
    """Return the whole decoded body; raises `BodyTooLarge` as soon as it passes `limit` bytes.

    `took` is told of each piece before it is kept, and may raise.
    """
    pieces = []
    size = 0
    for piece in decoder.decode(data):
        size += len(piece)
        if size > limit:
            raise BodyTooLarge
        took(len(piece))
        pieces.append(piece)
    return b"".join(pieces)
