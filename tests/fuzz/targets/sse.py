"""The splitter of event streams: bytes out are bytes in, and events do not depend on how they come."""

import re
from collections.abc import Iterator
from pathlib import Path

from app.wires.sse import Oversized, SseSplitter, looks_like_stream, parse_event
from tests.fuzz.target import Material, Target, cut

FIXTURES = sorted((Path(__file__).parents[2] / "fixtures" / "sse").glob("*.sse"))
LIMITS = (1 << 20, 1 << 20, 1 << 20, 24)
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)")


def check(data: bytes) -> None:
    material = Material(data)
    limit, seed = material.one_of(LIMITS), material.byte()
    body = material.rest()
    looks_like_stream(body)
    whole, pieces = split([body], limit), split(cut(body, seed), limit)
    for blocks, rest in (whole, pieces):
        assert b"".join(blocks) + rest == body
        assert len(rest) <= limit
        assert all(len(block) <= limit or type(block) is Oversized for block in blocks)
    if limit > len(body):
        assert events(pieces[0]) == events(whole[0]) == events(by_lines(body))


def split(reads: list[bytes], limit: int) -> tuple[list[bytes], bytes]:
    splitter = SseSplitter(limit)
    blocks = [block for read in reads for block in splitter.feed(read)]
    return blocks, splitter.pending()


def events(blocks: list[bytes]) -> list[tuple[bytes, bytes]]:
    return [event for block in blocks if (event := parse_event(block)) is not None]


def by_lines(body: bytes) -> list[bytes]:
    """Slow and obvious: line by line, an empty one ends a block."""
    blocks, block = [], b""
    for line in _LINE.findall(body):
        block += line
        if not line.strip(b"\r\n") and block != line:
            blocks.append(block)
            block = b""
    return blocks


def seeds() -> Iterator[bytes]:
    for number, path in enumerate(FIXTURES):
        yield bytes((number % len(LIMITS), number)) + path.read_bytes()[: TARGET.max_bytes]


TARGET = Target(
    "sse",
    check,
    seeds,
    words=(
        *(
            b"data: ",
            b"data:",
            b"data",
            b"event: ",
            b"id: ",
            b"retry: 1",
            b": ",
            b"\n\n",
            b"\r\r",
            b"\r\n\r\n",
        ),
        *(b"\n\r\n", b"\r\n\n", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"[DONE]"),
    ),
    max_bytes=1024,
)
