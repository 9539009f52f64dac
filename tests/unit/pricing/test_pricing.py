"""Prices are exact, costs are rounded once, and a table that is wrong says where."""

import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.common.money import NANO, nano_to_usd
from app.pricing.charge import charge
from app.pricing.model import Model
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import ModelPrice, RateCard
from app.pricing.table_parser import ModelTableError
from app.wires.usage import Usage
from app.wires.usage_fields import MAX_COUNT

ROOT = Path(__file__).parents[3]


def table(*entries: str) -> ModelTable:
    return ModelTable.from_toml("\n".join(f"[[models]]\n{entry}" for entry in entries))


def only(entry: str) -> Model:
    return table(entry).models[0]


SONNET = """
id = "claude-sonnet-4-5"
name = "Claude Sonnet 4.5"
aliases = ["sonnet", "s"]
input = 3
output = 15.0
"""


def test_a_table_is_read() -> None:
    models = table(SONNET, 'id = "b"\nupstream_id = "x/b"\ninput = "0.15"\noutput = 0.6\nmultiplier = 1.5')
    assert len(models) == 2
    assert [model.id for model in models] == ["claude-sonnet-4-5", "b"]
    sonnet, other = models
    assert (sonnet.name, sonnet.aliases, sonnet.upstream_id) == (
        "Claude Sonnet 4.5",
        ("sonnet", "s"),
        "claude-sonnet-4-5",
    )
    assert (other.name, other.aliases, other.upstream_id) == ("b", (), "x/b")
    assert other.price.input == Decimal("0.15")
    assert other.price.multiplier == Decimal("1.5")


def test_names_resolve() -> None:
    models = table(SONNET)
    assert models.resolve("claude-sonnet-4-5") is models.resolve("sonnet") is models.models[0]
    assert models.resolve("Sonnet") is models.resolve("claude-sonnet-4.5") is models.models[0]
    assert models.resolve("") is None


def test_cache_prices_default_to_multiples_of_input() -> None:
    price = only('id = "a"\ninput = 3\noutput = 15').price
    assert (price.cache_write, price.cache_write_1h, price.cache_hit) == (Decimal("3.75"), 6, Decimal("0.3"))
    given = only(
        'id = "a"\ninput = 3\noutput = 15\ncache_write = 1\ncache_write_1h = 0\ncache_hit = 0.7'
    ).price
    assert (given.cache_write, given.cache_write_1h, given.cache_hit) == (1, 0, Decimal("0.7"))


def test_a_cost() -> None:
    usage = Usage(
        input_tokens=300,
        cache_read_input_tokens=600,
        cache_creation_5m_input_tokens=70,
        cache_creation_1h_input_tokens=30,
        output_tokens=50,
        reasoning_tokens=20,
    )
    # 300·3 + 600·0.3 + 70·3.75 + 30·6 + 50·15 = 2272.5 USD per million
    assert only(SONNET).cost_nano_usd(usage) == 2_272_500
    assert nano_to_usd(2_272_500) == Decimal("0.0022725")
    assert only(SONNET + "\nmultiplier = 2").cost_nano_usd(usage) == 4_545_000
    assert only(SONNET).cost_nano_usd(Usage(counted_input_tokens=42)) == 0


@pytest.mark.parametrize(
    ("price", "tokens", "nano"),
    [
        ("0.0005", 1, 1),  # 0.5 rounds up
        ("0.0004", 1, 0),
        ("0.0015", 1, 2),
        ("0.0025", 1, 3),  # half up, not to even
        ("0.00049999999999999999999999999999999999", 1, 0),
        ("0.0004", 2, 1),  # summed before it is rounded
        ("0", 1_000_000_000, 0),
        ("100000", 1_000_000_000, 10**17),
    ],
)
def test_costs_are_rounded_once_and_half_up(price: str, tokens: int, nano: int) -> None:
    model = only(f'id = "a"\ninput = {price}\noutput = 0\ncache_write = 0\ncache_write_1h = 0\ncache_hit = 0')
    assert model.cost_nano_usd(Usage(input_tokens=tokens)) == nano


PRICES = st.decimals(0, 1000, places=6)
TOKENS = st.integers(0, 10**9)


@given(
    prices=st.tuples(*[PRICES] * 5), multiplier=st.decimals(0, 10, places=4), tokens=st.tuples(*[TOKENS] * 5)
)
def test_costs_equal_exact_decimal_arithmetic(
    prices: tuple[Decimal, ...], multiplier: Decimal, tokens: tuple[int, ...]
) -> None:
    fresh, output, write, write_1h, read = prices
    model = Model("a", "a", (), "a", RateCard(ModelPrice(fresh, output, write, write_1h, read, multiplier)))
    usage = Usage(
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        cache_creation_5m_input_tokens=tokens[2],
        cache_creation_1h_input_tokens=tokens[3],
        cache_read_input_tokens=tokens[4],
    )
    exact = sum(n * int(price * 10**6) for n, price in zip(tokens, prices, strict=True)) * int(
        multiplier * 10**4
    )
    nano, rest = divmod(
        exact, 10**7
    )  # 10⁶ · 10⁴ of the decimals, over 10³ nano-dollars a token per USD/million
    assert model.cost_nano_usd(usage) == nano + (rest * 2 >= 10**7)
    items, (*costs, units) = model.card.standard.text_cost(usage)
    assert sum(item.nano_usd for item in items) == sum(costs)
    assert units == 0
    assert sum(costs) == model.cost_nano_usd(usage)
    alone = (
        model.cost_nano_usd(Usage(input_tokens=tokens[0])),
        model.cost_nano_usd(Usage(output_tokens=tokens[1])),
        model.cost_nano_usd(
            Usage(cache_creation_5m_input_tokens=tokens[2], cache_creation_1h_input_tokens=tokens[3])
        ),
        model.cost_nano_usd(Usage(cache_read_input_tokens=tokens[4])),
    )
    # Each kind on its own would be rounded: by one nano-dollar at most, so much may the parts differ.
    assert all(abs(part - own) <= 1 for part, own in zip(costs, alone, strict=True))


@pytest.mark.parametrize(("nano", "tokens"), [(-5, 0), (0, 0), (1, 10), (1_000_000_005, 10_000_000_050)])
def test_an_amount_pays_for_whole_tokens_and_nothing_pays_for_none(nano: int, tokens: int) -> None:
    paid = only('id = "a"\ninput = 0\noutput = 0.0001').card.standard.output_paid_by(nano)
    assert (paid, type(paid)) == (tokens, int)


@pytest.mark.parametrize(("nano", "tokens"), [(15_999, 1), (29_999, 1), (30_000, 2)])
def test_a_token_that_is_paid_for_in_part_does_not_count(nano: int, tokens: int) -> None:
    paid = only(SONNET).card.standard.output_paid_by(nano)
    assert (paid, type(paid)) == (tokens, int)


@given(nano=st.integers(-(2**63), 2**63 - 1))
def test_nano_dollars_convert_exactly(nano: int) -> None:
    assert nano_to_usd(nano) * NANO == nano


GOOD = 'id = "a"\ninput = 1\noutput = 2'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no [[models]] entries"),
        ("models = 7", "no [[models]] entries"),
        ("models = []", "no [[models]] entries"),
        ("models = [7]", "model 1: must be a table, [[models]]"),
        ("x = 1", "unknown key 'x': only [[models]] and [groups] are known"),
        ("x = ", "not valid TOML: Invalid value (at end of document)"),
        ("x = " + "[" * 5000, "not valid TOML: nested too deeply"),
        ("[[models]]\ninput = 1\noutput = 1", "model 1: id: must be a text that is not empty"),
        ('[[models]]\nid = " "\ninput = 1\noutput = 1', "model 1: id: must be a text that is not empty"),
        (f"[[models]]\n{GOOD}\n[[models]]\nid = 7", "model 2: id: must be a text that is not empty"),
        (f"[[models]]\n{GOOD}\nprice = 1", "model 'a': price: unknown key"),
        (f"[[models]]\n{GOOD}\nname = 7", "model 'a': name: must be a text that is not empty"),
        (f'[[models]]\n{GOOD}\nupstream_id = ""', "model 'a': upstream_id: must be a text that is not empty"),
        (
            f'[[models]]\n{GOOD}\naliases = "b"',
            "model 'a': aliases: must be a list of texts that are not empty",
        ),
        (
            f'[[models]]\n{GOOD}\naliases = [""]',
            "model 'a': aliases: must be a list of texts that are not empty",
        ),
        ('[[models]]\nid = "a"', "model 'a': input: missing, as is every other price"),
        ('[[models]]\nid = "a"\ninput = -1\noutput = 1', "model 'a': input: must be 0 or more, not -1"),
        ('[[models]]\nid = "a"\ninput = nan\noutput = 1', "model 'a': input: must be 0 or more, not NaN"),
        (
            '[[models]]\nid = "a"\ninput = 1\noutput = inf',
            "model 'a': output: must be 0 or more, not Infinity",
        ),
        ('[[models]]\nid = "a"\ninput = "x"\noutput = 1', "model 'a': input: 'x' is not a number"),
        ('[[models]]\nid = "a"\ninput = true\noutput = 1', "model 'a': input: must be a number"),
        ('[[models]]\nid = "a"\ninput = [1]\noutput = 1', "model 'a': input: must be a number"),
        (f"[[models]]\n{GOOD}\nmultiplier = -0.1", "model 'a': multiplier: must be 0 or more, not -0.1"),
        (f"[[models]]\n{GOOD}\ncache_hit = 1e9", "model 'a': cache_hit: above 100000 USD per million tokens"),
        (f"[[models]]\n{GOOD}\nmultiplier = 1e6", "model 'a': input: above 100000 USD per million tokens"),
        (f"[[models]]\n{GOOD}\n[[models]]\n{GOOD}", "model 'a': id: used twice"),
        (f'[[models]]\n{GOOD}\naliases = ["a"]', "model 'a': aliases: 'a' already names 'a'"),
        (f'[[models]]\n{GOOD}\naliases = ["x", "x"]', "model 'a': aliases: 'x' already names 'a'"),
        (
            f'[[models]]\n{GOOD}\naliases = ["b"]\n[[models]]\nid = "b"\ninput = 1\noutput = 1',
            "model 'a': aliases: 'b' already names 'b'",
        ),
        (
            f'[[models]]\n{GOOD}\naliases = ["x"]\n[[models]]\nid = "b"\ninput = 1\noutput = 1\n'
            + 'aliases = ["x"]',
            "model 'b': aliases: 'x' already names 'a'",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ModelTableError) as raised:
        ModelTable.from_toml(text)
    assert re.sub(r" \(at line \d+\)$", "", str(raised.value)) == message
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["cache_write", "cache_write_1h", "cache_hit", "multiplier"])
def test_a_price_that_is_no_number_is_named(key: str) -> None:
    with pytest.raises(ModelTableError) as caught:
        table(f"{GOOD}\n{key} = true")
    assert str(caught.value) == f"model 'a': {key}: must be a number (at line 5)"


@pytest.mark.parametrize("key", ["context_window", "max_output"])
@pytest.mark.parametrize("value", ["0", "-1", "true", "1.5", '"9"', "[]", f"{MAX_COUNT + 1}"])
def test_a_limit_is_a_whole_number_of_tokens(key: str, value: str) -> None:
    with pytest.raises(ModelTableError) as caught:
        table(f"{GOOD}\n{key} = {value}")
    assert str(caught.value) == f"model 'a': {key}: must be a whole number from 1 to {MAX_COUNT} (at line 5)"


@pytest.mark.parametrize("tokens", [1, MAX_COUNT])
def test_the_least_and_the_most_that_a_limit_can_be(tokens: int) -> None:
    (model,) = table(f"{GOOD}\ncontext_window = {tokens}\nmax_output = {tokens}").models
    assert (model.context_window, model.max_output) == (tokens, tokens)


def test_the_shipped_table_is_sound() -> None:
    models = ModelTable.from_toml((ROOT / "models.toml").read_text())
    assert len(models) > 20
    for name in (
        "claude-sonnet-4-5",
        "claude-opus-4-5-20251101",
        "claude-haiku-4-5",
        "gpt-5",
        "gpt-4.1-mini",
        "o4-mini",
    ):
        assert models.resolve(name) is not None
    for model in models:
        price = model.price
        assert price.cache_hit <= price.input <= price.cache_write <= price.cache_write_1h
        if not price.missing and price.output:
            assert 0 < price.cache_hit <= price.input <= price.output
        is_free = not any(rate for rate in price.unit_rates().values())
        assert is_free == (model.id in ("omni-moderation-latest", "text-moderation-latest"))


def test_what_is_offered_beside_the_table_has_no_price_and_never_hides_one_that_has() -> None:
    table = ModelTable.from_toml('[[models]]\nid = "m"\nupstream_id = "up/m"\ninput = 1\noutput = 1')
    table.offer(["m", "a/b:c.d"])
    assert [model.id for model in table.beside()] == ["a/b:c.d"]
    model = table.unpriced("a/b:c.d")
    assert model is not None
    assert table.unpriced("a/b:c") is table.unpriced("m") is table.resolve("a/b:c.d") is None
    charged = charge(table, model, Usage(input_tokens=5, output_tokens=2, cache_read_input_tokens=1))
    assert sum(charged.costs) == 0
    assert charged.unpriced == {"input", "output", "cache_hit"}
