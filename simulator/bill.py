"""An independent bill: what answers ought to cost, by the vendors' rules and by nothing of the proxy's.

The rules. Prices of tokens are in USD per million. What the whole input comes to, cached tokens included,
decides on the context tier, and that holds for the whole request: more than so many, not exactly so many. A
service tier is the answered one and multiplies prices of tokens; what is no token (searches, seconds,
characters) costs the same in each. A price that changes on a day is that of requests that began then or
later. Tokens of sound and images are part of the input or output, at a price of their own. All is exact, and
each request is rounded once, half up, to a billionth of a dollar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction

Prices = Mapping[str, str]

_COLUMNS = {
    "fresh": "input",
    "cache_read": "cache_hit",
    "cache_write_5m": "cache_write",
    "cache_write_1h": "cache_write_1h",
    "output": "output",
}
"""What the tally calls tokens of text, and what price lists do."""
_INPUT = ("fresh", "cache_read", "cache_write_5m", "cache_write_1h")
_PART_OF = {"input_audio": "fresh", "output_audio": "output", "output_image": "output"}
"""Tokens of other kinds, and which of the tally's counts include them."""


@dataclass(frozen=True, slots=True)
class PriceList:
    """What a model costs: ``tokens`` and ``units`` by name, and what differs under conditions.

    ``tiers`` are prices for an input of more than so many tokens, rising; ``service_tiers`` factors of prices
    of tokens; ``changes`` prices from a moment on, in the order of time.
    """

    tokens: Prices
    units: Prices = field(default_factory=dict)
    tiers: tuple[tuple[int, Prices], ...] = ()
    service_tiers: Prices = field(default_factory=dict)
    changes: tuple[tuple[datetime, Prices], ...] = ()
    multiplier: str = "1"

    def toml(self, model: str) -> str:
        """Write the list as an entry of a model table."""
        lines = ["[[models]]", f'id = "{model}"', f'multiplier = "{self.multiplier}"', *_lines(self.tokens)]
        if self.units:
            lines += ["[models.units]", *_lines(self.units)]
        for above, prices in self.tiers:
            lines += ["[[models.tiers]]", f"above_input_tokens = {above}", *_lines(prices)]
        for name, factor in self.service_tiers.items():
            lines += [f"[models.service_tiers.{name}]", f'factor = "{factor}"']
        for moment, prices in self.changes:
            lines += ["[[models.changes]]", f"from = {moment.isoformat()}", *_lines(prices)]
        return "\n".join(lines) + "\n"

    def cost_nano(
        self,
        tokens: Mapping[str, int] | None,
        units: Mapping[str, float],
        *,
        began: datetime,
        tier: str = "",
        factor: str = "1",
    ) -> int:
        """Return what an answer costs, in nano-dollars; ``factor`` is the caller's own."""
        counts = dict.fromkeys(_COLUMNS, 0) | dict(tokens or {})
        prices = dict(self.tokens)
        for moment, changed in self.changes:
            if began >= moment:
                prices |= changed
        whole_input = sum(counts[name] for name in _INPUT)
        for above, dearer in self.tiers:
            if whole_input > above:
                prices |= dearer
        of_tokens, of_units = Fraction(0), Fraction(0)
        for unit, quantity in units.items():
            if (whole := _PART_OF.get(unit)) is None:
                of_units += Fraction(self.units[unit]) * Fraction(quantity)
            else:
                counts[whole] -= int(quantity)
                of_tokens += Fraction(prices[unit]) * int(quantity)
        for name, column in _COLUMNS.items():
            if counts[name]:
                of_tokens += Fraction(prices[column]) * counts[name]
        of_tokens *= Fraction(self.service_tiers.get(tier, "1"))
        usd = (of_tokens / 10**6 + of_units) * Fraction(self.multiplier) * Fraction(factor)
        return int(usd * 10**9 + Fraction(1, 2))


def _lines(prices: Prices) -> list[str]:
    return [f'"{name}" = "{price}"' for name, price in prices.items()]
