"""Holds from their placing to their end, whatever becomes of the request, the process or the database."""

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from booking_world import record
from bson import Timestamp
from credit_world import CENT, Worker, World, at_once
from pymongo.monitoring import CommandListener

from app.common.errors import StoreUnavailable
from app.common.money import NANO
from app.credit.credit_holds import CreditHolds, Holding
from app.credit.credit_policy import HOLD_TTL_S
from app.credit.reservation import CreditExhausted
from app.records.records import Outcome
from app.store.connection import connect


@pytest.fixture
def world(database):
    return World(database)


@pytest.fixture
def worker(world):
    world.put_ann(10 * CENT)
    return Worker(world)


class Counting(CommandListener):
    def __init__(self):
        self.commands = []

    def started(self, event):
        self.commands.append(event.command_name)

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


def test_no_database_call_while_the_balance_is_ample(mongo_uri, database):
    listener = Counting()
    watched = connect(mongo_uri, database.name, event_listeners=[listener])
    world = World(watched)
    world.put_ann(10 * NANO)
    worker = Worker(world)
    worker.directory.balance("ann")
    listener.commands.clear()

    reservations = [worker.reserve() for _ in range(10)]
    assert not any(reservation.held for reservation in reservations)
    for reservation in reservations:
        worker.gate.release(reservation)
    assert listener.commands == []
    assert worker.gate.counts.ample == 10

    assert worker.reserve(10 * CENT + 1).held
    assert listener.commands == ["findAndModify"]
    watched.client.close()


def test_many_small_requests_at_once_are_not_small_change(world):
    world.put_ann(10 * NANO)
    worker = Worker(world)
    assert [worker.reserve().held for _ in range(12)] == [False] * 10 + [True] * 2


def test_the_record_says_what_was_held(worker):
    held = worker.reserve()
    assert record(1, hold_nano_usd=held.hold_nano).to_document()["holdNanoUsd"] == CENT
    assert "holdNanoUsd" not in record(1).to_document()


@pytest.mark.parametrize(
    "outcome", [Outcome.UPSTREAM_ERROR, Outcome.REJECTED, Outcome.INTERRUPTED, Outcome.CLIENT_ABORT]
)
def test_a_request_that_failed_gives_its_hold_back(world, worker, outcome):
    reservations = [worker.reserve() for _ in range(10)]
    other = Worker(world, "w2")
    assert other.reserve() is None

    worker.settle(reservations[0], 0, outcome)
    # Here at once, elsewhere as soon as the record is booked.
    assert other.reserve() is None
    worker.book()
    assert reservations[0].request_id not in world.holds
    assert other.reserve().hold_nano == CENT
    assert world.money("credits") == 10 * CENT


def test_the_own_process_spends_a_refund_before_it_is_booked(worker):
    reservations = [worker.reserve() for _ in range(10)]
    assert worker.reserve() is None
    worker.settle(reservations[0], CENT // 4)
    assert worker.reserve().hold_nano == 3 * CENT // 4
    assert worker.reserve() is None


def test_requests_one_after_the_other_use_all_the_credit_while_nothing_is_booked(worker):
    for _ in range(10):
        worker.settle(worker.reserve(2 * CENT), CENT)
    assert worker.reserve() is None
    worker.book()
    assert worker.reserve() is None


def test_a_charge_in_the_books_is_not_counted_again(world, worker):
    for _ in range(20):
        worker.settle(worker.reserve(2 * CENT), CENT // 2)
        worker.book()
    assert worker.reserve() is None
    assert (world.ann["credits"], world.money("creditsUsed")) == (0.0, 10 * CENT)


def test_a_process_that_died_gives_its_holds_back_by_its_journal(world, worker):
    ended, *running = [worker.reserve() for _ in range(10)]
    worker.settle(ended, CENT)
    heir = worker.die(running)
    assert heir.reserve() is None

    heir.book()
    assert "holds" not in world.ann
    assert world.money("credits") == 9 * CENT
    assert heir.reserve().held


def test_replaying_a_journal_twice_takes_nothing_away_from_later_holds(world, worker):
    heir = worker.die([worker.reserve() for _ in range(3)])
    records = list(heir.records)
    heir.book()
    later = heir.reserve()
    heir.records = records
    heir.book()
    assert list(world.holds) == [later.request_id]


def test_what_is_held_is_not_ample_until_it_is_released(world):
    world.put_ann(10 * NANO)
    worker = Worker(world)
    large = worker.reserve(95 * NANO // 10)
    small = worker.reserve()
    assert (large.held, small.held) == (True, True)
    worker.settle(large, 0)
    assert not worker.reserve().held


def test_the_gate_forgets_what_the_database_no_longer_holds(worker):
    for _ in range(5):
        worker.settle(worker.reserve(), 1)
        worker.book()
    assert repr(worker.gate).startswith("MongoCreditGate(running=0, own=1,")


def test_placing_a_hold_again_changes_nothing(world, worker):
    holds = CreditHolds(world.db)
    for _ in range(2):
        placed = holds.place("ann", "r-1", 6 * CENT, committed_nano=0, own=(), timeout_s=2.0)
        assert (placed.nano, placed.live) == (6 * CENT, {"r-1"})


def test_credit_added_while_low_counts_at_once(world, worker):
    for _ in range(10):
        worker.reserve()
    assert worker.reserve() is None
    world.change_ann(credits=0.11)
    assert worker.reserve().hold_nano == CENT
    assert worker.reserve() is None


def test_a_hold_over_age_no_longer_counts_and_goes_with_the_next_update(world, worker):
    now = datetime.now(UTC)
    old, recent = now - timedelta(seconds=HOLD_TTL_S + 60), now - timedelta(seconds=HOLD_TTL_S - 60)
    world.change_ann(
        holds={"old": {"nano": 50 * CENT, "at": old}, "recent": {"nano": 9 * CENT, "at": recent}}
    )
    reservation = worker.reserve(5 * CENT)
    assert reservation.hold_nano == CENT
    assert set(world.holds) == {"recent", reservation.request_id}


def test_a_refusal_says_what_is_left_and_leaves_no_trace(world, worker):
    running = worker.reserve(10 * CENT)
    before = world.ann
    with pytest.raises(CreditExhausted) as refusal:
        worker.gate.reserve("ann", "r-2", CENT)
    assert refusal.value.balance_nano == 10 * CENT
    assert world.ann == before

    worker.settle(running, 10 * CENT)
    with pytest.raises(CreditExhausted) as refusal:
        worker.gate.reserve("ann", "r-3", CENT)
    assert refusal.value.balance_nano == 0
    assert worker.gate.counts.refused == 2


def test_who_is_not_there_or_disabled_has_no_credit(world, worker):
    with pytest.raises(CreditExhausted):
        worker.gate.reserve("nobody", "r-1", 1)
    world.change_ann(isActive=False)
    assert worker.reserve() is None
    assert "holds" not in world.ann


def test_releasing_twice_or_what_was_never_reserved_changes_nothing(worker):
    first, second = worker.reserve(), worker.reserve()
    for _ in range(2):
        worker.gate.release(first)
    Worker(worker.world).gate.release(second)
    assert repr(worker.gate).startswith("MongoCreditGate(running=1, own=1,")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("?", id="text"),
        pytest.param([], id="list"),
        pytest.param({"a": 5, "b": {"nano": "x", "at": "y"}, "c": {}}, id="odd holds"),
        pytest.param({"a": {"nano": float("nan")}, "b": {"at": None}}, id="odd values"),
        pytest.param({"a": {"nano": NANO, "at": Timestamp(2**32 - 1, 1)}}, id="no date"),
    ],
)
def test_a_damaged_field_stops_nobody(world, worker, damage):
    world.change_ann(holds=damage)
    reservation = worker.reserve()
    assert list(world.holds) == [reservation.request_id]
    world.change_ann(holds=damage)
    worker.settle(reservation, CENT)
    worker.book()
    assert world.money("credits") == 9 * CENT
    assert world.db["request_logs_dead"].count_documents({}) == 0


class Failing:
    """A database that places holds, or not, and does not answer."""

    def __init__(self, holds=None):
        self.holds = holds
        self.is_down = True
        self.calls = 0
        self.meanwhile = lambda: None

    def place(self, *args, **kwargs) -> Holding:
        self.calls += 1
        self.meanwhile()
        if not self.is_down:
            return self.holds.place(*args, **kwargs)
        if self.holds:
            self.holds.place(*args, **kwargs)
        raise StoreUnavailable("gone")


def test_while_the_database_is_away_the_own_view_decides_and_is_counted(world):
    world.put_ann(3 * CENT)
    worker = Worker(world, holds=Failing())
    admitted = [worker.reserve() for _ in range(4)]
    assert [reservation is not None for reservation in admitted] == [True] * 3 + [False]
    counts = worker.gate.counts
    assert (counts.unverified, counts.refused, counts.held, counts.ample) == (3, 1, 0, 0)

    # What ended stays charged, so each process can spend its view of the balance once.
    worker.settle(admitted[0], CENT)
    assert worker.reserve() is None
    worker.settle(admitted[1], 0, Outcome.UPSTREAM_ERROR)
    assert worker.reserve() is not None


def test_the_database_is_asked_again_after_a_pause_by_one_request(world):
    world.put_ann(9 * CENT)
    holds = Failing()
    worker = Worker(world, holds=holds)
    for _ in range(3):
        worker.reserve()
    assert holds.calls == 1
    world.now += 1
    holds.meanwhile = worker.reserve
    worker.reserve()
    holds.meanwhile = lambda: None
    worker.reserve()
    assert holds.calls == 2

    world.now += 1
    holds.is_down, holds.holds = False, CreditHolds(world.db)
    assert worker.reserve().hold_nano == CENT
    assert worker.reserve().hold_nano == CENT
    assert holds.calls == 4


def test_a_hold_of_which_nothing_was_heard_is_counted_once_and_removed(world):
    world.put_ann(10 * CENT)
    holds = Failing(CreditHolds(world.db))
    worker = Worker(world, holds=holds)
    doubtful = worker.reserve(4 * CENT)
    assert doubtful.held
    assert list(world.holds) == [doubtful.request_id]

    holds.is_down = False
    world.now += 1
    assert worker.reserve(9 * CENT).hold_nano == 6 * CENT
    worker.settle(doubtful, 4 * CENT)
    assert worker.reserve() is None
    worker.book()
    assert doubtful.request_id not in world.holds
    assert world.money("credits") == 6 * CENT


def test_an_unreachable_database_is_reported_as_such(mongo_uri, database):
    closed = connect(mongo_uri, database.name)
    closed.client.close()
    with pytest.raises(StoreUnavailable):
        CreditHolds(closed).place("ann", "r", 1, committed_nano=0, own=(), timeout_s=2.0)
    with pytest.raises(StoreUnavailable):
        Worker(World(closed)).reserve()


def test_callers_without_a_balance_reserve_nothing(world):
    worker = Worker(world, holds=Failing())
    worker.directory.funds = lambda _: None
    reservation = worker.reserve()
    assert (reservation.nano, reservation.held) == (0, False)
    worker.gate.release(reservation)


def test_a_small_request_is_not_refused_for_what_a_large_one_needed(world):
    """Requests that wait for their turn hear what others were told only where it holds for them, too."""
    world.put_ann(CENT)
    worker = Worker(world)
    small = [partial(worker.reserve, CENT // 50) for _ in range(10)]
    large = [partial(worker.reserve, 5 * CENT, 2 * CENT) for _ in range(10)]
    results = at_once([task for pair in zip(small, large, strict=True) for task in pair])
    assert all(reservation.held for reservation in results[::2])
    assert results[1::2] == [None] * 10
