"""All prices of a model as rows, and where two entries differ."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, PriceVariant, Provider

from app.pricing.library_diff import compare_with_library
from app.pricing.model_table import ModelTable
from app.pricing.price_library import PriceLibrary
from app.pricing.price_rows import Condition, PriceRow, price_rows
from app.pricing.rate_card import Terms
from app.shipped import shipped_file
from app.wires.usage import Usage

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
LATER = datetime(2026, 12, 15, tzinfo=UTC)

TABLE = """
[[models]]
id = "m"
input = 4
output = 20
multiplier = 0.5
units = { web_search = 0.01 }
tiers = [{ above_input_tokens = 100, input = 8 }]
service_tiers.batch = { factor = 0.5 }
inference_geo.us = { factor = 1.1 }
changes = [{ from = 2026-11-01, output = 30 }, { from = 2026-12-15, output = 40 }]
"""


def rows(text: str = TABLE) -> list[PriceRow]:
    (model,) = ModelTable.from_toml(text).models
    return price_rows(model.card, NOW)


def test_each_condition_has_a_row_with_what_is_charged() -> None:
    shown = [(row.condition, row.tokens["input"], row.tokens["output"]) for row in rows()]
    assert shown == [
        (Condition(None, 0, ""), 2, 15),
        (Condition(None, 100, ""), 4, 15),
        (Condition(None, 0, "batch"), 1, Decimal("7.5")),
        (Condition(None, 100, "batch"), 2, Decimal("7.5")),
        (Condition(None, 0, "inference_geo:us"), Decimal("2.2"), Decimal("16.5")),
        (Condition(LATER, 0, ""), 2, 20),
        (Condition(LATER, 100, ""), 4, 20),
        (Condition(LATER, 0, "batch"), 1, 10),
        (Condition(LATER, 100, "batch"), 2, 10),
        (Condition(LATER, 0, "inference_geo:us"), Decimal("2.2"), 22),
    ]
    assert {str(row.units["web_search"]) for row in rows()} == {"0.005"}


def test_a_change_to_come_shows_only_what_it_changes() -> None:
    text = TABLE.replace("{ from = 2026-12-15, output = 40 }", "")
    text += "service_tiers.fast = { factor = 2 }\n"
    text = text.replace(
        "output = 30 }, ]", "output = 30 }, { from = 2026-12-15, service_tiers = { fast = { factor = 3 } } }]"
    )
    assert [row.condition.tier for row in rows(text) if row.condition.begins] == ["fast", "fast"]


def library(*variants: PriceVariant) -> PriceLibrary:
    price = ModelPrice(input_mtok=Decimal(4), output_mtok=Decimal(30), cache_read_mtok=Decimal("0.4"))
    known = ModelInfo("m", ClauseEquals("m"), prices=price, price_variants=list(variants))
    return PriceLibrary("9.9", {"openai": Provider("openai", "P", "p", models=[known])})


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("input = 4\noutput = 30\ncache_write = 4", []),
        ("input = 4\noutput = 30\ncache_write = 4\nmultiplier = 3\nunits = { web_search = 1 }", []),
        ("input = 4\noutput = 30\ncache_write = 4\ninference_geo.us = { factor = 2 }", []),
        ("input = 4\noutput = 31\ncache_write = 5", [("output", "", 31, 30), ("cache_write", "", 5, 4)]),
        (
            "input = 4\noutput = 30\ncache_write = 4\nchanges = [{ from = 2026-12-15, output = 40 }]",
            [("output", "", 40, 30)],
        ),
    ],
)
def test_a_table_is_compared_in_what_the_library_knows(
    entry: str, expected: list[tuple[str, str, int | None, int | None]]
) -> None:
    table = ModelTable.from_toml(f'[[models]]\nid = "m"\n{entry}\n[[models]]\nid = "own"\ninput = 1')
    found = compare_with_library(table, library(), NOW)
    assert (found.version, found.compared, found.unknown) == ("9.9", 1, ("own",))
    assert [
        (difference.unit, difference.condition.tier, difference.one, difference.other)
        for _, difference in found.disagreements
    ] == expected


def test_a_service_tier_that_the_table_lacks_is_a_difference() -> None:
    batch = PriceVariant({"processing": "batch"}, ModelPrice(input_mtok=Decimal(2)))
    table = ModelTable.from_toml('[[models]]\nid = "m"\ninput = 4\noutput = 30\ncache_write = 4')
    found = compare_with_library(table, library(batch), NOW).disagreements
    assert {(each.difference.condition.tier, each.difference.one) for each in found} == {("batch", None)}


def test_the_shipped_table_agrees_with_the_library() -> None:
    table = ModelTable.from_toml(shipped_file("models.toml").read_text(encoding="utf-8"))
    found = compare_with_library(table, PriceLibrary.installed(), NOW)
    assert found.disagreements == ()
    assert found.compared > 150


# USD for so many tokens of input and 1,000 of output, at the last token of a tier and at the next one.
LIMITS = [
    ("claude-haiku-5-5", 100_000, "0.0105", "0.0525005"),
    ("claude-sonnet-4-5", 200_000, "0.615", "1.222506"),
    ("claude-sonnet-4-6", 200_000, "0.615", "0.615003"),
    ("gpt-5.4", 272_000, "0.695", "1.382505"),
    ("gpt-5.5", 272_000, "1.39", "2.76501"),
    ("gpt-5.6-sol", 272_000, "1.108", "2.206008"),
    ("gpt-6-astra", 272_000, "2.77", "5.51502"),
    ("gpt-6-luna", 272_000, "0.0277", "0.0551502"),
    ("gpt-6.2-astra", 272_000, "2.216", "4.412016"),
    ("gemini-3.1-pro-preview", 200_000, "0.412", "0.818004"),
    ("grok-4.7", 199_999, "0.405998", "0.812"),
]


@pytest.mark.parametrize(("name", "limit", "at", "above"), LIMITS)
def test_higher_prices_of_long_contexts_begin_with_the_token_after_the_limit(
    name: str, limit: int, at: str, above: str
) -> None:
    table = ModelTable.from_toml(shipped_file("models.toml").read_text(encoding="utf-8"))
    model = table.resolve(name)
    assert model is not None
    for input_tokens, cost in ((limit, at), (limit + 1, above)):
        usage = Usage(input_tokens=input_tokens, output_tokens=1000)
        assert Decimal(model.cost_nano_usd(usage, Terms(NOW))) / 10**9 == Decimal(cost)
        cached = Usage(input_tokens=1, cache_read_input_tokens=input_tokens - 1, output_tokens=1000)
        assert (model.cost_nano_usd(cached, Terms(NOW)) < model.cost_nano_usd(usage, Terms(NOW))) is True
