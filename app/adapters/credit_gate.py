"""Admission by credit: on this process's own word while the balance is ample, by a hold in MongoDB if not.

`app.core.credit_policy` has the rule and the bound it keeps; `app.adapters.mongo.credit_holds` the hold.
"""

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

import gevent

from app.adapters.mongo.credit_holds import Holding
from app.core.credit_policy import HOLD_TTL_S, Funds, Standing, standing
from app.core.ports import CreditExhausted, Reservation, StoreUnavailable

_RETRY_S = 1.0
"""After MongoDB failed to answer, how long requests pass or not without asking it, in seconds."""

_MANY = 10_000
_BOOKING_S = 1.0
_RECHECK_S = 0.05


class FundsReader(Protocol):
    """What the gate asks of the directory."""

    def funds(self, user_id: str) -> Funds | None:
        """The balance as cached and this process's charges; None: no limit."""


class Holds(Protocol):
    """What the gate asks of the database."""

    def place(
        self, user_id: str, request_id: str, estimate_nano: int, *, committed_nano: int, own: Collection[str]
    ) -> Holding:
        """Place a hold; raises `StoreUnavailable`, and then it may have been placed."""


@dataclass(slots=True)
class GateCounts:
    """How requests were admitted or not; all only grow.

    `unverified` are those that needed a hold and passed on the process's own view, the database being away.
    """

    ample: int = 0
    held: int = 0
    refused: int = 0
    unverified: int = 0


@dataclass(slots=True)
class _Account:
    """One user's running requests in this process: their estimates by id, and the sums of these.

    `own` are requests whose holds MongoDB may have but which this process counts by itself: those that are
    over, whose charge is among the unbooked ones until the hold goes, and those of whose hold nothing
    was heard.
    """

    unheld: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    unheld_sum: int = 0
    held_sum: int = 0
    own: set[str] = field(default_factory=set)
    ended_at: float = 0.0

    @property
    def is_idle(self) -> bool:
        return not (self.unheld or self.held or self.own)

    def start(self, request_id: str, estimate: int, *, is_held: bool) -> None:
        if is_held:
            self.held[request_id] = estimate
            self.held_sum += estimate
        else:
            self.unheld[request_id] = estimate
            self.unheld_sum += estimate

    def end(self, request_id: str) -> None:
        self.unheld_sum -= self.unheld.pop(request_id, 0)
        if request_id in self.held:
            self.held_sum -= self.held.pop(request_id)
            # MongoDB counts the hold until the record is booked; here the charge counts from now on.
            self.own.add(request_id)


class MongoCreditGate:
    """`app.core.ports.CreditGate` for all requests of one process.

    The lock is for plain threads; under gevent nothing it guards ever yields. It is never held while the
    database is asked.
    """

    def __init__(
        self,
        directory: FundsReader,
        holds: Holds,
        *,
        clock: Callable[[], float],
        pause: Callable[[float], None] = gevent.sleep,
    ) -> None:
        self._pause = pause
        self._directory = directory
        self._holds = holds
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: dict[str, _Account] = {}
        self._sweep_at = _MANY
        self._failed_at: float | None = None
        self.counts = GateCounts()

    def __repr__(self) -> str:
        accounts = self._accounts.values()
        running = sum(len(account.unheld) + len(account.held) for account in accounts)
        own = sum(len(account.own) for account in accounts)
        return f"MongoCreditGate(running={running}, own={own}, {self.counts})"

    def reserve(self, user_id: str, request_id: str, estimate_nano: int) -> Reservation:
        """Set credit aside for a request.

        While a charge is being booked it counts both here and in MongoDB for a moment. A request that would
        be refused for that waits until the booking is over, for `_BOOKING_S` at most; no other one waits.
        Raises `CreditExhausted`, or `StoreUnavailable` when the balance is not known at all.
        """
        waited = 0.0
        while True:
            funds = self._directory.funds(user_id)
            if funds is None:
                return Reservation(user_id, request_id, 0)
            try:
                return self._try_reserve(user_id, request_id, estimate_nano, funds)
            except CreditExhausted:
                # By what was unbooked before the attempt: the booking may have ended while MongoDB was asked.
                if not funds.unbooked or waited >= _BOOKING_S:
                    self.counts.refused += 1
                    raise
            self._pause(_RECHECK_S)
            waited += _RECHECK_S

    def _try_reserve(self, user_id: str, request_id: str, estimate_nano: int, funds: Funds) -> Reservation:
        with self._lock:
            account = self._account(user_id)
            if _standing(account, funds, estimate_nano) is Standing.AMPLE:
                self.counts.ample += 1
                account.start(request_id, estimate_nano, is_held=False)
                return Reservation(user_id, request_id, estimate_nano)
            committed = funds.unbooked + account.unheld_sum
            own = frozenset(account.own)
            self._drop_idle(user_id, account)
            may_ask = self._may_ask()
        if not may_ask:
            return self._on_own_view(user_id, request_id, estimate_nano)
        try:
            holding = self._holds.place(user_id, request_id, estimate_nano, committed_nano=committed, own=own)
        except StoreUnavailable:
            self._failed_at = self._clock()
            return self._on_own_view(user_id, request_id, estimate_nano, may_be_held=True)
        self._failed_at = None
        with self._lock:
            account = self._account(user_id)
            account.own -= own - holding.live
            if not holding.nano:
                self._drop_idle(user_id, account)
                raise CreditExhausted(max(0, holding.balance_nano - funds.unbooked))
            self.counts.held += 1
            account.start(request_id, estimate_nano, is_held=True)
        return Reservation(user_id, request_id, estimate_nano, holding.nano)

    def release(self, reservation: Reservation) -> None:
        """Stop counting the reservation; what it cost has been noted with the directory. Idempotent."""
        with self._lock:
            account = self._account(reservation.user_id)
            account.end(reservation.request_id)
            if account.own:
                account.ended_at = self._clock()
            self._drop_idle(reservation.user_id, account)
        if len(self._accounts) > self._sweep_at:
            self._forget_long_over()

    def _forget_long_over(self) -> None:
        """Let go of users whose requests have been over for longer than any hold counts."""
        with self._lock:
            long_ago = self._clock() - HOLD_TTL_S
            self._accounts = {
                user_id: account
                for user_id, account in self._accounts.items()
                if account.unheld or account.held or account.ended_at > long_ago
            }
            self._sweep_at = max(_MANY, 2 * len(self._accounts))

    def _may_ask(self) -> bool:
        """Whether to ask MongoDB: always while it answers, else one request at a time and pause."""
        if self._failed_at is None:
            return True
        now = self._clock()
        if now - self._failed_at < _RETRY_S:
            return False
        self._failed_at = now
        return True

    def _on_own_view(
        self, user_id: str, request_id: str, estimate_nano: int, *, may_be_held: bool = False
    ) -> Reservation:
        """Decide without MongoDB: an outage must not stop those who, as far as is known, can pay.

        Deciding and counting are one step, so requests that failed together are admitted one by one.
        """
        funds = self._directory.funds(user_id) or Funds(0)
        with self._lock:
            account = self._account(user_id)
            if may_be_held:
                account.own.add(request_id)
                account.ended_at = self._clock()
            if _standing(account, funds, estimate_nano) is Standing.NONE:
                self._drop_idle(user_id, account)
                raise CreditExhausted(max(0, funds.balance - funds.charged))
            self.counts.unverified += 1
            account.start(request_id, estimate_nano, is_held=False)
        return Reservation(user_id, request_id, estimate_nano, estimate_nano if may_be_held else 0)

    def _account(self, user_id: str) -> _Account:
        """The user's account, to be dropped afterwards (`_drop_idle`) if there is nothing in it."""
        account = self._accounts.get(user_id)
        if account is None:
            account = self._accounts[user_id] = _Account()
        return account

    def _drop_idle(self, user_id: str, account: _Account) -> None:
        if account.is_idle:
            self._accounts.pop(user_id, None)


def _standing(account: _Account, funds: Funds, estimate: int) -> Standing:
    return standing(funds, unheld=account.unheld_sum, held=account.held_sum, estimate=estimate)
