"""`make prices`: the table is what the library and tools/prices.toml say, and nothing gets lost."""

import re
import sys
import tomllib
from datetime import date, time
from decimal import Decimal
from fnmatch import fnmatchcase

import pytest
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from app.pricing.price_library import LibraryGap, LibraryMissing, PriceLibrary, entry_of
from tools.make_prices import SOURCES, TABLE, Sources, SourcesError, changes, date_of, lost_names

TODAY = date(2026, 11, 30)
SINCE = date(2026, 10, 1)
SOURCE = re.compile(r"^https://.*20\d\d-\d\d")


def sources() -> Sources:
    return Sources(SOURCES.read_text(encoding="utf-8"))


def test_the_shipped_table_is_what_is_made() -> None:
    text = TABLE.read_text(encoding="utf-8")
    made_for = date_of(text)
    assert made_for is not None
    assert sources().table(PriceLibrary.installed(), made_for) == text, "run `make prices`"


def test_every_model_of_the_library_is_there_or_left_out_for_a_reason() -> None:
    library = PriceLibrary.installed()
    assert sources().not_mentioned(library) == []
    for section in sources().sections:
        for pattern, reason in section.get("left_out", {}).items():
            assert reason
            ids = library.ids(section["library"])
            assert any(fnmatchcase(model_id, pattern) for model_id in ids), f"{pattern} is no model"


def test_every_figure_that_is_kept_by_hand_says_where_it_is_from() -> None:
    told = {name: prices["source"] for name, prices in sources().sets.items()}
    for section in sources().sections:
        told |= {model["id"]: model["source"] for model in section["models"] if "source" in model}
    assert len(told) > 15
    assert {name for name, source in told.items() if not SOURCE.search(source)} == set()


def price(**prices: object) -> ModelPrice:
    return ModelPrice(
        **{
            key: value if isinstance(value, TieredPrices) else Decimal(str(value))
            for key, value in prices.items()
        }
    )


def tiered(base: str, start: int, above: str) -> TieredPrices:
    return TieredPrices(Decimal(base), [Tier(start, Decimal(above))])


def known(prices: object, *variants: PriceVariant) -> ModelInfo:
    return ModelInfo("m", ClauseEquals("m"), prices=prices, price_variants=list(variants))  # type: ignore[arg-type]


def entry(prices: object, *variants: PriceVariant) -> dict[str, object]:
    return entry_of(known(prices, *variants), SINCE, TODAY)


def d(text: str) -> Decimal:
    return Decimal(text)


def test_what_has_no_price_of_its_own_costs_what_it_is_part_of() -> None:
    assert entry(price(input_mtok=2, output_mtok=8, input_audio_mtok=5, web_searches_kcount=10)) == {
        **dict.fromkeys(("input", "cache_write", "cache_write_1h", "cache_hit"), d("2")),
        "output": d("8"),
        "input_audio": d("5"),
        "cache_hit_audio": d("5"),
        "units": {"web_search": d("0.01")},
    }
    assert entry(price(audio_hours="0.36")) == {"units": {"second": d("0.0001")}}
    assert entry(price()) == {}


def test_a_context_tier_names_what_is_different_in_it() -> None:
    found = entry(price(input_mtok=tiered("1", 200_000, "2"), output_mtok=4, cache_read_mtok="0.1"))
    assert found["tiers"] == [
        {"above_input_tokens": 200_000, **dict.fromkeys(("input", "cache_write", "cache_write_1h"), d("2"))}
    ]


def test_a_service_tier_is_a_factor_and_what_does_not_follow_it() -> None:
    standard = price(input_mtok=tiered("2", 10, "4"), output_mtok=8, cache_read_mtok="0.5")
    batch = PriceVariant({"processing": "batch"}, price(input_mtok=tiered("1", 10, "2"), output_mtok=4))
    flat = PriceVariant(
        {"service_tier": "priority"}, price(input_mtok=3, output_mtok=12, cache_read_mtok="0.75")
    )
    odd = PriceVariant({"speed": "fast"}, price(input_mtok=tiered("7", 10, "14"), output_mtok=9))
    usual = PriceVariant({"service_tier": "default"}, price())
    found = entry(standard, batch, flat, odd, usual)["service_tiers"]
    fresh = ("input", "cache_write", "cache_write_1h")
    assert found == {
        "batch": {"factor": d("0.5"), "cache_hit": d("0.5")},
        "priority": {
            "factor": d("1.5"),
            "tiers": [{"above_input_tokens": 10, **dict.fromkeys(fresh, d("3"))}],
        },
        "fast": {"factor": d("3.5"), "output": d("9"), "cache_hit": d("0.5")},
    }


def test_prices_to_come_and_of_late_are_changes_and_older_ones_are_forgotten() -> None:
    dated = [
        ConditionalPrice(prices=price(input_mtok=1)),
        *(
            ConditionalPrice(StartDateConstraint(date.fromisoformat(day)), prices=price(input_mtok=cost))
            for day, cost in (("2026-09-30", 2), ("2026-11-01", 3), ("2027-01-01", 4))
        ),
    ]
    batch = PriceVariant(
        {"processing": "batch"}, price(input_mtok=1), StartDateConstraint(date(2026, 11, 15))
    )
    found = entry(dated, batch)
    assert found["input"] == 2
    assert found["service_tiers"] == {"batch": {"factor": d("0.5")}}, "known since November, and true before"
    assert [(change["from"], change["input"]) for change in found["changes"]] == [  # type: ignore[attr-defined]
        (date(2026, 11, 1), 3),
        (date(2027, 1, 1), 4),
    ]


def test_of_prices_by_the_hour_the_dearest_are_taken() -> None:
    by_hour = [
        ConditionalPrice(prices=price(input_mtok=1)),
        ConditionalPrice(TimeOfDateConstraint(time(1), time(4)), prices=price(input_mtok=2)),
    ]
    assert entry(by_hour)["input"] == 2


@pytest.mark.parametrize("unknown", [{"requests_kcount": 5}, {"audio_hours": 1}])
def test_what_a_table_cannot_say_is_named(unknown: dict[str, object]) -> None:
    with pytest.raises(LibraryGap):
        entry(price(**unknown))


def dated(day: str, prices: ModelPrice) -> ConditionalPrice:
    return ConditionalPrice(StartDateConstraint(date.fromisoformat(day)), prices=prices)


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        (
            [price(input_mtok=1, output_mtok=2), price(input_mtok=1)],
            "what output says does not hold any more",
        ),
        (
            [price(input_mtok=1, web_searches_kcount=5), price(input_mtok=1, audio_hours="0.36")],
            "units: web_search: does not hold any more",
        ),
    ],
)
def test_a_price_that_will_be_none_is_named(prices: list[ModelPrice], message: str) -> None:
    first, then = prices
    with pytest.raises(LibraryGap) as caught:
        entry([ConditionalPrice(prices=first), dated("2026-12-01", then)])
    assert str(caught.value) == message


def test_a_service_tier_that_costs_where_the_standard_is_free_is_named() -> None:
    with pytest.raises(LibraryGap):
        entry(price(input_mtok=0), PriceVariant({"speed": "fast"}, price(input_mtok=1)))
    assert "service_tiers" not in entry(
        price(input_mtok=0), PriceVariant({"speed": "fast"}, price(input_mtok=0))
    )


def test_a_library_that_is_not_there_is_said_how_to_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data", None)
    with pytest.raises(LibraryMissing) as caught:
        PriceLibrary.installed()
    assert str(caught.value).endswith("pip install genai-prices")


LIBRARY = PriceLibrary(
    "9.9", {"p": Provider("p", "P", "p", models=[known(price(input_mtok=2, output_mtok=8))])}
)
SMALL = """
header = "By {library}. As of {date}."
[sets.tools]
source = "https://example.com"
units = { web_search = 0.01 }
times_input = { cache_write_1h = 2.5 }
[[sections]]
title = "P"
library = "p"
sets = ["tools"]
[[sections.models]]
id = "m"
note = "A note."
"""


def test_a_table_has_what_the_library_says_what_sets_add_and_what_is_kept_by_hand() -> None:
    made = Sources(SMALL + 'source = "https://example.com"\noutput = 9\naliases = ["n"]').table(
        LIBRARY, TODAY
    )
    assert made.startswith("# By genai-prices 9.9. As of 2026-11-30.\n")
    assert "# A note.\n[[models]]\n" in made
    assert tomllib.loads(made, parse_float=Decimal)["models"] == [
        {
            "id": "m",
            "aliases": ["n"],
            **dict.fromkeys(("input", "cache_write", "cache_hit"), 2),
            "output": 9,
            "cache_write_1h": 5,
            "units": {"web_search": d("0.01")},
        }
    ]
    assert date_of(made) == TODAY


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (SMALL + "output = 9", "m: source: missing, and it has prices of its own"),
        (SMALL + 'sets = ["other"]', "m: sets: there is no other"),
        (SMALL.replace('"m"', '"other"'), "other: the library has no other of p, nor has it a price"),
    ],
)
def test_sources_that_cannot_be_used_are_refused(sources: str, message: str) -> None:
    with pytest.raises(SourcesError) as caught:
        Sources(sources).table(LIBRARY, TODAY)
    assert str(caught.value) == message


def test_what_changed_is_said_and_a_lost_name_is_found() -> None:
    before = '[[models]]\nid = "a"\ninput = 1\naliases = ["x"]\n[[models]]\nid = "b"\ninput = 1\n'
    after = '[[models]]\nid = "a"\ninput = 2\nservice_tiers.batch = { factor = 0.5 }\n'
    after += '[[models]]\nid = "c"\ninput = 1\n'
    assert changes(before, after) == [
        "+ c",
        "- b",
        '~ a: aliases: ["x"] -> -',
        "~ a: input: 1 -> 2",
        "~ a: service_tiers.batch.factor: - -> 0.5",
    ]
    assert changes(after, after) == []
    assert lost_names(before, after) == ["b", "x"]
