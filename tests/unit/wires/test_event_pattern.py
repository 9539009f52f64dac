"""Events that are passed over: what a meter finds is what it would have found by parsing every one."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.wires import meter as meter_module
from app.wires.endpoints import Answers
from app.wires.event_pattern import EventPattern
from app.wires.meter import StreamMeter
from app.wires.sse import parse_event
from app.wires.wire_format import WireFormat
from tests.unit.wires.metering import ANT, OAI, cut, results

EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
LONG = EVENT.replace(b'"c"', b'"chatcmpl-%b"' % (b"0" * 40))
"""Of these a few dozen are split in another way."""
PADDED = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}],"obfuscation":"xyz"}\n\n'


def pattern(block: bytes) -> EventPattern:
    found = EventPattern.of(block)
    assert found is not None
    return found


class TestPattern:
    def test_other_text_fits(self) -> None:
        other = EVENT.replace(b"Hi", b' there "\xc3\xa9\\n\\u00e9 '.replace(b'"', b'\\"'))
        data = EVENT + other + EVENT.replace(b"Hi", b"")
        assert pattern(EVENT).run(data) == (3, len(data))

    def test_a_run_ends_where_something_else_comes(self) -> None:
        finish = EVENT.replace(b"null", b'"stop"')
        data = EVENT * 3 + finish + EVENT
        count, end = pattern(EVENT).run(data)
        assert data[:end] == EVENT * count
        assert count in (2, 3)
        assert pattern(EVENT).run(data, len(EVENT) * 3) == (0, len(EVENT) * 3)

    def test_a_cut_event_is_not_part_of_a_run(self) -> None:
        for size in range(len(EVENT)):
            assert pattern(EVENT).run(EVENT * 2 + EVENT[:size]) == (2, 2 * len(EVENT)), size

    @pytest.mark.parametrize(
        "odd",
        [
            LONG.replace(b"Hi", b'"'),
            LONG.replace(b"Hi", b"\n\n"),
            LONG.replace(b"null", b'"stop"'),
            LONG.replace(b'"delta"', b'"delt4"'),
            LONG[:-3] + b"\n\n",
            LONG[1:],
            b"\n\n",
        ],
    )
    def test_a_long_run_ends_before_what_is_not_like_it(self, odd: bytes) -> None:
        found = pattern(LONG)
        for before in (1, 5, 29):
            count, end = found.run(LONG * before + odd + LONG * (30 - before))
            assert count <= before
            assert end == len(LONG) * count

    def test_a_long_run_takes_any_string(self) -> None:
        texts = (b"", b"a", b'\\"', b"\\n\\n", b"data: {", "é".encode())
        data = b"".join(LONG.replace(b"Hi", text) for text in texts * 6)
        assert pattern(LONG).run(data) == (36, len(data))
        assert pattern(LONG).run(data + LONG[:-1]) == (36, len(data))

    def test_several_texts(self) -> None:
        data = PADDED + PADDED.replace(b"xyz", b"").replace(b'"a"', b'"\\"}}],\\"obfuscation\\":\\""')
        assert pattern(PADDED).run(data * 2) == (4, 2 * len(data))

    @pytest.mark.parametrize(
        "text", [b'"', b"\\", b"\\x", b"\n", b"\x00", b"\\u12", b"\\ud83d", b'","finish_reason":"stop","x":"']
    )
    def test_what_is_no_string_does_not_fit(self, text: bytes) -> None:
        for block in (EVENT.replace(b"Hi", text), EVENT + EVENT.replace(b"Hi", text) + EVENT):
            count, end = pattern(EVENT).run(block)
            assert count <= 1
            assert end <= len(EVENT)

    @pytest.mark.parametrize(
        "block",
        [
            b"data: [DONE]\n\n",
            b": comment\n\n",
            b"data: {}\n\n",
            EVENT.replace(b"\n", b"\r\n"),
            EVENT[:-1],
            EVENT * 2,
            b"\n" + EVENT,
            EVENT.replace(b"Hi", b"x" * 5000),
            b'data: {"content":"a","text":"b","thinking":"c","refusal":"d","arguments":"e"}\n\n',
        ],
    )
    def test_unusual_events_have_no_pattern(self, block: bytes) -> None:
        assert EventPattern.of(block) is None


CHUNK = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "?"}, "finish_reason": None}]}
DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "?"}}
TEXT = st.sampled_from(
    ["", "a", "Hello, ", '"', "\\", "\n\n", "\u2028é", "😀", '"usage":{"prompt_tokens":7}', "data: "]
)
ODD: list[bytes] = [
    b"data: [DONE]",
    b": ping",
    b"data: {",
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6}}',
    b'data: {"error":{"message":"no","type":"t"}}',
    b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}',
    b'data: {"id":"c","model":"m","choices":[{"index":1,"delta":{"content":"x"},"finish_reason":null}]}',
    b'data: {"id":"c","model":"m","service_tier":"flex","choices":[{"index":0,"delta":{"content":"x"}}]}',
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"x"},"usage":{"total_tokens":4}}]}',
    b'event: error\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}',
    b'event: message_delta\ndata: {"type":"message_delta","delta":{},"usage":{"output_tokens":9}}',
    b'event: message_stop\ndata: {"type":"message_stop"}',
    b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"\\ud800"}}]}',
]


def written(kind: dict[str, Any], text: str, compact: bool) -> bytes:
    body = json.dumps(kind, separators=(",", ":") if compact else None).replace('"?"', json.dumps(text), 1)
    return (b"event: content_block_delta\n" if kind is DELTA else b"") + b"data: " + body.encode()


def mere_text(kind: dict[str, Any]) -> st.SearchStrategy[bytes]:
    return st.builds(written, st.just(kind), TEXT, st.sampled_from([True, True, True, False]))


EVENTS = st.lists(
    st.one_of(mere_text(CHUNK), mere_text(CHUNK), mere_text(DELTA), st.sampled_from(ODD)), max_size=30
)
ENDS = st.sampled_from([b"\n\n", b"\n\n", b"\n\n", b"\n\n", b"\r\n\r\n", b"\n\r\n", b"\n\n\n"])


def metered(reads: list[bytes], wire_format: WireFormat, *, strip: bool) -> tuple[bytes, dict[str, Any]]:
    meter = StreamMeter(wire_format, strip)
    out = b"".join([meter.feed(read) for read in reads]) + meter.flush()
    return out, results(meter)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(EVENTS, st.lists(ENDS, min_size=30, max_size=30), st.lists(st.integers(0), max_size=8), st.booleans())
@example([written(CHUNK, "a", True)] * 30, [b"\n\n"] * 30, [], True)
def test_nothing_is_missed(events: list[bytes], ends: list[bytes], at: list[int], strip: bool) -> None:
    reads = cut(b"".join(event + end for event, end in zip(events, ends, strict=False)), at)
    for wire_format in (OAI, ANT):
        found = metered(reads, wire_format, strip=strip)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(meter_module, "_MAX_LESSONS", 0)
            assert found == metered(reads, wire_format, strip=strip)


@pytest.mark.parametrize(("wire_format", "kind"), [(OAI, CHUNK), (ANT, DELTA)])
def test_events_of_mere_text_are_not_parsed(
    wire_format: WireFormat, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []

    def parse(block: bytes) -> tuple[bytes, bytes] | None:
        parsed.append(block)
        return parse_event(block)

    monkeypatch.setattr(meter_module, "parse_event", parse)
    identified = b'data: {"id":"c","model":"m","choices":[]}\n\n'
    event = written(kind, "word", True) + b"\n\n"
    meter = StreamMeter(wire_format)
    meter.feed(identified)
    for _ in range(100):
        meter.feed(event)
    meter.feed(event * 100 + event[:30])
    meter.feed(event[30:] + event * 99)
    assert len(parsed) < 8
    assert meter.output_estimate == 300


def test_what_is_passable_need_not_be_fed() -> None:
    event = written(CHUNK, "word", True) + b"\n\n"
    meter = StreamMeter(OAI)
    assert not meter.passable(event)
    meter.feed(event * 3)
    assert meter.passable(event * 2) == 2
    meter.note_passed(2, 2 * len(event))
    assert not meter.passable(event + event[:-1])
    assert not meter.passable(b"data: [DONE]\n\n")
    meter.feed(event[:-1])
    assert not meter.passable(event)
    meter.feed(b"\n")
    assert meter.output_estimate == 6


NUMBERED = b"""event: response.output_text.delta
data: {"type":"response.output_text.delta","sequence_number":%d,"item_id":"msg_1","delta":"%b","logprobs":[]}

"""


def test_events_that_are_numbered_differ_in_their_number_too() -> None:
    found = EventPattern.of(NUMBERED % (4, b"a"))
    assert found is not None
    whole = b"".join(NUMBERED % (number, b'w\\"ord ') for number in range(5, 25))
    assert found.run(whole) == (20, len(whole))
    for odd in (b"-1", b"07", b'"7"', b"1.5", b'7,"usage":{}', b"", b"9" * 17):
        event = (NUMBERED % (4, b"a")).replace(b":4,", b":" + odd + b",")
        assert found.run(event)[0] == 0


def test_deltas_of_a_response_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(
        meter_module, "parse_event", lambda block: (parsed.append(block), parse_event(block))[1]
    )
    meter = StreamMeter(OAI, answers=Answers.RESPONSES)
    events = [NUMBERED % (number, b"word ") for number in range(200)]
    for event in events[:100]:
        meter.feed(event)
    assert meter.passable(b"".join(events[100:])) == 100
    assert len(parsed) < 4
    assert meter.output_estimate == 100


RESPONSES_ODD = [
    b'data: {"type":"response.created","response":{"id":"r","model":"m","status":"in_progress"}}\n\n',
    b'event: error\ndata: {"type":"response.output_text.delta","delta":"x"}\n\n',
    b'data: {"type":"response.output_text.delta","delta":"x","response":{"usage":{"input_tokens":7}}}\n\n',
    b'data: {"type":"response.output_item.done","item":{"type":"web_search_call"}}\n\n',
    b'data: {"type":"response.completed","response":{"usage":{"input_tokens":7,"output_tokens":2}}}\n\n',
]
NUMBERED_DELTAS = st.builds(
    lambda number, text: NUMBERED % (number, json.dumps(text)[1:-1].encode()), st.integers(0, 10**6), TEXT
)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=100)
@given(
    st.lists(NUMBERED_DELTAS | NUMBERED_DELTAS | st.sampled_from(RESPONSES_ODD), max_size=20),
    st.lists(st.integers(0), max_size=6),
)
def test_nothing_of_a_response_is_missed(events: list[bytes], at: list[int]) -> None:
    def read() -> dict[str, Any]:
        meter = StreamMeter(OAI, answers=Answers.RESPONSES)
        for piece in cut(b"".join(events), at):
            if count := meter.passable(piece):
                meter.note_passed(count, len(piece))
            else:
                meter.feed(piece)
        meter.flush()
        return results(meter)

    found = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter_module, "_MAX_LESSONS", 0)
        assert found == read()
