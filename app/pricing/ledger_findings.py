"""What is wrong between what the upstream says it charged and what was charged for it. Pure.

A finding's `name` is the same for as long as it is the same: whoever tells of it can tell once.
"""

from decimal import Decimal
from typing import Final, NamedTuple

from app.common.money import nano_to_usd
from app.pricing.told_cost import LEAST_NANO, drift_of, is_beyond

MARGIN: Final = "margin"
DRIFT: Final = "drift"
BOOKS: Final = "books"
"""What the names of findings begin with, before a colon and the model or key."""


class Told(NamedTuple):
    """The requests of a model whose cost the upstream told: that, their cost here, and by the table alone."""

    upstream_nano: int
    cost_nano: int
    list_nano: int


class Finding(NamedTuple):
    """Something an administrator should know: `name` says which, `text` what, in one line, `advice` why."""

    name: str
    text: str
    advice: str


def of_model(model: str, told: Told, most_drift: Decimal) -> list[Finding]:
    """Return what is wrong with a model; differences of less than a cent are none."""
    found = []
    if told.upstream_nano - told.cost_nano >= LEAST_NANO:
        text = f"{model} costs more than it brings: the upstream charged {_usd(told.upstream_nano)}"
        found.append(
            Finding(
                f"{MARGIN}:{model}",
                f"{text} today for what was charged {_usd(told.cost_nano)}.",
                "Its price, multiplier or a user's price factor is too low.",
            )
        )
    if is_beyond(told.upstream_nano, told.list_nano, most_drift):
        drift = 100 * drift_of(told.upstream_nano, told.list_nano)
        found.append(
            Finding(
                f"{DRIFT}:{model}",
                f"The upstream charged {_usd(told.upstream_nano)} today for requests to {model} that cost "
                f"{_usd(told.list_nano)} by the model table ({drift:+.1f} per cent).",
                "A price of the table is not what the upstream takes.",
            )
        )
    return found


def of_key(key_id: str, upstream_nano: int, own_nano: int) -> Finding:
    """Return what there is to say of an upstream key whose books differ."""
    drift = 100 * drift_of(upstream_nano, own_nano)
    return Finding(
        f"{BOOKS}:{key_id}",
        f"OhMyGPT charged {_usd(upstream_nano)} for the key {key_id} yesterday, "
        f"and {_usd(own_nano)} was booked ({drift:+.1f} per cent).",
        "The key is used elsewhere, too, or prices differ: weir verify --upstream.",
    )


def _usd(nano: int) -> str:
    return f"${nano_to_usd(nano):.2f}"
