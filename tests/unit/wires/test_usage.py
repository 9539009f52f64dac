"""Normalising usage: each token in one place, whatever the shape, and nothing absurd ever comes out."""

import math
from typing import Any

import pytest

from app.wires.usage import Usage, counted_tokens, normalise
from app.wires.usage_fields import clean_count
from app.wires.wire_format import WireFormat
from tests.unit.wires.metering import ANT, OAI, counts, prompt, wire


@pytest.mark.parametrize(
    ("wire_format", "raw", "expected", "flags"),
    [
        wire(1, OAI, prompt(9, 2, 11), (9, 0, 0, 2), set()),
        wire(
            19,
            OAI,
            prompt(1000, 50, 1050, prompt_tokens_details={"cached_tokens": 600, "cache_write_tokens": 100}),
            (300, 600, 100, 50),
            set(),
        ),
        wire(
            29,
            OAI,
            prompt(
                98805,
                5120,
                103925,
                prompt_tokens_details={"cached_tokens": 66360, "cache_write_tokens": 32435},
                cache_read_input_tokens=66360,
                cache_creation_input_tokens=32435,
            ),
            (10, 66360, 32435, 5120),
            set(),
        ),
        wire(30, OAI, prompt(10, 4, 14, cached_tokens=5000), (10, 5000, 0, 4), {"exclusive_prompt"}),
        wire(31, OAI, prompt(10, 4, 17, cached_tokens=3), (10, 3, 0, 4), {"exclusive_prompt"}),
        wire(32, OAI, prompt(500, 20, input_tokens=0, output_tokens=0), (500, 0, 0, 20), set()),
        wire(
            32,
            ANT,
            prompt(500, 20, input_tokens=0, output_tokens=0),
            (500, 0, 0, 20),
            set(),
            id="case-32-messages",
        ),
        wire(
            33,
            OAI,
            {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 2},
            (7, 3, 0, 2),
            set(),
        ),
        wire(
            34,
            OAI,
            prompt(21, 0, 81, completion_tokens_details={"reasoning_tokens": 60}),
            (21, 0, 0, 60),
            set(),
        ),
        wire(
            34,
            OAI,
            prompt(21, 60, 81, completion_tokens_details={"reasoning_tokens": 60}),
            (21, 0, 0, 60),
            set(),
            id="case-34-inside",
        ),
        wire(40, OAI, {"prompt_tokens": 8, "total_tokens": 8}, (8, 0, 0, 0), set()),
        wire(
            42,
            OAI,
            {
                "input_tokens": 2600,
                "output_tokens": 9,
                "input_tokens_details": {"cached_tokens": 2000, "cache_write_tokens": 400},
            },
            (200, 2000, 400, 9),
            set(),
        ),
    ],
)
def test_single_usage_objects(
    wire_format: WireFormat, raw: Any, expected: tuple[int, ...], flags: set[str]
) -> None:
    usage = normalise(raw, wire_format)
    assert counts(usage) == expected
    assert usage is not None
    assert usage.flags == flags


@pytest.mark.wire(20)
def test_cache_writes_are_split_by_lifetime_and_counted_once() -> None:
    usage = normalise(
        {
            "input_tokens": 300,
            "cache_read_input_tokens": 600,
            "cache_creation_input_tokens": 100,
            "cache_creation": {"ephemeral_5m_input_tokens": 70, "ephemeral_1h_input_tokens": 30},
            "output_tokens": 50,
            "output_tokens_details": {"thinking_tokens": 20},
        },
        ANT,
    )
    assert usage is not None
    assert counts(usage) == (300, 600, 100, 50)
    assert (usage.cache_creation_5m_input_tokens, usage.cache_creation_1h_input_tokens) == (70, 30)
    assert usage.reasoning_tokens == 20
    assert usage.total_input_tokens == 1000


@pytest.mark.parametrize(
    ("raw", "five_minutes", "one_hour"),
    [
        ({"cache_creation_input_tokens": 100}, 100, 0),
        ({"cache_creation_input_tokens": 100, "cache_creation": {"ephemeral_1h_input_tokens": 30}}, 70, 30),
        ({"cache_creation_input_tokens": 10, "cache_creation": {"ephemeral_1h_input_tokens": 30}}, 0, 30),
        ({"cache_creation_input_tokens": 9, "cache_creation": {}}, 9, 0),
        ({"cache_creation_input_tokens": 9, "cache_creation": 7}, 9, 0),
        ({"claude_cache_creation_5_m_tokens": 4, "claude_cache_creation_1_h_tokens": 6}, 4, 6),
        ({"cached_creation_tokens": 5, "cache_creation_tokens": 5, "cache_write_tokens": 5}, 5, 0),
        ({"prompt_tokens_details": {"cached_creation_tokens": 5, "cache_creation_input_tokens": 7}}, 7, 0),
        ({"prompt_tokens_details": {"cache_creation": {"ephemeral_1h_input_tokens": 3}}}, 0, 3),
        ({"prompt_tokens_details": {"cache_creation_token_details": {"ephemeral_5m_input_tokens": 3}}}, 3, 0),
        (
            {"cache_creation": {"ephemeral_5m_input_tokens": 10**9, "ephemeral_1h_input_tokens": 10**9}},
            0,
            10**9,
        ),
    ],
)
def test_names_of_cache_writes(raw: dict[str, Any], five_minutes: int, one_hour: int) -> None:
    usage = normalise({"input_tokens": 1, **raw}, ANT)
    assert usage is not None
    assert usage.cache_creation_5m_input_tokens == five_minutes
    assert usage.cache_creation_1h_input_tokens == one_hour


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt_tokens_details": {"cached_tokens": 6}},
        {"cache_read_input_tokens": 6},
        {"prompt_cache_hit_tokens": 6},
        {"cached_tokens": 6},
        {"cached_tokens": 2, "prompt_cache_hit_tokens": 6, "prompt_tokens_details": {"cached_tokens": 0}},
        {"prompt_tokens_details": {"cache_read_input_tokens": 6}},
    ],
)
def test_names_of_cache_reads_are_compared_never_added(raw: dict[str, Any]) -> None:
    assert counts(normalise(prompt(10, 1, **raw), OAI)) == (4, 6, 0, 1)


@pytest.mark.parametrize(
    ("wire_format", "raw", "expected", "flags"),
    [
        # Equal prompt and input beside cache tokens: inclusive, which may be too little.
        (
            OAI,
            prompt(100, 5, input_tokens=100, output_tokens=5, cached_tokens=40),
            (60, 40, 0, 5),
            {"ambiguous"},
        ),
        # …unless the total or the sizes prove otherwise.
        (OAI, prompt(100, 5, 145, input_tokens=100, cached_tokens=40), (100, 40, 0, 5), {"exclusive_prompt"}),
        (OAI, prompt(100, 5, input_tokens=100, cached_tokens=140), (100, 140, 0, 5), {"exclusive_prompt"}),
        (OAI, prompt(100, 5, input_tokens=100), (100, 0, 0, 5), set()),
        (OAI, prompt(100, 5, input_tokens=60, cached_tokens=40), (60, 40, 0, 5), set()),
        # The endpoint's own family wins where both say something.
        (
            ANT,
            prompt(100, 5, input_tokens=60, output_tokens=7, cache_read_input_tokens=40),
            (60, 40, 0, 7),
            set(),
        ),
        # A Messages answer may say zero fresh input: everything was cached.
        (ANT, prompt(9, 5, input_tokens=0, output_tokens=5, cached_tokens=40), (0, 40, 0, 5), set()),
        # A native zero with nothing cached is no input count at all.
        (ANT, prompt(9, 5, input_tokens=0, output_tokens=5), (9, 0, 0, 5), set()),
        (ANT, prompt(50, 0, cached_tokens=40, output_tokens=7), (10, 40, 0, 7), set()),
        (OAI, {"input_tokens": 9, "completion_tokens": 4}, (9, 0, 0, 4), set()),
        (ANT, {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}}, (5, 4, 0, 0), set()),
        (ANT, {"input_tokens": 9, "input_tokens_details": None, "cached_tokens": 4}, (9, 4, 0, 0), set()),
        (ANT, {"output_tokens": 4}, (0, 0, 0, 4), {"input_missing"}),
        (OAI, {"cached_tokens": 4}, (0, 4, 0, 0), {"input_missing"}),
        (OAI, prompt(0, 0, 0), (0, 0, 0, 0), set()),
    ],
)
def test_families(wire_format: WireFormat, raw: Any, expected: tuple[int, ...], flags: set[str]) -> None:
    usage = normalise(raw, wire_format)
    assert counts(usage) == expected
    assert usage is not None
    assert usage.flags == flags


@pytest.mark.parametrize(
    ("raw", "expected", "reasoning", "flags"),
    [
        # Reasoning and cache are equally many, so the total has two readings; one of them is taken, not both.
        (prompt(100, 20, 180, cached_tokens=60, reasoning_tokens=60), (40, 60, 0, 80), 60, set()),
        (
            prompt(100, 70, 230, cached_tokens=60, reasoning_tokens=60),
            (100, 60, 0, 70),
            60,
            {"exclusive_prompt"},
        ),
        (prompt(100, 20, 120, reasoning_tokens=60), (100, 0, 0, 20), 20, {"reasoning_exceeds_output"}),
        (
            prompt(10, 5, 25, cached_tokens=400, reasoning_tokens=10),
            (10, 400, 0, 15),
            10,
            {"exclusive_prompt"},
        ),
        (prompt(10, 5, 15, completion_tokens_details={"reasoning_tokens": 5}), (10, 0, 0, 5), 5, set()),
    ],
)
def test_reasoning(raw: Any, expected: tuple[int, ...], reasoning: int, flags: set[str]) -> None:
    usage = normalise(raw, OAI)
    assert usage is not None
    assert counts(usage) == expected
    assert usage.reasoning_tokens == reasoning
    assert usage.flags == flags


@pytest.mark.wire(35)
@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("12", 12),
        (12.0, 12),
        (-0.0, 0),
        ("0", 0),
        (10**9, 10**9),
        (12.5, None),
        (-3, None),
        (True, None),
        (math.nan, None),
        (math.inf, None),
        (1e300, None),
        (10**15, None),
        ("12.0", None),
        ("", None),
        ("-1", None),
        ("１２", None),
        ("9" * 5000, None),
        ([], None),
        ({}, None),
    ],
)
def test_counts_are_cleaned(value: Any, count: int | None) -> None:
    assert clean_count(value) == count
    usage = normalise({"prompt_tokens": 5, "completion_tokens": value}, OAI)
    assert counts(usage) == (5, 0, 0, count or 0)
    assert usage is not None
    assert usage.flags == (set() if count is not None else {"bad_usage"})


@pytest.mark.wire(36)
@pytest.mark.parametrize("wire_format", list(WireFormat))
@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        "x",
        7,
        {},
        {"prompt_tokens_details": None},
        {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
        {"prompt_tokens": True},
        {"total_tokens": 9},
        {"completion_tokens_details": {"reasoning_tokens": 4}},
    ],
)
def test_what_tells_nothing_is_unknown(raw: Any, wire_format: WireFormat) -> None:
    assert normalise(raw, wire_format) is None


@pytest.mark.wire(39)
def test_compaction_is_kept_apart() -> None:
    iterations = [{"type": "compaction", "input_tokens": 2000, "output_tokens": 50}, {"type": "message"}, 7]
    usage = normalise({"input_tokens": 300, "output_tokens": 20, "iterations": iterations}, ANT)
    assert counts(usage) == (300, 0, 0, 20)
    assert usage is not None
    assert usage.extras == {"iterations": iterations}
    assert usage.flags == {"compaction"}
    assert normalise({"input_tokens": 3, "iterations": [{"type": "message"}]}, ANT).flags == frozenset()  # type: ignore[union-attr]


@pytest.mark.wire(41)
def test_server_tools_and_speed_are_noted() -> None:
    raw = {
        "input_tokens": 3,
        "output_tokens": 2,
        "server_tool_use": {"web_search_requests": 2},
        "speed": "fast",
    }
    usage = normalise(raw, ANT)
    assert usage is not None
    assert usage.extras == {"server_tool_use": {"web_search_requests": 2}, "speed": "fast"}


@pytest.mark.wire(40)
def test_counted_tokens() -> None:
    usage = counted_tokens({"input_tokens": 42})
    assert usage == Usage(counted_input_tokens=42)
    assert counted_tokens({"input_tokens": None}) is None
