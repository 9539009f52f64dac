"""Endpoints whose answers are no conversation: what goes through, and what is recorded and charged of it."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from simulator import Script
from tests.support.lab import Lab, Played
from tests.support.sse import compact

EMBEDDINGS, COMPLETIONS, MODERATIONS = "/v1/embeddings", "/v1/completions", "/v1/moderations"
RERANK, IMAGES, SPEECH = "/v1/rerank", "/v1/images/generations", "/v1/audio/speech"
SSE = "text/event-stream"


@dataclass(frozen=True)
class Case:
    """A request and the answer to it; `cost` in nano-dollars, `record` members of the record."""

    number: str
    path: str
    request: dict[str, Any]
    answer: bytes | list[bytes]
    cost: int
    items: dict[str, float] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    content_type: str = "application/json"
    status: int = 200


def event(kind: str, **members: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), compact({"type": kind, **members}))


def embedded(**members: Any) -> bytes:
    item = {"object": "embedding", "index": 0, "embedding": [0.1, -0.2]}
    return compact({"object": "list", "data": [item], "model": "embed-test", **members})


PAID = {"prompt_tokens": 8, "total_tokens": 8}
NULLS = {"completion_tokens": 0, "prompt_tokens_details": {"audio_tokens": None}, "audio_seconds": None}
RANKED = {"results": [{"index": 0, "relevance_score": 0.9}]}
DRAWN = {"created": 1, "data": [{"b64_json": "aGk="}]}
MIXED = {
    "input_tokens": 250,
    "input_tokens_details": {"text_tokens": 50, "image_tokens": 200},
    "output_tokens": 1300,
    "output_tokens_details": {"image_tokens": 1100, "text_tokens": 200},
    "total_tokens": 1550,
}
ALL = {"text_tokens": 50, "image_tokens": 200}
PARTIAL = event("image_generation.partial_image", b64_json="aGk=", partial_image_index=0)
COMPLETED = {"input_tokens": 10, "output_tokens": 120, "total_tokens": 130}
SPOKEN = {"input_tokens": 4, "output_tokens": 50, "total_tokens": 54}


def embed(text: Any = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "embed-test", "input": text, **more}


def draw(model: str = "image-test", **more: Any) -> dict[str, Any]:
    return {"model": model, "prompt": "a weir", **more}


def speak(text: str, model: str = "spoken-test", **more: Any) -> dict[str, Any]:
    return {"model": model, "input": text, "voice": "alloy", **more}


CASES = [
    Case("E1", EMBEDDINGS, embed(), embedded(usage=PAID), 160, record={"inputTokens": 8}),
    Case("E2", EMBEDDINGS, embed(encoding_format="base64"), embedded(usage=PAID), 160),
    Case("E3", EMBEDDINGS, embed([[1, 2, 3], [4, 5]]), embedded(), 100,
         record={"inputTokens": 5, "usageSource": "estimate", "usageFlags": ["estimated", "input_missing"]}),
    Case("E5", EMBEDDINGS, embed(), embedded(usage=PAID | NULLS, cost=1e-8), 160),
    Case("E9", MODERATIONS, {"input": "hello"}, compact({"id": "m", "model": "o", "results": [{}]}), 0,
         record={"model": "omni-moderation-latest", "usageSource": "none"}),
    Case("E10", RERANK, {"model": "rerank-test", "query": "q", "documents": ["d"] * 150},
         compact(RANKED | {"meta": {"billed_units": {"search_units": 2}}}), 4_000_000, {"search_unit": 2}),
    Case("E11", "/v2/rerank", {"model": "rerank-test", "query": "q", "documents": ["d"]},
         compact(RANKED | {"usage": {"total_tokens": 40}}), 800, record={"inputTokens": 40}),
    Case("E12", RERANK, {"model": "rerank-test", "query": "q", "documents": ["d"] * 250}, compact(RANKED),
         6_000_000, {"search_unit": 3}, {"usageSource": "estimate", "usageFlags": ["estimated"]}),
    Case("E13", EMBEDDINGS, embed(""),
         compact({"error": {"message": "input cannot be empty", "type": "invalid_request_error"}}), 0,
         record={"outcome": "upstream_error", "upstreamStatusCode": 400}, status=400),
    Case("I1", IMAGES, draw(), compact(DRAWN | {"usage": {"input_tokens": 10, "output_tokens": 4000}}),
         120_050_000, {"input": 10, "output_image": 4000}),
    Case("I2", IMAGES, draw(), compact(DRAWN | {"usage": MIXED}), 36_850_000,
         {"input": 50, "input_image": 200, "output": 200, "output_image": 1100}),
    Case("I4", IMAGES, draw(stream=True),
         [PARTIAL, PARTIAL, event("image_generation.completed", b64_json="aGk=", usage=COMPLETED)],
         3_650_000, {"input": 10, "output_image": 120}, {"stream": True}),
    Case("I5", IMAGES, draw("piece-test", n=2), compact({"created": 1, "data": [{"url": "u"}] * 2}),
         80_000_000, {"image": 2}),
    Case("I6", IMAGES, draw(quality="high", size="1024x1024"), compact(DRAWN), 0,
         {"image": 1}, {"unpriced": ["image"]}),
    Case("I7", IMAGES, draw(),
         compact(DRAWN | {"usage": MIXED,
                          "svg_usage": {"model": "svg-test", "input_tokens": 10, "output_tokens": 20}}),
         36_850_000 + 10_000 + 40_000),
    Case("I9", IMAGES, draw(),
         compact({"error": {"message": "blocked by our content policy", "code": "moderation_blocked"}}), 0,
         record={"outcome": "upstream_error"}, status=400),
    Case("A1", SPEECH, speak("aé😀bc"), b"\xff\xf3\x64\xc4" + bytes(range(256)), 75_000, {"character": 5},
         {"ttftMs": None, "usageSource": "upstream"}, content_type="audio/mpeg"),
    Case("A2", SPEECH, speak("hi", "voice-test", stream_format="sse"),
         [event("speech.audio.delta", audio="aGk="), event("speech.audio.done", usage=SPOKEN)],
         602_400, {"input": 4, "output_audio": 50}, {"stream": True}),
    Case("A3", SPEECH, speak("hello there", "voice-test"), b"\xff\xf3sound", 0,
         record={"usageSource": "estimate"}, content_type="audio/mpeg"),
]  # fmt: skip


def play(lab: Lab, case: Case) -> Played:
    if isinstance(case.answer, bytes):
        kind = case.content_type
        script = Script.body(case.answer, status=case.status, content_type=kind)
    else:
        script = Script.sse(case.answer)
    return lab.send(case.path, compact(case.request | {"user": lab.directive(script)}))


def check_items(record: dict[str, Any], items: dict[str, float]) -> None:
    """What was charged for adds up, and is that."""
    told = record.get("costItems", [])
    if told:
        assert sum(item["nanoUsd"] for item in told) == record["costNanoUsd"]
    if items:
        assert {item["unit"]: item["quantity"] for item in told} == items


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.number, marks=pytest.mark.wire(case.number)) for case in CASES]
)
def test_an_answer_passes_and_is_charged(lab: Lab, case: Case) -> None:
    played = play(lab, case)
    record = played.record
    sent = case.answer if isinstance(case.answer, bytes) else b"".join(case.answer)
    assert played.response.status == record["statusCode"] == case.status
    if case.status == 200:
        assert played.body == sent
        assert record["outcome"] == "ok"
        kind = case.content_type if isinstance(case.answer, bytes) else "text/event-stream; charset=utf-8"
        assert played.response.headers["content-type"] == kind
    else:
        assert json.loads(played.body)["error"]["message"] == json.loads(sent)["error"]["message"]
    assert {name: record.get(name) for name in case.record} == case.record
    if case.cost or case.number not in ("A3",):
        assert record["costNanoUsd"] == case.cost
    check_items(record, case.items)
    assert len(played.entries) == 1


@pytest.mark.wire("E4")
def test_text_without_usage_is_estimated(lab: Lab) -> None:
    played = play(lab, Case("E4", EMBEDDINGS, embed("word " * 100), embedded(), 0))
    assert (played.record["usageSource"], "estimated" in played.record["usageFlags"]) == ("estimate", True)
    assert played.record["costNanoUsd"] == played.record["inputTokens"] * 20 > 100 * 20


@pytest.mark.wire("E6")
def test_a_large_answer_is_streamed_and_its_usage_found(lab: Lab) -> None:
    items = [{"embedding": base64.b64encode(b"\x00\x01\x02" * 2048).decode(), "index": n} for n in range(500)]
    answer = compact({"object": "list", "data": items, "usage": PAID})
    assert len(answer) > 4_000_000
    played = play(lab, Case("E6", EMBEDDINGS, embed(["x"] * 500), answer, 160))
    assert played.body == answer
    assert (played.record["costNanoUsd"], played.record["usageSource"]) == (160, "upstream")


@pytest.mark.parametrize(
    ("usage", "wanted"),
    [
        pytest.param(True, True, id="E7", marks=pytest.mark.wire("E7")),
        pytest.param(None, False, id="E8", marks=pytest.mark.wire("E8")),
    ],
)
def test_completions_are_streamed_and_counted(lab: Lab, usage: bool | None, wanted: bool) -> None:
    options = {} if usage is None else {"stream_options": {"include_usage": True}}
    body = {"model": "gpt-test", "prompt": ["a"], "stream": True, "user": "sim:prompt=9,out=2,chunks=2"}
    played = lab.send(COMPLETIONS, compact(body | options))
    record = played.record
    assert (record["inputTokens"], record["outputTokens"], record["endpoint"]) == (9, 2, "completions")
    assert (b'"usage"' in played.body) is wanted
    assert played.body.endswith(b"data: [DONE]\n\n")
    assert played.entries[0]["include_usage"] is True
