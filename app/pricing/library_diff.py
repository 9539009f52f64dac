"""Where the model table and the `genai-prices` library do not agree."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from app.pricing.model import Model
from app.pricing.model_table import ModelTable
from app.pricing.price_library import TOKEN_PRICES, UNIT_PRICES, LibraryGap, PriceLibrary, entry_of
from app.pricing.price_rows import Difference, differences
from app.pricing.table_parser import model_of

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

VENDORS: Final = ("anthropic", "openai", "google", "deepseek", "x-ai", "moonshotai", "zai", "minimax")
"""Whose prices are looked up, by the library's names, the first first: those who make the models."""
_OPEN_WEIGHTS: Final = ("gpt-oss", "gemma")
"""What models begin with that cost what whoever runs them asks for."""


class Disagreement(NamedTuple):
    """A price of a model that the table (`one`) and the library (`other`) do not agree about."""

    model: str
    difference: Difference


@dataclass(frozen=True, slots=True)
class LibraryComparison:
    """The table beside a release of the library, which does not have the models that are `unknown`."""

    version: str
    compared: int
    disagreements: tuple[Disagreement, ...]
    unknown: tuple[str, ...]


def compare_with_library(table: ModelTable, library: PriceLibrary, now: datetime) -> LibraryComparison:
    """Compare what each model of the table is charged, now and after each change to come.

    What an operator's `multiplier` does is left out. Only prices and tiers count that the library tells, and
    prices that follow from these; of cache writes for an hour only those it tells, which are Anthropic's.
    """
    compared = 0
    found: list[Disagreement] = []
    unknown = []
    for model in table:
        known = _look_up(library, model)
        other = None if known is None else _priced(known, model, now)
        if known is None or other is None:
            unknown.append(model.id)
            continue
        compared += 1
        found += (
            Disagreement(model.id, difference)
            for difference in differences(model, other, now, _units(known, other))
            if difference.other is not None
        )
    return LibraryComparison(library.version, compared, tuple(found), tuple(unknown))


def _look_up(library: PriceLibrary, model: Model) -> "ModelInfo | None":
    if model.id.startswith(_OPEN_WEIGHTS):
        return None
    found = (library.model(vendor, model.id) for vendor in VENDORS)
    return next((known for known in found if known is not None), None)


def _priced(known: "ModelInfo", model: Model, now: datetime) -> Model | None:
    try:
        entry = entry_of(known, now.date(), now.date())
    except LibraryGap:
        return None
    if not entry.keys() & {*TOKEN_PRICES, "units"}:
        return None
    multiplier = model.price.multiplier
    return model_of({**entry, "id": model.id, "multiplier": multiplier})


def _units(known: "ModelInfo", priced: Model) -> list[str]:
    prices = known.prices if not isinstance(known.prices, list) else known.prices[-1].prices
    has_long_writes = prices.cache_write_1h_mtok is not None
    return [
        unit
        for unit in (*TOKEN_PRICES, *UNIT_PRICES)
        if unit in priced.card.standard.by_unit and (unit != "cache_write_1h" or has_long_writes)
    ]
