"""The simulator's own prices and arithmetic, which share nothing with the proxy's: USD per million tokens."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from simulator.tokens import Tokens

_MILLION = Decimal(10) ** 6
_KINDS = ("fresh", "cache_read", "cache_write_5m", "cache_write_1h", "output")


def cost_usd(prices: Mapping[str, Any], tokens: Tokens) -> Decimal:
    """Return what tokens cost, exactly; ``prices`` by the names of `Tokens`, those left out are 0."""
    parts = (Decimal(str(prices.get(kind, 0))) * getattr(tokens, kind) for kind in _KINDS)
    return sum(parts, Decimal(0)) / _MILLION
