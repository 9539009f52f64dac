"""What a stream meter reads off the events of both formats."""

import json
from dataclasses import replace
from typing import Any

import pytest

from app.wires.meter import StreamError, StreamMeter
from app.wires.wire_format import WireFormat
from tests.unit.wires.metering import ANT, OAI, counts, run, stream


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
    assert run([stream({"choices": [{"index": 0, "delta": delta}]})], OAI)[1]["has_content"]
    # …also behind a member the typed reader refuses.
    assert run([stream({"choices": [{"index": "0", "delta": delta}]})], OAI)[1]["has_content"]


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
    _, found = run([stream(event, done=False)], OAI)
    assert not found["has_content"]
    assert found["error"] is None
    assert found["flags"] == frozenset()


def test_text_completions_have_content() -> None:
    assert run([stream({"choices": [{"index": 0, "text": "x", "finish_reason": None}]})], OAI)[1][
        "has_content"
    ]


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
    assert run([stream(event, done=False)], ANT)[1]["has_content"] is is_content


def test_the_latest_service_tier_and_the_first_model_count() -> None:
    chunks = [
        {"id": f"c{i}", "model": f"m{i}", "service_tier": tier, "choices": [{"delta": {"content": "x"}}]}
        for i, tier in enumerate([None, "auto", None, "priority", "priority", 7])
    ]
    _, found = run([stream(*chunks)], OAI)
    assert (found["upstream_model"], found["service_tier"]) == ("m0", "priority")


def test_texts_no_database_would_take_are_cleaned() -> None:
    _, found = run([b'data: {"id":7,"model":"a\\ud800b","choices":[]}\n\n'], OAI)
    assert found["upstream_model"] == "a?b"


@pytest.mark.parametrize(
    ("wire_format", "body", "error"),
    [
        (OAI, stream({"error": {"message": "m", "type": "t", "code": "c"}}), StreamError("t", "m")),
        (OAI, stream({"error": {"message": "m", "code": 429}}), StreamError("429", "m")),
        (
            OAI,
            stream({"error": {}}, {"error": {"type": True}}, {"error": {"type": "b"}}),
            StreamError("error", ""),
        ),
        (OAI, stream({"error": "m"}), StreamError("error", "m")),
        (OAI, stream({"error": ["m"]}), StreamError("error", "m")),
        (OAI, stream({"error": {"message": "x" * 900}}), StreamError("error", "x" * 500)),
        (OAI, stream({"error": False}, done=False), None),
        (OAI, stream(), StreamError("no_answer", "")),
        (OAI, stream({"type": "error", "code": "c", "message": "m"}), StreamError("c", "m")),
        (OAI, b'event: error\ndata: {"message":"m"}\n\n', StreamError("error", "m")),
        (OAI, b"event: error\ndata: Overloaded\n\n", StreamError("error", "Overloaded")),
        (
            OAI,
            stream({"type": "response.failed", "response": {"error": {"code": "c", "message": "m"}}}),
            StreamError("c", "m"),
        ),
        (OAI, stream({"statusCode": 402, "errorType": "e", "message": "m"}), StreamError("e", "m")),
        (
            ANT,
            stream({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}),
            StreamError("overloaded_error", "m"),
        ),
        (ANT, b'event: error\ndata: {"message":"m"}\n\n', StreamError("error", "m")),
        (ANT, b"event: error\ndata: <html>\n\n", StreamError("error", "<html>")),
        (ANT, stream({"statusCode": 402, "errorType": "e", "message": "m"}), StreamError("e", "m")),
        (ANT, stream({"message": "m"}), StreamError("error", "m")),
        (ANT, stream({"type": "message_stop"}), StreamError("no_answer", "")),
    ],
)
@pytest.mark.wire(54)
def test_errors_inside_a_stream(wire_format: WireFormat, body: bytes, error: StreamError | None) -> None:
    told = run([body], wire_format)[1]["error"]
    assert (told and replace(told, codes=frozenset())) == error


@pytest.mark.parametrize(
    ("told", "kind", "message"),
    [
        # The reason stands beside the choice that ends for it.
        (
            {"error": {"code": "c", "message": "gone"}, "choices": [{"delta": {}, "finish_reason": "error"}]},
            "c",
            "gone",
        ),
        ({"error": {"type": "", "code": 5, "message": '{"error": {"message": "inner"}}'}}, "5", "inner"),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": "gone"}}}, "error", None),
        ({"error": '{"message": "inner"}'}, "error", "inner"),
        ({"detail": [{"loc": ["body", "x"], "msg": "bad"}]}, "error", "body.x: bad"),
        ({"code": 500, "msg": "m"}, "500", "m"),
        ({"errorCode": 5, "errorMessage": "m"}, "5", "m"),
        ({"success": False, "errors": [{"code": 7003, "message": "m"}]}, "7003", "m"),
        ({"base_resp": {"status_code": 1008, "status_msg": "m"}}, "1008", "m"),
    ],
)
@pytest.mark.parametrize("name", [b"", b"event: error\n"])
@pytest.mark.parametrize("wire_format", list(WireFormat))
def test_errors_say_why_in_every_envelope(
    wire_format: WireFormat, name: bytes, told: dict[str, Any], kind: str, message: str | None
) -> None:
    body = name + b"data: " + json.dumps(told).encode() + b"\n\n"
    error = run([body], wire_format)[1]["error"]
    assert (error.type, error.message) == (kind, message or "Provider returned error: gone")


def test_an_event_that_calls_itself_an_error_is_one_whatever_it_holds() -> None:
    for wire_format in WireFormat:
        for data in (b"{}", b'{"error": {}}', b"[]", b'{"odd": 1}', b"null", b"broken {"):
            assert run([b"event: error\ndata: " + data + b"\n\n"], wire_format)[1]["error"] is not None


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_responses_ends(kind: str) -> None:
    _, found = run([stream({"type": kind, "response": {}}, done=False)], OAI)
    assert found["is_complete"]
    assert found["is_terminated"]


def test_a_finished_choice_is_complete_but_the_stream_not_yet_terminated() -> None:
    _, found = run([stream({"choices": [{"index": 0, "finish_reason": "stop"}]}, done=False)], OAI)
    assert found["is_complete"]
    assert not found["is_terminated"]


def test_done_is_recognised_with_spaces_and_without_its_blank_line() -> None:
    assert run([b"data:  [DONE] \n\n"], OAI)[1]["is_terminated"]
    assert run([b"data: [DONE]"], OAI)[1]["is_terminated"]
    assert run([b"data: [DONE]\n\n"], ANT)[1]["is_terminated"] is False


def test_message_stop_is_recognised_by_its_event_name() -> None:
    assert run([b"event: message_stop\ndata: {}\n\n"], ANT)[1]["is_complete"]


@pytest.mark.wire(11)
def test_empty_data_is_not_bad_json() -> None:
    for wire_format in WireFormat:
        assert run([b"data\n\ndata: \n\n"], wire_format)[1]["flags"] == frozenset()


@pytest.mark.wire(55)
def test_an_event_cut_at_the_end_is_truncated_not_bad_json() -> None:
    _, found = run([b'data: {"choices":[]}\n\ndata: {"cho'], OAI)
    assert found["flags"] == frozenset()
    _, found = run([b"data: {\n\ndata: {"], OAI)
    assert found["flags"] == {"bad_json"}


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.wire(52)
def test_a_json_body_in_place_of_a_stream(strip: bool) -> None:
    body = b' {"error":{"type":"t","message":"m"}}'
    out, found = run([body], OAI, strip=strip)
    assert out == body
    assert found["error"] == StreamError("t", "m", codes=frozenset({"t"}))
    assert not found["is_complete"]
    whole = {
        "id": "c",
        "choices": [{"finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2},
    }
    out, found = run([json.dumps(whole).encode()], OAI, strip=strip)
    assert counts(found["usage"]) == (9, 0, 0, 2)
    assert found["is_complete"]


def test_raw_usage_keeps_the_last_and_that_of_message_start() -> None:
    meter = StreamMeter(ANT)
    assert meter.usage_raw is None
    meter.feed(stream({"type": "message_start", "message": {"usage": {"input_tokens": 3}}}, done=False))
    assert meter.usage_raw == {"input_tokens": 3}
    meter.feed(stream({"type": "message_delta", "usage": {"output_tokens": 5}}, done=False))
    assert meter.usage_raw == {"output_tokens": 5, "message_start": {"input_tokens": 3}}


@pytest.mark.parametrize(
    ("wire_format", "event", "expected"),
    [
        (OAI, '{"choices":[{"index":[],"usage":{"prompt_tokens":3}}]}', (3, 0, 0, 0)),
        (OAI, '{"choices":[7,{"index":1,"usage":{"prompt_tokens":3}}]}', (3, 0, 0, 0)),
        (OAI, '{"choices":"x","usage":{"prompt_tokens":3}}', (3, 0, 0, 0)),
        (OAI, '{"type":[],"usage":{"prompt_tokens":3}}', (3, 0, 0, 0)),
        (OAI, '{"x":"\\ud800","usage":{"prompt_tokens":3}}', (3, 0, 0, 0)),
        (OAI, '{"x":"\x01","usage":{"prompt_tokens":3}}', (3, 0, 0, 0)),
        (OAI, '{"usage":{"x":%s,"prompt_tokens":3}}' % ("9" * 5000), (3, 0, 0, 0)),
        (OAI, '{"usage":{"prompt_tokens":1},"usage":{"prompt_tokens":3}}', (3, 0, 0, 0)),
        (OAI, '{"message":{"usage":{"prompt_tokens":3}}}', None),
        (OAI, '{"choices":[{"delta":{"usage":{"prompt_tokens":3}}}]}', None),
        (OAI, '{"choices":[{},{"usage":{"prompt_tokens":3}}]}', (3, 0, 0, 0)),
        (OAI, '{"choices":[],"x_groq":{"usage":{"prompt_tokens":3}}}', (3, 0, 0, 0)),
        (OAI, '{"choices":[],"x_other":{"usage":{"prompt_tokens":3}}}', None),
        (ANT, '{"type":"message_delta","x":NaN,"usage":{"input_tokens":3}}', (3, 0, 0, 0)),
        (ANT, '{"type":[],"usage":{"input_tokens":3}}', (3, 0, 0, 0)),
        (ANT, '{"type":"message_start","message":"x"}', None),
        (ANT, '{"type":"message_start","message":{"usage":[]}}', None),
        (ANT, '{"type":"content_block_delta","delta":{"usage":{"input_tokens":3}}}', None),
    ],
)
def test_usage_is_found_in_its_places_only_and_beside_any_oddity(
    wire_format: WireFormat, event: str, expected: tuple[int, ...] | None
) -> None:
    _, found = run([b"data: " + event.encode() + b"\n\n"], wire_format)
    assert counts(found["usage"]) == expected
    assert found["flags"] == frozenset()


def test_broken_utf8_does_not_hide_the_usage() -> None:
    _, found = run([b'data: {"id":"\xff","usage":{"prompt_tokens":3}}\n\n'], OAI)
    assert counts(found["usage"]) == (3, 0, 0, 0)


def test_a_choice_that_appears_after_others_finished_reopens_the_answer() -> None:
    meter = StreamMeter(OAI)
    meter.feed(stream({"choices": [{"index": 0, "finish_reason": "stop"}]}, done=False))
    assert meter.is_complete
    meter.feed(stream({"choices": [{"index": 1, "delta": {"content": "x"}}]}, done=False))
    assert not meter.is_complete
