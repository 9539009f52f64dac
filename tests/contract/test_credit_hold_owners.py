"""Every hold has an owner that ends it: whoever placed it, or may have placed it, remembers."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from credit_world import CENT, Worker, World
from pymongo.database import Database

from app.common.errors import StoreUnavailable
from app.credit.budgets import Claim
from app.credit.credit_holds import CreditHolds, Holding, Tending, orphans
from app.credit.credit_policy import HOLD_RENEWAL_S, HOLD_TTL_S
from app.credit.reservation import CreditExhausted, Reservation
from app.records.records import Outcome


class Deaf:
    """A database that loses answers while `is_deaf`; what is asked while `is_paused` is done on `wake`."""

    def __init__(self, db: Database[Any]) -> None:
        self.real = CreditHolds(db)
        self.is_deaf = False
        self.is_paused = False
        self.late: list[Callable[[], object]] = []

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
        def place() -> Holding:
            return self.real.place(
                user_id,
                request_id,
                most_nano,
                committed_nano=committed_nano,
                own=own,
                timeout_s=timeout_s,
                usual_nano=usual_nano,
                least_nano=least_nano,
                claims=claims,
            )

        if self.is_paused:
            self.late.append(place)
            raise StoreUnavailable("paused")
        holding = place()
        if self.is_deaf:
            raise StoreUnavailable("the answer is lost")
        return holding

    def tend(self, tendings: Mapping[str, Tending]) -> dict[str, frozenset[str]]:
        if self.is_deaf or self.is_paused:
            raise StoreUnavailable("gone")
        return self.real.tend(tendings)

    def wake(self) -> None:
        self.is_paused = False
        for place in self.late:
            place()


@pytest.fixture
def world(database: Database[Any]) -> World:
    world = World(database)
    world.put_ann(10 * CENT)
    return world


@pytest.fixture
def holds(world: World) -> Deaf:
    return Deaf(world.db)


@pytest.fixture
def worker(world: World, holds: Deaf) -> Worker:
    return Worker(world, holds=holds)


def refusal(worker: Worker, estimate: int) -> Reservation | None:
    """What a refused request leaves to be recorded."""
    with pytest.raises(CreditExhausted) as refused:
        worker.gate.reserve("ann", "refused", estimate)
    return refused.value.reservation


def test_a_refused_request_says_that_it_may_have_a_hold_and_its_record_ends_it(
    world: World, worker: Worker, holds: Deaf
) -> None:
    running = worker.reserve(9 * CENT)
    assert running is not None
    worker.settle(running, 10 * CENT)
    holds.is_deaf = True
    world.change_ann(credits=0.3)  # the worker does not know yet, so it finds no credit where MongoDB does
    left = refusal(worker, CENT)
    assert left is not None
    assert left.held
    assert "refused" in world.holds
    worker.settle(left, 0, Outcome.REJECTED)
    worker.book()
    assert world.holds == {}


def test_a_later_turn_that_lets_the_request_pass_remembers_the_hold_of_the_first(
    world: World, worker: Worker, holds: Deaf
) -> None:
    worker.directory.note_charge("ann", 10 * CENT)
    holds.is_deaf = True

    def pause(_seconds: float) -> None:
        """Meanwhile credit is added, and the charge turns out to be nothing."""
        worker.directory.charges_booked("ann", 10 * CENT)
        world.change_ann(credits=1000.0)
        worker.directory.user_changed("ann", True)

    worker.gate._pause = pause  # type: ignore[method-assign]
    holds.real.place("ann", "r", CENT, committed_nano=0, own=(), timeout_s=2)
    passed = worker.gate.reserve("ann", "r", CENT)
    assert worker.gate.counts.ample == 1
    assert passed.held
    worker.settle(passed)
    worker.book()
    assert world.holds == {}


def test_holds_of_running_requests_are_renewed_and_no_gone_one_comes_back(
    world: World, worker: Worker
) -> None:
    kept, booked = worker.reserve(), worker.reserve()
    assert kept
    assert booked
    old = {
        name: {**hold, "at": hold["at"] - timedelta(seconds=HOLD_TTL_S)} for name, hold in world.holds.items()
    }
    world.change_ann(holds={kept.request_id: old[kept.request_id]})
    world.now += HOLD_RENEWAL_S
    worker.gate.tend()
    assert list(world.holds) == [kept.request_id]
    assert world.holds[kept.request_id]["at"] > old[kept.request_id]["at"]
    assert world.holds[kept.request_id]["nano"] == CENT


def test_a_hold_is_kept_until_the_charge_is_booked_and_then_removed(world: World, worker: Worker) -> None:
    running = worker.reserve()
    assert running is not None
    worker.settle(running)
    world.now += HOLD_RENEWAL_S
    worker.gate.tend()
    assert list(world.holds) == [running.request_id]

    # Booked, but the removal was undone: as when the placing comes through a second time.
    left = world.holds
    worker.book()
    world.change_ann(holds=left)
    worker.gate.tend()
    assert world.holds == {}
    assert repr(worker.gate).startswith("MongoCreditGate(running=0, own=0,")


def test_a_placing_that_comes_through_long_after_the_request_is_removed_by_its_owner(
    world: World, worker: Worker, holds: Deaf
) -> None:
    holds.is_paused = True
    passed = worker.reserve()
    assert passed is not None
    assert passed.held
    worker.settle(passed)
    worker.book()
    holds.wake()
    assert list(world.holds) == [passed.request_id]
    worker.gate.tend()
    assert world.holds == {}
    other = Worker(world, "w2")
    assert other.reserve(9 * CENT) is not None


def test_tending_that_fails_is_due_again(world: World, worker: Worker, holds: Deaf) -> None:
    running = worker.reserve()
    assert running is not None
    placed = world.holds[running.request_id]["at"]
    world.now += HOLD_RENEWAL_S
    holds.is_deaf = True
    with pytest.raises(StoreUnavailable):
        worker.gate.tend()
    holds.is_deaf = False
    worker.gate.tend()
    assert world.holds[running.request_id]["at"] > placed


def test_a_damaged_hold_does_not_keep_others_from_being_renewed(world: World, worker: Worker) -> None:
    first, second = worker.reserve(), worker.reserve()
    assert first
    assert second
    good = world.holds[second.request_id]
    world.change_ann(holds={first.request_id: 5, second.request_id: good})
    world.now += HOLD_RENEWAL_S
    worker.gate.tend()
    assert world.holds[first.request_id] == 5
    assert world.holds[second.request_id]["at"] > good["at"]


def test_orphans_are_those_that_nobody_renewed_and_only_they_are_removed(
    world: World, worker: Worker
) -> None:
    running = worker.reserve()
    assert running is not None
    living = world.holds[running.request_id]
    dead = {**living, "at": living["at"] - timedelta(seconds=HOLD_TTL_S + 1)}
    world.change_ann(holds={running.request_id: living, "dead": dead})
    assert list(orphans(world.holds, living["at"])) == ["dead"]
    assert CreditHolds(world.db).remove_orphans() == 1
    assert list(world.holds) == [running.request_id]
    assert CreditHolds(world.db).remove_orphans() == 0
