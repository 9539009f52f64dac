"""Admission by credit: on this process's own word while the balance is ample, by a hold in MongoDB if not.

`app.credit.credit_policy` has the rule and the bound it keeps; `app.credit.credit_holds` the hold.
"""

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import gevent

from app.accounts.directory import CachedDirectory
from app.accounts.funds import DECISION_S, Funds
from app.common.errors import StoreUnavailable
from app.credit.budgets import Claim, spent_nano
from app.credit.credit_holds import CreditHolds, Holding, Tending
from app.credit.credit_policy import HOLD_RENEWAL_S, HOLD_TTL_S, is_ample, share
from app.credit.reservation import CreditExhausted, Reservation

_RETRY_S = 1.0
"""After MongoDB failed to answer, how long requests pass or not without asking it, in seconds."""

_TURN_S = 5.0
"""How long a request waits at most while others of its user ask MongoDB, one after the other, in seconds."""

_MANY = 10_000
_RECHECK_S = 0.05
_LEAST_S = 0.2
"""The least time MongoDB is given to answer, in seconds: with less than that left, it is not asked again."""


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
class _Attempt:
    """A request that asks for credit. `may_be_held`: MongoDB was asked for a hold and did not answer."""

    user_id: str
    request_id: str
    most: int
    usual: int
    least: int
    claims: tuple[Claim, ...] = ()
    may_be_held: bool = False

    def reservation(self, nano: int, *, is_held: bool = False) -> Reservation:
        """Make the attempt's reservation; a hold of which nothing was heard goes into the record as well."""
        return Reservation(self.user_id, self.request_id, nano, nano if is_held or self.may_be_held else 0)


@dataclass(slots=True)
class _Account:
    """One user's running requests in this process: what they may cost by id, and the sums of these.

    `own` are requests whose holds MongoDB may have but which this process counts by itself: those that are
    over, whose charge is among the unbooked ones until the hold goes, and those of whose hold nothing
    was heard. Each is remembered until MongoDB is seen not to have it, and not before the moment beside it.

    One request at a time has its `turn` to ask MongoDB, `waiting` are those that want it: many at once would
    only be in each other's way there, all of them writing one document. `placings` is how often MongoDB was
    asked; `refusal` is the last time that too little was left: the number of that time, and what was needed.
    """

    unheld: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    unheld_sum: int = 0
    held_sum: int = 0
    own: dict[str, float] = field(default_factory=dict)
    ended_at: float = 0.0
    turn: threading.Lock = field(default_factory=threading.Lock)
    waiting: int = 0
    placings: int = 0
    refusal: tuple[int, int, CreditExhausted] | None = None

    def refusal_of(self, least: int, asked_before: int, claims: Collection[Claim]) -> CreditExhausted | None:
        """Return the last refusal for a request that would hear the same; None: it has to ask by itself.

        `asked_before` are the placings there had been when the request came. It would hear the same if the
        refusal came later, and was for too many holds or for a request that needed no more than `least`, and
        not for a budget that is none of `claims`.
        """
        if self.refusal is None:
            return None
        number, needed, error = self.refusal
        is_another = error.claim is not None and error.claim not in claims
        if number <= asked_before or is_another or not (error.is_crowded or least >= needed):
            return None
        return error.again()

    @property
    def is_idle(self) -> bool:
        return not (self.unheld or self.held or self.own or self.waiting)

    def start(self, request_id: str, nano: int, *, is_held: bool) -> None:
        if is_held:
            self.held[request_id] = nano
            self.held_sum += nano
        else:
            self.unheld[request_id] = nano
            self.unheld_sum += nano

    def end(self, request_id: str) -> None:
        self.unheld_sum -= self.unheld.pop(request_id, 0)
        if request_id in self.held:
            self.held_sum -= self.held.pop(request_id)
            # MongoDB counts the hold until the record is booked; here the charge counts from now on.
            self.own[request_id] = 0.0

    def forget(self, gone: Collection[str], now: float) -> None:
        """Let go of requests MongoDB holds nothing for; of doubtful ones only when no hold can come."""
        self.own = {name: until for name, until in self.own.items() if name not in gone or until > now}

    def tending(self, *, is_booked: bool, is_due: bool) -> Tending:
        """Say which holds to renew or remove now; `is_booked` says that no charge is unbooked."""
        ended = self.own.keys() - self.unheld.keys()
        renewed = {*self.held, *self.own} if is_due else set()
        return Tending(
            frozenset(renewed - ended if is_booked else renewed), frozenset(ended if is_booked else ())
        )


class MongoCreditGate:
    """`app.exchange.ports.CreditGate` for all requests of one process.

    The lock is for plain threads; under gevent nothing it guards ever yields. It is never held while the
    database is asked.
    """

    def __init__(
        self,
        directory: CachedDirectory,
        holds: CreditHolds,
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
        self._renewed_at = clock()
        self.counts = GateCounts()

    def __repr__(self) -> str:
        accounts = self._accounts.values()
        running = sum(len(account.unheld) + len(account.held) for account in accounts)
        own = sum(len(account.own) for account in accounts)
        return f"MongoCreditGate(running={running}, own={own}, {self.counts})"

    def reserve(
        self,
        user_id: str,
        request_id: str,
        most_nano: int,
        usual_nano: int | None = None,
        least_nano: int = 1,
        claims: tuple[Claim, ...] = (),
    ) -> Reservation:
        """Set credit aside for a request: within `DECISION_S`, plus the time of requests that ask before it.

        While a charge is being booked it counts both here and in MongoDB for a moment, and other requests may
        be about to end. A request that would be refused for that is tried again, if there is time.
        Raises `CreditExhausted`, or `StoreUnavailable` when the balance is not known at all.
        """
        usual = most_nano if usual_nano is None else min(usual_nano, most_nano)
        attempt = _Attempt(user_id, request_id, most_nano, usual, min(least_nano, most_nano), claims)
        funds = self._directory.funds(user_id)
        began, waited = self._clock(), 0.0
        while funds is not None:
            left_s = DECISION_S - max(waited, self._clock() - began)
            try:
                return self._try_reserve(attempt, funds, max(left_s, _LEAST_S))
            except CreditExhausted as error:
                is_over = DECISION_S - max(waited, self._clock() - began) < _LEAST_S
                # By what was unbooked before the attempt: the booking may have ended while MongoDB was asked.
                is_momentary = funds.unbooked or error.balance_nano > 0
                if not is_momentary or is_over:
                    raise self._refused(attempt, error) from None
            self._pause(_RECHECK_S)
            waited += _RECHECK_S
            funds = self._funds_now(user_id, funds)
        return Reservation(user_id, request_id, 0)

    def _try_reserve(self, attempt: _Attempt, funds: Funds, left_s: float) -> Reservation:
        with self._lock:
            account = self._account(attempt.user_id)
            if self._is_ample(account, attempt, funds):
                self.counts.ample += 1
                return self._admit(account, attempt, attempt.most)
            is_trial = self._failed_at is not None
            may_ask = self._may_ask()
            account.waiting += 1
            asked_before = account.placings
        try:
            if not may_ask:
                return self._on_own_view(attempt, funds)
            if not account.turn.acquire(timeout=_TURN_S):
                raise CreditExhausted(max(0, funds.balance - funds.charged), is_crowded=True)
            try:
                refusal = account.refusal_of(attempt.least, asked_before, attempt.claims)
                if refusal is not None:
                    # Asked by another request while this one waited: the answer holds for both.
                    raise refusal
                return self._ask(account, attempt, funds, left_s, is_trial=is_trial)
            finally:
                account.turn.release()
        finally:
            with self._lock:
                account.waiting -= 1
                self._drop_idle(attempt.user_id, account)

    def _ask(
        self, account: _Account, attempt: _Attempt, known: Funds, left_s: float, *, is_trial: bool
    ) -> Reservation:
        """Place a hold; only one request of a user at a time does so.

        `is_trial`: MongoDB had failed, and this request is the one that asks all the same.
        """
        funds = self._funds_now(attempt.user_id, known)
        if funds is None:
            return Reservation(attempt.user_id, attempt.request_id, 0)
        with self._lock:
            committed = funds.unbooked + account.unheld_sum
            own = frozenset(account.own)
            may_ask = is_trial or self._may_ask()
            account.placings += 1
            number = account.placings
        if not may_ask:
            return self._on_own_view(attempt, funds)
        try:
            holding = self._holds.place(
                attempt.user_id,
                attempt.request_id,
                attempt.most,
                committed_nano=committed,
                own=own,
                timeout_s=left_s,
                usual_nano=attempt.usual,
                least_nano=attempt.least,
                claims=attempt.claims,
            )
        except StoreUnavailable:
            self._failed_at = self._clock()
            attempt.may_be_held = True
            return self._on_own_view(attempt, self._funds_now(attempt.user_id, funds))
        self._failed_at = None
        with self._lock:
            account.forget(own - holding.live, self._clock())
            if not holding.nano:
                error = _exhausted(holding, funds)
                account.refusal = number, attempt.least, error
                raise error
            self.counts.held += 1
            return self._admit(account, attempt, holding.nano, is_held=True)

    def _is_ample(self, account: _Account, attempt: _Attempt, funds: Funds) -> bool:
        """Return whether credit, and each budget, is so much that the request needs no hold.

        All that the user has running counts against each budget, whatever it is paid from: that is simple,
        and a request more with a hold does no harm.
        """
        unheld, held, most = account.unheld_sum, account.held_sum, attempt.most
        if not is_ample(funds, unheld=unheld, held=held, most=most):
            return False
        for _, left in self._budgets(attempt) if attempt.claims else ():
            if not is_ample(Funds(left, funds.charged), unheld=unheld, held=held, most=most):
                return False
        return True

    def _budgets(self, attempt: _Attempt) -> list[tuple[Claim, int]]:
        """Return what is left of each budget as MongoDB had it when the user was last read."""
        if not attempt.claims:
            return []
        spending = self._directory.spending(attempt.user_id)
        return [
            (claim, claim.nano_usd - spent_nano(claim, spending.budget_spent) - spending.pending_nano)
            for claim in attempt.claims
        ]

    def _admit(
        self, account: _Account, attempt: _Attempt, nano: int, *, is_held: bool = False
    ) -> Reservation:
        """Count the request as running, with what it may cost and the hold it has or may have."""
        if attempt.may_be_held and not is_held:
            account.own[attempt.request_id] = self._clock() + HOLD_TTL_S
        account.start(attempt.request_id, nano, is_held=is_held)
        return attempt.reservation(nano, is_held=is_held)

    def _refused(self, attempt: _Attempt, error: CreditExhausted) -> CreditExhausted:
        """Count the refusal; a hold that may have been placed all the same is remembered until it is gone."""
        self.counts.refused += 1
        if not attempt.may_be_held:
            return error
        with self._lock:
            account = self._account(attempt.user_id)
            account.ended_at = self._clock()
            account.own[attempt.request_id] = account.ended_at + HOLD_TTL_S
        reservation = attempt.reservation(attempt.most)
        return CreditExhausted(
            error.balance_nano, reservation, is_crowded=error.is_crowded, claim=error.claim
        )

    def _funds_now(self, user_id: str, known: Funds) -> Funds | None:
        """Return what the directory knows by now; `known` if it knows nothing any more."""
        try:
            return self._directory.funds(user_id)
        except StoreUnavailable:
            return known

    def tend(self) -> None:
        """Renew the holds of what runs or is not booked, remove those of what is over; to be called often.

        Raises `StoreUnavailable`, and then the holds are due again.
        """
        now = self._clock()
        is_due = now - self._renewed_at >= HOLD_RENEWAL_S
        tendings = self._tendings(is_due)
        live = self._holds.tend(tendings) if tendings else {}
        if is_due:
            self._renewed_at = now
        with self._lock:
            for user_id, tending in tendings.items():
                account = self._account(user_id)
                gone = tending.renewed - live.get(user_id, frozenset())
                account.forget(gone | tending.removed, now)
                self._drop_idle(user_id, account)

    def _tendings(self, is_due: bool) -> dict[str, Tending]:
        with self._lock:
            found = {
                user_id: account.tending(is_booked=self._is_booked(user_id, account), is_due=is_due)
                for user_id, account in self._accounts.items()
                if account.own or (is_due and account.held)
            }
        return {user_id: tending for user_id, tending in found.items() if tending.renewed or tending.removed}

    def _is_booked(self, user_id: str, account: _Account) -> bool:
        """Return whether what has ended is booked, or so old that its hold would have lapsed."""
        is_over = self._clock() - account.ended_at > HOLD_TTL_S
        return is_over or not self._directory.has_unbooked(user_id)

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
                if account.unheld or account.held or account.waiting or account.ended_at > long_ago
            }
            self._sweep_at = max(_MANY, 2 * len(self._accounts))

    def _may_ask(self) -> bool:
        """Return whether to ask MongoDB: always while it answers, else one request at a time and pause."""
        if self._failed_at is None:
            return True
        now = self._clock()
        if now - self._failed_at < _RETRY_S:
            return False
        self._failed_at = now
        return True

    def _on_own_view(self, attempt: _Attempt, funds: Funds | None) -> Reservation:
        """Decide without MongoDB: an outage must not stop those who, as far as is known, can pay.

        Deciding and counting are one step, so requests that failed together are admitted one by one.
        """
        funds = funds or Funds(0)
        with self._lock:
            account = self._account(attempt.user_id)
            committed = funds.charged + account.unheld_sum + account.held_sum
            budgets = self._budgets(attempt)
            claim, left = min(budgets, key=lambda item: item[1], default=(None, funds.balance))
            if funds.balance <= left:
                claim, left = None, funds.balance
            left -= committed
            running = len(account.unheld) + len(account.held)
            granted = share(
                left, most=attempt.most, usual=attempt.usual, running=running, least=attempt.least
            )
            if not granted:
                self._drop_idle(attempt.user_id, account)
                if claim is not None:
                    raise CreditExhausted(max(0, left + account.unheld_sum + account.held_sum), claim=claim)
                raise CreditExhausted(max(0, funds.balance - funds.charged))
            self.counts.unverified += 1
            return self._admit(account, attempt, granted)

    def _account(self, user_id: str) -> _Account:
        """Return the user's account, to be dropped afterwards (`_drop_idle`) if there is nothing in it."""
        account = self._accounts.get(user_id)
        if account is None:
            account = self._accounts[user_id] = _Account()
        return account

    def _drop_idle(self, user_id: str, account: _Account) -> None:
        if account.is_idle:
            self._accounts.pop(user_id, None)


def _exhausted(holding: Holding, funds: Funds) -> CreditExhausted:
    """Say what was short: a budget, unless it was the credit, or the number of holds."""
    if holding.short is not None and not holding.is_crowded:
        claim, left = holding.short
        return CreditExhausted(left, claim=claim)
    return CreditExhausted(max(0, holding.balance_nano - funds.unbooked), is_crowded=holding.is_crowded)
