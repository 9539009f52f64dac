"""Meters: what is read off an answer does not depend on how it is cut, and no byte is touched unasked."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wires.endpoints import Answers
from app.wires.meter import MAX_HELD_BYTES, AnswerMeter, StreamMeter
from app.wires.sse import MAX_EVENT_BYTES
from app.wires.wire_format import WireFormat
from tests.unit.wires.metering import ANT, OAI, comparable, counts, cut, results, run, stream

FIXTURES = sorted((Path(__file__).parents[2] / "fixtures" / "sse").glob("*.sse"))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
class TestGoldenTraffic:
    """Recorded-like streams, each with what is to be read off it."""

    def test_results(self, path: Path) -> None:
        expected = json.loads(path.with_suffix(".json").read_text())
        body = path.read_bytes()
        out, found = run([body], WireFormat(expected["format"]))
        assert out == body
        usage = found["usage"]
        plain = None if usage is None else {name: getattr(usage, name) for name in expected["usage"] or {}}
        assert plain == expected["usage"]
        assert sorted(found["flags"]) == expected["flags"]
        error = found["error"]
        assert (error and asdict(error) | {"codes": sorted(error.codes)}) == expected["error"]
        for name in ("upstream_model", "service_tier", "has_content", "is_complete"):
            assert found[name] == expected[name], name

    def test_only_the_usage_chunk_is_removed(self, path: Path) -> None:
        expected = json.loads(path.with_suffix(".json").read_text())
        body = path.read_bytes()
        removed = expected["removed_when_stripping"].encode()
        wire_format = WireFormat(expected["format"])
        out, found = run([body], wire_format, strip=True)
        assert out == (body.replace(removed, b"", 1) if removed else body)
        unstripped = run([body], wire_format)[1]
        assert found == unstripped

    @pytest.mark.parametrize("strip", [False, True])
    def test_every_split_point(self, path: Path, strip: bool) -> None:
        wire_format = ANT if path.stem.startswith("anthropic") else OAI
        body = path.read_bytes()
        whole = run([body], wire_format, strip=strip)
        for at in range(1, len(body)):
            assert run([body[:at], body[at:]], wire_format, strip=strip) == whole, at
        assert run([body[i : i + 1] for i in range(len(body))], wire_format, strip=strip) == whole


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "index", "usage", "x", "message", "code"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
MEMBERS = st.dictionaries(
    st.sampled_from(
        [
            "id",
            "model",
            "service_tier",
            "choices",
            "usage",
            "error",
            "type",
            "delta",
            "response",
            "message",
            "content_block",
            "errorType",
            "index",
            "code",
            "finish_reason",
            "text",
            "content",
            "output",
            "input_tokens",
            "prompt_tokens",
            "completion_tokens",
            "total_tokens",
        ]
    ),
    JSON
    | st.just([])
    | st.just({"prompt_tokens": 5, "completion_tokens": 2})
    | st.just(
        [{"index": 0, "delta": {"content": "x"}, "finish_reason": None, "usage": {"prompt_tokens": 3}}]
    ),
    max_size=6,
)
EVENTS = st.lists(
    st.one_of(
        MEMBERS.map(lambda m: b"data: " + json.dumps(m).encode()),
        st.binary(max_size=12),
        st.just(b"data: [DONE]"),
        st.just(b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}'),
        st.just(b'event: error\ndata: {"type":"error","error":{"type":"a"}}'),
    ).flatmap(
        lambda e: st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b"\n\r", b"\r\n\n"]).map(
            lambda end: e + end
        )
    ),
    max_size=8,
).map(b"".join)
CUTS = st.lists(st.integers(0, 5000), max_size=6)


@given(body=EVENTS, at=CUTS, wire_format=st.sampled_from(WireFormat), strip=st.booleans())
def test_any_stream_any_split_reads_the_same(
    body: bytes, at: list[int], wire_format: WireFormat, strip: bool
) -> None:
    whole = run([body], wire_format, strip=strip)
    pieces = run(cut(body, at), wire_format, strip=strip)
    assert pieces[0] == whole[0]
    assert comparable(pieces[1]) == comparable(whole[1])
    if not strip or wire_format is ANT:
        assert whole[0] == body
    usage = whole[1]["usage"]
    if usage is not None:
        values = (usage.total_input_tokens, usage.output_tokens, usage.reasoning_tokens)
        assert all(0 <= value <= 3 * 10**9 for value in values)


@given(reads=st.lists(st.binary(max_size=30)), wire_format=st.sampled_from(WireFormat))
def test_unstripped_reads_come_back_as_the_same_objects(reads: list[bytes], wire_format: WireFormat) -> None:
    meter = StreamMeter(wire_format)
    answer = AnswerMeter(wire_format)
    for read in reads:
        assert meter.feed(read) is read
        assert answer.feed(read) is read
    assert meter.flush() == answer.flush() == b""


@given(
    body=MEMBERS.map(lambda m: json.dumps(m).encode()) | st.binary(max_size=20),
    wire_format=st.sampled_from(WireFormat),
)
def test_any_body_is_read_without_a_crash(body: bytes, wire_format: WireFormat) -> None:
    meter = AnswerMeter(wire_format)
    meter.feed(body)
    meter.flush()
    results(meter)


@pytest.mark.wire(6)
def test_a_number_cut_between_reads() -> None:
    reads = [b'data: {"usage":{"prompt_to', b'kens":1', b"23}}\n\n"]
    assert counts(run(reads, OAI)[1]["usage"]) == (123, 0, 0, 0)


@pytest.mark.wire(15)
def test_a_long_event_is_read() -> None:
    body = stream(
        {"choices": [{"delta": {"content": "x" * (1 << 20)}}]}, {"choices": [], "usage": {"prompt_tokens": 9}}
    )
    out, found = run([body[i : i + 1024] for i in range(0, len(body), 1024)], OAI)
    assert out == body
    assert counts(found["usage"]) == (9, 0, 0, 0)


@pytest.mark.wire(16)
@pytest.mark.parametrize("strip", [False, True])
def test_an_endless_line_is_forwarded_and_given_up(strip: bool) -> None:
    meter = StreamMeter(OAI, strip)
    piece = b"data: " + b"x" * 65530
    size = sum(len(meter.feed(piece)) for _ in range(640))
    assert size == 640 * len(piece)
    assert meter.usage is None
    assert meter.flags == {"line_too_long"}
    tail = b"\n\n" + stream({"choices": [], "usage": {"prompt_tokens": 9}})
    assert meter.feed(tail) == (tail if not strip else b"\n\ndata: [DONE]\n\n")
    assert counts(meter.usage) == (9, 0, 0, 0)


def test_an_oversized_first_event_with_a_byte_order_mark() -> None:
    meter = StreamMeter(OAI)
    meter.feed(b"\xef\xbb\xbfdata: " + b"x" * (17 << 20) + b"\n\n")
    assert meter.flags == {"line_too_long"}


LOGPROBS = [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": '\n"usage":{', "logprob": -1}] * 20}]


def long_response(line_end: str = "\n") -> bytes:
    """A response whose last event has the logprobs of all its tokens, and is too long to be kept."""
    text = {"type": "output_text", "text": "a", "logprobs": LOGPROBS * 20_000}
    response = {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "model": "gpt-5",
        "output": [{"type": "message", "id": "msg_1", "content": [text]}],
        "usage": {"input_tokens": 7, "output_tokens": 20_000},
        "metadata": {},
    }
    delta = {"type": "response.output_text.delta", "delta": "a", "logprobs": LOGPROBS}
    last = {"type": "response.completed", "sequence_number": 3, "response": response}
    lines = [part for event in (delta, last) for part in (f"data: {json.dumps(event)}", "")]
    return (line_end.join(lines) + line_end).encode()


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("piece", [8192, 99_991, 10**9])
def test_of_an_event_that_is_too_long_both_ends_are_read(piece: int, line_end: str) -> None:
    data = long_response(line_end)
    assert len(data) > MAX_EVENT_BYTES
    meter = StreamMeter(OAI, answers=Answers.RESPONSES)
    for at in range(0, len(data), piece):
        assert meter.feed(data[at : at + piece]) == data[at : at + piece]
    assert meter.is_terminated
    assert meter.usage is not None
    assert (meter.usage.input_tokens, meter.usage.output_tokens) == (7, 20_000)
    assert (meter.told and meter.told.object_id, meter.upstream_model, meter.error) == (
        "resp_1",
        "gpt-5",
        None,
    )
    assert meter.is_usage_final


def test_so_it_is_of_an_image() -> None:
    event = {
        "type": "image_generation.completed",
        "b64_json": "A" * MAX_EVENT_BYTES,
        "size": "1024x1024",
        "usage": {"input_tokens": 7, "output_tokens": 4000},
    }
    meter = StreamMeter(OAI, answers=Answers.IMAGES)
    meter.feed(f"data: {json.dumps(event)}\n\n".encode())
    assert meter.usage is not None
    assert (meter.usage.output_tokens, meter.is_complete) == (4000, True)


def test_so_it_is_at_the_end_of_a_stream_that_lacks_its_blank_line() -> None:
    meter = StreamMeter(OAI, answers=Answers.RESPONSES)
    meter.feed(long_response().rstrip())
    assert not meter.is_terminated
    meter.flush()
    assert meter.is_complete
    assert meter.usage is not None


def test_an_event_that_is_too_long_and_cut_tells_nothing() -> None:
    meter = StreamMeter(OAI, answers=Answers.RESPONSES)
    meter.feed(long_response().rstrip()[:-1])
    meter.flush()
    assert (meter.usage, meter.is_complete) == (None, False)


@pytest.mark.wire(18)
def test_nested_too_deeply_is_bad_json() -> None:
    for body in (b"[" * 200_000, b'{"usage":' + b"[" * 200_000, b'{"choices":' + b'{"a":' * 100_000):
        for wire_format in WireFormat:
            _, found = run([b"data: " + body + b"\n\n"], wire_format)
            assert found["flags"] == {"bad_json"}
            assert found["usage"] is None


USAGE_CHUNK = stream({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}, done=False)


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [], "usage": None},
        {"choices": [], "usage": []},
        {"choices": []},
        {"type": "x", "usage": {"prompt_tokens": 1}},
        {"choices": {}, "usage": {"prompt_tokens": 1}},
        {"choices": [1], "usage": {"prompt_tokens": 1}},
        {"choices": [{"index": 0, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}},
        {"choices": [], "usage": {"prompt_tokens": 1}, "error": {"message": "x"}},
        {"choices": [], "usage": {"prompt_tokens": 1}, "error": {}},
        b'{"choices":[],"usage":{"prompt_tokens":1}',
    ],
)
@pytest.mark.wire(46)
def test_other_chunks_are_kept(event: Any) -> None:
    body = stream(event)
    assert run([body], OAI, strip=True)[0] == body


@pytest.mark.wire(43)
@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r", "\n\r", "\r\n\r", "\n\r\n"])
def test_the_usage_chunk_is_removed_at_every_split(end: str) -> None:
    ending = end.encode()
    chunk = USAGE_CHUNK.removesuffix(b"\n\n") + ending
    before, after = b"data: {}" + ending, b"data: [DONE]" + ending
    body = before + chunk + after
    for at in range(len(body) + 1):
        out, found = run([body[:at], body[at:]], OAI, strip=True)
        assert out == before + after
        assert counts(found["usage"]) == (9, 0, 0, 2)


@pytest.mark.wire(46)
@pytest.mark.parametrize("choices", [{}, {"choices": None}, {"choices": []}])
def test_a_usage_chunk_without_choices_is_removed(choices: dict[str, Any]) -> None:
    chunk = stream({"id": "c", **choices, "usage": {"prompt_tokens": 9}}, done=False)
    out, found = run([chunk + stream()], OAI, strip=True)
    assert out == stream()
    assert counts(found["usage"]) == (9, 0, 0, 0)


def test_a_held_event_is_released_once_it_is_too_long_for_an_artefact() -> None:
    meter = StreamMeter(OAI, strip_usage_chunk=True)
    assert meter.feed(b"data: {") == b""
    filler = b" " * MAX_HELD_BYTES
    assert meter.feed(filler) == b"data: {" + filler
    assert meter.feed(b'"choices":[],') == b'"choices":[],'
    assert meter.feed(b'"usage":{"prompt_tokens":9}}\n\ndata: x') == b'"usage":{"prompt_tokens":9}}\n\n'
    assert counts(meter.usage) == (9, 0, 0, 0)
    assert meter.flush() == b"data: x"


def test_a_long_usage_chunk_in_one_read_is_kept_as_well() -> None:
    body = b'data: {"choices":[],' + b" " * MAX_HELD_BYTES + b'"usage":{"prompt_tokens":9}}\n\n'
    assert run([body], OAI, strip=True)[0] == body


def test_line_ends_between_events_are_not_held_back() -> None:
    meter = StreamMeter(OAI, strip_usage_chunk=True)
    assert meter.feed(b"data: {}\r\n\r") == b"data: {}\r\n\r"
    assert meter.feed(b"\n") == b"\n"
    assert meter.feed(b"data") == b""
    assert meter.feed(b": {}\n\n") == b"data: {}\n\n"


def test_the_line_feed_of_a_removed_chunk_goes_with_it() -> None:
    meter = StreamMeter(OAI, strip_usage_chunk=True)
    assert meter.feed(USAGE_CHUNK.replace(b"\n", b"\r")) == b""
    assert meter.feed(b"") == b""
    assert meter.feed(b"\ndata: [DONE]\r\r") == b"data: [DONE]\r\r"
