"""A stored record comes by its own table to what it was charged, and by another to what that says."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pricing.charge import charge
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import Costs, Terms
from app.pricing.recharge import recharge, terms_of
from app.records.records import ExchangeRecord, Outcome
from app.wires.usage import Usage

TABLE = ModelTable.from_toml(
    """
    [[models]]
    id = "m"
    input = 5
    output = 30
    units = { web_search = 0.01, second = "0.00017" }
    tiers = [{ above_input_tokens = 1000, input = 10 }]
    service_tiers.batch.factor = "0.5"
    [[models.changes]]
    from = 2026-12-15
    input = 4
    [[models]]
    id = "other"
    input = "0.0003"
    output = 7
    tiers = [{ above_input_tokens = 100, output = 8 }]
    """
)
DEARER = ModelTable.from_toml('[[models]]\nid = "m"\ninput = 50\noutput = 300')
BEGAN = datetime(2026, 12, 14, tzinfo=UTC)
COUNTS = st.integers(0, 2000)
USAGE = st.builds(
    Usage,
    input_tokens=COUNTS,
    cache_read_input_tokens=COUNTS,
    cache_creation_1h_input_tokens=COUNTS,
    output_tokens=COUNTS,
)
BESIDE = st.lists(st.tuples(st.sampled_from(["other", "m", None]), USAGE), max_size=3).map(tuple)
QUANTITIES = st.lists(
    st.sampled_from([("web_search", 3), ("second", Decimal("12.5")), ("gone", 1)]), unique=True
).map(tuple)


def record(usage: Usage, terms: Terms, **members: Any) -> dict[str, Any]:
    """Return what is stored of a request of the first model."""
    assert terms.began is not None
    charged = charge(TABLE, TABLE.models[0], usage, terms=terms)
    made = ExchangeRecord("r", "u", "k", terms.began, "openai", Outcome.OK, 200, model="m")
    kept = replace(
        made,
        input_tokens=usage.input_tokens,
        cache_hit_tokens=usage.cache_read_input_tokens,
        cache_write_tokens=usage.cache_creation_input_tokens,
        cache_write_1h_tokens=usage.cache_creation_1h_input_tokens,
        output_tokens=usage.output_tokens,
        cost_items=charged.items,
        cost_nano_usd=sum(charged.costs),
    )
    factor = {} if terms.factor is None else {"priceFactor": str(Decimal(terms.factor.numerator) / 4)}
    return bson.decode(bson.encode(kept.to_document() | factor | members))


@given(USAGE, BESIDE, QUANTITIES, st.booleans(), st.sampled_from([None, Fraction(3, 4)]), st.integers(0, 1))
def test_a_record_explains_itself(
    usage: Usage, beside: Any, quantities: Any, is_batch: bool, factor: Fraction | None, days: int
) -> None:
    usage = Usage(
        **{name: getattr(usage, name) for name in usage.__struct_fields__}
        | {"beside": beside, "quantities": quantities}
    )
    terms = Terms(BEGAN.replace(day=14 + days), ("service_tier:batch",) if is_batch else (), factor)
    charged = charge(TABLE, TABLE.models[0], usage, terms=terms)
    stored = record(usage, terms, serviceTier="batch" if is_batch else "default")
    assert terms_of(stored) == terms
    found = recharge(TABLE, stored)
    assert sum(found.costs) == stored["costNanoUsd"] == sum(charged.costs)
    assert [item.to_document() for item in found.items] == stored.get("costItems", [])
    assert (found.unpriced, found.missing) == (charged.unpriced, frozenset())


def test_another_table_says_what_it_would_have_been() -> None:
    stored = record(Usage(input_tokens=10, output_tokens=1, beside=(("other", Usage(output_tokens=5)),)),
                    Terms(BEGAN))  # fmt: skip
    found = recharge(DEARER, stored)
    assert found.costs == Costs(input=500_000, output=300_000)
    assert found.missing == {"other"}


def test_earlier_records_have_counts_alone() -> None:
    stored = record(Usage(input_tokens=10, cache_creation_1h_input_tokens=3, output_tokens=1), Terms(BEGAN))
    del stored["costItems"]
    assert sum(recharge(TABLE, stored).costs) == stored["costNanoUsd"]


def test_what_a_record_settles_began_earlier() -> None:
    stored = record(Usage(input_tokens=10), Terms(datetime(2026, 12, 16, tzinfo=UTC)))
    assert sum(recharge(TABLE, stored).costs) == 40_000
    assert sum(recharge(TABLE, stored | {"settles": {"began": BEGAN}}).costs) == 50_000


def test_of_a_batch_each_request_has_its_own_size() -> None:
    rows = [[f"r{number}", 0, 300, 1, 100, 0, 200, 0] for number in range(4)]
    stored = record(Usage(input_tokens=1200, cache_read_input_tokens=800), Terms(BEGAN))
    assert sum(recharge(TABLE, stored).costs) == 12_800_000
    assert sum(recharge(TABLE, stored | {"settles": {"items": rows}}).costs) == 6_400_000


FOREIGN = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2) | st.floats()
NAMES = ("costItems", "settles", "usageRaw", "serviceTier", "priceFactor", "model", "createdAt")
ITEM = st.dictionaries(st.sampled_from(["unit", "quantity", "model"]), FOREIGN)
ITEMS = st.lists(ITEM | FOREIGN, max_size=3)


@given(st.dictionaries(st.sampled_from(NAMES), FOREIGN | ITEMS | st.dictionaries(st.just("items"), ITEMS)))
def test_records_that_anybody_may_have_written_break_nothing(stored: dict[str, Any]) -> None:
    found = recharge(TABLE, stored)
    assert min(found.costs) >= 0


@pytest.mark.parametrize("factor", ["1", "x", "-1", "NaN", "Infinity", None, 0.5, ""])
def test_a_factor_that_is_none_is_1(factor: Any) -> None:
    assert terms_of({"priceFactor": factor}).factor is None
