"""All prices of a model as rows: one for each of the conditions that a rate card knows. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Final, NamedTuple

from app.common.money import NANO
from app.pricing.model import Model
from app.pricing.rate_card import TOKEN_PRICES, TOKENS_PER_PRICE, RateCard, Rates, Terms
from app.wires.usage import Usage

UNITS_IN_ORDER: Final = (
    *("input", "cache_hit", "cache_write", "cache_write_1h", "output"),
    *("input_audio", "input_image", "cache_hit_audio", "cache_hit_image", "output_audio", "output_image"),
)
REGION: Final = "inference_geo:"
"""What the name of a region begins with among the tiers of a card."""


class Condition(NamedTuple):
    """Under what some prices hold.

    `begins` is from when, None: now. `above` is what the whole input has more tokens than, 0: any. `tier` is
    a service tier or a speed (`batch`, `fast`), or a region (`inference_geo:us`), empty: the standard.
    """

    begins: datetime | None
    above: int
    tier: str

    @property
    def terms(self) -> tuple[str, ...]:
        """Return the tiers as a request is answered in them."""
        if not self.tier:
            return ()
        return (self.tier if self.tier.startswith(REGION) else f"service_tier:{self.tier}",)


@dataclass(frozen=True, slots=True)
class PriceRow:
    """Prices under a condition: of tokens in USD per million, of other units in USD for one."""

    condition: Condition
    tokens: Mapping[str, Decimal]
    units: Mapping[str, Decimal]


def price_rows(card: RateCard, now: datetime) -> list[PriceRow]:
    """Return what is charged now, the standard first, and after each change to come what it changes."""
    rows: list[PriceRow] = []
    last: dict[Condition, PriceRow] = {}
    for condition in conditions(card, now):
        rates = rates_under(card, condition, now).by_unit
        tokens = {unit: _shown(rates[unit], is_token=True) for unit in UNITS_IN_ORDER if unit in rates}
        units = {
            unit: _shown(rate, is_token=False) for unit, rate in rates.items() if unit not in TOKEN_PRICES
        }
        row = PriceRow(condition, tokens, units)
        place = condition._replace(begins=None)
        before = last.get(place)
        if before is None or (before.tokens, before.units) != (tokens, units):
            rows.append(row)
        last[place] = row
    return rows


def conditions(card: RateCard, now: datetime) -> list[Condition]:
    """Return the conditions under which the card has prices of its own, the standard of today first."""
    found: list[Condition] = []
    moments: list[datetime | None] = [None, *(begins for begins, _ in card.changes if begins > now)]
    for begins in moments:
        found += _conditions(card.at(begins or now), begins)
    return found


def _conditions(card: RateCard, begins: datetime | None) -> Iterator[Condition]:
    limits = [0, *(tier.above for tier in card.tiers)]
    yield from (Condition(begins, above, "") for above in limits)
    for tier in card.surcharges:
        for above in limits if not tier.startswith(REGION) else limits[:1]:
            yield Condition(begins, above, tier)


def rates_under(card: RateCard, condition: Condition, now: datetime) -> Rates:
    """Return the card's prices for a request under a condition."""
    size = Usage(input_tokens=condition.above + 1 if condition.above else 0)
    return card.rates(size, Terms(condition.begins or now, condition.terms))


class Difference(NamedTuple):
    """One price that two cards do not have in common, in USD (of tokens: per million); None: it has none."""

    condition: Condition
    unit: str
    one: Decimal | None
    other: Decimal | None


def differences(one: Model, other: Model, now: datetime, units: Collection[str]) -> list[Difference]:
    """Compare what two entries charge for some units, now and after each change to come."""
    found = []
    both = dict.fromkeys((*conditions(one.card, now), *conditions(other.card, now)))
    for condition in both:
        rates = [rates_under(model.card, condition, now) for model in (one, other)]
        lacking = [
            bool(model.card.unpriced(Terms(condition.begins or now, condition.terms)))
            for model in (one, other)
        ]
        for unit in units:
            prices = [each.rate(unit)[0] for each in rates]
            if prices[0] != prices[1] or lacking[0] != lacking[1]:
                shown = [
                    None if lacks else _shown(price, is_token=unit in TOKEN_PRICES)
                    for lacks, price in zip(lacking, prices, strict=True)
                ]
                found.append(Difference(condition, unit, *shown))
    return found


@lru_cache(maxsize=4096)
def _shown(nano_usd: Fraction, *, is_token: bool) -> Decimal:
    """Return a price in USD, of tokens per million, without zeros at its end."""
    usd = (nano_usd * TOKENS_PER_PRICE if is_token else nano_usd) / NANO
    exact = (Decimal(usd.numerator) / usd.denominator).normalize()
    return exact if exact else Decimal(0)
