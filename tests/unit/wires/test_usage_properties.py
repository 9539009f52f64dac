"""Whatever an upstream reports, no count is negative or absurd, and nothing is counted twice."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.wires.usage import normalise
from app.wires.usage_fields import (
    MAX_COUNT,
    READ_ALIASES,
    REASONING_ALIASES,
    WRITE_1H_ALIASES,
    WRITE_5M_ALIASES,
    WRITE_ALIASES,
    clean_fields,
    highest,
    highest_of_each,
    merge_fields,
)
from app.wires.wire_format import WireFormat
from tests.unit.wires.metering import ANT, OAI, counts, merged, prompt

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


@given(raw=st.builds(lambda flat, nested: {**flat, **nested}, FLAT, NESTED))
def test_the_first_usage_of_an_answer_is_merged_and_read_as_any_other(raw: dict[str, Any]) -> None:
    fields, _ = clean_fields(raw)
    first: dict[str, int] = {}
    later = {"another": 0}

    merge_fields(first, fields)
    merge_fields(later, fields)

    assert {**first, "another": 0} == later
    for aliases in (READ_ALIASES, WRITE_ALIASES, WRITE_5M_ALIASES, WRITE_1H_ALIASES, REASONING_ALIASES):
        assert highest_of_each(first).get(aliases, 0) == highest(first, aliases)
