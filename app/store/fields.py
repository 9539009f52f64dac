"""Reading and writing single fields: what a shell or an older program left in them never fails a request."""

import math
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from bson import Decimal128
from bson.int64 import Int64

from app.common.money import NANO

Document = dict[str, Any]

# The most credit a double still tells apart to the nano-dollar, with room for the sums made of it.
MAX_CREDITS = Decimal(1_000_000)
_NANO_DOLLAR = Decimal(1).scaleb(-9)


def nano_usd(value: object) -> int:
    """Read nano-dollars out of any number MongoDB may hold in USD; 0 for what is no finite number."""
    if isinstance(value, Decimal128):
        value = value.to_decimal()
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return 0
    exact = Decimal(value)
    return int((exact * NANO).to_integral_value(ROUND_HALF_EVEN)) if exact.is_finite() else 0


def optional_int(value: object) -> int | None:
    """Return a whole number that a shell may have written as a double; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value)


def optional_rpm(value: object) -> int | None:
    """Return a limit in requests per minute; None, the configured one, for what cannot be a limit."""
    number = optional_int(value)
    return number if number is not None and number >= 0 else None


def optional_date(value: object) -> datetime | None:
    """Return a date; None for anything else, since a single odd document must not fail a request."""
    return value if isinstance(value, datetime) else None


def optional_text(value: object) -> str | None:
    """Return a text that says something; None for anything else."""
    return value if isinstance(value, str) and value else None


def optional_decimal(value: object) -> str | None:
    """Return a decimal as text, which a shell may have written as a number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal128):
        return None
    return str(value) or None


def changes_of(fields: Document) -> Document:
    """Build the update that sets these fields, and removes those that are None."""
    update: Document = {
        "$set": {name: value for name, value in fields.items() if value is not None},
        "$unset": {name: "" for name, value in fields.items() if value is None},
    }
    return {operator: changes for operator, changes in update.items() if changes}


def exact_double(amount: Decimal) -> float:
    """Return the amount in USD as it is stored; ValueError if a double cannot tell it to the nano-dollar."""
    if not amount.is_finite() or abs(amount) > MAX_CREDITS:
        raise ValueError(f"takes an amount in USD up to {MAX_CREDITS:,}")
    if amount != amount.quantize(_NANO_DOLLAR):
        raise ValueError("takes an amount in USD with at most 9 decimals")
    return float(amount)


def nano_dollars(amount: Decimal) -> Int64:
    """Return an amount `exact_double` accepts in nano-dollars: 64 bits wide in the store, however small."""
    return Int64(int(amount * NANO))


def number(field: str) -> Document:
    """Return the field, 0 if it is missing or no number: one damaged document must not stop the booking."""
    return {"$cond": [{"$isNumber": field}, field, 0]}


def nano(field: str) -> Document:
    """Return a balance in USD as whole nano-dollars."""
    return {"$round": [{"$multiply": [number(field), float(NANO)]}, 0]}
