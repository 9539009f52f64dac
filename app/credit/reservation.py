"""Credit set aside for a running request."""

import msgspec

from app.credit.budgets import Claim


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """Credit set aside for a running request, in nano-dollars: `nano` is what it may cost.

    `hold_nano` is what is, or may be, held for it in the database: it goes into the request's record
    (`ExchangeRecord.hold_nano_usd`), whose booking lets go of it.
    """

    user_id: str
    request_id: str
    nano: int
    hold_nano: int = 0

    @property
    def held(self) -> bool:
        """Whether the database has, or may have, a hold for the request."""
        return self.hold_nano > 0


class CreditExhausted(Exception):
    """Nothing is left to reserve. `balance_nano` is the credit less what is already charged, 0 or more.

    Where that is not 0, requests that are still running have reserved it. `reservation` is there where the
    database may have a hold for the refused request all the same: its record has to say so. `is_crowded` says
    that the user has as many requests with a hold as there may be. `claim` is the budget of which too little
    is left, where it is not the credit: then `balance_nano` is what is left of that.
    """

    def __init__(
        self,
        balance_nano: int,
        reservation: Reservation | None = None,
        *,
        is_crowded: bool = False,
        claim: Claim | None = None,
    ) -> None:
        super().__init__(f"no credit left to reserve, balance {balance_nano} nano-dollars")
        self.balance_nano = balance_nano
        self.reservation = reservation
        self.is_crowded = is_crowded
        self.claim = claim

    def again(self) -> "CreditExhausted":
        """Return the same refusal for another request, without a reservation."""
        return CreditExhausted(self.balance_nano, is_crowded=self.is_crowded, claim=self.claim)
