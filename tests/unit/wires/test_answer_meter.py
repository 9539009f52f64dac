"""Reading whole bodies: answers of either format, token counts, errors told with status 200."""

import json
from dataclasses import replace
from typing import Any

import pytest

from app.wires.meter import AnswerMeter, StreamError
from app.wires.wire_format import WireFormat
from tests.unit.wires.metering import ANT, OAI, counts, results


def answer(body: Any, wire_format: WireFormat) -> dict[str, Any]:
    meter = AnswerMeter(wire_format)
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
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
        },
        OAI,
    )
    assert counts(found["usage"]) == (6, 4, 0, 4)
    assert (found["upstream_model"], found["service_tier"]) == ("m", "priority")
    assert found["is_complete"]
    assert found["has_content"]
    assert found["is_terminated"]


@pytest.mark.wire(41)
def test_a_messages_answer() -> None:
    usage = {
        "input_tokens": 300,
        "output_tokens": 50,
        "server_tool_use": {"web_search_requests": 2},
        "speed": "fast",
        "service_tier": "standard",
    }
    found = answer(
        {"id": "msg", "type": "message", "model": "m", "content": [{"type": "text"}], "usage": usage}, ANT
    )
    assert counts(found["usage"]) == (300, 0, 0, 50)
    assert found["usage"].extras["server_tool_use"] == {"web_search_requests": 2}
    assert found["usage"].extras["speed"] == "fast"
    assert found["usage_raw"] == usage
    assert found["service_tier"] == "standard"
    assert found["has_content"]


@pytest.mark.wire(40)
def test_counted_tokens_are_noted_and_cost_nothing() -> None:
    found = answer({"input_tokens": 42}, ANT)
    assert counts(found["usage"]) == (0, 0, 0, 0)
    assert found["usage"].counted_input_tokens == 42
    assert found["usage_raw"] == {"input_tokens": 42}
    assert found["is_complete"]
    assert answer({"input_tokens": "x"}, ANT)["usage"] is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"choices": [{"usage": {"prompt_tokens": 3}}]}, (3, 0, 0, 0)),
        ({"choices": [7, {"usage": {"prompt_tokens": 3}}], "model": 5}, (3, 0, 0, 0)),
        ({"choices": 7, "usage": {"prompt_tokens": 3}, "content": "x", "output": "y"}, (3, 0, 0, 0)),
        (b'{"x":NaN,"content":[1],"usage":{"prompt_tokens":3}}', (3, 0, 0, 0)),
        (b'\xef\xbb\xbf{"content":[1],"usage":{"prompt_tokens":3}}', (3, 0, 0, 0)),
        ({"choices": [{}], "usage": "x"}, None),
        ({"object": "list", "data": [], "usage": {"prompt_tokens": 3}}, (3, 0, 0, 0)),
        ({"type": "message", "content": [], "stop_reason": "refusal"}, None),
    ],
)
@pytest.mark.wire(36)
def test_odd_bodies(body: Any, expected: Any) -> None:
    found = answer(body, OAI)
    assert counts(found["usage"]) == expected
    assert found["is_complete"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b'{"usage":', b"[" * 200_000])
def test_a_body_that_is_no_json_object_is_not_complete(body: bytes) -> None:
    found = answer(body, OAI)
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
    found = answer(body, OAI)
    assert replace(found["error"], codes=frozenset()) == error
    assert not found["is_complete"]


def test_a_body_beyond_the_cap_is_passed_but_not_read() -> None:
    meter = AnswerMeter(OAI, max_bytes=10)
    assert meter.feed(b"x" * 8) + meter.feed(b"y" * 8) + meter.feed(b"z") == b"x" * 8 + b"y" * 8 + b"z"
    assert meter.flush() == b""
    assert meter.flags == {"body_too_long"}
    assert not meter.is_complete
    meter = AnswerMeter(OAI, max_bytes=10)
    meter.feed(b"a" * 1_000_000)
    meter.flush()
    assert meter.output_estimate == 0  # it is no answer, however long


LOGPROB = {
    "token": "a",
    "logprob": -0.5,
    "bytes": [97],
    "top_logprobs": [{"token": '"usage":', "logprob": 0}],
}
LONG = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-5",
    "choices": [{"message": {"content": "a"}, "logprobs": {"content": [LOGPROB] * 2000}}] * 2,
    "usage": {"prompt_tokens": 12, "completion_tokens": 4000},
    "service_tier": "default",
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("piece", [1000, 8192, 10**9])
def test_of_a_body_beyond_the_cap_both_ends_are_read(piece: int, indent: int | None) -> None:
    body = json.dumps(LONG, indent=indent).encode()
    meter = AnswerMeter(OAI, max_bytes=100_000, choices=2)
    for at in range(0, len(body), piece):
        meter.feed(body[at : at + piece])
    meter.flush()
    assert meter.usage is not None
    assert (meter.usage.input_tokens, meter.usage.output_tokens) == (12, 4000)
    assert (meter.upstream_model, meter.service_tier, meter.error) == ("gpt-5", "default", None)
    assert (meter.is_complete, meter.is_usage_final, meter.flags) == (True, True, {"body_too_long"})


@pytest.mark.parametrize(
    "body",
    [
        {
            "id": "msg_1",
            "type": "message",
            "model": "claude",
            "content": [{"type": "text", "text": "a" * 200_000}],
        },
        {
            "id": "resp_1",
            "object": "response",
            "model": "gpt-5",
            "output": [{"id": "m", "content": "a" * 200_000}],
        },
    ],
)
def test_so_it_is_in_the_other_formats(body: dict[str, Any]) -> None:
    told = {"usage": {"input_tokens": 7, "output_tokens": 9}, "metadata": {}}
    meter = AnswerMeter(ANT if "type" in body else OAI, max_bytes=100_000)
    meter.feed(json.dumps(body | told).encode())
    meter.flush()
    assert meter.usage is not None
    assert (meter.usage.output_tokens, meter.error, meter.has_content) == (9, None, True)


def test_usage_within_the_answer_is_not_taken_for_its_own() -> None:
    fake = {"type": "tool_use", "input": {"usage": {"input_tokens": 0, "output_tokens": 1}}}
    body = {"type": "message", "content": [{"type": "text", "text": "a" * 400_000}, fake]}
    meter = AnswerMeter(ANT, max_bytes=100_000)
    meter.feed(json.dumps(body).encode())
    meter.flush()
    assert meter.usage is None
    assert meter.output_estimate == 195  # as many tokens as it has at least


def test_a_long_body_that_was_cut_is_not_whole() -> None:
    body = json.dumps(LONG).encode()
    meter = AnswerMeter(OAI, max_bytes=100_000)
    meter.feed(body[:-1])
    meter.flush()
    assert not meter.is_complete
    assert (meter.usage, meter.output_estimate) == (None, len(body) // 2048)
