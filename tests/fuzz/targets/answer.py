"""Answers that are not streamed: read the same however they come, passed on as they are."""

import json
from collections.abc import Iterator

from app.wires.meter import AnswerMeter
from app.wires.wire_format import WireFormat
from tests.fuzz.target import Material, Target, cut
from tests.fuzz.targets.metering import assert_sound, found

FORMATS = (WireFormat.OPENAI, WireFormat.ANTHROPIC)


def check(data: bytes) -> None:
    material = Material(data)
    wire_format, choices, seed = material.one_of(FORMATS), 1 + material.byte() % 3, material.byte()
    body = material.rest()
    results = []
    for reads in ([body], cut(body, seed)):
        meter = AnswerMeter(wire_format, choices=choices)
        assert b"".join(map(meter.feed, reads)) + meter.flush() == body
        assert_sound(meter)
        results.append(found(meter))
    assert results[0] == results[1]
    if meter.is_complete:
        assert meter.error is None


def seeds() -> Iterator[bytes]:
    for number, answer in enumerate(_SEEDS):
        yield bytes((number % 2, number % 3, number)) + json.dumps(answer).encode()


_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
_USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
_SEEDS = (
    {"id": "a", "object": "chat.completion", "model": "m", "choices": [_CHOICE], "usage": _USAGE},
    {"id": "a", "model": "m", "choices": [_CHOICE, _CHOICE], "usage": None, "x_groq": {"usage": _USAGE}},
    {
        "id": "msg_1",
        "type": "message",
        "model": "c",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 5,
            "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3},
            "output_tokens": 4,
            "iterations": [{"type": "message", "input_tokens": 3, "output_tokens": 4}],
        },
    },
    {"input_tokens": 42},
    {"error": {"message": "no", "type": "invalid_request_error", "code": 400}},
    {"error": "no", "choices": []},
    {"object": "response", "id": "r", "output": [{}], "usage": {"input_tokens": 1, "output_tokens": 2}},
    {"object": "list", "data": [{}]},
    {"errorType": "X", "message": "no", "statusCode": 500},
    {"base_resp": {"status_code": 1004, "status_msg": "no"}},
    [{"error": {"message": "no"}}],
)

TARGET = Target(
    "answer",
    check,
    seeds,
    words=(
        *(b'"usage":{', b'"prompt_tokens":1', b'"completion_tokens":1', b'"total_tokens":9', b'"choices":[{'),
        *(
            b'"error":{',
            b'"type":"message"',
            b'"content":[',
            b'"input_tokens":1',
            b'"output_tokens":1',
            b"NaN",
        ),
        *(b'"cost":0.001', b'"iterations":[{', b'"finish_reason":"error"', b"\\ud83d", b"1e999", b"null"),
    ),
    max_bytes=1024,
)
