"""What the upstream itself says a request cost: `cost` of its usage, a number, a text or a `total_cost`.

Some tell it as `cost_in_usd_ticks`, of 10⁻¹⁰ USD each. Most say nothing. It is in USD, without the operator's
multiplier, and known only as far as the upstream can be believed: it charges nobody.
"""

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, Final

from app.common.money import NANO
from app.pricing.rate_card import rounded

MAX_TOLD_USD: Final = 10**6
"""No request costs more, in USD: a larger number is none that could be summed up exactly for long."""

LEAST_NANO: Final = NANO // 100
"""A difference of less than a cent is none: roundings differ, and readings and bookings are seconds apart."""

_TICKS_PER_NANO = 10
_MAX_DIGITS = 40


def told_nano(told: Mapping[str, Any]) -> Decimal | None:
    """Return what a usage object says the request cost, in nano-dollars; None where it says nothing."""
    cost = told.get("cost")
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    if (usd := _decimal(cost, MAX_TOLD_USD)) is not None:
        return usd * NANO
    ticks = _decimal(told.get("cost_in_usd_ticks"), MAX_TOLD_USD * NANO * _TICKS_PER_NANO)
    return None if ticks is None else ticks / _TICKS_PER_NANO


def upstream_cost_nano(*told: Mapping[str, Any] | None, is_whole: bool) -> int | None:
    """Return what the first of these usage objects that says so says, in whole nano-dollars, half up.

    A cost of 0 is one only in a usage that is whole: streams begin with zeros before anything is known.
    """
    for usage in told:
        if usage and ("cost" in usage or "cost_in_usd_ticks" in usage):
            number = told_nano(usage)
            if number is not None and (number or is_whole):
                return int(number.to_integral_value(ROUND_HALF_UP))
    return None


def drift_of(upstream_nano: int, own_nano: int) -> float:
    """Return the difference as a share of the larger: above 0 where the upstream has more."""
    larger = max(upstream_nano, own_nano)
    return round((upstream_nano - own_nano) / larger, 6) if larger else 0.0


def is_beyond(upstream_nano: int, own_nano: int, most: Decimal) -> bool:
    """Return whether two sums differ by more than the share `most`, and by a cent at least."""
    difference = abs(upstream_nano - own_nano)
    return difference >= LEAST_NANO and difference > most * max(upstream_nano, own_nano)


def list_cost_nano(cost_nano: int, multiplier: Decimal, price_factor: Fraction | None) -> int | None:
    """Return what a cost is by the prices of the table alone, in nano-dollars: what an upstream may charge.

    None where that is the cost itself, or cannot be told any more because nothing was charged.
    """
    factor = Fraction(multiplier) * (1 if price_factor is None else price_factor)
    return None if not cost_nano or factor in (0, 1) else rounded(cost_nano / factor)


def _decimal(value: object, most: int) -> Decimal | None:
    """Read a number from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    # A huge whole number is not written out.
    if len(value) > _MAX_DIGITS if isinstance(value, str) else not 0 <= value <= most:
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and 0 <= number <= most else None
