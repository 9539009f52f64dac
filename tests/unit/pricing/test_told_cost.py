"""What the upstream says a request cost: read exactly, from every format, and never absurd."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pricing.told_cost import MAX_TOLD_USD, list_cost_nano, told_nano, upstream_cost_nano
from app.wires.endpoints import Answers
from app.wires.meter import AnswerMeter, SlimMeter, StreamMeter
from app.wires.wire_format import WireFormat

ANT, OAI = WireFormat.ANTHROPIC, WireFormat.OPENAI


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        ({"cost": 0.000222}, 222_000),
        ({"cost": 4e-05}, 40_000),
        ({"cost": 3}, 3_000_000_000),
        ({"cost": "0.003576"}, 3_576_000),
        ({"cost": 0.1 + 0.2}, 300_000_000),
        ({"cost": {"input_tokens_cost": 0.00001, "request_cost": 0.005, "total_cost": 0.00507}}, 5_070_000),
        ({"cost_in_usd_ticks": 1_721_250}, 172_125),
        ({"cost_in_usd_ticks": 5}, 1),  # half up
        ({"cost_in_usd_ticks": 4}, 0),
        ({"cost": None, "cost_in_usd_ticks": 20}, 2),
        ({"cost": 0}, 0),
        ({"cost": MAX_TOLD_USD}, MAX_TOLD_USD * 10**9),
    ],
)
def test_a_told_cost_is_read_exactly(usage, nano):
    assert upstream_cost_nano(usage, is_whole=True) == nano


NO_COSTS = (
    *(-1, True, [], {}, {"total_cost": {}}, "x", "", "NaN", "Infinity", float("inf"), float("nan"), None),
    *(MAX_TOLD_USD + 1, 1 << 20_000, "1e999999", "-0.1", "9" * 41),
)


@pytest.mark.parametrize("cost", NO_COSTS, ids=range(len(NO_COSTS)))
def test_what_is_no_cost_is_none(cost):
    assert told_nano({"cost": cost}) is None
    assert upstream_cost_nano({"cost": cost}, is_whole=True) is None


def test_nothing_told_is_nothing_known():
    assert upstream_cost_nano({}, None, {"prompt_tokens": 3}, is_whole=True) is None


def test_a_zero_before_the_end_says_nothing():
    assert upstream_cost_nano({"cost": {"total_cost": 0}}, is_whole=False) is None
    assert upstream_cost_nano({"cost": 0}, {"cost": 0.5}, is_whole=False) == 500_000_000


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50)
usages = st.dictionaries(
    st.sampled_from(["cost", "cost_in_usd_ticks", "total_cost"]),
    scalars | st.dictionaries(st.sampled_from(["total_cost", "cost"]), scalars),
)


@given(usages, st.booleans())
def test_whatever_is_told_it_stays_within_bounds(usage, is_whole):
    cost = upstream_cost_nano(usage, is_whole=is_whole)
    assert cost is None or (type(cost) is int and 0 <= cost <= MAX_TOLD_USD * 10**9)


@given(st.decimals(0, MAX_TOLD_USD, places=9))
def test_nano_dollars_are_kept_whatever_they_are_written_as(usd):
    told = upstream_cost_nano({"cost": str(usd)}, is_whole=True)
    assert told == upstream_cost_nano({"cost_in_usd_ticks": int(usd * 10**10)}, is_whole=True)
    assert Decimal(told) == usd * 10**9


def sse(*events):
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


CHAT = {"id": "c", "object": "chat.completion", "model": "m"}
RESPONSE = {"id": "resp_1", "object": "response", "status": "completed", "output": []}
TOKENS = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
NATIVE = {"input_tokens": 12, "output_tokens": 5}
STOP = {"index": 0, "finish_reason": "stop", "message": {"content": "x"}, "delta": {}}
TICKS = {"cost_in_usd_ticks": 2_220_000}
COST = {"cost": 0.000222}
IMAGE = {"created": 1, "data": [{"b64_json": "eA=="}]}

ANSWERS = {
    "chat": (AnswerMeter(OAI), json.dumps({**CHAT, "choices": [STOP], "usage": {**TOKENS, **COST}}).encode()),
    "chat, nothing but the cost": (
        AnswerMeter(OAI),
        json.dumps({**CHAT, "choices": [STOP], "usage": COST}).encode(),
    ),
    "chat stream": (
        StreamMeter(OAI),
        sse({**CHAT, "choices": [STOP]}, {**CHAT, "choices": [], "usage": {**TOKENS, **COST}}),
    ),
    "chat stream that begins with zeros": (
        StreamMeter(OAI),
        sse(
            {**CHAT, "choices": [STOP], "usage": {**TOKENS, "cost": {"total_cost": 0}}},
            {**CHAT, "choices": [], "usage": {**TOKENS, "cost": {"total_cost": 0.000222}}},
        ),
    ),
    "messages": (
        AnswerMeter(ANT),
        json.dumps(
            {"type": "message", "content": [{}], "stop_reason": "x", "usage": {**NATIVE, **COST}}
        ).encode(),
    ),
    "messages stream": (
        StreamMeter(ANT),
        sse(
            {"type": "message_start", "message": {"usage": NATIVE}},
            {"type": "message_delta", "delta": {"stop_reason": "x"}, "usage": {"output_tokens": 5, **COST}},
            {"type": "message_stop"},
        ),
    ),
    "messages stream that tells at the start": (
        StreamMeter(ANT),
        sse(
            {"type": "message_start", "message": {"usage": {**NATIVE, **COST}}},
            {"type": "message_delta", "delta": {"stop_reason": "x"}, "usage": {"output_tokens": 5}},
            {"type": "message_stop"},
        ),
    ),
    "response": (AnswerMeter(OAI), json.dumps({**RESPONSE, "usage": {**NATIVE, **TICKS}}).encode()),
    "response stream": (
        StreamMeter(OAI, answers=Answers.RESPONSES),
        sse({"type": "response.completed", "response": {**RESPONSE, "usage": {**NATIVE, **COST}}}),
    ),
    "embeddings": (
        SlimMeter(OAI, Answers.LIST),
        json.dumps({"data": [{}], "usage": {"prompt_tokens": 12, **COST}}).encode(),
    ),
    "rerank": (
        SlimMeter(OAI, Answers.LIST),
        json.dumps({"results": [{}], "usage": {"search_units": 1, **COST}}).encode(),
    ),
    "images that tell only ticks": (
        SlimMeter(OAI, Answers.IMAGES),
        json.dumps({**IMAGE, "usage": TICKS}).encode(),
    ),
    "image stream, each with its part": (
        StreamMeter(OAI, answers=Answers.IMAGES),
        sse(
            {"type": "image_generation.completed", "b64_json": "", "usage": {**NATIVE, "cost": 0.000111}},
            {"type": "image_generation.completed", "b64_json": "", "usage": {**NATIVE, "cost": 0.000111}},
        ),
    ),
    "transcript": (
        SlimMeter(OAI, Answers.TRANSCRIPT),
        json.dumps({"text": "x", "usage": {"type": "duration", "seconds": 3, **COST}}).encode(),
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_cost_is_found_in_every_format(name):
    meter, body = ANSWERS[name]
    for byte in range(0, len(body), 7):
        meter.feed(body[byte : byte + 7])
    meter.flush()
    usage = meter.usage
    assert upstream_cost_nano(usage and usage.extras, meter.usage_raw, is_whole=True) == 222_000


@pytest.mark.parametrize(
    ("cost", "multiplier", "factor", "nano"),
    [
        (150, "1.5", None, 100),
        (100, "0.8", None, 125),
        (12, "1.5", "0.8", 10),
        (100, "3", None, 33),
        (100, "1", None, None),
        (100, "2", "0.5", None),
        (0, "1.5", None, None),
        (0, "0", None, None),
        (5, "0", None, None),
    ],
)
def test_the_cost_before_the_operators_own_factors(cost, multiplier, factor, nano):
    given_factor = None if factor is None else Fraction(factor)
    assert list_cost_nano(cost, Decimal(multiplier), given_factor) == nano
