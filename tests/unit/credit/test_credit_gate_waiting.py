"""A request is not refused for a charge that counts twice while it is being booked."""

from collections.abc import Collection, Mapping, Sequence

import pytest

from app.accounts.funds import DECISION_S, Funds
from app.credit.budgets import Claim
from app.credit.credit_gate import MongoCreditGate
from app.credit.credit_holds import Holding, Tending
from app.credit.credit_policy import HOLD_TTL_S
from app.credit.reservation import CreditExhausted


class Books:
    """A user whose charge of 60 is in MongoDB's balance, and still counted as unbooked here."""

    def __init__(self, booked_after: int) -> None:
        self.unbooked = 60
        self.booked_after = booked_after
        self.pauses = 0
        self.asked = 0

    def funds(self, user_id: str) -> Funds:
        return Funds(100, self.unbooked, self.unbooked)

    def has_unbooked(self, user_id: str) -> bool:
        return self.unbooked > 0

    def tend(self, tendings: Mapping[str, Tending]) -> dict[str, frozenset[str]]:
        raise NotImplementedError

    def place(
        self,
        user_id: str,
        request_id: str,
        most_nano: int,
        *,
        committed_nano: int,
        own: Collection[str],
        timeout_s: float,
        usual_nano: int | None = None,
        least_nano: int = 1,
        claims: Sequence[Claim] = (),
    ) -> Holding:
        assert not claims
        self.asked += 1
        left = 40 - committed_nano
        return Holding(min(most_nano, left) if left >= least_nano else 0, 40, frozenset())

    def pause(self, seconds: float) -> None:
        self.pauses += 1
        if self.pauses == self.booked_after:
            self.unbooked = 0


def gate_over(books: Books) -> MongoCreditGate:
    return MongoCreditGate(books, books, clock=lambda: 0.0, pause=books.pause)


def test_it_waits_until_the_booking_is_over() -> None:
    books = Books(booked_after=2)
    gate = gate_over(books)
    assert gate.reserve("ann", "r1", 30).hold_nano == 30
    assert (books.pauses, gate.counts.refused, gate.counts.held) == (2, 0, 1)


def test_it_does_not_wait_for_ever() -> None:
    books = Books(booked_after=1000)
    gate = gate_over(books)
    with pytest.raises(CreditExhausted):
        gate.reserve("ann", "r1", 30)
    assert 1 < books.pauses < 50
    assert gate.counts.refused == 1


def test_a_slow_database_and_a_late_wake_up_never_leave_it_less_than_no_time() -> None:
    now = 0.0
    books = Books(booked_after=1000)
    given: list[float] = []
    ask = books.place

    def place(*args: object, **options: object) -> Holding:
        nonlocal now
        given.append(float(str(options["timeout_s"])))
        now += 0.3
        return ask(*args, **options)  # type: ignore[arg-type]

    def pause(_seconds: float) -> None:
        nonlocal now
        now += 0.4

    books.place = place  # type: ignore[method-assign, assignment]
    gate = MongoCreditGate(books, books, clock=lambda: now, pause=pause)
    with pytest.raises(CreditExhausted):
        gate.reserve("ann", "r1", 30)
    assert given == pytest.approx([DECISION_S, DECISION_S - 0.7])

    now, given[:] = 0.0, []
    gate = MongoCreditGate(books, books, clock=lambda: now, pause=lambda _: pause(0) or pause(0) or pause(0))
    with pytest.raises(CreditExhausted):
        gate.reserve("ann", "r2", 30)
    assert given == pytest.approx([DECISION_S, 0.2])


def test_without_a_charge_being_booked_the_refusal_is_immediate() -> None:
    books = Books(booked_after=1)
    books.unbooked = 0
    gate = gate_over(books)
    gate.reserve("ann", "r1", 40)
    books.place = lambda *_, **__: Holding(0, 0, frozenset({"r1"}))  # type: ignore[method-assign]
    with pytest.raises(CreditExhausted):
        gate.reserve("ann", "r2", 30)
    assert books.pauses == 0


def test_a_booking_that_ends_while_mongodb_is_asked_is_no_reason_to_refuse() -> None:
    books = Books(booked_after=1000)
    gate = gate_over(books)
    ask = books.place

    def place(*args: object, **options: object) -> Holding:
        holding = ask(*args, **options)  # type: ignore[arg-type]
        books.unbooked = 0
        return holding

    books.place = place  # type: ignore[method-assign, assignment]
    assert gate.reserve("ann", "r1", 30).hold_nano == 30
    assert (books.asked, books.pauses) == (2, 1)


def test_users_who_come_once_do_not_pile_up() -> None:
    """What is left of them counts no longer than their holds do."""
    now = 0.0

    def clock() -> float:
        return now

    books = Books(booked_after=1)
    books.unbooked = 0
    gate = MongoCreditGate(books, books, clock=clock, pause=books.pause)
    running = gate.reserve("runs", "r", 30)
    for number in range(30_000):
        now += HOLD_TTL_S / 5000
        gate.release(gate.reserve(f"user-{number}", f"r{number}", 40))
    assert len(gate._accounts) <= 10_001
    assert gate.counts.held > 30_000
    gate.release(running)
