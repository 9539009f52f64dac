"""How figures are written on pages: with units, thousands, and as many digits as matter."""

import math
from datetime import UTC, datetime, tzinfo
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, TypeGuard

from app.core.pricing import nano_to_usd

NOTHING = "–"

_SIGNIFICANT = 4
_MAX_FOREIGN = 40
_LARGEST = 2.0**63
_SECOND_MS = 1000
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86_400
_KILO = 1000
_PAST_YEARS = (1, 9999)


def number(value: Any) -> str:
    """A count with thousands: `1,234,567`. What is no number is shown as it is: records may hold anything."""
    if value is None:
        return NOTHING
    return f"{int(value):,}" if is_number(value) else str(value)[:_MAX_FOREIGN]


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a stored value is a number that can be written."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def percent(value: float | None) -> str:
    """`99.93 %`; what is not quite all of it never reads 100."""
    if value is None:
        return NOTHING
    shown = math.floor(value * 100) / 100
    return f"{shown:.2f}".rstrip("0").rstrip(".") + "\N{NO-BREAK SPACE}%"


def share(value: float) -> str:
    """A part of a whole, in per cent, to one decimal."""
    return f"{value:.1f}\N{NO-BREAK SPACE}%"


def usd(nano_usd: int | None) -> str:
    """Money to four significant digits, and to the cent at least: `$1,234.57`, `$0.000615`."""
    if nano_usd is None:
        return NOTHING
    amount = nano_to_usd(abs(nano_usd))
    digits = 2
    if amount and amount < 1:
        digits = max(2, min(9, _SIGNIFICANT - 1 - amount.adjusted()))
    text = f"{amount.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):,f}"
    whole, _, cents = text.partition(".")
    cents = cents[:2] + cents[2:].rstrip("0")
    return f"{'-' if nano_usd < 0 else ''}${whole}.{cents}"


def usd_exact(nano_usd: int | None) -> str:
    """Money to the nano-dollar."""
    if nano_usd is None:
        return NOTHING
    whole, _, rest = f"{nano_to_usd(abs(nano_usd)):,.9f}".partition(".")
    return f"{'-' if nano_usd < 0 else ''}${whole}.{rest[:2]}{rest[2:].rstrip('0')}"


def milliseconds(value: Any) -> str:
    """A duration given in milliseconds: `850 ms`, `12.3 s`, `2 min 5 s`."""
    if not is_number(value):
        return number(value)
    if value < _SECOND_MS:
        return f"{round(value)} ms"
    return seconds(value / _SECOND_MS)


def seconds(value: float | None) -> str:
    """A duration given in seconds, in its two largest units."""
    if value is None:
        return NOTHING
    if value < _MINUTE_S:
        return f"{value:.1f}".rstrip("0").rstrip(".") + " s"
    whole = round(value)
    for size, name, rest, rest_name in (
        (_DAY_S, "d", _HOUR_S, "h"),
        (_HOUR_S, "h", _MINUTE_S, "min"),
        (_MINUTE_S, "min", 1, "s"),
    ):
        if whole >= size:
            more = whole % size // rest
            return f"{whole // size} {name}" + (f" {more} {rest_name}" if more else "")
    return f"{whole} s"


def byte_count(value: Any) -> str:
    """`512 B`, `4.7 kB`, `1.2 GB`: in thousands."""
    if not is_number(value):
        return number(value)
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < _KILO:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= _KILO / 10 else f"{amount:.1f} {unit}"
        amount /= _KILO
    return f"{amount:,.1f} TB"


def as_moment(value: Any) -> datetime | None:
    """A time as stored or as shown in the API; None for what is none."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime) or value.year in _PAST_YEARS:
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


def moment(value: Any, tz: tzinfo) -> str:
    """`2026-11-23 10:00:05` in the zone of the statistics."""
    found = as_moment(value)
    return NOTHING if found is None else found.astimezone(tz).strftime("%Y-%m-%d %H:%M:%S")


def distance(value: Any, now: datetime) -> str:
    """How far away a time is: `in 2 min`, `3 h ago`."""
    found = as_moment(value)
    if found is None:
        return NOTHING
    away = round((found - now).total_seconds())
    if away == 0:
        return "now"
    return f"in {seconds(away)}" if away > 0 else f"{seconds(-away)} ago"
