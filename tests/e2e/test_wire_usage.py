"""What answers say they used, in the many shapes upstreams say it, and what is recorded of it."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from simulator import Script
from tests.support import sse
from tests.support.lab import CHAT, COUNT, ESTIMATE, MESSAGES, Lab, check
from tests.support.raw_http import Ending
from tests.support.sse import DONE, MESSAGE_STOP, chunk, data, message_start, named, text_block, usage_chunk


@dataclass(frozen=True)
class Case:
    """A body (plain) or pieces (streamed); `counts` and members of the record that are to be there."""

    number: int
    name: str
    answer: bytes | list[bytes]
    counts: str
    path: str = CHAT
    flags: tuple[str, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)


def _usage(prompt: object, output: object, **members: object) -> dict[str, object]:
    return {"prompt_tokens": prompt, "completion_tokens": output, **members}


def _both_ways(number: int, name: str, usage: object, counts: str, **options: Any) -> list[Case]:
    """A chat usage in a plain answer and at the end of a stream."""
    return [
        Case(number, name, sse.chat_answer(usage), counts, **options),
        Case(number, f"{name}, streamed", sse.chat(usage), counts, **options),
    ]


def _details(read: int, write: int) -> dict[str, dict[str, int]]:
    return {"prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": write}}


_FULL = {
    "input_tokens": 300,
    "cache_read_input_tokens": 600,
    "cache_creation_input_tokens": 100,
    "cache_creation": {"ephemeral_5m_input_tokens": 70, "ephemeral_1h_input_tokens": 30},
    "output_tokens": 50,
}
_START = {"input_tokens": 300, "cache_read_input_tokens": 600, "output_tokens": 1}
_NO_INPUT = {"input_tokens": 0, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
# 300 fresh at 3, 70 and 30 written at 3.75 and 6, 600 read at 0.3, 50 out at 15 USD per million.
_SPLIT = {"cacheWrite1hTokens": 30, "costNanoUsd": 900_000 + 262_500 + 180_000 + 180_000 + 750_000}
# 300 fresh at 1, 600 read at 0.5, 100 written at 2, 50 out at 10 USD per million.
_CHAT_COST = {"costNanoUsd": 300_000 + 300_000 + 200_000 + 500_000, "tokensUsed": 350}
_BOTH = _usage(98805, 5120, total_tokens=103925) | _details(66360, 32435)
_ALIASES = {"cache_read_input_tokens": 66360, "cache_creation_input_tokens": 32435}
_FILLED_UP = ("estimated", "input_missing", "output_missing")
_NO_COUNT = ("bad_usage", "estimated", "input_missing")
_REASONING = {"completion_tokens_details": {"reasoning_tokens": 60}}
_COMPACTION = [
    {"type": "compaction", "input_tokens": 2000, "output_tokens": 50},
    {"type": "message", "input_tokens": 300, "output_tokens": 20},
]
_ADVISOR = [
    {"type": "message", "input_tokens": 300, "output_tokens": 20},
    {"type": "advisor_message", "model": "gpt-test", "input_tokens": 1000, "output_tokens": 10},
]
_FALLBACK = [
    {"type": "message", "input_tokens": 290, "output_tokens": 0},
    {"type": "fallback_message", "model": "gpt-test", "input_tokens": 300, "output_tokens": 20},
]
_TOOLS = {"web_search_requests": 2, "web_fetch_requests": 0}
_TOOLS_USAGE = {
    "input_tokens": 300,
    "output_tokens": 20,
    "server_tool_use": _TOOLS,
    "speed": "fast",
    "service_tier": "priority",
}
_RESPONSES_USAGE = {
    "input_tokens": 2600,
    "input_tokens_details": {"cached_tokens": 2000, "cache_write_tokens": 400},
    "output_tokens": 9,
}
_RESPONSE = {"id": "resp_1", "model": "gpt-upstream", "usage": _RESPONSES_USAGE}
_BAIT = 'He said: "usage":{"prompt_tokens":999999,"completion_tokens":999999} and left'


def _choices(count: int, **choice: Any) -> list[dict[str, Any]]:
    return [{"index": index, "delta": {"content": "hi"}, **choice} for index in range(count)]


CASES = [
    *_both_ways(
        19, "cache inside the prompt", _usage(1000, 50, total_tokens=1050) | _details(600, 100),
        "300/600/100/50", record=_CHAT_COST,
    ),
    Case(20, "cache beside the input", sse.message_answer(_FULL), "300/600/100/50", MESSAGES, record=_SPLIT),
    Case(20, "the same, streamed", sse.messages(_FULL, _FULL), "300/600/100/50", MESSAGES, record=_SPLIT),
    *(
        Case(number, name, sse.messages(_START, end | {"output_tokens": 50}), "300/600/0/50", MESSAGES)
        for number, name, end in (
            (21, "input first, output last", {}),
            (22, "the end repeats the input", _START),
            (23, "the end says zero", _NO_INPUT),
        )
    ),
    Case(
        24, "the start was an estimate",
        sse.messages(
            {"input_tokens": 5000, "output_tokens": 1},
            {"input_tokens": 200, "cache_read_input_tokens": 4800, "output_tokens": 7},
        ),
        "200/4800/0/7", MESSAGES,
    ),
    Case(
        25, "on every chunk, growing",
        [
            *(chunk("hi", usage=_usage(9, number)) for number in (1, 2, 3)),
            chunk(finish="stop", usage=_usage(9, 3)),
            DONE,
        ],
        "9/0/0/3",
    ),
    Case(26, "the same twice", [chunk("hi"), *[usage_chunk(sse.USAGE_9_2)] * 2, DONE], "9/0/0/2"),
    Case(
        27, "on the finish chunk, then null",
        [chunk("hi"), chunk(finish="stop", usage=sse.USAGE_9_2), usage_chunk(None), DONE],
        "9/0/0/2",
    ),
    Case(
        28, "in the choice",
        [chunk("hi"), data({"choices": _choices(1, finish_reason="stop", usage=sse.USAGE_9_2)}), DONE],
        "9/0/0/2",
    ),
    Case(28, "in the choice, plain", sse.compact({"choices": _choices(1, usage=sse.USAGE_9_2)}), "9/0/0/2"),
    *_both_ways(29, "both families agree", _BOTH | _ALIASES, "10/66360/32435/5120"),
    *_both_ways(
        30, "more read than prompt", _usage(10, 4, total_tokens=14) | _details(5000, 0), "10/5000/0/4",
        flags=("exclusive_prompt",),
    ),
    *_both_ways(
        31, "the total proves it exclusive", _usage(10, 4, total_tokens=17) | _details(3, 0), "10/3/0/4",
        flags=("exclusive_prompt",),
    ),
    *_both_ways(
        32, "zeros of the other family", _usage(500, 20) | {"input_tokens": 0, "output_tokens": 0},
        "500/0/0/20",
    ),
    *_both_ways(
        33, "only the other family",
        {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 2}, "7/3/0/2",
    ),
    *_both_ways(34, "reasoning outside", _usage(21, 0, total_tokens=81) | _REASONING, "21/0/0/60"),
    *_both_ways(
        34, "reasoning inside", _usage(21, 60, total_tokens=81) | _REASONING, "21/0/0/60",
        record={"reasoningTokens": 60},
    ),
    *_both_ways(35, "digits in strings", _usage("12", "2"), "12/0/0/2"),
    *_both_ways(35, "integral floats", _usage(12.0, 2.0), "12/0/0/2"),
    *(
        case
        for name, value in {
            "a fraction": 12.5,
            "negative": -3,
            "a boolean": True,
            "not a number": float("nan"),
            "absurd": 10**15,
        }.items()
        for case in _both_ways(35, name, _usage(value, 2), ESTIMATE, flags=_NO_COUNT)
    ),
    *_both_ways(36, "usage null", None, ESTIMATE),
    *_both_ways(36, "usage a list", [], ESTIMATE),
    *_both_ways(36, "usage a text", "x", ESTIMATE),
    *_both_ways(36, "details null and nothing else", {"prompt_tokens_details": None}, ESTIMATE),
    *_both_ways(36, "details null", _usage(9, 2, prompt_tokens_details=None), "9/0/0/2"),
    Case(37, "usage in the text", [chunk(_BAIT), *sse.chat()], "9/0/0/2"),
    Case(37, "usage in the text alone", [chunk(_BAIT), chunk(finish="stop"), DONE], ESTIMATE),
    Case(37, "usage in a plain text", sse.chat_answer(None, note=_BAIT), ESTIMATE),
    Case(38, "three choices", [data({"choices": _choices(3)}), *sse.chat()], "9/0/0/2"),
    Case(
        38, "three choices, plain", sse.compact({"choices": _choices(3), "usage": sse.USAGE_9_2}), "9/0/0/2"
    ),
    Case(
        39, "compaction",
        sse.message_answer({"input_tokens": 300, "output_tokens": 20, "iterations": _COMPACTION}),
        "300/0/0/20", MESSAGES, ("compaction",),
        # 2300 fresh at 3, 70 out at 15 USD per million.
        {"costNanoUsd": 6_900_000 + 1_050_000},
    ),
    Case(
        74, "an advisor",
        sse.message_answer({"input_tokens": 300, "output_tokens": 20, "iterations": _ADVISOR}),
        "300/0/0/20", MESSAGES, ("advisor",),
        # What is above, and 1000 fresh at 1, 10 out at 10 USD per million.
        {"costNanoUsd": 900_000 + 300_000 + 1_000_000 + 100_000},
    ),
    Case(
        75, "a model that stepped in",
        sse.message_answer({"input_tokens": 300, "output_tokens": 20, "iterations": _FALLBACK}),
        "300/0/0/20", MESSAGES, ("fallback_model",), {"costNanoUsd": 300_000 + 200_000},
    ),
    *_both_ways(76, "another name for cache reads", _usage(64, 6, num_cached_tokens=32), "32/32/0/6"),
    *_both_ways(
        77, "audio outside the prompt",
        _usage(11, 15, total_tokens=401, prompt_tokens_details={"audio_tokens": 375, "cached_tokens": 9}),
        "377/9/0/15", flags=("audio_outside_prompt",),
    ),
    *_both_ways(
        78, "the same tokens read and written", _usage(2168, 100, total_tokens=2268) | _details(2161, 2161),
        "7/2161/2161/100", flags=("read_and_written",),
    ),
    *_both_ways(
        79, "a total above its parts", _usage(10, 5, total_tokens=215), "10/0/0/205",
        flags=("total_exceeds_parts",),
    ),
    *_both_ways(
        79, "a total slightly above its parts", _usage(5000, 50, total_tokens=5060), "5000/0/0/50",
        flags=("total_exceeds_parts",),
    ),
    *_both_ways(
        80, "the tier in the usage", _usage(9, 2, service_tier="standard"), "9/0/0/2",
        record={"serviceTier": "standard"},
    ),
    Case(
        81, "usage under x_groq",
        [chunk("hi"), chunk(finish="stop", x_groq={"id": "r", "usage": sse.USAGE_9_2}), DONE],
        "9/0/0/2",
    ),
    Case(
        82, "no output behind a placeholder",
        [
            message_start({"input_tokens": 20, "output_tokens": 1}),
            sse.message_delta({"output_tokens": 0}),
            MESSAGE_STOP,
        ],
        "20/0/0/0", MESSAGES,
    ),
    Case(
        83, "nothing but the placeholder",
        [message_start({"input_tokens": 20, "output_tokens": 1}), *text_block() * 3, sse.message_delta(None),
         MESSAGE_STOP],
        ESTIMATE, MESSAGES, ("estimated", "output_missing"), {"inputTokens": 20},
    ),
    *_both_ways(
        84, "zeros beside text", _usage(0, 0, total_tokens=0), ESTIMATE,
        flags=("estimated", "input_missing", "output_missing"),
    ),
    Case(
        40, "embeddings",
        sse.compact({"object": "list", "data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}}),
        "8/0/0/0",
    ),
    Case(
        40, "a token count", b'{"input_tokens":42}', "0/0/0/0", COUNT,
        record={"usageRaw": {"input_tokens": 42}, "costNanoUsd": 0},
    ),
    Case(
        41, "server tools", sse.message_answer(_TOOLS_USAGE), "300/0/0/20", MESSAGES,
        record={"serviceTier": "priority"},
    ),
    Case(
        42, "a Responses stream",
        [
            named("response.output_text.delta", {"type": "response.output_text.delta", "delta": "hi"}),
            named("response.completed", {"type": "response.completed", "response": _RESPONSE}),
        ],
        "200/2000/400/9",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{case.number}-{case.name}", marks=pytest.mark.wire(case.number))
        for case in CASES
    ],
)
def test_usage(lab: Lab, case: Case) -> None:
    if is_stream := isinstance(case.answer, list):
        played, sent = lab.stream(case.path, case.answer), b"".join(case.answer)
    else:
        played, sent = lab.plain(case.path, case.answer), case.answer

    assert played.body == sent
    assert played.response.ending is (Ending.FINAL_CHUNK if is_stream else Ending.LENGTH)
    check(played.record, case.counts, flags=case.flags or (_FILLED_UP if case.counts == ESTIMATE else ()))
    assert {name: played.record[name] for name in case.record} == case.record
    assert played.record["stream"] is is_stream
    assert len(played.entries) == 1


@pytest.mark.wire(35)
@pytest.mark.parametrize("value", ["12.5", "-3", "true", "NaN", "1" + "0" * 15, '"x"', "[]", "{}"])
def test_no_usable_count_at_all(lab: Lab, value: str) -> None:
    """Nothing is known then; the flag says why, and the record is there."""
    body = sse.chat_answer("USAGE").replace(
        b'"USAGE"', f'{{"prompt_tokens":{value},"completion_tokens":{value}}}'.encode()
    )
    played = lab.plain(CHAT, body)

    assert played.body == body
    check(played.record, ESTIMATE, flags=["bad_usage", "estimated", "input_missing", "output_missing"])


@pytest.mark.wire(39)
def test_compaction_is_charged_and_kept_apart(lab: Lab) -> None:
    """Its tokens are in no count but in the cost, and what was said about it is kept."""
    usage = {"input_tokens": 300, "output_tokens": 20, "iterations": _COMPACTION}
    for played in (
        lab.plain(MESSAGES, sse.message_answer(usage)),
        lab.stream(MESSAGES, sse.messages({"input_tokens": 300, "output_tokens": 1}, usage)),
    ):
        check(played.record, "300/0/0/20", flags=["compaction"])
        assert played.record["costNanoUsd"] == 2300 * 3_000 + 70 * 15_000
        assert played.record["usageRaw"]["iterations"] == _COMPACTION


@pytest.mark.wire(41)
def test_what_costs_beside_tokens_is_kept(lab: Lab) -> None:
    start = {"input_tokens": 300, "output_tokens": 1}
    for played in (
        lab.plain(MESSAGES, sse.message_answer(_TOOLS_USAGE)),
        lab.stream(MESSAGES, sse.messages(start, _TOOLS_USAGE)),
    ):
        check(played.record, "300/0/0/20")
        assert played.record["usageRaw"]["server_tool_use"] == _TOOLS
        assert played.record["usageRaw"]["speed"] == "fast"


@pytest.mark.wire(21)
def test_both_usages_of_a_message_are_kept(lab: Lab) -> None:
    """The raw usage holds the last object and the one from the start."""
    played = lab.stream(MESSAGES, sse.messages(_START, {"output_tokens": 50}))

    assert played.record["usageRaw"] == {"output_tokens": 50, "message_start": _START}
    assert played.record["upstreamModel"] == "claude-upstream"


@pytest.mark.wire(42)
@pytest.mark.parametrize("end", ["completed", "incomplete", "failed"])
def test_every_end_of_a_responses_stream(lab: Lab, end: str) -> None:
    kind = f"response.{end}"
    script = Script.sse([named(kind, {"type": kind, "response": _RESPONSE})])
    record = lab.stream(CHAT, script).record
    if end == "failed":
        check(record, "200/2000/400/9", "stream_error", source="partial")
    else:
        check(record, "200/2000/400/9")


@pytest.mark.wire(21)
def test_truncated_message_keeps_what_the_start_said(lab: Lab) -> None:
    played = lab.stream(MESSAGES, [message_start(_START), *text_block()])

    assert played.response.ending is Ending.CUT
    check(played.record, "300/600/0/1", "upstream_truncated", source="partial")


@pytest.mark.wire(23)
def test_output_of_zero_does_not_erase(lab: Lab) -> None:
    events = [
        message_start(_START),
        *text_block(),
        sse.message_delta({"output_tokens": 50}),
        sse.message_delta({"output_tokens": 0}),
        MESSAGE_STOP,
    ]
    check(lab.stream(MESSAGES, events).record, "300/600/0/50")


@pytest.mark.wire("B14")
@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    ("told", "cost", "unpriced"),
    [
        ({"speed": "fast"}, 2_200_000, None),
        ({"speed": "fast", "inference_geo": "us"}, 2_420_000, None),
        ({"speed": "standard", "inference_geo": "global"}, 1_100_000, None),
        ({"inference_geo": "eu"}, 1_100_000, ["inference_geo:eu"]),
    ],
)
def test_speed_and_region_of_a_message_decide_its_price(
    lab: Lab, told: dict[str, str], cost: int, unpriced: list[str] | None, is_streamed: bool
) -> None:
    usage = {"input_tokens": 300, "output_tokens": 50} | told
    ordered = {"model": "claude-tiered", "speed": "fast"}
    events = sse.messages({"input_tokens": 300, "output_tokens": 1} | told, usage)
    played = (
        lab.stream(MESSAGES, events, **ordered)
        if is_streamed
        else lab.plain(MESSAGES, sse.message_answer(usage), **ordered)
    )
    shown = {"speed:fast"} if "speed" not in told else set()
    assert played.record["costNanoUsd"] == cost
    assert set(played.record.get("unpriced", ())) == {*(unpriced or ()), *shown}
