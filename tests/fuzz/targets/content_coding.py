"""Content codings: pieces of bounded size, the same bytes however they come, never more than the cap."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import suppress

import brotli
import zstandard

from app.wires.content_coding import (
    BodyTooLarge,
    CodingError,
    Decoder,
    decode_all,
    decoder_for,
    require_decoder,
)
from tests.fuzz.target import Material, Target, cut

CODINGS = ("gzip", "deflate", "br", "zstd")
LIMIT = 100_000
_MAX_PIECE = 8 * 1024 * 1024


def check(data: bytes) -> None:
    material = Material(data)
    coding, seed = material.one_of(CODINGS), material.byte()
    body = material.rest()
    whole, pieces = decoded(coding, [body]), decoded(coding, cut(body, seed))
    if coding == "zstd":  # whose library notices that data is corrupt the later, the smaller the pieces are
        assert whole == pieces or None in (whole, pieces)
    else:
        assert whole == pieces
    with suppress(CodingError, BodyTooLarge):
        assert len(decode_all(body, decoder(coding), LIMIT)) <= LIMIT


def decoder(coding: str) -> Decoder:
    found = decoder_for(coding)
    assert found is not None
    return found


def decoded(coding: str, reads: list[bytes]) -> bytes | None:
    """What comes out; None for what is no such coding, or inflates beyond all measure."""
    bounded = require_decoder(coding)
    out = []
    try:
        for read in reads:
            for piece in bounded.decode(read):
                assert len(piece) <= _MAX_PIECE
                out.append(piece)
    except CodingError:
        return None
    return b"".join(out)


def seeds() -> Iterator[bytes]:
    text = b'{"model":"m","messages":[]}' * 5
    deflater = zlib.compressobj(wbits=-15)
    raw = deflater.compress(text) + deflater.flush()
    for seed in (0, 3):
        yield bytes((0, seed)) + gzip.compress(text, mtime=0)
        yield bytes((0, seed)) + gzip.compress(b"", mtime=0) * 5 + gzip.compress(text, mtime=0) + b"\0\0"
        yield bytes((0, seed)) + gzip.compress(bytes(200_000), mtime=0)
        yield bytes((1, seed)) + zlib.compress(text)
        yield bytes((1, seed)) + raw
        yield bytes((2, seed)) + brotli.compress(text)
        yield bytes((2, seed)) + brotli.compress(bytes(200_000))
        yield bytes((3, seed)) + zstandard.compress(text)
        yield bytes((3, seed)) + zstandard.compress(b"") + zstandard.compress(bytes(200_000))


TARGET = Target("content_coding", check, seeds, words=(b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"\x78\x9c"))
