"""How figures are written on pages: with units, thousands, and as many digits as matter."""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, tzinfo
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, TypeGuard

from app.common.money import nano_to_usd

NOTHING = "–"

_SIGNIFICANT = 4
_MAX_FOREIGN = 40
_LARGEST = 2.0**63
_SHORT_ID = 16
_SHORT_NAME = 60
_SECOND_MS = 1000
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86_400
_UNITS = ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min"), (1, "s"))
_KILO = 1000
_PAST_YEARS = (1, 9999)


def number(value: Any) -> str:
    """Write a count with thousands: `1,234,567`. What is no number stays as it is: a record may hold it."""
    if value is None:
        return NOTHING
    if not is_number(value):
        return str(value)[:_MAX_FOREIGN]
    return f"{int(value):,}" if value == int(value) else f"{value:,}"


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a stored value is a number that can be written."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def percent(value: float | None) -> str:
    """Write a fraction in per cent: `99.93 %`; what is not quite all of it never reads 100."""
    if value is None:
        return NOTHING
    shown = math.floor(value * 100) / 100
    return f"{shown:.2f}".rstrip("0").rstrip(".") + "\N{NO-BREAK SPACE}%"


def share(value: float) -> str:
    """Write a part of a whole, in per cent, to one decimal."""
    return f"{value:.1f}\N{NO-BREAK SPACE}%"


def usd(nano_usd: Any) -> str:
    """Write money to four significant digits, and to the cent at least: `$1,234.57`, `$0.000615`."""
    if not is_number(nano_usd):
        return NOTHING
    amount = nano_to_usd(abs(int(nano_usd)))
    digits = 2
    if amount and amount < 1:
        digits = max(2, min(9, _SIGNIFICANT - 1 - amount.adjusted()))
    text = f"{amount.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):,f}"
    whole, _, cents = text.partition(".")
    cents = cents[:2] + cents[2:].rstrip("0")
    return f"{'-' if nano_usd < 0 else ''}${whole}.{cents}"


def usd_fixed(nano_usd: int, digits: int) -> tuple[str, str]:
    """Write money with this many decimals: up to the cents, and what comes after them."""
    amount = nano_to_usd(abs(nano_usd)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    whole, _, cents = f"{amount:,f}".partition(".")
    return f"{'-' if nano_usd < 0 else ''}${whole}.{cents[:2]}", cents[2:]


def money_digits(amounts: Iterable[Any]) -> int:
    """Return how many decimals a column of money needs, so that its smallest part can still be read."""
    smallest = min((abs(int(nano)) for nano in amounts if is_number(nano) and nano), default=0)
    if not smallest:
        return 2
    return max(2, min(6, 1 - nano_to_usd(smallest).adjusted()))


def spark_path(values: Sequence[float]) -> str:
    """Return the path of a small line, within 100 by 20, from 0 up."""
    most, last = max(values, default=0) or 1, max(1, len(values) - 1)
    points = (f"{100 * n / last:.1f} {19 - 18 * value / most:.1f}" for n, value in enumerate(values))
    return "M" + "L".join(points) if values else ""


def usd_exact(nano_usd: Any) -> str:
    """Write money to the nano-dollar; nothing where a record has none, or something else in its place."""
    if not is_number(nano_usd):
        return NOTHING
    whole, _, rest = f"{nano_to_usd(abs(int(nano_usd))):,.9f}".partition(".")
    return f"{'-' if nano_usd < 0 else ''}${whole}.{rest[:2]}{rest[2:].rstrip('0')}"


def milliseconds(value: Any) -> str:
    """Write a duration given in milliseconds: `850 ms`, `12.3 s`, `2 min 5 s`."""
    if not is_number(value):
        return number(value)
    if value < _SECOND_MS:
        return f"{round(value)} ms"
    return seconds(value / _SECOND_MS)


def seconds(value: float | None) -> str:
    """Write a duration given in seconds, in its two largest units."""
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


def short(text: str) -> str:
    """Shorten a name that is very long, and an id to its head and tail."""
    if text.startswith("wk_") and len(text) > _SHORT_ID:
        return f"{text[:7]}…{text[-6:]}"
    return text if len(text) <= _SHORT_NAME else text[: _SHORT_NAME - 1] + "…"


def byte_count(value: Any) -> str:
    """Write a number of bytes in thousands: `512 B`, `4.7 kB`, `1.2 GB`."""
    if not is_number(value):
        return number(value)
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < _KILO:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= _KILO / 10 else f"{amount:.1f} {unit}"
        amount /= _KILO
    return f"{amount:,.1f} TB"


def as_moment(value: Any) -> datetime | None:
    """Return a time as stored or as shown in the API; None for what is none."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime) or value.year in _PAST_YEARS:
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


def moment(value: Any, tz: tzinfo) -> str:
    """Write a moment in the zone of the statistics: `2026-11-23 10:00:05`."""
    found = as_moment(value)
    return NOTHING if found is None else found.astimezone(tz).strftime("%Y-%m-%d %H:%M:%S")


def distance(value: Any, now: datetime) -> str:
    """Write how far away a time is, in its largest unit: `in 2 min`, `3 h ago`."""
    found = as_moment(value)
    if found is None:
        return NOTHING
    away = round((found - now).total_seconds())
    if away == 0:
        return "now"
    size, unit = next((size, unit) for size, unit in _UNITS if abs(away) >= size)
    amount = f"{round(abs(away) / size)} {unit}"
    return f"in {amount}" if away > 0 else f"{amount} ago"
