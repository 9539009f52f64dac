import gzip
import os
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from app.wires import content_coding
from app.wires.content_coding import (
    MOST_MEMBERS,
    BodyTooLarge,
    CodingError,
    decode_all,
    decoder_for,
    require_decoder,
)
from tests.support.growth import assert_grows_linearly

MB = 1024 * 1024


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def halves(encode: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Two members or frames, one after the other."""
    return lambda data: encode(data[: len(data) // 2]) + encode(data[len(data) // 2 :])


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


ENCODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "identity": ("identity", bytes),
    "no coding named": ("", bytes),
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip ", gzip.compress),
    "gzip, two members": ("gzip", halves(gzip.compress)),
    "gzip, padded": ("gzip", lambda data: halves(gzip.compress)(data) + b"\0" * 5),
    "zlib": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstd),
    "zstd, two frames": ("zstd", halves(zstd)),
    "zstd, skippable frame first": ("zstd", lambda data: b"\x50\x2a\x4d\x18\x02\0\0\0ab" + zstd(data)),
}
COMPRESSED = [name for name, (coding, _) in ENCODINGS.items() if coding not in ("identity", "")]


def decode(coding: str, pieces: list[bytes]) -> bytes:
    decoder = require_decoder(coding)
    return b"".join(part for piece in pieces for part in decoder.decode(piece))


def split(data: bytes, places: list[int]) -> Iterator[bytes]:
    previous = 0
    for place in sorted(place % (len(data) + 1) for place in places):
        yield data[previous:place]
        previous = place
    yield data[previous:]


@pytest.mark.wire(63)
@given(st.sampled_from(sorted(ENCODINGS)), st.binary(max_size=3000), st.lists(st.integers(0), max_size=6))
def test_what_was_encoded_comes_back_at_any_split(name: str, data: bytes, places: list[int]) -> None:
    coding, encode = ENCODINGS[name]
    assert decode(coding, list(split(encode(data), places))) == data


@pytest.mark.wire(63)
@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_was_encoded_comes_back_in_the_smallest_pieces(name: str, size: int) -> None:
    data = b"data: {}\n\n" * 300 + os.urandom(200)
    coding, encode = ENCODINGS[name]
    encoded = encode(data)
    assert decode(coding, [encoded[at : at + size] for at in range(0, len(encoded), size)]) == data


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_body_of_several_steps_comes_back(name: str) -> None:
    data = (b"x" * 1000 + os.urandom(24)) * 1500
    coding, encode = ENCODINGS[name]
    assert decode(coding, [encode(data)]) == data


@pytest.mark.parametrize("name", ["gzip", "zlib", "raw deflate", "br"])
def test_nothing_stays_behind_when_a_step_is_exactly_full(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    coding, encode = ENCODINGS[name]
    data = b"ab" * 2000 + os.urandom(50)
    for step in (1, 2, 7, 100, 1000, len(data)):
        monkeypatch.setattr(content_coding, "_STEP", step)
        assert decode(coding, [encode(data)]) == data


@pytest.mark.parametrize("name", COMPRESSED)
def test_what_has_arrived_is_decoded_at_once(name: str) -> None:
    # A stream is metered, and forwarded, event by event: nothing may wait for bytes still to come.
    coding, _ = ENCODINGS[name]
    flushed: Any = {
        "gzip": lambda: zlib.compressobj(wbits=31),
        "deflate": lambda: zlib.compressobj(wbits=-15 if "raw" in name else 15),
        "x-gzip ": lambda: zlib.compressobj(wbits=31),
        "zstd": lambda: zstandard.ZstdCompressor().compressobj(),
        "br": brotli.Compressor,
    }[coding.lower()]()
    decoder = require_decoder(coding)
    long = b"data: %b\n\n" % (b"x" * 200_000)
    for event in (b"data: 1\n\n", b"data: 22\n\n", long, b"data: [DONE]\n\n"):
        if coding == "br":
            sent = flushed.process(event) + flushed.flush()
        elif coding == "zstd":
            sent = flushed.compress(event) + flushed.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        else:
            sent = flushed.compress(event) + flushed.flush(zlib.Z_SYNC_FLUSH)
        assert b"".join(decoder.decode(sent)) == event


@given(st.sampled_from(["gzip", "deflate", "br", "zstd"]), st.binary(max_size=200), st.booleans())
def test_garbage_is_a_coding_error_and_nothing_else(coding: str, garbage: bytes, after_good: bool) -> None:
    encode = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstd}[coding]
    data = encode(b"good") + garbage if after_good else garbage
    with suppress(CodingError, BodyTooLarge):
        decode_all(data, require_decoder(coding), MB)


@pytest.mark.wire(64)
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_plain_body_under_a_coding_is_a_coding_error(coding: str) -> None:
    with pytest.raises(CodingError):
        decode(coding, [b'{"id":"chatcmpl-1","object":"chat.completion"}'])


@given(st.sampled_from(COMPRESSED), st.integers(0), st.integers(1, 255))
def test_a_damaged_body_is_decoded_or_a_coding_error(name: str, place: int, change: int) -> None:
    coding, encode = ENCODINGS[name]
    data = bytearray(encode(b"data: {}\n\n" * 50))
    data[place % len(data)] ^= change
    with suppress(CodingError, BodyTooLarge):
        decode_all(bytes(data), require_decoder(coding), MB)


def bomb(coding: str) -> bytes:
    """Some 64 MB in very few bytes."""
    if coding == "zstd":
        return zstandard.ZstdCompressor(level=19).compress(bytes(64 * MB))
    if coding == "br":
        compressor = brotli.Compressor(quality=5)
        zeros = bytes(MB)
        return b"".join(compressor.process(zeros) for _ in range(64)) + compressor.finish()
    wbits = {"gzip": 31, "deflate": 15, "raw": -15}[coding]
    deflater = zlib.compressobj(wbits=wbits)
    return b"".join(deflater.compress(bytes(MB)) for _ in range(64)) + deflater.flush()


@pytest.mark.wire(69)
@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw", "br", "zstd"])
def test_a_bomb_is_stopped_early_and_costs_little_memory(coding: str) -> None:
    data = bomb(coding)
    assert len(data) < MB
    decoder = require_decoder("deflate" if coding == "raw" else coding)
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            decode_all(data, decoder, 2 * MB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MB


@pytest.mark.wire(69)
@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw", "br", "zstd"])
def test_a_bomb_comes_in_bounded_pieces(coding: str) -> None:
    decoder = decoder_for("deflate" if coding == "raw" else coding)
    assert decoder is not None
    sizes = [len(piece) for piece in decoder.decode(bomb(coding))]
    assert sum(sizes) == 64 * MB
    assert max(sizes) <= 4 * MB


@pytest.mark.parametrize("member", [gzip.compress(b"", mtime=0), zstd(b""), gzip.compress(b"x", mtime=0)])
def test_a_body_of_tiny_members_is_decoded_in_linear_time(member: bytes) -> None:
    coding = "gzip" if member.startswith(b"\x1f\x8b") else "zstd"
    assert_grows_linearly(
        lambda size: decode_all(member * (size // len(member)), require_decoder(coding), 4 * MB), MB // 64
    )


@pytest.mark.wire(110)
@pytest.mark.parametrize("member", [gzip.compress(b"", mtime=0), zstd(b""), b"\x50\x2a\x4d\x18\0\0\0\0"])
def test_a_body_of_very_many_members_is_given_up(member: bytes) -> None:
    coding = "gzip" if member.startswith(b"\x1f\x8b") else "zstd"
    decoder = decoder_for(coding)
    assert decoder is not None
    pieces = decoder.decode(member * (3 * MOST_MEMBERS))
    with pytest.raises(CodingError, match="too many members"):
        for _ in pieces:
            pass


def test_brotli_that_brings_nothing_out_is_taken_in_slices() -> None:
    decoder = decoder_for("br")
    assert decoder is not None
    # Metadata blocks: each is skipped, and no output ever ends a call.
    head, block = b"\x0c", b"\x06"
    pieces = decoder.decode(head + block * 300_000)
    assert sum(1 for _ in pieces) >= 4


def test_each_piece_is_told_before_it_is_kept() -> None:
    told: list[int] = []

    def took(size: int) -> None:
        told.append(size)
        if sum(told) > MB:
            raise BodyTooLarge

    with pytest.raises(BodyTooLarge):
        decode_all(gzip.compress(b"x" * 8 * MB), require_decoder("gzip"), 8 * MB, took)
    assert MB < sum(told) <= 2 * MB


def test_the_cap_is_inclusive() -> None:
    data = gzip.compress(b"x" * 100)
    assert len(decode_all(data, require_decoder("gzip"), 100)) == 100
    with pytest.raises(BodyTooLarge):
        decode_all(data, require_decoder("gzip"), 99)
    with pytest.raises(BodyTooLarge):
        decode_all(b"x" * 100, require_decoder("identity"), 99)


@pytest.mark.parametrize("coding", ["compress", "gzip, br", "aes128gcm", "*"])
def test_an_unknown_or_stacked_coding_has_no_decoder(coding: str) -> None:
    assert decoder_for(coding) is None
    with pytest.raises(CodingError, match="unknown content coding"):
        require_decoder(coding)


def test_a_zstd_window_beyond_what_http_allows_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=24)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compressor.compress(os.urandom(64)) + compressor.flush()
    with pytest.raises(CodingError):
        decode("zstd", [data])


@pytest.mark.parametrize("name", COMPRESSED)
def test_an_answer_that_inflates_beyond_all_measure_is_given_up_early(name: str) -> None:
    """At the latest when it is a hundred times as large as what came, and eight megabytes."""
    coding, encode = ENCODINGS[name]
    bomb = encode(b" " * (64 * MB))
    pieces = require_decoder(coding).decode(bomb)
    sizes: list[int] = []
    with pytest.raises(CodingError, match="measure"):
        sizes.extend(map(len, pieces))
    size = sum(sizes)
    assert size <= content_coding.FREE_BYTES + content_coding.MOST_INFLATION * len(bomb)


def test_an_answer_may_inflate_a_hundredfold_for_as_long_as_it_likes() -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"the same again"}}]}\n\n'
    compressor = zlib.compressobj()
    decoder = require_decoder("deflate")
    size = 0
    for _ in range(300):
        piece = compressor.compress(event * 500) + compressor.flush(zlib.Z_SYNC_FLUSH) + b""
        size += sum(map(len, decoder.decode(piece + compressor.flush(zlib.Z_SYNC_FLUSH))))
    assert size == 300 * 500 * len(event)
