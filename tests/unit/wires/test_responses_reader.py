"""Answers of the Responses API: what is read of them, however they are cut."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.wires.endpoints import Answers
from app.wires.formats.responses import FOREIGN_REASONING, ZERO_USAGE
from app.wires.meter import AnswerMeter, StreamMeter
from app.wires.usage import BAD_USAGE
from tests.unit.wires.metering import OAI, comparable, counts, cut, results

USAGE = {
    "input_tokens": 2600,
    "input_tokens_details": {"cached_tokens": 2000, "cache_write_tokens": 400},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 2609,
}
SPLIT = {"ttl_30m_tokens": 300, "ttl_12h_tokens": 100}
TEXT = {"type": "message", "content": [{"type": "output_text", "text": "Hello there"}]}
BAIT = '"type":"response.completed","usage":{"input_tokens":7,"output_tokens":7}}'


def response(status: str = "completed", **more: Any) -> dict[str, Any]:
    made = {"id": "resp_1", "object": "response", "model": "m-2026-01-01", "status": status, "output": [TEXT]}
    return {**made, "usage": USAGE, **more}


def event(kind: str, **more: Any) -> bytes:
    data = json.dumps({"type": kind, **more})
    return f"event: {kind}\ndata: {data}\n\n".encode()


def deltas(*texts: str) -> bytes:
    return b"".join(
        event("response.output_text.delta", sequence_number=n, item_id="msg_1", delta=text)
        for n, text in enumerate(texts, 3)
    )


def ended(status: str, **more: Any) -> bytes:
    return event(f"response.{status}", response=response(status, **more))


STARTED = response("in_progress", output=[], usage=None, service_tier="auto")
BEGIN = event("response.created", response=STARTED)
COMPLETED = event("response.completed", response=response(service_tier="default"), sequence_number=9)
STREAM = (
    BEGIN
    + deltas("Help", "ful", " there")
    + event("response.output_text.done", text="Helpful there")
    + COMPLETED
)


def stream(data: bytes, at: list[int] | None = None) -> StreamMeter:
    meter = StreamMeter(OAI, answers=Answers.RESPONSES)
    assert b"".join(map(meter.feed, cut(data, at or []))) + meter.flush() == data
    return meter


def body(answer: Any) -> AnswerMeter:
    meter = AnswerMeter(OAI)
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    meter.feed(data)
    meter.flush()
    return meter


def test_a_whole_stream_tells_who_answered_and_what_it_took() -> None:
    meter = stream(STREAM)
    assert counts(meter.usage) == (200, 2000, 400, 9)
    assert (meter.is_complete, meter.is_terminated, meter.is_usage_final) == (True, True, True)
    assert (meter.upstream_model, meter.service_tier, meter.error) == ("m-2026-01-01", "default", None)
    assert meter.has_content
    assert meter.flags == frozenset()


def test_a_body_is_read_like_the_end_of_a_stream() -> None:
    meter = body(response(service_tier="default"))
    assert (counts(meter.usage), meter.is_complete, meter.is_usage_final) == ((200, 2000, 400, 9), True, True)
    assert (meter.usage_raw, meter.service_tier) == (USAGE, "default")


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_split_by_lifetime_divides_what_was_written(is_stream: bool) -> None:
    details = {**USAGE["input_tokens_details"], "cache_write_tokens_details": SPLIT}  # type: ignore[dict-item]
    answer = response(usage={**USAGE, "input_tokens_details": details})
    usage = (stream(event("response.completed", response=answer)) if is_stream else body(answer)).usage
    assert usage is not None
    assert (usage.input_tokens, usage.cache_creation_input_tokens) == (200, 400)
    assert usage.cache_creation_1h_input_tokens == 100


def test_input_includes_what_was_cached_also_where_only_the_counts_stand() -> None:
    answer = response(usage={"input_tokens": 50, "cached_tokens": 20, "output_tokens": 3})
    assert counts(body(answer).usage) == (30, 20, 0, 3)


ODD = (
    event("keepalive", sequence_number=7),
    event("response.brand_new.thing", payload={"usage": {"input_tokens": 7}}),
    event("response.output_text.delta", delta=BAIT, obfuscation="xX"),
    event("response.output_item.done", item={"type": "message", "usage": {"output_tokens": 7}}),
    event("codex.rate_limits", plan="pro"),
    b": comment\n\n",
    b"data: [DONE]\n\n",
    event(
        "response.in_progress",
        response=response("in_progress", usage={"input_tokens": 7, "output_tokens": 7}),
    ),
)


@pytest.mark.parametrize("odd", ODD)
def test_other_events_change_nothing(odd: bytes) -> None:
    plain, meter = stream(STREAM), stream(BEGIN + odd + STREAM.removeprefix(BEGIN) + odd)
    for found in (plain, meter):
        assert (counts(found.usage), found.error, found.flags) == ((200, 2000, 400, 9), None, frozenset())


def test_names_of_events_are_not_needed() -> None:
    unnamed = b"".join(line for line in STREAM.splitlines(keepends=True) if not line.startswith(b"event:"))
    assert comparable(results(stream(unnamed))) == comparable(results(stream(STREAM)))


def failed(error: Any, **usage: int) -> bytes:
    return ended("failed", error=error, usage=usage or None)


QUOTA = "insufficient_quota"
SPENT = {"code": QUOTA, "message": "no"}


@pytest.mark.parametrize(
    ("end", "type_", "found", "codes"),
    [
        (failed({"code": "server_error", "message": "no"}), "server_error", None, {"server_error"}),
        (failed({"code": "x"}, input_tokens=100, output_tokens=5), "x", (100, 0, 0, 5), {"x"}),
        (failed(None), "failed", None, set()),
        (event("response.failed"), "failed", None, set()),
        (event("error", code="too_many", message="no", param=None), "too_many", None, {"too_many"}),
        (event("error", error={"type": "busy", "message": "no"}), "busy", None, {"busy"}),
        (event("error", error={"type": "e", "message": "no"}) + failed(SPENT), QUOTA, None, {QUOTA}),
        (event("error", error=SPENT) + failed(None), QUOTA, None, {QUOTA}),
        (b'event: error\ndata: "broken"\n\n', "error", None, set()),
    ],
)  # fmt: skip
def test_errors_within_a_stream(
    end: bytes, type_: str, found: tuple[int, int, int, int] | None, codes: set[str]
) -> None:
    meter = stream(BEGIN + deltas("Help") + end)
    assert meter.error is not None
    assert (meter.error.type, counts(meter.usage), codes <= meter.error.codes) == (type_, found, True)


@pytest.mark.parametrize("status", ["completed", "incomplete", "cancelled", "complete"])
def test_every_good_status_is_a_whole_answer(status: str) -> None:
    meter = body(response(status))
    assert (meter.is_complete, meter.error, meter.is_unfinished) == (True, None, False)


def test_a_failed_body_is_an_error_that_may_have_cost_something() -> None:
    meter = body(response("failed", output=[], usage=None, error={"code": "server_error", "message": "no"}))
    assert meter.error is not None
    assert (meter.error.type, meter.usage, meter.is_complete) == ("server_error", None, False)
    meter = body(response("failed", usage={"input_tokens": 100, "output_tokens": 5}, error=None))
    assert meter.error is not None
    assert (meter.error.type, counts(meter.usage)) == ("failed", (100, 0, 0, 5))


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_response_in_the_making_tells_no_usage_yet(status: str) -> None:
    meter = body(response(status, output=[], usage=None))
    assert (meter.is_complete, meter.is_unfinished, meter.usage, meter.error) == (True, True, None, None)


def test_why_a_response_is_incomplete_and_what_its_tools_used_are_kept() -> None:
    reason, tools = {"reason": "max_output_tokens"}, {"web_search": {"num_requests": 2}}
    answer = response("incomplete", incomplete_details=reason, tool_usage=tools)
    for meter in (body(answer), stream(BEGIN + event("response.incomplete", response=answer))):
        assert meter.usage_raw == {**USAGE, "incomplete_details": reason, "tool_usage": tools}


ZEROS = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}


def test_zeros_after_a_text_are_unknown() -> None:
    answer = response("incomplete", usage=ZEROS)
    for meter in (
        body(answer),
        stream(BEGIN + deltas("Help", "ful") + event("response.incomplete", response=answer)),
    ):
        assert meter.flags == {ZERO_USAGE}
        assert not meter.is_usage_final
        assert meter.output_estimate in (2, 3)
    nothing = body(response(usage=ZEROS, output=[]))
    assert (nothing.flags, nothing.is_usage_final) == (frozenset(), True)


def test_a_negative_count_is_unknown() -> None:
    usage = {"input_tokens": 50, "output_tokens": -9, "output_tokens_details": {"reasoning_tokens": 448}}
    meter = body(response(usage=usage))
    assert BAD_USAGE in meter.flags
    assert not meter.is_usage_final


def test_what_was_only_written_to_the_cache_is_final() -> None:
    details = {"cached_tokens": 0, "cache_write_tokens": 1000}
    usage = {"input_tokens": 1000, "input_tokens_details": details, "output_tokens": 0, "total_tokens": 1000}
    for meter in (
        body(response(output=[], usage=usage)),
        stream(BEGIN + event("response.completed", response=response(output=[], usage=usage))),
    ):
        assert (counts(meter.usage), meter.is_usage_final, meter.error) == ((0, 0, 1000, 0), True, None)


def test_a_stream_that_ends_with_nothing_is_an_error() -> None:
    meter = stream(event("response.completed", response=response(output=[], usage=None)))
    assert meter.error is not None


def test_reasoning_of_another_account_is_told() -> None:
    meter = body(response(input_transformations=[{"reason": "organization_mismatch"}, 3]))
    assert meter.flags == {FOREIGN_REASONING}


def test_only_deltas_are_estimated() -> None:
    text = "word " * 400
    meter = stream(BEGIN + deltas(*["word "] * 400) + event("response.output_text.done", text=text) * 3)
    assert (meter.output_estimate, meter.is_complete, meter.usage) == (400, False, None)


def test_counting_tokens_is_noted() -> None:
    usage = body({"object": "response.input_tokens", "input_tokens": 42}).usage
    assert usage is not None
    assert (usage.counted_input_tokens, usage.total_input_tokens) == (42, 0)


def test_a_compaction_is_an_answer() -> None:
    usage = {"input_tokens": 150, "output_tokens": 200}
    meter = body(
        {"id": "c", "object": "response.compaction", "output": [{"type": "compaction"}], "usage": usage}
    )
    assert (counts(meter.usage), meter.is_complete) == ((150, 0, 0, 200), True)


@pytest.mark.parametrize(
    "answer",
    [
        b'{"object":"response","output":[{"a":"\\ud83d"}],"model":"\\ud83d","usage":{"input_tokens":5,"output_tokens":2}}',
        b'{"object":"response","output":[{"a":NaN}],"usage":{"input_tokens":5,"output_tokens":2}}',
    ],
)
def test_odd_json_does_not_cost_the_usage(answer: bytes) -> None:
    assert counts(body(answer).usage) == (5, 0, 0, 2)
    data = b'data: {"type":"response.completed","response":' + answer + b"}\n\n"
    assert counts(stream(BEGIN + data).usage) == (5, 0, 0, 2)


def test_a_final_event_of_megabytes_is_read_in_linear_time() -> None:
    def spent(size: int) -> float:
        image = {"type": "image_generation_call", "result": "A" * size}
        data = BEGIN + event("response.completed", response=response(output=[image, TEXT]))
        meter = StreamMeter(OAI, answers=Answers.RESPONSES)
        begun = time.process_time()
        for at in range(0, len(data), 1024):
            meter.feed(data[at : at + 1024])
        assert counts(meter.usage) == (200, 2000, 400, 9)
        assert meter.is_terminated
        return time.process_time() - begun

    small = min(spent(1_250_000) for _ in range(3))
    assert min(spent(5_000_000) for _ in range(3)) < 12 * small


ANY_EVENT = st.sampled_from(
    [
        BEGIN,
        deltas("Hi"),
        deltas("a", "b"),
        COMPLETED,
        *ODD,
        event("error", message="no"),
        event("response.failed"),
    ]
)


@settings(max_examples=150)
@given(st.lists(ANY_EVENT, max_size=8), st.lists(st.integers(0), max_size=8))
def test_cuts_do_not_matter(events: list[bytes], at: list[int]) -> None:
    data = b"".join(events)
    assert comparable(results(stream(data, at))) == comparable(results(stream(data)))


def test_every_single_cut() -> None:
    whole = comparable(results(stream(STREAM)))
    for at in range(len(STREAM)):
        assert comparable(results(stream(STREAM, [at]))) == whole
    assert comparable(results(stream(STREAM, list(range(len(STREAM)))))) == whole
