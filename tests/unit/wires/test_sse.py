"""Framing: blocks do not depend on how the stream is read, and events are read by the standard's rules."""

import re
import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.wires.sse import BOM, MAX_EVENT_BYTES, Oversized, SseSplitter, looks_like_stream, parse_event

# Bytes that matter for framing, mixed with some that do not.
PIECES = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"\n\n",
        b"\r\r",
        b"\r\n\r\n",
        b":",
        b" ",
        b"data",
        b"data: x",
        b"event: e",
        b"\xef\xbb\xbf",
    ]
)
FRAMES = st.lists(PIECES | st.binary(max_size=4), max_size=30).map(b"".join)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in at), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def split(reads: list[bytes], limit: int = 1 << 20) -> tuple[list[bytes], bytes]:
    splitter = SseSplitter(limit)
    blocks = [block for read in reads for block in splitter.feed(read)]
    return blocks, splitter.pending()


def events(blocks: list[bytes]) -> list[tuple[bytes, bytes]]:
    return [event for block in blocks if (event := parse_event(block)) is not None]


def reference_blocks(data: bytes) -> list[bytes]:
    """A slow and obvious splitter: normalise the line ends, cut after empty lines."""
    blocks, block = [], b""
    for line in re.findall(rb"[^\r\n]*(?:\r\n|\r|\n)", data):
        block += line
        if not line.strip(b"\r\n") and block != line:
            blocks.append(block)
            block = b""
    return blocks


@pytest.mark.parametrize(
    ("stream", "blocks", "rest"),
    [
        (b"data: a\n\ndata: b\n\n", [b"data: a\n\n", b"data: b\n\n"], b""),
        (b"data: a\r\n\r\ndata: b", [b"data: a\r\n\r\n"], b"data: b"),
        (b"data: a\r\rdata: b\r\r", [b"data: a\r\r", b"data: b\r\r"], b""),
        (b"data: a\n\r\nb\r\n\nc\r\n\rd", [b"data: a\n\r\n", b"b\r\n\n", b"c\r\n\r"], b"d"),
        (b"data: a\r\ndata: b\r\n", [], b"data: a\r\ndata: b\r\n"),
        (b"a\n\n\nb\n\n", [b"a\n\n", b"\nb\n\n"], b""),
        (b"", [], b""),
    ],
)
def test_blocks_end_with_their_blank_line(stream: bytes, blocks: list[bytes], rest: bytes) -> None:
    assert split([stream]) == (blocks, rest)


@pytest.mark.wire(3)
def test_a_blank_line_made_by_cr_completes_the_event_at_once() -> None:
    splitter = SseSplitter()
    assert splitter.feed(b"data: a\r\r") == [b"data: a\r\r"]
    assert splitter.feed(b"\n") == []
    assert splitter.is_between_events
    assert events(splitter.feed(b"data: b\n\n")) == [(b"", b"b")]


@pytest.mark.wire(4)
def test_crlf_cut_between_reads_is_one_line_end() -> None:
    splitter = SseSplitter()
    assert splitter.feed(b"data: a\r") == []
    assert splitter.feed(b"\ndata: b\r") == []
    assert splitter.feed(b"\n\r") == [b"data: a\r\ndata: b\r\n\r"]


@given(data=FRAMES, at=st.lists(st.integers(0, 10_000), max_size=8))
@example(data=b"a\r\n\r\n\n\r\nb", at=[3, 4, 5, 6])
def test_any_split_gives_the_same_bytes_and_events(data: bytes, at: list[int]) -> None:
    whole, rest = split([data])
    blocks, pending = split(cut(data, at))
    assert b"".join(blocks) + pending == data == b"".join(whole) + rest
    assert events(blocks) == events(whole)
    # Blocks differ in nothing but the LF of a CRLF that a read cut off a block already complete.
    assert [b.strip(b"\r\n") for b in blocks if b.strip(b"\r\n")] == [
        b.strip(b"\r\n") for b in whole if b.strip(b"\r\n")
    ]


@given(data=FRAMES)
def test_blocks_are_those_of_a_line_by_line_reading(data: bytes) -> None:
    assert events(split([data])[0]) == events(reference_blocks(data))


@given(data=FRAMES)
def test_blocks_are_identical_however_lf_streams_are_cut(data: bytes) -> None:
    data = data.replace(b"\r", b"")
    assert split([data[i : i + 1] for i in range(len(data))]) == split([data])


@given(data=FRAMES, at=st.lists(st.integers(0, 10_000), max_size=6), limit=st.integers(3, 20))
def test_oversized_events_are_passed_in_pieces_and_the_rest_is_found_again(
    data: bytes, at: list[int], limit: int
) -> None:
    splitter = SseSplitter(limit)
    blocks = []
    for read in cut(data, at):
        blocks += splitter.feed(read)
        assert splitter.pending_size <= limit
        assert splitter.pending() == splitter.pending(0)
    assert b"".join(blocks) + splitter.pending() == data
    whole = [block for block in split([data])[0] if len(block) <= limit - 2]
    kept = [block for block in blocks if type(block) is not Oversized]
    assert Counter(events(whole)) <= Counter(events(kept))


@pytest.mark.wire(16)
def test_a_line_without_end_is_given_up_and_later_events_are_found() -> None:
    splitter = SseSplitter()
    piece = b"x" * 65536
    for _ in range(640):
        for block in splitter.feed(piece):
            assert type(block) is Oversized
        assert splitter.pending_size <= MAX_EVENT_BYTES
    assert not splitter.is_between_events
    assert [type(block) for block in splitter.feed(b"\n")] == [Oversized]
    assert splitter.feed(b"\ndata: a\n\n") == [b"\n", b"data: a\n\n"]
    assert splitter.is_empty


def test_an_oversized_event_in_one_read_is_marked_as_such() -> None:
    assert [type(block) for block in SseSplitter(8).feed(b"data: 12345\n\n")] == [Oversized]
    assert [type(block) for block in SseSplitter(8).feed(b"a\n\ndata: 12345\n\nb\n\n")] == [
        bytes,
        Oversized,
        bytes,
    ]
    splitter = SseSplitter(8)
    splitter.feed(b"data: 1")
    assert [type(block) for block in splitter.feed(b"2345\n\n")] == [Oversized]


@pytest.mark.wire(15)
def test_a_long_line_in_small_reads_takes_linear_time() -> None:
    def seconds(size: int) -> float:
        splitter = SseSplitter()
        started = time.process_time()
        for _ in range(size // 256):
            splitter.feed(b"d" * 256)
        assert len(splitter.feed(b"\n\n")) == 1
        return time.process_time() - started

    small = min(seconds(1 << 17) for _ in range(3))
    assert seconds(1 << 21) < small * 16 * 6  # quadratic would be 256 times


@pytest.mark.parametrize(
    ("block", "event"),
    [
        (b"data: x\n\n", (b"", b"x")),
        (b"event: e\ndata: x\n\n", (b"e", b"x")),
        (b"event: e\r\ndata: x\r\n\r\n", (b"e", b"x")),
        (b"event:e\rdata:x\r\r", (b"e", b"x")),
        (b"data: x\ndata:y\ndata\n\n", (b"", b"x\ny\n")),
        (b"data:  x\n\n", (b"", b" x")),
        (b"data\n\n", (b"", b"")),
        (b"data\r\n\r\n", (b"", b"")),
        (b"data: a\xe2\x80\xa8b\xc2\x85c\x0b\x0c\n\n", (b"", b"a\xe2\x80\xa8b\xc2\x85c\x0b\x0c")),
        (b"data: a\rdata: b\n\n", (b"", b"a\nb")),
        (b"event: a\nevent: e\ndata: x\n\n", (b"e", b"x")),
        (b"event: e\ndata: x\nid: 1\n\n", (b"e", b"x")),
        (b"data: x\nevent: e\n\n", (b"e", b"x")),
        (b"\ndata: x\n\n", (b"", b"x")),
        (b": comment\n\n", None),
        (b"event: ping\n\n", None),
        (b"id: 1\nretry: 10\nfoo: bar\nfoo\n\n", None),
        (b"Data: x\n\n", None),
        (b"\xef\xbb\xbfdata: x\n\n", None),
        (b"\n\n", None),
        (b"", None),
        (b"data: x", (b"", b"x")),
        (b"event: e\ndata: x\n", (b"e", b"x")),
    ],
)
def test_event_is_read_by_the_standards_rules(block: bytes, event: tuple[bytes, bytes] | None) -> None:
    assert parse_event(block) == event


@pytest.mark.parametrize(
    "start", [b"data: {", b"data:{", b"event: x", b": ping", b":\n", b"id: 1", b"retry: 9"]
)
@pytest.mark.parametrize("before", [b"", BOM, b"\r\n", BOM + b"\n\n"])
def test_a_body_that_begins_like_a_stream_is_taken_for_one(before: bytes, start: bytes) -> None:
    whole = before + start
    told = [looks_like_stream(whole[:size]) for size in range(len(whole) + 1)]
    assert told == [None] * (len(before) + 1) + [True] * len(start)


@pytest.mark.parametrize("start", [b'{"id":1}', b"[1]", b'"text"', b'\r\n \t{"'])
def test_a_body_that_begins_like_json_is_none(start: bytes) -> None:
    assert looks_like_stream(start) is False
    assert looks_like_stream(BOM + start) is False


@pytest.mark.parametrize("start", [b"dat.", b" data:", b"Bad Gateway", b"database", b"null", b"<", b" \n"])
def test_a_body_that_begins_otherwise_tells_nothing(start: bytes) -> None:
    assert looks_like_stream(start) is None
    assert looks_like_stream(BOM + start) is None
