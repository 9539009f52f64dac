"""A rate card knows prices by size, tier, region and date; costs add up, and never depend on order."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pricing.charge import Charge, charge
from app.pricing.model import Model
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import STANDARD, Line, Terms, itemised
from app.pricing.recharge import recharge
from app.pricing.table_parser import ModelTableError
from app.wires.usage import Usage, normalise
from app.wires.wire_format import WireFormat

TABLE = ModelTable.from_toml(
    """
    [[models]]
    id = "m"
    input = 5
    output = 30
    cache_hit = 0.5
    units = { web_search = 0.01 }
    [[models.tiers]]
    above_input_tokens = 272000
    input = 10
    output = 45
    [[models.tiers]]
    above_input_tokens = 500_000
    output = 50
    [models.service_tiers.batch]
    factor = "0.5"
    [models.service_tiers.priority]
    factor = 2
    output = 75
    units = { web_search = 0.02 }
    [models.inference_geo.us]
    factor = "1.1"
    [[models.changes]]
    from = 2026-12-15
    input = 4
    [[models.changes]]
    from = 2027-01-01T06:00:00+02:00
    multiplier = 2
    tiers = []
    [models.changes.service_tiers.batch]
    factor = "0.25"

    [[models]]
    id = "fast"
    input = 5
    output = 25
    [models.service_tiers.fast]
    factor = 2

    [groups.resellers]
    price_factor = "0.8"
    """
)
M, FAST = TABLE.models
BATCH, FLEX = "service_tier:batch", "service_tier:flex"
BEFORE = datetime(2026, 12, 14, 23, 59, 59, 999999, tzinfo=UTC)


def cost(usage: Usage, model: Model = M, **terms: Any) -> int:
    found = charge(TABLE, model, usage, terms=Terms(**terms))
    assert sum(item.nano_usd for item in found.items) == sum(found.costs)
    return sum(found.costs)


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        (Usage(input_tokens=272_000, output_tokens=1), 272_000 * 5_000 + 30_000),
        (Usage(input_tokens=272_001, output_tokens=1), 272_001 * 10_000 + 45_000),
        # All of the input counts, whatever was cached of it. A cache write follows the price of input.
        (Usage(input_tokens=1, cache_read_input_tokens=272_000), 10_000 + 272_000 * 500),
        (Usage(input_tokens=1, cache_creation_1h_input_tokens=272_000), 10_000 + 272_000 * 20_000),
        (Usage(input_tokens=500_000, output_tokens=1), 500_000 * 10_000 + 45_000),
        (Usage(input_tokens=500_001, output_tokens=1), 500_001 * 5_000 + 50_000),
    ],
)
def test_beyond_a_limit_all_of_a_request_costs_more(usage: Usage, nano: int) -> None:
    assert cost(usage) == M.cost_nano_usd(usage) == nano


def test_of_several_passes_the_largest_decides_and_not_their_sum() -> None:
    passes = [{"type": "message", "input_tokens": count, "output_tokens": 1} for count in (200_000, 150_000)]
    compaction = [{"type": "compaction", "input_tokens": 200_000, "output_tokens": 0}] * 2
    counts = {"input_tokens": 350_000, "output_tokens": 2}
    usage = normalise({**counts, "iterations": [*passes, *compaction]}, WireFormat.ANTHROPIC)
    assert usage is not None
    assert cost(usage) == 350_000 * 5_000 + 60_000 + 400_000 * 5_000
    told = {**counts, "iterations": [*passes, *compaction]}
    stored = {"model": "m", "usageRaw": told, "costItems": [
        item.to_document() for item in charge(TABLE, M, usage).items
    ]}  # fmt: skip
    assert sum(recharge(TABLE, stored).costs) == cost(usage)
    passes[0]["input_tokens"], counts["input_tokens"] = 272_001, 422_001
    usage = normalise({**counts, "iterations": passes}, WireFormat.ANTHROPIC)
    assert usage is not None
    assert cost(usage) == 422_001 * 10_000 + 90_000


@pytest.mark.parametrize(
    ("tiers", "nano"),
    [
        ((), 5_000 + 30_000 + 10_000_000),
        ((BATCH,), 2_500 + 15_000 + 10_000_000),
        (("service_tier:priority",), 10_000 + 75_000 + 20_000_000),
        (("service_tier:fast",), 10_000 + 75_000 + 20_000_000),
        (("inference_geo:us",), 5_500 + 33_000 + 10_000_000),
        ((BATCH, "inference_geo:us"), 2_750 + 16_500 + 10_000_000),
        ((FLEX, "speed:fast", "inference_geo:eu"), 5_000 + 30_000 + 10_000_000),
        (("service_tier:inference_geo:us",), 5_000 + 30_000 + 10_000_000),
    ],
)  # fmt: skip
def test_the_tier_it_was_answered_in_has_its_own_prices(tiers: tuple[str, ...], nano: int) -> None:
    usage = Usage(input_tokens=1, output_tokens=1, quantities=(("web_search", 1),))
    assert cost(usage, tiers=tiers) == nano


def test_a_tier_without_a_price_is_charged_as_the_standard_and_named() -> None:
    usage = Usage(input_tokens=1, beside=(("fast", Usage(output_tokens=1)),))
    found = charge(TABLE, M, usage, terms=Terms(tiers=(FLEX, "speed:fast", "inference_geo:us")))
    assert found.unpriced == {FLEX, "speed:fast", "inference_geo:us"}
    assert sum(found.costs) == 5_500 + 50_000
    assert charge(TABLE, FAST, Usage(), terms=Terms(tiers=("speed:fast",))).unpriced == frozenset()


def test_a_long_request_raises_the_price_of_a_tier_as_it_raises_the_standard_one() -> None:
    usage = Usage(input_tokens=272_001, output_tokens=10)
    assert cost(usage, tiers=(BATCH,)) == 272_001 * 5_000 + 10 * 22_500
    assert cost(usage, tiers=("service_tier:priority",)) == 272_001 * 20_000 + 10 * 112_500


@pytest.mark.parametrize(
    ("began", "nano"),
    [
        (None, 5_000),
        (BEFORE, 5_000),
        (BEFORE + timedelta(microseconds=1), 4_000),
        (datetime(2027, 1, 1, 3, 59, 59, tzinfo=UTC), 4_000),
        (datetime(2027, 1, 1, 4, tzinfo=UTC), 8_000),
    ],
)
def test_prices_change_on_a_day_for_requests_that_begin_then(began: datetime | None, nano: int) -> None:
    assert cost(Usage(input_tokens=1), began=began) == nano
    assert cost(Usage(output_tokens=1), began=began) == (30_000 if nano < 8_000 else 60_000)


def test_a_tier_may_have_prices_of_its_own_for_long_requests() -> None:
    card = """
        [[models]]
        id = "x"
        input = 2
        output = 10
        tiers = [{ above_input_tokens = 100, input = 4, output = 15 }]
        [models.service_tiers.priority]
        factor = 2
        tiers = [{ above_input_tokens = 100, input = 4 }]
        [models.inference_geo.us]
        factor = "1.1"
        """
    (model,) = ModelTable.from_toml(card).models
    priority = Terms(tiers=("service_tier:priority",))
    usage = Usage(input_tokens=101, output_tokens=1)
    assert model.cost_nano_usd(usage, priority) == 101 * 4_000 + 30_000
    there = Terms(tiers=("service_tier:priority", "inference_geo:us"))
    assert model.cost_nano_usd(usage, there) == 101 * 4_400 + 33_000
    assert model.cost_nano_usd(Usage(input_tokens=100), priority) == 400_000


def test_a_change_is_made_of_what_was_there_before() -> None:
    late = datetime(2028, 1, 1, tzinfo=UTC)
    assert cost(Usage(output_tokens=1, input_tokens=600_000), began=late) == 600_000 * 8_000 + 60_000
    assert cost(Usage(output_tokens=4), began=late, tiers=(BATCH,)) == 60_000
    assert cost(Usage(quantities=(("web_search", 1),)), began=late) == 20_000_000


def test_the_factor_of_a_user_is_for_all_of_a_request_and_rounded_once() -> None:
    usage = Usage(input_tokens=1, output_tokens=1, quantities=(("web_search", 1),))
    assert cost(usage, factor=TABLE.groups["resellers"]) == 28_000 + 8_000_000
    assert cost(Usage(input_tokens=3), factor=Fraction(1, 7_000)) == 2
    assert cost(usage, factor=Fraction(0)) == 0


def test_credit_is_held_for_the_dearest_terms_that_can_come() -> None:
    usual = M.card.dearest(272_000, [STANDARD])
    assert usual is M.card.rates(Usage())
    assert usual.output_nano(1) == 30_000
    assert M.card.dearest(272_001, [STANDARD]).output_nano(1) == 45_000
    priority = M.card.dearest(272_000, [STANDARD, Terms(tiers=("service_tier:priority",))])
    assert (priority.output_nano(1), priority.most_nano(1, is_cached_long=True)) == (75_000, 20_000)
    assert priority.rate("web_search") == (20_000_000, True)
    assert M.card.dearest(600_000, [STANDARD]).output_nano(1) == 50_000


UNITS = ("input", "output", "cache_hit", "web_search", "second")
LINES = st.lists(
    st.builds(
        lambda unit, quantity, rate: (None, Line(unit, quantity, rate, True)),
        st.sampled_from(UNITS),
        st.integers(1, 10**9) | st.decimals("0.001", 10**5, places=3),
        st.fractions(0, 10**6, max_denominator=10**6),
    ),
    max_size=8,
)


@given(LINES, st.randoms(use_true_random=False))
def test_a_cost_is_the_same_in_any_order_and_its_items_add_up(lines: list[Any], random: Any) -> None:
    mixed = list(lines)
    random.shuffle(mixed)
    (items, costs), (others, _) = itemised(lines), itemised(mixed)
    assert sum(item.nano_usd for item in items) == sum(item.nano_usd for item in others) == sum(costs)
    assert min((item.nano_usd for item in items), default=0) >= 0
    exact = sum((line.rate * Fraction(line.quantity) for _, line in lines), Fraction(0))
    assert abs(sum(costs) - exact) <= Fraction(1, 2)


@given(LINES, LINES)
def test_costs_add_up_but_for_the_one_rounding(one: list[Any], other: list[Any]) -> None:
    parts = sum(itemised(one)[1]) + sum(itemised(other)[1])
    assert abs(sum(itemised(one + other)[1]) - parts) <= 1


USAGES = st.builds(
    Usage,
    input_tokens=st.integers(0, 600_000),
    cache_read_input_tokens=st.integers(0, 600_000),
    cache_creation_5m_input_tokens=st.integers(0, 600_000),
    cache_creation_1h_input_tokens=st.integers(0, 600_000),
    output_tokens=st.integers(0, 10**6),
)
TERMS = st.builds(
    Terms,
    began=st.sampled_from([None, BEFORE, BEFORE + timedelta(days=5), BEFORE + timedelta(days=500)]),
    tiers=st.lists(
        st.sampled_from([BATCH, FLEX, "service_tier:priority", "inference_geo:us"]), max_size=2, unique=True
    ).map(tuple),
    factor=st.none() | st.fractions(0, 10, max_denominator=1000),
)  # fmt: skip


@given(USAGES, TERMS, st.sampled_from(("output_tokens", "cache_read_input_tokens")), st.integers(1, 10**5))
def test_more_never_costs_less_and_the_fast_way_costs_what_the_general_one_does(
    usage: Usage, terms: Terms, name: str, more: int
) -> None:
    rates = M.card.rates(usage, terms)
    found = charge(TABLE, M, usage, terms=terms)
    lines = [(None, line) for line in rates.lines(usage)]
    assert (found.items, found.costs) == rates.text_cost(usage) == itemised(lines)
    larger = Usage(**{field: getattr(usage, field) for field in COUNTS} | {name: getattr(usage, name) + more})
    if _tier(larger) == _tier(usage):
        assert cost(larger, **terms._asdict()) >= sum(found.costs)
    highest = M.card.dearest(usage.total_input_tokens, [terms])
    output = highest.output_nano(usage.output_tokens)
    most = highest.most_nano(usage.total_input_tokens, is_cached_long=True) + output
    assert sum(found.costs) <= most


COUNTS = (
    *("input_tokens", "cache_read_input_tokens", "cache_creation_5m_input_tokens"),
    *("cache_creation_1h_input_tokens", "output_tokens"),
)


def _tier(usage: Usage) -> int:
    return sum(usage.total_input_tokens > limit for limit in (272_000, 500_000))


def test_an_absurd_product_of_factors_stays_within_64_bits() -> None:
    prices = "input = 50000\noutput = 0\ncache_write = 0\ncache_write_1h = 0"
    tiers = "[models.service_tiers.fast]\nfactor = 2\n[models.inference_geo.us]\nfactor = 2"
    table = ModelTable.from_toml(f'[[models]]\nid = "x"\n{prices}\n{tiers}')
    terms = Terms(None, ("speed:fast", "inference_geo:us"), Fraction(10))
    found = charge(table, table.models[0], Usage(input_tokens=10**9), terms=terms)
    assert sum(found.costs) == 10**17


GOOD = '[[models]]\nid = "a"\ninput = 1\noutput = 2\n'


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("[[models.tiers]]", "model 'a': tiers 1: above_input_tokens: must be a whole number from 1 to", 5),
        ("[[models.tiers]]\nabove_input_tokens = 5",
         "model 'a': tiers 1: above_input_tokens: no price is different beyond it", 6),
        ("[[models.tiers]]\nabove_input_tokens = 5\ninput = 2\n\n[[models.tiers]]\ninput = 1\n"
         "above_input_tokens = 5",
         "model 'a': tiers 2: above_input_tokens: must be more than that of the tier before", 11),
        ("[[models.tiers]]\nabove_input_tokens = 5\nimage = 2", "model 'a': tiers 1: image: unknown key", 7),
        ("tiers = 5", "model 'a': tiers: must be a list of tables, [[models.tiers]]", 5),
        ("[[models.tiers]]\nabove_input_tokens = 5\ninput = 100_001",
         "model 'a': tiers 1: input: above 100000 USD per million tokens", 7),
        ("service_tiers = 5", "model 'a': service_tiers: must be a table, [models.service_tiers.NAME]", 5),
        ("[models.service_tiers.batch]", "model 'a': service_tiers: batch: needs a factor, or prices", 5),
        ("[models.service_tiers.batch]\nfactor = 11",
         "model 'a': service_tiers: batch: factor: must be 10 at most, not 11", 6),
        ('[models.service_tiers."b c"]\nfactor = 1',
         "model 'a': service_tiers: 'b c': must be at most 64 letters, digits, dots, dashes, underscores", 5),
        ("[models.service_tiers.batch]\nfactor = 1\nmultiplier = 1",
         "model 'a': service_tiers: batch: multiplier: unknown key", 7),
        ("[[models.service_tiers.x.tiers]]\nabove_input_tokens = 7\ninput = 1",
         "model 'a': service_tiers: x: tiers: 7 is no limit of the model's own tiers", 5),
        ("[models.inference_geo.us]\nfactor = true",
         "model 'a': inference_geo: us: factor: must be a number", 6),
        ("[[models.changes]]",
         "model 'a': changes 1: from: must be a date, as in 2026-12-15, without quotes", 5),
        ("[[models.changes]]\nfrom = 2026-12-15", "model 'a': changes 1: from: nothing changes then", 6),
        ('[[models.changes]]\nfrom = "2026-12-15"\ninput = 1',
         "model 'a': changes 1: from: must be a date, as in 2026-12-15, without quotes", 6),
        ("[[models.changes]]\nfrom = 2026-12-15T00:00:00\ninput = 1",
         "model 'a': changes 1: from: must say its offset from UTC, as in 2026-12-15T00:00:00Z", 6),
        ("[[models.changes]]\nfrom = 2026-12-15\ninput = 1\n[[models.changes]]\nfrom = 2026-12-15\ninput = 2",
         "model 'a': changes 2: from: must be later than that of the change before", 9),
        ("[[models.changes]]\nfrom = 2026-12-15\nid = 1", "model 'a': changes 1: id: unknown key", 7),
        ("[[models.changes]]\nfrom = 2026-12-15\n\ninput = -1",
         "model 'a': changes 1: input: must be 0 or more, not -1", 8),
        ("[groups.x]", "groups: x: price_factor: missing", 5),
        ("[groups.x]\nprice_factor = 10.5", "groups: x: price_factor: must be 10 at most, not 10.5", 6),
        ("[groups.x]\nfactor = 1", "groups: x: factor: unknown key", 6),
        ("[groups]\nx = 1", "groups: x: must be a table, [groups.x]", 6),
        ("[[groups]]", "groups: must be a table, [groups.NAME]", 5),
        ('[groups."a b"]',
         "groups: 'a b': must be at most 64 letters, digits, dots, dashes, underscores", 5),
        ("[other]", "unknown key 'other': only [[models]] and [groups] are known", 5),
        # What only looks like the start of a model is none.
        ('name = """\n[[models]]\n"""\nunits = { image = [\n1,\n2\n]}',
         "model 'a': units: image: must be a number", 11),
        (GOOD, "model 'a': id: used twice", 6),
    ],
)  # fmt: skip
def test_a_table_that_is_wrong_says_on_which_line(text: str, message: str, line: int | None) -> None:
    with pytest.raises(ModelTableError) as caught:
        ModelTable.from_toml(GOOD + text)
    told = str(caught.value)
    assert told.startswith(message)
    assert told.endswith(f" (at line {line})" if line else message)


def test_nothing_but_prices_of_tokens_and_units_is_shown_of_a_tier() -> None:
    assert M.price.input == Decimal(5)
    assert [tier.price.cache_write for tier in M.card.tiers] == [Decimal("12.5"), Decimal("6.25")]
    assert M.card.surcharges["batch"].price.cache_hit == Decimal("0.25")


def test_a_charge_without_terms_is_the_standard_one() -> None:
    found: Charge = charge(TABLE, M, Usage(input_tokens=2))
    assert found == charge(TABLE, M, Usage(input_tokens=2), terms=STANDARD)
