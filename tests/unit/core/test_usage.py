"""Normalising usage: each token in one place, whatever the shape, and nothing absurd ever comes out."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.usage import Usage, UsageMerger, counted_tokens, normalise
from app.core.usage_fields import MAX_COUNT, clean_count
from app.core.wire_format import WireFormat

OAI, ANT = WireFormat.OPENAI, WireFormat.ANTHROPIC


def counts(usage: Usage | None) -> tuple[int, int, int, int] | None:
    """Fresh, read, written, output."""
    if usage is None:
        return None
    cached = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
    return usage.input_tokens, *cached, usage.output_tokens


def merged(wire_format: WireFormat, *raws: Any) -> Usage | None:
    merger = UsageMerger()
    for raw in raws:
        merger.add(raw)
    return merger.usage(wire_format)


def prompt(p: int, o: int, total: int | None = None, **more: Any) -> dict[str, Any]:
    raw = {"prompt_tokens": p, "completion_tokens": o, **more}
    return raw if total is None else {**raw, "total_tokens": total}


def wire(number: int, *values: Any, id: str | None = None) -> Any:
    return pytest.param(*values, marks=pytest.mark.wire(number), id=id or f"case-{number}")


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


# -- merging --

START = {
    "input_tokens": 300,
    "cache_read_input_tokens": 600,
    "cache_creation_input_tokens": 100,
    "cache_creation": {"ephemeral_5m_input_tokens": 70, "ephemeral_1h_input_tokens": 30},
    "output_tokens": 1,
}


@pytest.mark.parametrize(
    ("raws", "expected"),
    [
        wire(
            21,
            [
                {"input_tokens": 300, "cache_read_input_tokens": 600, "output_tokens": 1},
                {"output_tokens": 50},
            ],
            (300, 600, 0, 50),
        ),
        wire(22, [START, {**START, "output_tokens": 50}], (300, 600, 100, 50)),
        wire(
            23,
            [START, {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 50}],
            (300, 600, 100, 50),
        ),
        wire(
            24,
            [
                {"input_tokens": 5000, "output_tokens": 1},
                {"input_tokens": 200, "cache_read_input_tokens": 4800, "output_tokens": 7},
            ],
            (200, 4800, 0, 7),
        ),
        wire(
            22,
            [START, {"input_tokens": None, "output_tokens": 50}],
            (300, 600, 100, 50),
            id="nulls-say-nothing",
        ),
        wire(23, [START, {"output_tokens": 0}], (300, 600, 100, 1), id="zero-output-stays"),
        wire(
            24,
            [START, {"input_tokens": 0, "cache_read_input_tokens": 900, "cache_creation_input_tokens": 100}],
            (0, 900, 100, 1),
            id="a-zero-beside-a-positive-counts",
        ),
        wire(
            22,
            [START, {"output_tokens": 9, "prompt_tokens_details": {"cached_tokens": 0}}],
            (300, 600, 100, 9),
            id="an-alias-of-zero-says-nothing",
        ),
    ],
)
def test_messages_streams(raws: list[Any], expected: tuple[int, ...]) -> None:
    assert counts(merged(ANT, *raws)) == expected


@pytest.mark.parametrize(
    ("raws", "expected"),
    [
        wire(25, [prompt(5, n, 5 + n) for n in (1, 2, 3)], (5, 0, 0, 3)),
        wire(26, [prompt(9, 2, 11)] * 2, (9, 0, 0, 2)),
        wire(27, [prompt(9, 2, 11), None], (9, 0, 0, 2)),
        wire(27, [prompt(9, 2, 11), prompt(0, 0, 0)], (9, 0, 0, 2), id="zeros-at-the-end"),
        wire(27, [prompt(0, 0, 0), prompt(9, 2, 11)], (9, 0, 0, 2), id="zeros-at-the-start"),
        wire(
            31,
            [prompt(10, 1, 14, cached_tokens=3), prompt(10, 4, 17)],
            (10, 3, 0, 4),
            id="a-new-total-proves",
        ),
        wire(
            31,
            [prompt(10, 4, 17, cached_tokens=3), prompt(10, 4)],
            (10, 3, 0, 4),
            id="same-numbers-keep-the-total",
        ),
        wire(
            31,
            [prompt(10, 4, 17, cached_tokens=3), prompt(10, 5)],
            (7, 3, 0, 5),
            id="other-numbers-drop-the-total",
        ),
    ],
)
def test_chat_streams(raws: list[Any], expected: tuple[int, ...]) -> None:
    assert counts(merged(OAI, *raws)) == expected


@pytest.mark.parametrize(
    ("update", "five_minutes", "one_hour"),
    [
        ({"cache_creation_input_tokens": 100}, 70, 30),
        ({"cache_creation_input_tokens": 50}, 20, 30),
        ({"cache_creation_input_tokens": 10}, 0, 10),
        ({"cache_creation_input_tokens": 0}, 0, 0),
        ({"cache_creation_input_tokens": 200}, 170, 30),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 0}}, 40, 0),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}}, 100, 0),
        (
            {
                "cache_creation_input_tokens": 9,
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 9},
            },
            0,
            9,
        ),
    ],
)
def test_corrected_cache_writes(update: dict[str, Any], five_minutes: int, one_hour: int) -> None:
    usage = merged(ANT, START, {"input_tokens": 1, **update})
    assert usage is not None
    assert usage.cache_creation_5m_input_tokens == five_minutes
    assert usage.cache_creation_1h_input_tokens == one_hour


def test_inclusive_input_stays_inclusive() -> None:
    raws = (
        {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}},
        {"input_tokens": 9, "output_tokens": 2},
    )
    assert counts(merged(OAI, *raws)) == (5, 4, 0, 2)


def test_raw_usage() -> None:
    merger = UsageMerger()
    assert merger.raw is None
    merger.add({"input_tokens": 1}, is_start=True)
    assert merger.raw == {"input_tokens": 1}
    merger.add({"output_tokens": 2})
    assert merger.raw == {"output_tokens": 2, "message_start": {"input_tokens": 1}}


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


# -- whatever goes in --

NUMBERS = st.one_of(
    st.integers(0, 50),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.sampled_from(["7", "x", "", 10**9, 10**9 + 1, "1000000000"]),
)
NAMES = st.sampled_from(
    [
        "prompt_tokens",
        "input_tokens",
        "completion_tokens",
        "output_tokens",
        "total_tokens",
        "reasoning_tokens",
        "cached_tokens",
        "cache_read_input_tokens",
        "prompt_cache_hit_tokens",
        "cache_write_tokens",
        "cache_creation_tokens",
        "thinking_tokens",
        "cached_creation_tokens",
        "cache_creation_input_tokens",
        "claude_cache_creation_5_m_tokens",
        "claude_cache_creation_1_h_tokens",
        "ephemeral_5m_input_tokens",
        "ephemeral_1h_input_tokens",
    ]
)
FLAT = st.dictionaries(NAMES, NUMBERS, max_size=8)
NESTED = st.dictionaries(
    st.sampled_from(
        [
            "prompt_tokens_details",
            "input_tokens_details",
            "completion_tokens_details",
            "output_tokens_details",
            "cache_creation",
            "cache_creation_token_details",
            "iterations",
        ]
    ),
    FLAT | NUMBERS | st.dictionaries(st.just("cache_creation"), FLAT) | st.lists(FLAT, max_size=1),
    max_size=3,
)
USAGES = st.builds(lambda flat, nested: {**flat, **nested}, FLAT, NESTED) | st.none() | st.lists(st.none())


@given(raws=st.lists(USAGES, max_size=4), wire_format=st.sampled_from(WireFormat))
def test_no_count_is_ever_negative_or_absurd(raws: list[Any], wire_format: WireFormat) -> None:
    usage = merged(wire_format, *raws)
    if usage is None:
        return
    for name in (
        "input_tokens",
        "cache_read_input_tokens",
        "cache_creation_5m_input_tokens",
        "cache_creation_1h_input_tokens",
        "cache_creation_input_tokens",
        "output_tokens",
        "reasoning_tokens",
    ):
        count = getattr(usage, name)
        assert type(count) is int
        assert 0 <= count <= MAX_COUNT
    assert usage.reasoning_tokens <= usage.output_tokens


@given(raw=USAGES, wire_format=st.sampled_from(WireFormat), times=st.integers(1, 3))
def test_the_same_usage_again_changes_nothing(raw: Any, wire_format: WireFormat, times: int) -> None:
    once, often = normalise(raw, wire_format), merged(wire_format, *[raw] * times)
    assert repr(once) == repr(often) or once == often


@given(
    fresh=st.integers(0, 10**6),
    read=st.integers(0, 10**6),
    write=st.integers(0, 10**6),
    output=st.integers(1, 10**6),
)
def test_both_formats_of_one_request_cost_the_same(fresh: int, read: int, write: int, output: int) -> None:
    whole = fresh + read + write
    details = {"cached_tokens": read, "cache_write_tokens": write}
    openai = prompt(whole, output, whole + output, prompt_tokens_details=details)
    responses = {"input_tokens": whole, "output_tokens": output, "input_tokens_details": details}
    anthropic = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": write,
        "output_tokens": output,
    }
    found = counts(normalise(openai, OAI))
    assert (
        found
        == counts(normalise(responses, OAI))
        == counts(normalise(anthropic, ANT))
        == (fresh, read, write, output)
    )
