"""What a user can still spend, as the request path sees it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from app.common.money import NANO

DECISION_S: Final = 1.0
"""How long the decision whether a request may start waits for MongoDB, in seconds."""


class Balance(msgspec.Struct, frozen=True):
    """What a user can still spend, in nano-dollars, and until when (None: for ever).

    `unbooked_nano` has been taken off for charges that may or may not be in the stored balance already.
    """

    nano_usd: int
    expires_at: datetime | None = None
    unbooked_nano: int = 0

    @property
    def usd(self) -> float:
        """The balance in USD, as old readers and error bodies show it."""
        return self.nano_usd / NANO


class Funds(msgspec.Struct, frozen=True, gc=False):
    """A user's credit as one process sees it, in nano-dollars.

    `balance` is as MongoDB had it when it was last read. `unbooked` is what this process has charged and
    MongoDB does not hold yet; `charged` adds what it holds by now but `balance` may not show.
    """

    balance: int
    charged: int = 0
    unbooked: int = 0


class Spending(msgspec.Struct, frozen=True):
    """What of a user's budgets is booked, as it is stored, and what is held beside for background work."""

    budget_spent: Mapping[str, Any]
    pending_nano: int = 0


_PENDING: Final = "pending-"


def pending_hold(request_id: str) -> str:
    """Return the name of the hold for what goes on after a request has ended; no request has such an id."""
    return f"{_PENDING}{request_id}"


def pending_nano(holds: object) -> int:
    """Return what is held, in nano-dollars, for what goes on after its requests have ended."""
    amounts = [
        hold.get("nano")
        for name, hold in (holds.items() if isinstance(holds, Mapping) else ())
        if str(name).startswith(_PENDING) and isinstance(hold, Mapping)
    ]
    return sum(amount for amount in amounts if isinstance(amount, int) and amount > 0)
