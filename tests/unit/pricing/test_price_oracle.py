"""What models.toml charges, beside what the genai-prices library says the same usage comes to.

The library is pinned, and works its prices out by itself: an oracle. Where both differ there has to be a
reason in `REASONS`, which has to be needed.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_HALF_UP
from fnmatch import fnmatchcase
from typing import NamedTuple

import pytest
from genai_prices.types import ConditionalPrice, ModelInfo, Provider
from genai_prices.types import Usage as LibraryUsage

from app.pricing.model import Model
from app.pricing.model_table import ModelTable
from app.pricing.price_library import PriceLibrary
from app.pricing.rate_card import Terms
from app.wires.usage import Usage
from tools.make_prices import SOURCES, TABLE, Sources, date_of, reference


class Reason(NamedTuple):
    """Why the table charges something else than the library says; each field is a pattern."""

    model: str
    kind: str
    when: str
    why: str


REASONS = (
    *(
        Reason(family, "cache_write_1h", "*", "writes for twelve hours, which the library does not model")
        for family in ("gpt-5.6-*", "gpt-6*")
    ),
    Reason(
        "deepseek-*", "*", "off-peak", "a table has no hours of the day: the prices are those of peak hours"
    ),
    Reason("gpt-4o*-audio-preview", "*_audio", "*", "the library has the prices of text alone"),
)

SHARE = 777
"""How many tokens there are of the kind that is looked at: not a round number, so that rounding shows."""
UNITS = {
    "web_search": ("web_searches", 3),
    "file_search": ("storage_searches", 7),
    "second": ("audio_seconds", 61),
    "character": ("input_characters", 1234),
}
PARTS = {
    "input_audio": ("input_audio_tokens",),
    "input_image": ("input_image_tokens",),
    "cache_hit_audio": ("cache_audio_read_tokens", "input_audio_tokens", "cache_read_tokens"),
    "cache_hit_image": ("cache_image_read_tokens", "input_image_tokens", "cache_read_tokens"),
    "output_audio": ("output_audio_tokens",),
    "output_image": ("output_image_tokens",),
}
"""Tokens of other kinds than text, and what the library counts them in beside all input or output."""


class Case(NamedTuple):
    """A model of the table that the library has."""

    model: Model
    known: ModelInfo
    provider: Provider


def cases() -> Iterator[Case]:
    table = ModelTable.from_toml(TABLE.read_text(encoding="utf-8"))
    sources = Sources(SOURCES.read_text(encoding="utf-8"))
    library = PriceLibrary.installed()
    for section in sources.sections:
        for entry in section["models"]:
            provider, name = reference(section, entry)
            known = library.model(provider, name) if provider else None
            model = table.named(entry["id"])
            assert model is not None
            if known is not None:
                yield Case(model, known, library.providers[provider])


def moments(case: Case) -> Iterator[tuple[str, datetime]]:
    """The day of the table, and the ends and beginnings of prices around it."""
    day = date_of(TABLE.read_text(encoding="utf-8"))
    assert day is not None
    hours = any(getattr(price.constraint, "start_time", None) for price in conditional(case.known))
    yield "peak" if hours else "now", datetime.combine(day, time(2), UTC)
    if hours:
        yield "off-peak", datetime.combine(day, time(22), UTC)
    changes = {begins for begins, _ in case.model.card.changes}
    for dated in (*conditional(case.known), *(case.known.price_variants or ())):
        begins = getattr(dated.constraint, "start_date", None)
        if begins is not None and begins > day:
            changes.add(datetime.combine(begins, time(), UTC))
    for moment in sorted(changes):
        yield "before a change", moment - timedelta(microseconds=1)
        yield "after a change", moment


def conditional(known: ModelInfo) -> list[ConditionalPrice]:
    return known.prices if isinstance(known.prices, list) else [ConditionalPrice(prices=known.prices)]


def tiers(case: Case) -> dict[tuple[str, ...], dict[str, str]]:
    """How a request may have been answered: as records say it, and as the library takes it."""
    found: dict[tuple[str, ...], dict[str, str]] = {(): {}}
    for variant in case.known.price_variants or ():
        ((name, value),) = variant.when.items()
        ours = "service_tier" if name == "processing" else name
        if value != "default":
            found[(f"{ours}:{value}",)] = dict(variant.when)
    return found


def sizes(case: Case) -> list[int]:
    cards = [case.model.card, *(card for _, card in case.model.card.changes)]
    limits = {tier.above for card in cards for tier in card.tiers}
    for dated in (*conditional(case.known), *(case.known.price_variants or ())):
        for price in vars(dated.prices).values():
            limits |= {tier.start for tier in getattr(price, "tiers", ())}
    return sorted({limit + step for limit in limits for step in (-1, 0, 1)}) or [20 * SHARE]


def kinds(case: Case) -> Iterator[str]:
    rates = case.model.card.standard.by_unit
    yield from (
        kind for kind in ("input", "cache_hit", "cache_write", "cache_write_1h", "output") if kind in rates
    )
    yield from (kind for kind in PARTS if kind in rates)
    told = {key for price in conditional(case.known) for key in vars(price.prices)}
    for unit, key in (
        ("web_search", "web_searches_kcount"),
        ("file_search", "storage_searches_kcount"),
        ("second", "audio_hours"),
        ("character", "input_mchars"),
    ):
        if key in told:
            yield unit
    if "input" in rates:
        yield "all"


def usages(kind: str, size: int, all_kinds: list[str]) -> tuple[Usage, LibraryUsage]:
    """A usage with so large an input, as both have it: part of it is of the kind, and the rest fresh text."""
    wanted = [each for each in all_kinds if each != "all"] if kind == "all" else [kind]
    counts = dict.fromkeys(("input", "cache_hit", "cache_write", "cache_write_1h", "output"), 0)
    quantities: list[tuple[str, int]] = []
    theirs: dict[str, int] = {}
    for each in wanted:
        if each in UNITS:
            key, count = UNITS[each]
            theirs[key] = count
            quantities.append((each, count))
        elif each in PARTS:
            whole = "output" if each.startswith("output") else "cache_hit" if "hit" in each else "input"
            counts[whole] += SHARE
            quantities.append((each, SHARE))
            for key in PARTS[each]:
                theirs[key] = theirs.get(key, 0) + SHARE
        elif each != "input":
            counts[each] += SHARE
    of_input = sum(count for unit, count in counts.items() if unit != "output")
    counts["input"] += size - of_input
    ours = Usage(
        input_tokens=counts["input"],
        cache_read_input_tokens=counts["cache_hit"],
        cache_creation_5m_input_tokens=counts["cache_write"],
        cache_creation_1h_input_tokens=counts["cache_write_1h"],
        output_tokens=counts["output"],
        quantities=tuple(quantities),
    )
    theirs["input_tokens"] = size
    theirs["output_tokens"] = counts["output"]
    theirs["cache_read_tokens"] = counts["cache_hit"]
    theirs["cache_write_tokens"] = counts["cache_write"] + counts["cache_write_1h"]
    theirs["cache_write_1h_tokens"] = counts["cache_write_1h"]
    return ours, LibraryUsage(**theirs)


def nano_usd(case: Case, usage: LibraryUsage, moment: datetime, context: dict[str, str]) -> int:
    found = case.known.calc_price(
        usage, case.provider, genai_request_timestamp=moment, price_context=context or None
    )
    return int((found.total_price * 10**9).to_integral_value(ROUND_HALF_UP))


def test_every_price_comes_to_what_the_library_says(capsys: pytest.CaptureFixture[str]) -> None:
    combinations, needed, wrong = 0, set(), []
    for case in cases():
        all_kinds = list(kinds(case))
        for size in sizes(case):
            for kind in all_kinds:
                ours, theirs = usages(kind, size, all_kinds)
                for when, moment in moments(case):
                    for answered, context in tiers(case).items():
                        combinations += 1
                        cost = case.model.cost_nano_usd(ours, Terms(moment, answered))
                        right = nano_usd(case, theirs, moment, context)
                        if cost == right:
                            continue
                        reason = reason_for(case.model.id, kind, when, all_kinds)
                        if reason is None:
                            wrong.append((case.model.id, kind, size, when, answered, cost, right))
                        needed.add(reason)
    with capsys.disabled():
        print(f"\n{combinations} combinations of model, kind, context, tier and date beside the library")
    assert wrong[:20] == []
    assert [reason for reason in REASONS if reason not in needed] == []
    assert combinations > 3_500


def reason_for(model: str, kind: str, when: str, all_kinds: list[str]) -> Reason | None:
    looked_at = all_kinds if kind == "all" else [kind]
    for reason in REASONS:
        is_meant = fnmatchcase(model, reason.model) and fnmatchcase(when, reason.when)
        if is_meant and any(fnmatchcase(each, reason.kind) for each in looked_at):
            return reason
    return None
