"""A model that clients may ask for, and what it costs."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from app.pricing.rate_card import STANDARD, TEXT_PRICES, ModelPrice, RateCard, Terms, rounded
from app.wires.usage import Usage

DEFAULT_CONTEXT_WINDOW: Final = 1_000_000
DEFAULT_MAX_OUTPUT: Final = 128_000
"""Tokens a model takes and gives at most where the table does not say: as many as the largest do."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model clients may ask for: by `id` or an alias; `upstream_id` is what the upstream calls it.

    `context_window` and `max_output` are the most tokens it takes, and gives in one answer; `says_window` and
    `says_output` tell whether the table says so.
    """

    id: str
    name: str
    aliases: tuple[str, ...]
    upstream_id: str
    card: RateCard
    context_window: int = DEFAULT_CONTEXT_WINDOW
    max_output: int = DEFAULT_MAX_OUTPUT
    says_output: bool = False
    says_window: bool = False

    @property
    def price(self) -> ModelPrice:
        """The prices of a usual request: small enough, in the standard tier, of before any change."""
        return self.card.price

    def cost_nano_usd(self, usage: Usage, terms: Terms = STANDARD) -> int:
        """Return the cost of `usage` in nano-dollars, exact but for one rounding to whole ones, half up.

        What other models did for it is not in there (`app.pricing.charge`).
        """
        rates = self.card.rates(usage, terms)
        if rates.is_whole and not usage.quantities:
            return sum(rates.text_cost(usage)[1])
        return rounded(sum((line.rate * Fraction(line.quantity) for line in rates.lines(usage)), Fraction(0)))

    def has_price(self, unit: str) -> bool:
        """Return whether the table has a price for a unit, or for what it is a sort of."""
        return self.card.standard.rate(unit)[1]


_FREE = Decimal(0)
_NO_PRICE: Final = ModelPrice(_FREE, _FREE, _FREE, _FREE, _FREE, missing=frozenset(TEXT_PRICES))


def unpriced_model(model_id: str) -> Model:
    """Make a model that is not in the table: what it uses costs nothing, and its records say so."""
    return Model(model_id, model_id, (), model_id, RateCard(_NO_PRICE))
