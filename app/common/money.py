"""The unit of money."""

from decimal import Decimal

NANO = 1_000_000_000


def nano_to_usd(nano_usd: int) -> Decimal:
    """Convert nano-dollars to exact USD."""
    return Decimal(nano_usd) / NANO
