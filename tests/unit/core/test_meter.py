"""Meters: what is read off an answer does not depend on how it is cut, and no byte is touched unasked."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.meter import MAX_HELD_BYTES, AnswerMeter, Meter, StreamError, StreamMeter
from app.core.usage import Usage
from app.core.wire_format import WireFormat

FIXTURES = sorted((Path(__file__).parents[2] / "fixtures" / "sse").glob("*.sse"))
O, A = WireFormat.OPENAI, WireFormat.ANTHROPIC
RESULTS = (
    "usage",
    "usage_raw",
    "upstream_model",
    "response_id",
    "service_tier",
    "has_content",
    "is_complete",
    "is_terminated",
    "at_event_boundary",
    "error",
    "flags",
)


def results(meter: Meter) -> dict[str, Any]:
    return {name: getattr(meter, name) for name in RESULTS}


def run(reads: list[bytes], wire_format: WireFormat, *, strip: bool = False) -> tuple[bytes, dict[str, Any]]:
    meter = StreamMeter(wire_format, strip)
    out = b"".join([meter.feed(read) for read in reads]) + meter.flush()
    assert meter.flush() == b""
    return out, results(meter)


def stream(*objects: Any, done: bool = True) -> bytes:
    events = [o if isinstance(o, bytes) else json.dumps(o).encode() for o in objects]
    return b"".join(b"data: " + event + b"\n\n" for event in events) + (b"data: [DONE]\n\n" if done else b"")


def counts(usage: Usage | None) -> tuple[int, int, int, int] | None:
    if usage is None:
        return None
    cached = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
    return usage.input_tokens, *cached, usage.output_tokens


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
        assert (found["error"] and asdict(found["error"])) == expected["error"]
        for name in ("upstream_model", "response_id", "service_tier", "has_content", "is_complete"):
            assert found[name] == expected[name], name
        assert found["at_event_boundary"] is expected["at_event_boundary"]

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
        wire_format = A if path.stem.startswith("anthropic") else O
        body = path.read_bytes()
        whole = run([body], wire_format, strip=strip)
        for at in range(1, len(body)):
            assert run([body[:at], body[at:]], wire_format, strip=strip) == whole, at
        assert run([body[i : i + 1] for i in range(len(body))], wire_format, strip=strip) == whole


# -- no bytes are touched, nothing crashes -------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["type", "text", "index", "usage", "x", "message", "code"]), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.dictionaries(
    st.sampled_from(
        "id model service_tier choices usage error type delta response message content_block errorType index code "
        "finish_reason text content output input_tokens prompt_tokens completion_tokens total_tokens".split()
    ),
    JSON
    | st.just([])
    | st.just({"prompt_tokens": 5, "completion_tokens": 2})
    | st.just([{"index": 0, "delta": {"content": "x"}, "finish_reason": None, "usage": {"prompt_tokens": 3}}]),
    max_size=6,
)
EVENTS = st.lists(
    st.one_of(
        MEMBERS.map(lambda m: b"data: " + json.dumps(m).encode()),
        st.binary(max_size=12),
        st.just(b"data: [DONE]"),
        st.just(b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}'),
        st.just(b'event: error\ndata: {"type":"error","error":{"type":"a"}}'),
    ).flatmap(lambda e: st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b"\n\r", b"\r\n\n"]).map(lambda end: e + end)),
    max_size=8,
).map(b"".join)
CUTS = st.lists(st.integers(0, 5000), max_size=6)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in at), len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def stable(found: dict[str, Any]) -> str:
    return repr(sorted((name, sorted(v) if isinstance(v, frozenset) else repr(v)) for name, v in found.items()))


def fuzzy(found: dict[str, Any]) -> str:
    found = dict(found)
    usage = found.pop("usage")
    flags = sorted(found.pop("flags"))
    plain = usage and {**msgspec.structs.asdict(usage), "flags": sorted(usage.flags)}
    return repr((sorted(found.items(), key=lambda item: item[0]), plain, flags))


@given(body=EVENTS, at=CUTS, wire_format=st.sampled_from(WireFormat), strip=st.booleans())
def test_any_stream_any_split_reads_the_same(
    body: bytes, at: list[int], wire_format: WireFormat, strip: bool
) -> None:
    whole = run([body], wire_format, strip=strip)
    pieces = run(cut(body, at), wire_format, strip=strip)
    assert pieces[0] == whole[0]
    assert fuzzy(pieces[1]) == fuzzy(whole[1])
    if not strip or wire_format is A:
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


@given(body=MEMBERS.map(lambda m: json.dumps(m).encode()) | st.binary(max_size=20), wire_format=st.sampled_from(WireFormat))
def test_any_body_is_read_without_a_crash(body: bytes, wire_format: WireFormat) -> None:
    meter = AnswerMeter(wire_format)
    meter.feed(body)
    meter.flush()
    results(meter)


# -- framing ---------------------------------------------------------------------------------------------------------


@pytest.mark.wire(6)
def test_a_number_cut_between_reads() -> None:
    reads = [b'data: {"usage":{"prompt_to', b'kens":1', b"23}}\n\n"]
    assert counts(run(reads, O)[1]["usage"]) == (123, 0, 0, 0)


@pytest.mark.wire(15)
def test_a_long_event_is_read() -> None:
    body = stream({"choices": [{"delta": {"content": "x" * (1 << 20)}}]}, {"choices": [], "usage": {"prompt_tokens": 9}})
    out, found = run([body[i : i + 1024] for i in range(0, len(body), 1024)], O)
    assert out == body
    assert counts(found["usage"]) == (9, 0, 0, 0)


@pytest.mark.wire(16)
@pytest.mark.parametrize("strip", [False, True])
def test_an_endless_line_is_forwarded_and_given_up(strip: bool) -> None:
    meter = StreamMeter(O, strip)
    piece = b"data: " + b"x" * 65530
    size = sum(len(meter.feed(piece)) for _ in range(640))
    assert size == 640 * len(piece)
    assert meter.usage is None
    assert meter.flags == {"line_too_long"}
    assert not meter.at_event_boundary
    tail = b"\n\n" + stream({"choices": [], "usage": {"prompt_tokens": 9}})
    assert meter.feed(tail) == (tail if not strip else b"\n\ndata: [DONE]\n\n")
    assert counts(meter.usage) == (9, 0, 0, 0)


def test_an_oversized_first_event_with_a_byte_order_mark() -> None:
    meter = StreamMeter(O)
    meter.feed(b"\xef\xbb\xbfdata: " + b"x" * (5 << 20) + b"\n\n")
    assert meter.flags == {"line_too_long"}


@pytest.mark.wire(18)
def test_nested_too_deeply_is_bad_json() -> None:
    for body in (b"[" * 200_000, b'{"usage":' + b"[" * 200_000, b'{"choices":' + b'{"a":' * 100_000):
        for wire_format in WireFormat:
            _, found = run([b"data: " + body + b"\n\n"], wire_format)
            assert found["flags"] == {"bad_json"}
            assert found["usage"] is None


# -- stripping -------------------------------------------------------------------------------------------------------

USAGE_CHUNK = stream({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}, done=False)


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [], "usage": None},
        {"choices": [], "usage": []},
        {"choices": []},
        {"usage": {"prompt_tokens": 1}},
        {"choices": None, "usage": {"prompt_tokens": 1}},
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
    assert run([body], O, strip=True)[0] == body


@pytest.mark.wire(43)
@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r", "\n\r", "\r\n\r", "\n\r\n"])
def test_the_usage_chunk_is_removed_at_every_split(end: str) -> None:
    ending = end.encode()
    chunk = USAGE_CHUNK.removesuffix(b"\n\n") + ending
    before, after = b"data: {}" + ending, b"data: [DONE]" + ending
    body = before + chunk + after
    for at in range(len(body) + 1):
        out, found = run([body[:at], body[at:]], O, strip=True)
        assert out == before + after
        assert counts(found["usage"]) == (9, 0, 0, 2)


def test_a_held_event_is_released_once_it_is_too_long_for_an_artefact() -> None:
    meter = StreamMeter(O, strip_usage_chunk=True)
    assert meter.feed(b"data: {") == b""
    assert meter.at_event_boundary  # nothing of it was sent
    filler = b" " * MAX_HELD_BYTES
    assert meter.feed(filler) == b"data: {" + filler
    assert not meter.at_event_boundary
    assert meter.feed(b'"choices":[],') == b'"choices":[],'
    assert meter.feed(b'"usage":{"prompt_tokens":9}}\n\ndata: x') == b'"usage":{"prompt_tokens":9}}\n\n'
    assert meter.at_event_boundary
    assert counts(meter.usage) == (9, 0, 0, 0)
    assert meter.flush() == b"data: x"
    assert not meter.at_event_boundary


def test_a_long_usage_chunk_in_one_read_is_kept_as_well() -> None:
    body = b'data: {"choices":[],' + b" " * MAX_HELD_BYTES + b'"usage":{"prompt_tokens":9}}\n\n'
    assert run([body], O, strip=True)[0] == body


def test_line_ends_between_events_are_not_held_back() -> None:
    meter = StreamMeter(O, strip_usage_chunk=True)
    assert meter.feed(b"data: {}\r\n\r") == b"data: {}\r\n\r"
    assert meter.feed(b"\n") == b"\n"
    assert meter.at_event_boundary
    assert meter.feed(b"data") == b""
    assert meter.at_event_boundary
    assert meter.feed(b": {}\n\n") == b"data: {}\n\n"


def test_the_line_feed_of_a_removed_chunk_goes_with_it() -> None:
    meter = StreamMeter(O, strip_usage_chunk=True)
    assert meter.feed(USAGE_CHUNK.replace(b"\n", b"\r")) == b""
    assert meter.feed(b"") == b""
    assert meter.feed(b"\ndata: [DONE]\r\r") == b"data: [DONE]\r\r"


# -- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"reasoning_content": "x"},
        {"reasoning": "x"},
        {"refusal": "x"},
        {"reasoning_details": [{"text": "x"}]},
        {"audio": {"data": "x"}},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
        {"tool_calls": [{"index": 0, "custom": {"input": "x"}}]},
        {"function_call": {"arguments": "{"}},
    ],
)
def test_generated_content_is_seen(delta: dict[str, Any]) -> None:
    assert run([stream({"choices": [{"index": 0, "delta": delta}]})], O)[1]["has_content"]
    # …also behind a member the typed reader refuses.
    assert run([stream({"choices": [{"index": "0", "delta": delta}]})], O)[1]["has_content"]


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"content": None}}]},
        {"choices": [{"delta": "x"}]},
        {"choices": [{"delta": {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": ""}}]}}]},
        {"choices": [{"delta": {"tool_calls": "x"}}]},
        {"choices": [{"delta": {"tool_calls": [7]}}]},
        {"type": "response.created", "response": {}},
        {"type": ["response.x.delta"], "delta": "x"},
        [],
        "text",
    ],
)
def test_other_chunks_are_no_content(event: Any) -> None:
    _, found = run([stream(event)], O)
    assert not found["has_content"]
    assert found["error"] is None
    assert found["flags"] == frozenset()


def test_text_completions_have_content() -> None:
    assert run([stream({"choices": [{"index": 0, "text": "x", "finish_reason": None}]})], O)[1]["has_content"]


@pytest.mark.parametrize(
    ("event", "is_content"),
    [
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}}, True),
        ({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "x"}}, True),
        ({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}}, True),
        ({"type": "content_block_start", "content_block": {"type": "text", "text": "x"}}, True),
        ({"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": "x"}}, False),
        ({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": ""}}, False),
        ({"type": "content_block_delta", "delta": None}, False),
        ({"type": "content_block_start", "content_block": {"type": "tool_use", "name": "f"}}, False),
        ({"type": "message_start", "message": {"content": []}}, False),
        ({"type": "ping"}, False),
        ([], False),
    ],
)
def test_generated_content_in_messages(event: Any, is_content: bool) -> None:
    assert run([stream(event, done=False)], A)[1]["has_content"] is is_content


def test_the_latest_service_tier_and_the_first_model_count() -> None:
    chunks = [
        {"id": f"c{i}", "model": f"m{i}", "service_tier": tier, "choices": [{"delta": {"content": "x"}}]}
        for i, tier in enumerate([None, "auto", None, "priority", "priority", 7])
    ]
    _, found = run([stream(*chunks)], O)
    assert (found["response_id"], found["upstream_model"], found["service_tier"]) == ("c0", "m0", "priority")


def test_texts_no_database_would_take_are_cleaned() -> None:
    _, found = run([b'data: {"id":7,"model":"a\\ud800b","choices":[]}\n\n'], O)
    assert found["upstream_model"] == "a?b"
    assert found["response_id"] is None


@pytest.mark.parametrize(
    ("wire_format", "body", "error"),
    [
        (O, stream({"error": {"message": "m", "type": "t", "code": "c"}}), StreamError("t", "m")),
        (O, stream({"error": {"message": "m", "code": 429}}), StreamError("429", "m")),
        (O, stream({"error": {}}, {"error": {"type": True}}, {"error": {"type": "b"}}), StreamError("error", "")),
        (O, stream({"error": "m"}), StreamError("error", "m")),
        (O, stream({"error": ["m"]}), StreamError("error", "")),
        (O, stream({"error": {"message": "x" * 900}}), StreamError("error", "x" * 500)),
        (O, stream({"error": False}), None),
        (O, stream({"type": "error", "code": "c", "message": "m"}), StreamError("c", "m")),
        (O, b'event: error\ndata: {"message":"m"}\n\n', StreamError("error", "m")),
        (O, b"event: error\ndata: Overloaded\n\n", StreamError("error", "Overloaded")),
        (O, stream({"type": "response.failed", "response": {"error": {"code": "c", "message": "m"}}}), StreamError("c", "m")),
        (O, stream({"statusCode": 402, "errorType": "e", "message": "m"}), StreamError("e", "m")),
        (A, stream({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}), StreamError("overloaded_error", "m")),
        (A, b'event: error\ndata: {"message":"m"}\n\n', StreamError("error", "m")),
        (A, b"event: error\ndata: <html>\n\n", StreamError("error", "<html>")),
        (A, stream({"statusCode": 402, "errorType": "e", "message": "m"}), StreamError("e", "m")),
        (A, stream({"message": "m"}), None),
    ],
)
@pytest.mark.wire(54)
def test_errors_inside_a_stream(wire_format: WireFormat, body: bytes, error: StreamError | None) -> None:
    assert run([body], wire_format)[1]["error"] == error


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_responses_ends(kind: str) -> None:
    _, found = run([stream({"type": kind, "response": {}}, done=False)], O)
    assert found["is_complete"]
    assert found["is_terminated"]


def test_a_finished_choice_is_complete_but_the_stream_not_yet_terminated() -> None:
    _, found = run([stream({"choices": [{"index": 0, "finish_reason": "stop"}]}, done=False)], O)
    assert found["is_complete"]
    assert not found["is_terminated"]


def test_done_is_recognised_with_spaces_and_without_its_blank_line() -> None:
    assert run([b"data:  [DONE] \n\n"], O)[1]["is_terminated"]
    assert run([b"data: [DONE]"], O)[1]["is_terminated"]
    assert run([b"data: [DONE]\n\n"], A)[1]["is_terminated"] is False


def test_message_stop_is_recognised_by_its_event_name() -> None:
    assert run([b"event: message_stop\ndata: {}\n\n"], A)[1]["is_complete"]


@pytest.mark.wire(11)
def test_empty_data_is_not_bad_json() -> None:
    for wire_format in WireFormat:
        assert run([b"data\n\ndata: \n\n"], wire_format)[1]["flags"] == frozenset()


@pytest.mark.wire(55)
def test_an_event_cut_at_the_end_is_truncated_not_bad_json() -> None:
    _, found = run([b'data: {"choices":[]}\n\ndata: {"cho'], O)
    assert found["flags"] == frozenset()
    assert not found["at_event_boundary"]
    _, found = run([b"data: {\n\ndata: {"], O)
    assert found["flags"] == {"bad_json"}


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.wire(52)
def test_a_json_body_in_place_of_a_stream(strip: bool) -> None:
    body = b' {"error":{"type":"t","message":"m"}}'
    out, found = run([body], O, strip=strip)
    assert out == body
    assert found["error"] == StreamError("t", "m")
    assert not found["is_complete"]
    whole = {"id": "c", "choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    out, found = run([json.dumps(whole).encode()], O, strip=strip)
    assert counts(found["usage"]) == (9, 0, 0, 2)
    assert found["is_complete"]


def test_raw_usage_keeps_the_last_and_that_of_message_start() -> None:
    meter = StreamMeter(A)
    assert meter.usage_raw is None
    meter.feed(stream({"type": "message_start", "message": {"usage": {"input_tokens": 3}}}, done=False))
    assert meter.usage_raw == {"input_tokens": 3}
    meter.feed(stream({"type": "message_delta", "usage": {"output_tokens": 5}}, done=False))
    assert meter.usage_raw == {"output_tokens": 5, "message_start": {"input_tokens": 3}}


# -- whole bodies ----------------------------------------------------------------------------------------------------


def answer(body: Any, wire_format: WireFormat) -> dict[str, Any]:
    meter = AnswerMeter(wire_format)
    assert meter.at_event_boundary
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert meter.feed(raw[:7]) + meter.feed(raw[7:]) == raw
    assert not meter.is_complete
    assert meter.flush() == b""
    assert meter.flush() == b""
    return results(meter)


def test_a_chat_answer() -> None:
    found = answer(
        {
            "id": "c",
            "model": "m",
            "service_tier": "priority",
            "choices": [{"message": {"content": '"usage":{"prompt_tokens":7}'}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 4}},
        },
        O,
    )
    assert counts(found["usage"]) == (6, 4, 0, 4)
    assert (found["response_id"], found["upstream_model"], found["service_tier"]) == ("c", "m", "priority")
    assert found["is_complete"]
    assert found["has_content"]
    assert found["is_terminated"]
    assert not found["at_event_boundary"]


@pytest.mark.wire(41)
def test_a_messages_answer() -> None:
    usage = {
        "input_tokens": 300,
        "output_tokens": 50,
        "server_tool_use": {"web_search_requests": 2},
        "speed": "fast",
        "service_tier": "standard",
    }
    found = answer({"id": "msg", "type": "message", "model": "m", "content": [{"type": "text"}], "usage": usage}, A)
    assert counts(found["usage"]) == (300, 0, 0, 50)
    assert found["usage"].extras["server_tool_use"] == {"web_search_requests": 2}
    assert found["usage"].extras["speed"] == "fast"
    assert found["usage_raw"] == usage
    assert found["service_tier"] == "standard"
    assert found["has_content"]


@pytest.mark.wire(40)
def test_counted_tokens_are_noted_and_cost_nothing() -> None:
    found = answer({"input_tokens": 42}, A)
    assert counts(found["usage"]) == (0, 0, 0, 0)
    assert found["usage"].counted_input_tokens == 42
    assert found["usage_raw"] == {"input_tokens": 42}
    assert found["is_complete"]
    assert answer({"input_tokens": "x"}, A)["usage"] is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"choices": [{"usage": {"prompt_tokens": 3}}]}, (3, 0, 0, 0)),
        ({"choices": [7, {"usage": {"prompt_tokens": 3}}], "model": 5}, (3, 0, 0, 0)),
        ({"choices": [], "usage": {"prompt_tokens": 3}}, (3, 0, 0, 0)),
        ({"choices": 7, "usage": {"prompt_tokens": 3}, "content": "x", "output": "y"}, (3, 0, 0, 0)),
        (b'{"x":NaN,"content":[1],"usage":{"prompt_tokens":3}}', (3, 0, 0, 0)),
        ({"usage": "x"}, None),
        ({}, None),
    ],
)
@pytest.mark.wire(36)
def test_odd_bodies(body: Any, expected: Any) -> None:
    found = answer(body, O)
    assert counts(found["usage"]) == expected
    assert found["is_complete"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b'{"usage":', b"[" * 200_000])
def test_a_body_that_is_no_json_object_is_not_complete(body: bytes) -> None:
    found = answer(body, O)
    assert not found["is_complete"]
    assert found["flags"] == {"bad_json"}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"error": {"type": "t", "message": "m"}}, StreamError("t", "m")),
        ({"type": "error", "error": {"type": "t", "message": "m"}}, StreamError("t", "m")),
        ({"statusCode": 402, "message": "m", "errorType": "e", "data": None}, StreamError("e", "m")),
    ],
)
@pytest.mark.wire(52)
def test_errors_told_with_status_200(body: Any, error: StreamError) -> None:
    found = answer(body, O)
    assert found["error"] == error
    assert not found["is_complete"]


def test_a_body_beyond_the_cap_is_passed_but_not_read() -> None:
    meter = AnswerMeter(O, max_bytes=10)
    assert meter.feed(b"x" * 8) + meter.feed(b"y" * 8) + meter.feed(b"z") == b"x" * 8 + b"y" * 8 + b"z"
    assert meter.flush() == b""
    assert meter.flags == {"body_too_long"}
    assert not meter.is_complete
