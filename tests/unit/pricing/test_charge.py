"""What a request is charged: whose prices, which tokens, and that nothing makes it absurd."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pricing.charge import Charge, ReasoningPlace, charge
from app.pricing.model_table import ModelTable
from app.wires.usage import normalise
from app.wires.wire_format import WireFormat
from tests.unit.wires.metering import counts

TABLE = ModelTable.from_toml(
    """
    [[models]]
    id = "main"
    aliases = ["main-alias"]
    upstream_id = "vendor/main"
    input = 2
    output = 10
    cache_hit = "0.2"
    cache_write = "2.5"

    [[models]]
    id = "wise"
    input = 5
    output = 25

    [[models]]
    id = "dear"
    input = "0.3"
    output = "2.5"
    multiplier = "1.5"
    """
)
ANT, OAI = WireFormat.ANTHROPIC, WireFormat.OPENAI


def charged(
    raw: dict[str, Any], wire_format: WireFormat = ANT, asked: str = "main", **options: Any
) -> Charge:
    model, usage = TABLE.resolve(asked), normalise(raw, wire_format)
    assert model is not None
    assert usage is not None
    return charge(TABLE, model, usage, **options)


def passes(*passes: tuple[str, str | None, int, int]) -> list[dict[str, Any]]:
    return [
        {"type": kind, "input_tokens": i, "output_tokens": o} | ({"model": model} if model else {})
        for kind, model, i, o in passes
    ]


def message(i: int, o: int, *iterations: tuple[str, str | None, int, int]) -> dict[str, Any]:
    return {"input_tokens": i, "output_tokens": o, "iterations": passes(*iterations)}


@pytest.mark.wire(39)
def test_compaction_is_charged_on_top_at_the_models_price() -> None:
    raw = message(200, 10, ("compaction", None, 50_000, 100), ("message", None, 200, 10))
    found = charged(raw)
    assert sum(found.costs) == 101_500_000
    assert (found.usage.input_tokens, found.usage.output_tokens) == (200, 10)
    assert found.usage.flags == {"compaction"}


@pytest.mark.wire(39)
def test_an_advisor_is_charged_at_its_own_price() -> None:
    raw = message(
        2200, 120,
        ("message", None, 1000, 100), ("advisor_message", "wise", 2500, 30), ("message", None, 1200, 20),
    )  # fmt: skip
    found = charged(raw)
    assert sum(found.costs) == 5_600_000 + 13_250_000
    assert (found.usage.flags, found.flags) == ({"advisor"}, frozenset())


@pytest.mark.wire(39)
def test_a_pass_of_an_unknown_model_or_kind_is_charged_as_the_one_asked_for() -> None:
    found = charged(message(10, 1, ("advisor_message", "who", 100, 10)))
    assert sum(found.costs) == 110 * 2000 + 11 * 10_000
    assert found.flags == {"unknown_model"}
    assert charged(message(10, 1, ("new_kind", None, 100, 10))).usage.flags == {"unknown_iteration"}


def test_passes_that_the_counts_include_are_not_charged_twice() -> None:
    found = charged(message(300, 30, ("compaction", None, 200, 20), ("message", None, 100, 10)))
    assert sum(found.costs) == 300 * 2000 + 30 * 10_000
    assert found.usage.flags == {"iterations_inside"}


def test_a_model_that_stepped_in_is_charged_as_itself() -> None:
    raw = message(412, 264, ("message", "main", 408, 0), ("fallback_message", "wise-20260101", 412, 264))
    found = charged(raw, answered="wise-20260101")
    assert sum(found.costs) == 412 * 5000 + 264 * 25_000
    assert found.flags == {"fallback_model"}
    unknown = charged(message(412, 264, ("fallback_message", "who", 412, 264)))
    assert (sum(unknown.costs), unknown.flags) == (3_464_000, {"fallback_model", "unknown_model"})


@pytest.mark.parametrize(
    ("answered", "flags"),
    [
        ("wise", {"model_differs"}),
        ("wise-2026-01-01", {"model_differs"}),
        *((name, set()) for name in ("main", "main-alias", "vendor/main", "main-20260101", "who", None)),
    ],
)
def test_another_model_of_the_table_is_told(answered: str | None, flags: set[str]) -> None:
    found = charged({"input_tokens": 1000, "output_tokens": 0}, answered=answered)
    assert (found.flags, sum(found.costs)) == (flags, 5_000_000 if flags else 2_000_000)
    assert [item.model for item in found.items] == ["wise" if flags else None]


def test_a_cheaper_model_than_the_one_asked_for_is_told_and_not_charged() -> None:
    found = charged({"input_tokens": 1000, "output_tokens": 0}, asked="wise", answered="main")
    assert (found.flags, sum(found.costs)) == ({"model_differs"}, 5_000_000)


def test_of_models_with_one_name_upstream_the_one_asked_for_is_meant() -> None:
    table = ModelTable.from_toml(
        "".join(
            f'[[models]]\nid = "{name}"\nupstream_id = "vendor/x"\ninput = {price}\noutput = 0\n'
            for name, price in (("cheap", 1), ("dear", 9))
        )
    )
    usage = normalise(message(0, 0, ("fallback_message", "vendor/x", 10, 0)) | {"input_tokens": 10}, ANT)
    assert usage is not None
    for asked in table.models:
        found = charge(table, asked, usage)
        assert (found.flags, sum(found.costs)) == ({"fallback_model"}, asked.cost_nano_usd(usage))


def reasoning(told: object, total: int = 11, ticks: object = None) -> dict[str, Any]:
    details = {"reasoning_tokens": 25}
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": total, "cost": told}
    return usage | {"completion_tokens_details": details, "cost_in_usd_ticks": ticks}


@pytest.mark.parametrize("told", [7.02e-05, "0.0000702", f"{'0.0000702':0<40}", {"total_cost": 7.02e-05}])
def test_what_the_upstream_says_it_charged_proves_reasoning_outside(told: object) -> None:
    """It knows nothing of the multiplier."""
    found = charged(reasoning(told), OAI, "dear")
    assert (found.usage.output_tokens, found.usage.reasoning_tokens) == (27, 25)
    assert (found.flags, found.usage.flags) == ({"reasoning_outside"}, frozenset())
    assert sum(found.costs) == 105_300


@pytest.mark.parametrize("ticks", [702_000, "702000"])
def test_some_upstreams_tell_their_charge_in_ticks_of_a_tenth_of_a_nano_dollar(ticks: object) -> None:
    found = charged(reasoning(None, ticks=ticks), OAI, "dear")
    assert (found.flags, sum(found.costs)) == ({"reasoning_outside"}, 105_300)


def test_a_charge_in_dollars_comes_before_one_in_ticks() -> None:
    assert charged(reasoning(7.7e-06, ticks=702_000), OAI, "dear").flags == frozenset()
    assert charged(reasoning(7.02e-05, ticks=77_000), OAI, "dear").flags == {"reasoning_outside"}


@pytest.mark.parametrize(
    "told",
    [
        *(7.7e-06, None, 0, -1, "x", True, [], {}, float("inf"), 10**400, "9" * 99),
        *("nan", "sNaN", "inf", "-inf", "0", "-7.02e-05", "1e999999", f"{'0.0000702':0<41}"),
    ],
)
def test_without_proof_reasoning_is_inside(told: object) -> None:
    found = charged(reasoning(told), OAI, "dear")
    assert (found.usage.output_tokens, found.usage.reasoning_tokens) == (2, 2)
    assert found.usage.flags == {"reasoning_exceeds_output"}


def test_an_upstream_may_be_known_to_tell_reasoning_outside() -> None:
    found = charged(reasoning(None), OAI, "dear", reasoning=ReasoningPlace.OUTSIDE)
    assert found.usage.output_tokens == 27
    proven = charged(reasoning(None, total=36), OAI, "dear", reasoning=ReasoningPlace.OUTSIDE)
    assert (proven.usage.output_tokens, proven.flags) == (27, frozenset())


COUNT = st.one_of(
    st.integers(-5, 10**10), st.none(), st.floats(), st.text(max_size=4), st.sampled_from([0, 5, 9, 10**9])
)
NAMES = (
    *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "cached_tokens"),
    *("cache_read_input_tokens", "cache_creation_input_tokens", "num_cached_tokens", "reasoning_tokens"),
    *("cost", "cost_in_usd_ticks"),
)
DETAILS = st.dictionaries(
    st.sampled_from(["cached_tokens", "cache_write_tokens", "audio_tokens", "reasoning_tokens"]), COUNT
)
ITERATION = st.dictionaries(
    st.sampled_from(["type", "model", *NAMES]),
    COUNT | st.sampled_from(["message", "compaction", "advisor_message", "fallback_message", "wise", "main"]),
)
USAGE = st.dictionaries(st.sampled_from(NAMES), COUNT).flatmap(
    lambda flat: st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens_details": DETAILS | COUNT,
            "completion_tokens_details": DETAILS | COUNT,
            "iterations": st.lists(ITERATION | COUNT, max_size=5) | COUNT,
            "cost": COUNT | st.dictionaries(st.just("total_cost"), COUNT),
        },
    ).map(lambda nested: flat | nested)
)


@given(raw=USAGE, wire_format=st.sampled_from(WireFormat), place=st.sampled_from(ReasoningPlace))
def test_no_usage_makes_a_cost_negative_or_too_large(
    raw: dict[str, Any], wire_format: WireFormat, place: ReasoningPlace
) -> None:
    usage = normalise(raw, wire_format)
    for model in TABLE if usage is not None else ():
        assert usage is not None
        found = charge(TABLE, model, usage, answered="wise", reasoning=place)
        assert min(found.costs) >= 0
        assert sum(found.costs) < 2**63
        assert 0 <= found.usage.reasoning_tokens <= found.usage.output_tokens <= 10**9


@given(
    raw=USAGE,
    wire_format=st.sampled_from(WireFormat),
    more=st.dictionaries(st.text("xyz", min_size=1), COUNT),
)
def test_members_that_nobody_knows_change_nothing(
    raw: dict[str, Any], wire_format: WireFormat, more: dict[str, Any]
) -> None:
    known, seen = normalise(raw, wire_format), normalise(raw | more, wire_format)
    assert (known is None) is (seen is None)
    if known is not None and seen is not None:
        assert (counts(seen), seen.flags, seen.beside) == (counts(known), known.flags, known.beside)
