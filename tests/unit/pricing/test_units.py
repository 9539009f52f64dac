"""What is charged beside text tokens: priced exactly, itemised, and never silently free."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pricing.charge import Charge, charge
from app.pricing.model import Model
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import Costs
from app.pricing.table_parser import ModelTableError
from app.wires.units import PART_OF, clean_quantity, image_unit, tool_counts
from app.wires.usage import Usage, UsageMerger, normalise
from app.wires.wire_format import WireFormat

TABLE = ModelTable.from_toml(
    """
    [[models]]
    id = "m"
    input = 2
    cache_hit = 0.2
    cache_write = 2.5
    output = 10
    [models.units]
    web_search = 0.01
    second = 0.0001

    [[models]]
    id = "image"
    input = 5
    cache_hit = 1.25
    output = 10
    input_image = 8
    cache_hit_image = 2
    output_image = 30
    [models.units]
    image = 0.04
    "image:high" = 0.1
    "image:high:1024x1024" = 0.133

    [[models]]
    id = "embedding"
    input = 0.02

    [[models]]
    id = "speech"
    multiplier = 2
    [models.units]
    character = "0.000015"
    """
)
OAI, ANT = WireFormat.OPENAI, WireFormat.ANTHROPIC


def model(name: str) -> Model:
    found = TABLE.resolve(name)
    assert found is not None
    return found


def charged(name: str, usage: Usage | None) -> Charge:
    assert usage is not None
    return charge(TABLE, model(name), usage)


def items(found: Charge) -> list[tuple[str, Any, int]]:
    assert sum(item.nano_usd for item in found.items) == sum(found.costs)
    return [(item.unit, item.quantity, item.nano_usd) for item in found.items]


def test_searches_are_priced_beside_tokens() -> None:
    told = {"web_search_requests": 3, "web_fetch_requests": 2}
    found = charged("m", normalise({"input_tokens": 10, "output_tokens": 5, "server_tool_use": told}, ANT))
    assert items(found) == [("input", 10, 20_000), ("output", 5, 50_000), ("web_search", 3, 30_000_000)]
    assert (found.unpriced, found.costs) == (frozenset(), Costs(20_000, 50_000, 0, 0, 30_000_000))


IMAGES = {
    "input_tokens": 250,
    "input_tokens_details": {"text_tokens": 50, "image_tokens": 200},
    "output_tokens": 1300,
    "output_tokens_details": {"image_tokens": 1100, "text_tokens": 200},
    "total_tokens": 1500,
}


def test_tokens_of_other_kinds_have_prices_of_their_own() -> None:
    found = charged("image", normalise(IMAGES, OAI))
    assert items(found) == [
        *(("input", 50, 250_000), ("output", 200, 2_000_000)),
        *(("input_image", 200, 1_600_000), ("output_image", 1100, 33_000_000)),
    ]
    assert (sum(found.costs), found.unpriced) == (36_850_000, frozenset())
    assert found.costs == Costs(input=1_850_000, output=35_000_000)
    assert (found.usage.input_tokens, found.usage.output_tokens) == (250, 1300)


def test_what_was_cached_of_them_is_a_cache_hit() -> None:
    details = {
        "cached_tokens": 100,
        "image_tokens": 200,
        "cached_tokens_details": {"text_tokens": 20, "image_tokens": 80},
    }
    usage = normalise({"input_tokens": 250, "input_tokens_details": details, "output_tokens": 0}, OAI)
    assert items(charged("image", usage)) == [
        *(("input", 30, 150_000), ("cache_hit", 20, 25_000)),
        *(("cache_hit_image", 80, 160_000), ("input_image", 120, 960_000)),
    ]


def test_without_a_price_they_cost_what_text_costs_and_are_told() -> None:
    raw = {"prompt_tokens": 100, "completion_tokens": 20}
    audio = {
        "prompt_tokens_details": {"audio_tokens": 60},
        "completion_tokens_details": {"audio_tokens": 15, "reasoning_tokens": 2},
    }
    plain, found = charged("m", normalise(raw, OAI)), charged("m", normalise(raw | audio, OAI))
    assert sum(found.costs) == sum(plain.costs) == 400_000
    assert (plain.unpriced, items(plain)) == (frozenset(), [("input", 100, 200_000), ("output", 20, 200_000)])
    assert found.unpriced == {"input_audio", "output_audio"}


def test_more_of_a_kind_than_there_is_in_all_is_cut() -> None:
    raw = {"prompt_tokens": 10, "completion_tokens": 3, "completion_tokens_details": {"image_tokens": 9}}
    usage = normalise(raw, OAI)
    assert usage is not None
    assert usage.quantities == (("output_image", 3),)


def test_a_count_of_zero_of_a_kind_leaves_the_charge_plain() -> None:
    raw = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"audio_tokens": 0}}
    assert items(charged("m", normalise(raw, OAI))) == [("input", 10, 20_000), ("output", 3, 30_000)]


@pytest.mark.parametrize(
    ("unit", "nano", "is_priced"),
    [
        ("image:high:1024x1024", 133_000_000, True),
        ("image:high:1536x1024", 100_000_000, True),
        ("image:low:1024x1024", 40_000_000, True),
        ("image", 40_000_000, True),
        ("search_unit", 0, False),
    ],
)
def test_a_sort_of_a_unit_has_the_price_of_the_next_general_one(
    unit: str, nano: int, is_priced: bool
) -> None:
    found = charged("image", Usage(quantities=((unit, 2),)))
    assert items(found) == [(unit, 2, 2 * nano)]
    assert found.unpriced == (frozenset() if is_priced else {unit})


def test_what_has_no_price_is_told_even_if_it_is_text() -> None:
    found = charged("embedding", Usage(input_tokens=8, output_tokens=1))
    assert (sum(found.costs), found.unpriced) == (160, {"output"})
    assert charged("embedding", Usage(input_tokens=8)).unpriced == frozenset()


def test_the_multiplier_is_for_all_units_and_fractions_are_exact() -> None:
    assert sum(charged("speech", Usage(quantities=(("character", 5),))).costs) == 150_000
    found = charged("m", Usage(quantities=(("second", Decimal("12.5")),)))
    assert items(found) == [("second", Decimal("12.5"), 1_250_000)]


def test_passes_of_other_models_are_items_of_their_own() -> None:
    image = Usage(quantities=(("image:high", 1),))
    usage = Usage(input_tokens=10, beside=(("image", image), ("gone", Usage(input_tokens=1))))
    found = charged("m", usage)
    assert [(item.unit, item.nano_usd, item.model) for item in found.items] == [
        *(("input", 20_000, None), ("image:high", 100_000_000, "image"), ("input", 2000, None)),
    ]
    assert found.flags == {"unknown_model"}


PRICES = st.decimals(0, 100, places=7)
UNITS = (*PART_OF, "web_search", "image:low", "second")


@given(
    prices=st.dictionaries(st.sampled_from(("input", "output", *PART_OF)), PRICES, min_size=1),
    units=st.dictionaries(st.sampled_from(["web_search", "image", "second"]), PRICES),
    multiplier=st.decimals(0, 1, places=3),
    tokens=st.tuples(*[st.integers(0, 10**9)] * 3),
    quantities=st.dictionaries(
        st.sampled_from(UNITS), st.integers(1, 10**6) | st.decimals("0.001", 10**5, places=3)
    ),
)
def test_items_add_up_to_the_cost_which_is_rounded_once(
    prices: dict[str, Decimal],
    units: dict[str, Decimal],
    multiplier: Decimal,
    tokens: tuple[int, int, int],
    quantities: dict[str, Any],
) -> None:
    lines = [f'{name} = "{price}"' for name, price in prices.items()]
    lines += ["[models.units]", *(f'{name} = "{price}"' for name, price in units.items())]
    table = ModelTable.from_toml("\n".join(['[[models]]\nid = "x"', f'multiplier = "{multiplier}"', *lines]))
    quantities = {unit: int(n) if unit in PART_OF else n for unit, n in quantities.items()}
    quantities = {unit: n for unit, n in quantities.items() if n}
    for unit, whole in PART_OF.items():  # as the reader of usage leaves them
        if unit in quantities:
            most = tokens[("input", "cache_hit", "output").index(whole)] // 3
            quantities[unit] = min(quantities[unit], most)
            if not most:
                del quantities[unit]
    usage = Usage(
        input_tokens=tokens[0],
        cache_read_input_tokens=tokens[1],
        output_tokens=tokens[2],
        quantities=tuple(sorted(quantities.items())),
    )
    found = charge(table, table.models[0], usage)
    line = table.models[0].card.standard.lines(usage)
    counted = {"input": 0, "cache_hit": 0, "output": 0}
    for unit, quantity, _, _ in line:
        if (whole_unit := PART_OF.get(unit, unit)) in counted:
            counted[whole_unit] += int(quantity)
    assert tuple(counted.values()) == tokens
    exact = sum((rate * Fraction(quantity) for _, quantity, rate, _ in line), Fraction(0))
    cost = sum(found.costs)
    assert abs(cost - exact) <= Fraction(1, 2)
    assert cost == table.models[0].cost_nano_usd(usage)
    assert all(part >= 0 for part in found.costs)
    assert sum(item.nano_usd for item in found.items) == cost
    assert min((item.nano_usd for item in found.items), default=0) >= 0


def test_holds_are_for_the_dearest_kind_of_token() -> None:
    assert model("image").card.standard.output_nano(10) == 300_000
    assert model("image").card.standard.output_paid_by(300_000) == 10
    assert model("image").card.standard.most_nano(10, is_cached_long=False) == 80_000
    assert model("m").card.standard.output_nano(10) == 100_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('id = "x"\nunits = 7', "model 'x': units: must be a table, [models.units]"),
        ('id = "x"\n[models.units]\nimage = -1', "model 'x': units: image: must be 0 or more, not -1"),
        ('id = "x"\n[models.units]\nimage = 101', "model 'x': units: image: above 100 USD"),
        ('id = "x"\n[models.units]\ncharacter = 1', "model 'x': units: character: above 0.1 USD"),
        ('id = "x"\n[models.units]\ninput_audio = 1',
         "model 'x': units: input_audio: is a price of tokens, beside `id`"),
        ('id = "x"\n[models.units]\n"a b" = 1',
         "model 'x': units: 'a b': must be a name, or names with colons between"),
        ('id = "x"\noutput_image = 100001', "model 'x': output_image: above 100000 USD per million tokens"),
    ],
)  # fmt: skip
def test_a_table_that_is_wrong_says_where(text: str, message: str) -> None:
    with pytest.raises(ModelTableError) as caught:
        ModelTable.from_toml(f"[[models]]\n{text}")
    assert str(caught.value) == f"{message} (at line {text.count(chr(10)) + 2})"


@pytest.mark.parametrize(
    ("value", "quantity"),
    [
        *((1, 1), (12.5, Decimal("12.5")), (2.0, 2), (0, None), (-1, None), (True, None), ("3", None)),
        *((10**6, 10**6), (10**6 + 1, None), (float("nan"), None), (float("inf"), None), (None, None)),
    ],
)
def test_a_quantity_is_exact_or_none(value: object, quantity: object) -> None:
    assert clean_quantity(value) == quantity


def test_an_image_unit_tells_what_is_known_of_the_image() -> None:
    assert image_unit("high", "1024x1024") == "image:high:1024x1024"
    assert image_unit("High", None) == "image:high"
    assert image_unit(None, "512x512") == "image:auto:512x512"
    assert image_unit("a:b", ["x"]) == image_unit(None, "x" * 41) == "image"


@given(st.dictionaries(st.text(max_size=6), st.integers() | st.none() | st.floats() | st.text(), max_size=40))
def test_counts_of_tools_are_few_and_above_zero(told: dict[str, Any]) -> None:
    counts = tool_counts(told)
    assert len(counts) <= 16
    assert all(0 < count <= 10**6 for count in counts.values())


def test_a_quantity_may_be_all_that_is_known() -> None:
    merger = UsageMerger()
    assert merger.usage(OAI) is None
    merger.count("second", 7)
    merger.count("second", Decimal("7.5"))
    usage = merger.usage(OAI)
    assert usage == Usage(quantities=(("second", Decimal("7.5")),))
    merger.add({"prompt_tokens": 3, "completion_tokens": 1})
    usage = merger.usage(OAI)
    assert usage is not None
    assert (usage.input_tokens, usage.quantities) == (3, (("second", Decimal("7.5")),))
