"""What others say that models cost: the `genai-prices` library, where it is installed, as a table's entries.

Nothing of it is needed to run: the table is made from it beforehand (`make prices`) and compared with it on
demand. An entry is what `models.toml` has, as a dict, and holds what a request *comes to* by the library: a
kind of token that it has no price of costs there what the kind does that it is part of, and is written so.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fractions import Fraction
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, PriceVariant, Provider

PACKAGE: Final = "genai-prices"

Entry = dict[str, Any]
"""What `[[models]]` says of one model, without its names; prices are decimals."""

TOKEN_PRICES: Final = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "cache_hit": "cache_read_mtok",
    "input_audio": "input_audio_mtok",
    "input_image": "input_image_mtok",
    "cache_hit_audio": "cache_audio_read_mtok",
    "cache_hit_image": "cache_image_read_mtok",
    "output_audio": "output_audio_mtok",
    "output_image": "output_image_mtok",
}
"""Prices of tokens by their names in the table, with the library's."""
UNIT_PRICES: Final = {
    "web_search": ("web_searches_kcount", 1000),
    "file_search": ("storage_searches_kcount", 1000),
    "search_unit": ("rerank_searches_kcount", 1000),
    "second": ("audio_hours", 3600),
    "character": ("input_mchars", 10**6),
}
"""Prices of other units by their names in the table: the library's, and for how many they are."""
_NO_UNIT: Final = frozenset(
    (
        "input_audio_hours",  # says what audio_hours does
        "input_video_mtok",  # no upstream's usage tells these apart
        "output_video_mtok",
        "input_text_messages_kcount",
    )
)
_ABSENT_COSTS: Final = {
    "cache_hit": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "cache_hit_audio": "input_audio",
    "cache_hit_image": "input_image",
}
"""What a kind without a price costs what, where that has one; what is read first comes first."""
_SERVICE_TIERS: Final = {
    ("processing", "batch"): "batch",
    ("service_tier", "flex"): "flex",
    ("service_tier", "priority"): "priority",
    ("service_tier", "fast"): "fast",
    ("speed", "fast"): "fast",
}
"""How the library tells service tiers, with the table's names; `default` is no other price."""


class LibraryMissing(Exception):
    """The library is not installed; the message is one line that says how to install it."""


class LibraryGap(ValueError):
    """The library says something that the table has no words for; the message is one line."""


@dataclass(frozen=True, slots=True)
class PriceLibrary:
    """The prices of the installed library; `version` is its release."""

    version: str
    providers: Mapping[str, "Provider"]

    @classmethod
    def installed(cls) -> "PriceLibrary":
        """Read the library that is installed. Raises `LibraryMissing`."""
        try:
            data = import_module("genai_prices.data")
        except ModuleNotFoundError:
            raise LibraryMissing(
                f"{PACKAGE} is not installed, since Weir runs without it: pip install {PACKAGE}"
            ) from None
        return cls(metadata.version(PACKAGE), {provider.id: provider for provider in data.providers})

    def model(self, provider: str, name: str) -> "ModelInfo | None":
        """Return what the library has under a name of its provider."""
        vendor = self.providers.get(provider)
        return vendor.find_model(name) if vendor is not None else None

    def ids(self, provider: str) -> list[str]:
        """Return the library's ids of a provider's models."""
        return [model.id for model in self.providers[provider].models]


def entry_of(model: "ModelInfo", since: date, today: date) -> Entry:
    """Return a model's prices as an entry of the table that is right from `since` on.

    Prices that come later are its `changes`. The library knows discounts of service tiers since it looked at
    them first; they hold before that, too. Of prices by the hour of the day it has the dearest. Raises
    `LibraryGap`.
    """
    entry = _entry_at(model, since, today)
    before = entry
    changes = []
    for day in sorted(day for day in set(_starts(model)) if day > since):
        after = _entry_at(model, day, today)
        if change := _change(before, after):
            changes.append({"from": day, **change})
        before = after
    if changes:
        entry = {**entry, "changes": changes}
    if model.context_window is not None:
        entry = {**entry, "context_window": model.context_window}
    return entry


def _starts(model: "ModelInfo") -> Iterator[date]:
    for dated in (*_conditional(model), *(model.price_variants or ())):
        if (day := _start(dated)) is not None:
            yield day


def _conditional(model: "ModelInfo") -> list[Any]:
    return model.prices if isinstance(model.prices, list) else []


def _start(dated: Any) -> date | None:
    """Return the day from which prices hold that have one."""
    day = getattr(dated.constraint, "start_date", None)
    return day if isinstance(day, date) else None


def _entry_at(model: "ModelInfo", day: date, today: date) -> Entry:
    standard = _standard(model, day)
    levels = _levels(model, standard)
    entry: Entry = {unit: level[0] for unit, level in levels.items()}
    if units := _units(standard):
        entry["units"] = units
    if tiers := _tiers(levels):
        entry["tiers"] = tiers
    service_tiers = {}
    for name, variants in _service_tiers(model):
        own = _levels(model, _overridden(standard, variants, day, today))
        if tier := _service_tier(levels, own):
            service_tiers[name] = tier
    if service_tiers:
        entry["service_tiers"] = service_tiers
    return entry


def _standard(model: "ModelInfo", day: date) -> "ModelPrice":
    """Return the prices of a day: those of its dearest hours."""
    hours = {time.min}
    for conditional in _conditional(model):
        for name in ("start_time", "end_time"):
            if (hour := getattr(conditional.constraint, name, None)) is not None:
                hours.add(hour.replace(tzinfo=None))
    prices = [model.get_prices(datetime.combine(day, hour, UTC)) for hour in sorted(hours)]
    return max(prices, key=lambda price: [_base(price, key) for key in TOKEN_PRICES.values()])


def _base(price: "ModelPrice", key: str) -> Decimal:
    value = getattr(price, key)
    return Decimal(0) if value is None else getattr(value, "base", value)


Level = dict[int, Decimal]
"""The price of one kind of token by the number of input tokens above which it holds; always from 0 on."""


def _levels(model: "ModelInfo", price: "ModelPrice") -> dict[str, Level]:
    told = {key for key, value in vars(price).items() if value is not None}
    known = {*TOKEN_PRICES.values(), *(key for key, _ in UNIT_PRICES.values()), *_NO_UNIT}
    if unknown := sorted(told - known):
        raise LibraryGap(f"{model.id}: no unit of the table for {', '.join(unknown)}")
    levels = {unit: _level(getattr(price, key)) for unit, key in TOKEN_PRICES.items() if key in told}
    for unit, other in _ABSENT_COSTS.items():
        if unit not in levels and other in levels:
            levels[unit] = levels[other]
    return {unit: levels[unit] for unit in TOKEN_PRICES if unit in levels}


def _level(value: Any) -> Level:
    if isinstance(value, Decimal):
        return {0: value}
    return {0: value.base, **{tier.start: tier.price for tier in value.tiers}}


def _at(level: Level, above: int) -> Decimal:
    return level[max(start for start in level if start <= above)]


def _tiers(levels: Mapping[str, Level]) -> list[Entry]:
    """Return the context tiers: each names what differs from the price of a short context."""
    tiers = []
    for above in sorted({start for level in levels.values() for start in level} - {0}):
        own = {unit: _at(level, above) for unit, level in levels.items() if _at(level, above) != level[0]}
        tiers.append({"above_input_tokens": above, **own})
    return tiers


def _units(price: "ModelPrice") -> dict[str, Decimal]:
    units = {}
    for unit, (key, count) in UNIT_PRICES.items():
        if (value := getattr(price, key)) is not None:
            units[unit] = value / count
            if Fraction(units[unit]) != Fraction(value) / count:
                raise LibraryGap(f"{unit}: {value} USD for {count} is no decimal for one")
    return units


def _service_tiers(model: "ModelInfo") -> Iterator[tuple[str, list["PriceVariant"]]]:
    found: dict[str, list[PriceVariant]] = {}
    for variant in model.price_variants or ():
        name = _SERVICE_TIERS.get(next(iter(variant.when.items()))) if len(variant.when) == 1 else None
        if name is not None:
            found.setdefault(name, []).append(variant)
    yield from sorted(found.items())


def _overridden(
    standard: "ModelPrice", variants: Iterable["PriceVariant"], day: date, today: date
) -> "ModelPrice":
    """Return the prices of a service tier: of its variants in force, the first that has one counts."""
    variants = list(variants)
    first = min((_start(variant) or date.min for variant in variants), default=date.min)
    if first <= today:
        day = max(day, first)
    prices = dict(vars(standard))
    for variant in reversed(variants):
        if (_start(variant) or date.min) <= day:
            prices.update({key: value for key, value in vars(variant.prices).items() if value is not None})
    return type(standard)(**prices)


def _service_tier(standard: Mapping[str, Level], own: Mapping[str, Level]) -> Entry:
    """Return how a service tier's prices differ: by a factor, and in prices where that is not true.

    What is so often the standard in a short context is so often the price of each context tier, too; its own
    `tiers` are for where it is not.
    """
    ratios = {unit: _ratio(level[0], own[unit][0]) for unit, level in standard.items()}
    factor = _short(ratios.get("input", Fraction(1)))
    tier: Entry = {} if factor in (None, Decimal(1)) else {"factor": factor}
    named = {unit: own[unit][0] for unit, ratio in ratios.items() if ratio != (factor or 1)}
    tier.update(named)
    tiers = []
    for above in sorted({start for level in (*standard.values(), *own.values()) for start in level} - {0}):
        prices = {
            unit: _at(own[unit], above)
            for unit, ratio in ratios.items()
            if Fraction(_at(own[unit], above)) != Fraction(_at(standard[unit], above)) * ratio
        }
        if prices:
            tiers.append({"above_input_tokens": above, **prices})
    if tiers:
        tier["tiers"] = tiers
    return tier


def _ratio(standard: Decimal, own: Decimal) -> Fraction:
    if not standard:
        if own:
            raise LibraryGap(f"free of charge, but for {own} USD in a service tier")
        return Fraction(1)
    return Fraction(own) / Fraction(standard)


def _short(ratio: Fraction) -> Decimal | None:
    """Return a ratio as a decimal; None: it takes more than four places."""
    ten_thousandths = ratio * 10**4
    return Decimal(int(ten_thousandths)) / 10**4 if ten_thousandths.denominator == 1 else None


def _change(before: Entry, after: Entry) -> Entry:
    """Return what one entry says otherwise than the one before it."""
    if gone := sorted(before.keys() - after.keys()):
        raise LibraryGap(f"what {', '.join(gone)} says does not hold any more")
    change: Entry = {}
    for key, value in after.items():
        if key in ("units", "service_tiers"):
            old = before.get(key, {})
            if gone := sorted(old.keys() - value.keys()):
                raise LibraryGap(f"{key}: {', '.join(gone)}: does not hold any more")
            value = {name: own for name, own in value.items() if old.get(name) != own}
            if value:
                change[key] = value
        elif value != before.get(key):
            change[key] = value
    return change
