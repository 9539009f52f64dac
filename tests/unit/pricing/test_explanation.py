"""A record is explained by its own table: what is worked out anew is what was booked, to the nano-dollar."""

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pricing.charge import charge
from app.pricing.explanation import cost_by, explain
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import Terms
from app.wires.usage import Usage

TEXT = """
[[models]]
id = "m"
input = 0.123
output = 4.567
cache_hit = 0.0123
input_audio = 7
units = { web_search = 0.0123456789 }
tiers = [{ above_input_tokens = 1000, input = 0.246, output = 6.8505, cache_hit = 0.0246 }]
service_tiers.batch = { factor = 0.5 }
service_tiers.priority = { factor = 2.5 }
changes = [{ from = 2026-12-01, input = 0.1 }]

[[models]]
id = "helper"
input = 3
output = 15
"""
TABLE = ModelTable.from_toml(TEXT)
OTHER = ModelTable.from_toml(TEXT.replace("4.567", "5").replace("6.8505", "7"))
BEFORE, AFTER = (datetime(2026, month, 30, tzinfo=UTC) for month in (11, 12))

COUNTS = (
    *("input_tokens", "output_tokens", "cache_read_input_tokens"),
    *("cache_creation_5m_input_tokens", "cache_creation_1h_input_tokens"),
)


def record_of(
    usage: Usage, terms: Terms, answered_in: str | None = None, **members: object
) -> dict[str, object]:
    """What a record says of a request that was charged so."""
    charged = charge(TABLE, TABLE.models[0], usage, terms=terms)
    return {
        "_id": "r",
        "model": "m",
        "createdAt": terms.began,
        "costNanoUsd": sum(charged.costs),
        "costItems": [item.to_document() for item in charged.items],
        "priceVersion": TABLE.version,
        "usageSource": "upstream",
        **({} if answered_in is None else {"serviceTier": answered_in}),
        **(
            {}
            if terms.factor is None
            else {"priceFactor": str(Decimal(terms.factor.numerator) / terms.factor.denominator)}
        ),
        **members,
    }


@given(
    st.tuples(*[st.integers(0, 3000)] * 5),
    st.integers(0, 3),
    st.sampled_from([None, "batch", "priority"]),
    st.sampled_from([None, "0.8", "1.25"]),
    st.sampled_from([BEFORE, AFTER]),
    st.booleans(),
)
def test_every_record_explains_itself(counts, searches, tier, factor, began, has_helper) -> None:
    usage = Usage(
        **dict(zip(COUNTS, counts, strict=True)),
        quantities=(("web_search", searches),) if searches else (),
        beside=((("helper", Usage(input_tokens=7, output_tokens=3)),) if has_helper else ()),
    )
    tiers = () if tier is None else (f"service_tier:{tier}",)
    terms = Terms(began, tiers, None if factor is None else Fraction(factor))
    record = record_of(usage, terms, tier)
    found = explain(record, TABLE)
    assert found.agrees
    assert found.terms == terms
    assert found.worked_out_nano == record["costNanoUsd"] == sum(line.nano_usd or 0 for line in found.lines)
    assert found.exact is not None
    assert abs(found.exact - found.worked_out_nano) <= Fraction(1, 2)
    assert cost_by(TABLE, record) == (record["costNanoUsd"], frozenset())


def test_lines_have_quantity_times_price_and_what_decided_the_price() -> None:
    usage = Usage(input_tokens=2000, output_tokens=10, quantities=(("web_search", 1),))
    terms = Terms(BEFORE, ("service_tier:batch",), Fraction("0.8"))
    found = explain(record_of(usage, terms, "batch"), TABLE)
    assert [(line.unit, line.quantity, line.rate) for line in found.lines] == [
        ("input", 2000, Fraction("98.4")),  # 0.246 USD per million is 246 nano-dollars; halved; times 0.8
        ("output", 10, Fraction("2740.2")),
        ("web_search", 1, Fraction("9876543.12")),
    ]
    assert (found.above, found.terms.factor) == (1000, Fraction("0.8"))


def test_what_was_booked_otherwise_is_said() -> None:
    record = record_of(Usage(input_tokens=5, output_tokens=9), Terms(BEFORE))
    assert not explain(record, OTHER).agrees
    for wrong in (
        {"costNanoUsd": 1},
        {"costItems": [{"unit": "output", "quantity": 9, "nanoUsd": record["costNanoUsd"]}]},
    ):
        assert not explain(record | wrong, TABLE).agrees


def test_without_its_text_only_what_was_charged_is_known() -> None:
    record = record_of(Usage(input_tokens=5, output_tokens=9), Terms(BEFORE))
    found = explain(record, None)
    assert (found.agrees, found.worked_out_nano) == (False, None)
    assert [(line.unit, line.rate, line.booked_nano) for line in found.lines] == [
        ("input", None, 615),
        ("output", None, 41_103),
    ]
    gone = explain(record | {"model": "gone"}, TABLE)
    assert not gone.agrees
    assert "no model of this name: gone" in " ".join(gone.notes)
    assert cost_by(TABLE, record | {"model": "gone"}) == (0, frozenset({"gone"}))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"outcome": "rejected"}, "was refused"),
        ({"pending": {"nanoUsd": 5}}, "nobody has seen its end yet"),
        ({"pending": {"nanoUsd": 5, "settledBy": "r2"}}, "request r2 has what it cost"),
        ({"settles": {"id": "resp_1", "requestId": "r0", "isLate": True}}, "Other records were charged"),
        ({}, "Nothing was charged."),
        ({"costItems": "odd", "settles": [], "pending": 7, "unpriced": {}, "costNanoUsd": "1"}, "Nothing"),
    ],
)
def test_what_cost_nothing_says_why(members, said) -> None:
    found = explain({"_id": "r", "costNanoUsd": 0, **members}, None)
    assert found.agrees
    assert said in " ".join(found.notes)


def result(name: str, usage: Usage) -> list[object]:
    charged = charge(TABLE, TABLE.models[0], usage, terms=Terms(BEFORE, ("service_tier:batch",)))
    counts = (usage.input_tokens, usage.output_tokens, usage.cache_creation_input_tokens)
    return [name, sum(charged.costs), *counts, 0, usage.cache_read_input_tokens, 0]


def test_results_of_a_batch_are_each_rounded_and_each_of_a_size_of_its_own() -> None:
    results = [
        result("a", Usage(input_tokens=900, output_tokens=1)),
        result("b", Usage(input_tokens=900, output_tokens=3)),
        result("c", Usage(input_tokens=1001)),
    ]
    cost = sum(int(str(found[1])) for found in results)
    record = {
        "model": "m",
        "createdAt": AFTER,  # seen later; the batch began before the prices changed
        "costNanoUsd": cost,
        "costItems": [],
        "priceVersion": TABLE.version,
        "serviceTier": "batch",
        "settles": {
            "id": "msgbatch_1",
            "requestId": "r0",
            "began": BEFORE,
            "isWhole": True,
            "items": results,
        },
    }
    found = explain(record, TABLE)
    assert found.agrees
    assert (found.worked_out_nano, found.may_differ) == (cost, 0)
    assert [(line.unit, line.quantity, line.rate) for line in found.lines] == [
        ("input", 2801, None),
        ("output", 4, Fraction("2283.5")),
    ]
    assert "3 results of a batch" in " ".join(found.notes)
    now = {**record["settles"], "began": AFTER}
    assert not explain(record | {"settles": now}, TABLE).agrees
    # Units that are told for all together are taken as they are, and leave room for the rounding of each.
    items = [{"unit": "web_search", "quantity": 3, "nanoUsd": 12_345_679 * 3}]
    more = record | {"costItems": items, "costNanoUsd": cost + 12_345_679 * 3 + 2}
    assert explain(more, TABLE).agrees
    assert cost_by(TABLE, record) == (cost, frozenset())


FOREIGN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just({}) | st.just([])
)
ITEM = st.dictionaries(st.sampled_from(["unit", "quantity", "nanoUsd", "model"]), FOREIGN)
RESULTS = st.lists(st.lists(FOREIGN, min_size=6, max_size=9), max_size=2)
PARTS = st.lists(ITEM | FOREIGN, max_size=3) | st.fixed_dictionaries(
    {"items": RESULTS | FOREIGN, "began": FOREIGN}
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("model", "costItems", "costNanoUsd", "priceVersion", "settles", "pending", "unpriced"),
                *("inputTokens", "cacheWrite1hTokens", "usageRaw", "serviceTier", "priceFactor", "createdAt"),
            ]
        ),
        FOREIGN | PARTS | st.just("m"),
    )
)
def test_whatever_a_record_holds_it_is_explained(members) -> None:
    for table in (TABLE, None):
        found = explain(members, table)
        assert isinstance(found.agrees, bool)
    assert isinstance(cost_by(TABLE, members)[0], int)
