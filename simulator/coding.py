"""Content codings, applied part by part so that each event can be decoded as soon as it arrives."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import brotli
import zstandard

from simulator.events import Event

_Coder = Callable[[bytes, bool], bytes]


def _zlib_coder(window: int) -> _Coder:
    compressor = zlib.compressobj(wbits=window)

    def code(data: bytes, last: bool) -> bytes:
        return compressor.compress(data) + compressor.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)

    return code


def _brotli_coder() -> _Coder:
    compressor = brotli.Compressor(quality=4)

    def code(data: bytes, last: bool) -> bytes:
        coded: bytes = compressor.process(data) + (compressor.finish() if last else compressor.flush())
        return coded

    return code


def _zstd_coder() -> _Coder:
    compressor = zstandard.ZstdCompressor().compressobj()

    def code(data: bytes, last: bool) -> bytes:
        kind = zstandard.COMPRESSOBJ_FLUSH_FINISH if last else zstandard.COMPRESSOBJ_FLUSH_BLOCK
        return compressor.compress(data) + compressor.flush(kind)

    return code


_CODERS: dict[str, Callable[[], _Coder]] = {
    "gzip": lambda: _zlib_coder(31),
    "deflate": lambda: _zlib_coder(15),
    "br": _brotli_coder,
    "zstd": _zstd_coder,
}


def encode_parts(parts: list[Event], coding: str) -> list[Event]:
    """Encode the parts under one content coding; flushed after each, finished after the last."""
    if coding == "identity":
        return parts
    code = _CODERS[coding]()
    last = len(parts) - 1
    return [part._replace(data=code(part.data, index == last)) for index, part in enumerate(parts)]
