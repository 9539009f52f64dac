"""What a user pays of the prices of the model table: a factor of their own, or that of their group."""

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

PRICE_FIELDS: Final = ("priceFactor", "group")
"""The fields of a user that decide it."""

MAX_FACTOR: Final = Decimal(10)
"""Highest factor of a service tier, of a group or of a user."""
FACTOR_DECIMALS: Final = 9

GROUP_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class PriceError(ValueError):
    """A factor or a group as it cannot be given; `field` is the one that is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def checked_prices(given: Mapping[str, Any]) -> dict[str, str | None]:
    """Return what is given of `PRICE_FIELDS` as it is stored, None for what is taken away.

    Raises `PriceError`.
    """
    stored: dict[str, str | None] = {}
    if "priceFactor" in given:
        stored["priceFactor"] = _factor(given["priceFactor"])
    if "group" in given:
        group = given["group"]
        if group is not None and not (isinstance(group, str) and GROUP_NAME.fullmatch(group)):
            raise PriceError("group", "takes 1 to 64 letters, digits and . _ -")
        stored["group"] = group
    return stored


def _factor(value: object) -> str | None:
    if value is None:
        return None
    try:
        factor = Decimal(str(value))
    except InvalidOperation:
        raise PriceError("priceFactor", "takes a decimal such as 0.8") from None
    if not factor.is_finite() or not 0 <= factor <= MAX_FACTOR:
        raise PriceError("priceFactor", f"takes a decimal from 0 to {MAX_FACTOR}")
    if factor != round(factor, FACTOR_DECIMALS):
        raise PriceError("priceFactor", f"takes {FACTOR_DECIMALS} decimals at most")
    return f"{factor.normalize():f}"
