"""Where a comment may be put into a stream of events without changing what its reader sees."""

from hypothesis import given
from hypothesis import strategies as st

from app.wires.meter import MAX_HELD_BYTES, AnswerMeter, StreamMeter
from app.wires.sse import MAX_EVENT_BYTES, SseSplitter, parse_event
from app.wires.wire_format import WireFormat

COMMENT = b": keep-alive\n\n"
USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}'
BLOCKS = st.sampled_from(
    [
        b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hi"}}]}',
        b'event: message_delta\ndata: {"type":"message_delta"}',
        b": ping",
        b"data: one\ndata: two",
        b"",
        USAGE,
    ]
)
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def events(stream: bytes) -> list[tuple[bytes, bytes]]:
    """What a reader hands on."""
    return [event for block in SseSplitter().feed(stream) if (event := parse_event(block)) is not None]


@given(st.lists(st.tuples(BLOCKS, LINE_ENDS), max_size=8), st.data(), st.booleans())
def test_a_comment_changes_nothing_wherever_it_may_be(
    parts: list[tuple[bytes, bytes]], data: st.DataObject, strip: bool
) -> None:
    stream = b"".join(block.replace(b"\n", end) + end + end for block, end in parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    meter = StreamMeter(WireFormat.OPENAI, strip_usage_chunk=strip)
    plain = commented = b""
    places = 0
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        out = meter.feed(stream[start:end])
        plain += out
        commented += out
        if meter.is_between_events:
            assert plain == b"" or plain.endswith(b"\n")
            commented += COMMENT
            places += 1
    rest = meter.flush()
    assert commented.replace(COMMENT, b"") == plain
    assert events(commented + rest) == events(plain + rest)
    if parts and {end for _, end in parts} == {b"\n"} and parts[-1][0]:
        assert places, "not even at its end"


def test_live_events_leave_a_place_behind_each() -> None:
    for end in (b"\n\n", b"\r\n\r\n"):
        meter = StreamMeter(WireFormat.OPENAI)
        assert meter.is_between_events
        for text in (b"a", b"b", b"c"):
            event = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"}}]}' % text + end
            meter.feed(event[:20])
            assert not meter.is_between_events
            meter.feed(event[20:])
            assert meter.is_between_events


def test_there_is_no_place_in_what_is_too_long_to_be_held_or_read() -> None:
    for strip in (False, True):
        meter = StreamMeter(WireFormat.OPENAI, strip_usage_chunk=strip)
        meter.feed(b"data: " + b"x" * (MAX_HELD_BYTES + 1))
        assert not meter.is_between_events
        meter.feed(b"x" * MAX_EVENT_BYTES)
        assert not meter.is_between_events
        meter.feed(b"x\n\n")
        assert meter.is_between_events


def test_a_body_has_none() -> None:
    assert not AnswerMeter(WireFormat.OPENAI).is_between_events
