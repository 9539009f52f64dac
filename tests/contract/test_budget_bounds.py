"""Budgets over many processes: held for, spent, and begun anew, against a real MongoDB."""

import random
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from booking_world import record
from bson.int64 import Int64
from credit_world import CENT, Worker, World, at_once

from app.accounts.limits import Budget
from app.common.money import NANO
from app.credit.budgets import GIVEN, Claim, bucket_name, claim_on, spent_nano
from app.credit.credit_policy import AMPLE_FACTOR
from app.credit.reservation import CreditExhausted, Reservation
from app.management.limits import BudgetBooks
from app.persistence.booking import Booking
from app.persistence.record_writes import insert_records
from app.records.records import Outcome, SequencedRecord
from app.verify.reconciliation import Reconciliation

NOW = datetime(2026, 11, 30, 23, 59, 30, tzinfo=UTC)
KEY = "wk_0123456789"


class Spender(Worker):
    """A process whose requests are paid from budgets, all of one client key."""

    def __init__(self, world: World, name: str = "w1", key: str = KEY) -> None:
        super().__init__(world, name)
        self._key = key

    def ask(
        self, claims: tuple[Claim, ...], most: int = CENT, usual: int | None = None
    ) -> Reservation | CreditExhausted:
        try:
            return self.gate.reserve("ann", str(uuid4()), most, usual, 1, claims)
        except CreditExhausted as error:
            return error

    def end(
        self,
        reservation: Reservation,
        claims: tuple[Claim, ...],
        cost: int,
        *,
        moment: datetime = NOW,
        model: str = "gpt",
    ) -> None:
        with self._turn:
            self._seq += 1
            ended = record(
                self._seq,
                request_id=reservation.request_id,
                user_key_id=self._key,
                created_at=moment,
                model=model,
                cost_nano_usd=cost,
                outcome=Outcome.OK,
                hold_nano_usd=reservation.hold_nano,
                budgets=tuple(claim.to_document() for claim in claims),
            )
            self.records.append(SequencedRecord(self._seq, ended.to_document()))
            self.directory.note_charge("ann", cost)
            self.gate.release(reservation)


@pytest.fixture
def world(database):
    found = World(database)
    found.put_ann(1000 * NANO)
    return found


def claims(moment: datetime = NOW, *budgets: Budget, of_key: bool = False) -> tuple[Claim, ...]:
    return tuple(claim_on(budget, KEY if of_key else None, moment, UTC) for budget in budgets)


DAY, MONTH, WINDOW = Budget(100 * CENT, "day"), Budget(250 * CENT, "month"), Budget(100 * CENT, "5h")


def spent(world: World, claim: Claim) -> int:
    return spent_nano(claim, world.ann.get("budgetSpent", {}))


@pytest.mark.parametrize("of_key", [False, True])
def test_200_at_once_over_four_processes_cannot_pass_a_budget(world, of_key):
    """Each may cost five cents, of a dollar: not many more than 20, whoever asks first."""
    paid = claims(NOW, DAY, MONTH, of_key=of_key)
    workers = [Spender(world, f"w{index}") for index in range(4)]

    def serve(worker):
        def task():
            asked = worker.ask(paid, 5 * CENT)
            return asked if isinstance(asked, CreditExhausted) else (worker, asked)

        return task

    results = at_once([serve(workers[index % 4]) for index in range(200)])
    served = [result for result in results if isinstance(result, tuple)]
    refused = [result for result in results if isinstance(result, CreditExhausted)]
    unheld = sum(reservation.nano for _, reservation in served if not reservation.held)
    held = sum(reservation.nano for _, reservation in served if reservation.held)
    assert held <= 100 * CENT
    assert unheld <= 4 * 100 * CENT // AMPLE_FACTOR
    assert len(served) >= 15
    assert len(refused) == 200 - len(served)
    # While holds are live it is the number of them, or the day's budget, that is short; never the credit.
    assert all(error.is_crowded or (error.claim and error.claim.budget == DAY) for error in refused)
    for worker, reservation in served:
        worker.end(reservation, paid, reservation.nano)
    for worker in workers:
        worker.book()
    assert spent(world, paid[0]) == spent(world, paid[1]) == held + unheld
    assert "holds" not in world.ann


def test_the_emptiest_budget_decides_and_is_named(world):
    worker = Spender(world)
    paid = claims(NOW, MONTH, Budget(3 * CENT, "day"))
    first = worker.ask(paid, 10 * CENT, CENT)
    assert isinstance(first, Reservation)
    assert first.hold_nano == 3 * CENT // 2  # a part of what is left, as of credit
    worker.end(first, paid, 3 * CENT)
    worker.book()
    refused = worker.ask(paid)
    assert isinstance(refused, CreditExhausted)
    assert (refused.claim, refused.balance_nano) == (paid[1], 0)
    # Another request, which that budget does not cover, passes.
    assert isinstance(worker.ask(paid[:1]), Reservation)


def test_credit_that_is_short_is_no_budget_that_is(world):
    world.change_ann(credits=0.001)
    refused = Spender(world).ask(claims(NOW, DAY), CENT, CENT)
    assert isinstance(refused, Reservation)  # in part
    world.change_ann(credits=0.0, holds={})
    refused = Spender(world).ask(claims(NOW, DAY))
    assert isinstance(refused, CreditExhausted)
    assert refused.claim is None


def test_a_budget_begins_anew_though_nobody_asked_at_midnight(world):
    before, after = claims(NOW, DAY, MONTH), claims(NOW + timedelta(days=3), DAY, MONTH)
    worker = Spender(world)
    first = worker.ask(before, 100 * CENT)
    assert isinstance(first, Reservation)
    worker.end(first, before, 100 * CENT)
    worker.book()
    assert isinstance(worker.ask(before), CreditExhausted)
    assert isinstance(worker.ask(after), Reservation)


def test_a_request_over_midnight_is_paid_from_the_day_on_which_it_began(world):
    yesterday, today = claims(NOW, DAY), claims(NOW + timedelta(minutes=1), DAY)
    worker = Spender(world)
    running = worker.ask(yesterday, 90 * CENT)
    assert isinstance(running, Reservation)
    assert running.held
    # What is held of yesterday's is not held of today's, and the other way round.
    other = worker.ask(today, 90 * CENT)
    assert isinstance(other, Reservation)
    assert other.nano == 90 * CENT
    worker.end(other, today, 20 * CENT)
    worker.end(running, yesterday, 80 * CENT)
    worker.book()
    assert (spent(world, yesterday[0]), spent(world, today[0])) == (100 * CENT, 20 * CENT)
    buckets = world.ann["budgetSpent"]["day"]
    assert buckets[bucket_name(today[0].bucket)] == 20 * CENT


def test_what_is_booked_late_goes_to_its_own_day_and_old_buckets_go(world):
    worker = Spender(world)
    for days in (0, 1, 2, 3, 1, 4):
        paid = claims(NOW + timedelta(days=days), DAY)
        reservation = worker.ask(paid)
        assert isinstance(reservation, Reservation)
        worker.end(reservation, paid, CENT)
        worker.book()
    last = claims(NOW + timedelta(days=4), DAY)[0]
    assert spent(world, last) == CENT
    kept = world.ann["budgetSpent"]["day"]
    assert len(kept) == 3
    assert min(kept) == bucket_name(last.bucket - 2 * 86_400)


def test_five_hours_roll(world):
    worker = Spender(world)
    for hours in range(4):
        paid = claims(NOW + timedelta(hours=hours), WINDOW)
        reservation = worker.ask(paid, 25 * CENT)
        assert isinstance(reservation, Reservation)
        worker.end(reservation, paid, 25 * CENT)
        worker.book()
    full = worker.ask(claims(NOW + timedelta(hours=4, minutes=59), WINDOW))
    assert isinstance(full, CreditExhausted)
    freed = worker.ask(claims(NOW + timedelta(hours=5, minutes=15), WINDOW), 100 * CENT, CENT)
    assert isinstance(freed, Reservation)
    assert 0 < freed.nano <= 25 * CENT


def test_booking_again_and_in_other_batches_spends_once(world):
    worker = Spender(world)
    paid = claims(NOW, DAY, MONTH, WINDOW)
    for _ in range(12):
        reservation = worker.ask(paid)
        assert isinstance(reservation, Reservation)
        worker.end(reservation, paid, CENT)
    batch = worker.records
    rng = random.Random(7)
    for _ in range(8):
        # As after a death: whoever takes over has read no marks, and begins wherever the journal says.
        end = rng.randint(1, len(batch))
        begin = rng.randint(0, end - 1)
        highest = world.ann.get("applied", {}).get("w1", 0)
        Booking(world.db, "w1").apply(batch[min(begin, int(highest)) : end])
    Booking(world.db, "w1").apply(batch)
    for claim in paid:
        assert spent(world, claim) == 12 * CENT
    assert world.money("creditsUsed") == 12 * CENT


def test_a_process_that_dies_leaves_no_hold_on_a_budget_once_it_is_booked(world):
    worker = Spender(world)
    paid = claims(NOW, DAY)
    running = [worker.ask(paid, 40 * CENT, 40 * CENT) for _ in range(2)]
    assert all(isinstance(reservation, Reservation) for reservation in running)
    heir = worker.die(running)
    assert isinstance(Spender(world, "w2").ask(paid, 40 * CENT, 40 * CENT), Reservation | CreditExhausted)
    heir.book()
    assert isinstance(Spender(world, "w3").ask(paid, 10 * CENT, 10 * CENT), Reservation)
    assert spent(world, paid[0]) == 0


def test_an_ample_budget_asks_mongodb_for_nothing(world):
    worker = Spender(world)
    reservation = worker.ask(claims(NOW, Budget(100 * NANO, "month")))
    assert isinstance(reservation, Reservation)
    assert not reservation.held
    assert worker.gate.counts.ample == 1


def test_a_damaged_field_stops_neither_booking_nor_asking(world):
    world.change_ann(budgetSpent={"day": "much", "month": {"b1": "x"}})
    worker = Spender(world)
    paid = claims(NOW, DAY, MONTH)
    reservation = worker.ask(paid)
    assert isinstance(reservation, Reservation)
    worker.end(reservation, paid, CENT)
    worker.book()
    assert spent(world, paid[0]) == spent(world, paid[1]) == CENT


def check(world, now=NOW, **options):
    """What `verify` says of budgets, and which periods it would put right."""
    made = Reconciliation(world.db, **{"retention_s": 0, "pause": lambda _s: None, **options})
    result = next(result for result in made.run(now) if result.name == "budgets")
    return result, made.wrong_budgets(now)


def give(world, *budgets: Budget, at: datetime | None = None) -> None:
    """Store budgets as given to `ann`; with a moment, as given then."""
    since = {} if at is None else {GIVEN: {budget.name: at for budget in budgets}}
    world.change_ann(budgets=[budget.to_document() for budget in budgets], **since)


def spend(world, paid, *costs: int, model: str = "gpt", moment: datetime = NOW, worker=None) -> None:
    worker = worker or Spender(world)
    for cost in costs:
        reservation = worker.ask(paid)
        assert isinstance(reservation, Reservation)
        worker.end(reservation, paid, cost, moment=moment, model=model)
    worker.book()


def path(claim: Claim) -> str:
    return f"budgetSpent.{claim.name}.{bucket_name(claim.bucket)}"


@pytest.mark.parametrize("kept_s", [0, 3600], ids=["by records", "by sums"])
def test_verification_finds_budgets_that_hold_less_or_more(world, kept_s):
    """By the sums, where the period began before the oldest records there must be."""
    paid = claims(NOW, DAY, MONTH)
    give(world, DAY, MONTH)
    spend(world, paid, CENT, CENT, CENT)
    now = NOW + timedelta(minutes=5)
    result, _ = check(world, now, retention_s=kept_s)
    assert (result.compared, result.difference_count) == (2, 0)
    world.change_ann(**{path(paid[0]): Int64(5 * CENT), path(paid[1]): Int64(3 * CENT + 1)})
    result, wrong = check(world, now, retention_s=kept_s)
    assert {(found.expected, found.found) for found in result.differences} == {
        (3 * CENT, 5 * CENT),
        (3 * CENT, 3 * CENT + 1),
    }
    assert "refused before it is used up" in result.differences[0].hint
    assert "user ann, budget day" in " ".join(found.where for found in result.differences)
    world.change_ann(**{path(paid[0]): 2 * CENT, path(paid[1]): 3 * CENT})
    result, [lost] = check(world, now)
    [difference] = result.differences
    assert (difference.expected, difference.found) == (3 * CENT, 2 * CENT)
    assert "more may be spent" in difference.hint
    books = BudgetBooks(world.db)
    for found in [
        *wrong,
        lost,
    ]:  # the first were found before they changed again: nothing is done about those
        books.put_right(found)
    assert [spent(world, claim) for claim in paid] == [3 * CENT, 3 * CENT]
    assert check(world, now)[0].difference_count == 0


def test_a_budget_may_hold_what_was_spent_before_it_was_given_and_no_more(world):
    month, claude = Budget(250 * CENT, "month"), Budget(250 * CENT, "month", "claude-*")
    spend(world, (), CENT, 2 * CENT, model="gpt", moment=NOW - timedelta(days=3))
    spend(world, (), 4 * CENT, model="claude-x", moment=NOW - timedelta(days=2), worker=Spender(world, "w2"))
    paid = claims(NOW, month, claude)
    give(world, month, claude, at=NOW)
    world.change_ann(**{path(paid[0]): Int64(7 * CENT), path(paid[1]): Int64(4 * CENT)})
    spend(world, paid, CENT, model="claude-x", worker=Spender(world, "w3"))
    assert [spent(world, claim) for claim in paid] == [8 * CENT, 5 * CENT]
    assert check(world)[0].difference_count == 0
    world.change_ann(**{path(paid[1]): Int64(5 * CENT + 1)})
    [difference] = check(world)[0].differences
    assert (difference.expected, difference.found) == (5 * CENT, 5 * CENT + 1)


def test_a_budget_of_a_key_is_held_to_what_its_key_was_charged(world):
    paid = claims(NOW, DAY, of_key=True)
    world.db["user_keys"].insert_many(
        [{"_id": KEY, "name": "ann", "budgets": [DAY.to_document()]}, {"_id": "wk_other", "name": "ann"}]
    )
    spend(world, paid, CENT)
    spend(world, (), CENT, worker=Spender(world, "w2", key="wk_other"))
    assert check(world)[0].difference_count == 0
    world.change_ann(**{path(paid[0]): Int64(2 * CENT)})
    [difference] = check(world)[0].differences
    assert (difference.expected, difference.found) == (CENT, 2 * CENT)


def test_a_total_that_was_given_again_began_with_nothing(world):
    total = Budget(250 * CENT, "total")
    paid = claims(NOW, total)
    spend(world, paid, 3 * CENT, moment=NOW - timedelta(days=3))
    give(world, total, at=NOW - timedelta(minutes=1))
    world.db["usersNew"].update_one({"_id": "ann"}, {"$set": {"budgetSpent.total": {}}})
    spend(world, paid, CENT, worker=Spender(world, "w2"))
    assert spent(world, paid[0]) == CENT
    assert check(world)[0].difference_count == 0
    world.change_ann(**{path(paid[0]): Int64(CENT - 1)})
    assert check(world)[0].difference_count == 1
    world.change_ann(**{path(paid[0]): Int64(CENT + 1)})
    [difference] = check(world)[0].differences
    assert (difference.expected, difference.found) == (CENT, CENT + 1)


def test_what_late_bookings_leave_of_budgets_that_are_gone_is_no_difference(world):
    """One that was taken away while a request ran, and a day so old that it had been dropped."""
    give(world, DAY)
    worker = Spender(world)
    old, new = claims(NOW - timedelta(days=9), DAY), claims(NOW, DAY)
    for paid, moment in ((old, NOW - timedelta(days=9)), (new, NOW), (old, NOW - timedelta(days=9))):
        spend(world, paid, CENT, moment=moment, worker=worker)
    assert world.ann["budgetSpent"]["day"][bucket_name(old[0].bucket)] == CENT
    taken = claims(NOW, MONTH)
    spend(world, taken, CENT, worker=worker)
    world.db["usersNew"].update_one({"_id": "ann"}, {"$unset": {"budgetSpent.month": ""}})
    spend(world, taken, CENT, worker=worker)
    result, wrong = check(world)
    assert (result.compared, result.difference_count, wrong) == (1, 0, [])


@pytest.fixture
def books(world, monkeypatch):
    monkeypatch.setattr("app.management.limits.now_ms", lambda: NOW)
    return BudgetBooks(world.db, UTC)


def batch_of(paid: tuple[Claim, ...], first: int, *costs: int) -> list[SequencedRecord]:
    named = tuple(claim.to_document() for claim in paid)
    return [
        SequencedRecord(
            seq, record(seq, user_key_id=KEY, created_at=NOW, cost_nano_usd=cost, budgets=named).to_document()
        )
        for seq, cost in enumerate(costs, first)
    ]


@pytest.mark.parametrize("of_key", [False, True])
def test_a_batch_half_booked_while_a_budget_is_given_anew_counts_once(world, books, of_key):
    paid = claims(NOW, MONTH, of_key=of_key)
    whose = {"key_id": KEY, "stored_key": KEY} if of_key else {}
    done, unnamed = batch_of(paid, 1, CENT, 2 * CENT), batch_of((), 5, 16 * CENT)
    Booking(world.db, "w1", now=lambda: NOW).apply(done)
    # The records of these are there already; what they cost is not added to anything yet.
    begun = batch_of(paid, 3, 4 * CENT, 8 * CENT) + unnamed
    insert_records(world.db["request_logs"], begun, "w1")
    elsewhere = [
        SequencedRecord(1, item.document | {"_id": "elsewhere"}) for item in batch_of(paid, 9, 32 * CENT)
    ]
    insert_records(world.db["request_logs"], elsewhere, "w2")
    books.give("ann", [MONTH], [], **whose)
    books.give("ann", [], [MONTH], **whose)
    assert spent(world, paid[0]) == (1 + 2 + 16) * CENT
    Booking(world.db, "w1", now=lambda: NOW).apply(done + begun)
    Booking(world.db, "w2", now=lambda: NOW).apply(elsewhere)
    assert spent(world, paid[0]) == (1 + 2 + 4 + 8 + 16 + 32) * CENT
    assert check(world)[0].difference_count == 0


def test_a_batch_booked_while_it_is_counted_what_was_spent_counts_once(world, books, monkeypatch):
    paid = claims(NOW, MONTH)
    Booking(world.db, "w1", now=lambda: NOW).apply(batch_of(paid, 1, CENT))
    books.give("ann", [MONTH], [])
    count_up = BudgetBooks._spent_before

    def booked_first(self, *of):
        Booking(world.db, "w1", now=lambda: NOW).apply(batch_of(paid, 2, 2 * CENT))
        found = count_up(self, *of)
        Booking(world.db, "w1", now=lambda: NOW).apply(batch_of(paid, 3, 4 * CENT))
        return found

    monkeypatch.setattr(BudgetBooks, "_spent_before", booked_first)
    books.give("ann", [], [MONTH])
    assert spent(world, paid[0]) == 7 * CENT
