"""However many requests start at once, on however many workers: what a user can spend is bounded."""

from functools import partial
from random import Random
from uuid import uuid4

import pytest
from credit_world import CENT, Worker, World, at_once

from app.common.money import NANO
from app.credit import credit_holds
from app.credit.credit_policy import AMPLE_FACTOR, MAX_HELD, share
from app.credit.reservation import CreditExhausted


@pytest.fixture
def world(database):
    return World(database)


def spread(workers, number, task):
    """Each of so many tasks on one of the workers, in turn."""
    return [partial(task, workers[index % len(workers)], index) for index in range(number)]


def test_200_at_once_with_credit_for_ten(world):
    world.put_ann(10 * CENT)
    workers = world.workers(4)

    admitted = [
        (worker, reservation)
        for worker, reservation in at_once(spread(workers, 200, lambda worker, _: (worker, worker.reserve())))
        if reservation
    ]
    assert len(admitted) == 10
    assert all(reservation.hold_nano == CENT for _, reservation in admitted)
    assert set(world.holds) == {reservation.request_id for _, reservation in admitted}

    for worker, reservation in admitted:
        worker.settle(reservation)
    assert [worker.reserve() for worker in workers] == [None] * 4
    for worker in workers:
        worker.book()
    assert world.money("creditsUsed") == 10 * CENT
    assert (world.ann["credits"], "overdraftNanoUsd" in world.ann) == (0.0, False)
    assert "holds" not in world.ann


def test_the_last_request_may_need_more_than_is_left(world):
    world.put_ann(9 * CENT, ref_credits=CENT // 2)
    workers = world.workers(4)

    admitted = [r for r in at_once(spread(workers, 40, lambda worker, _: worker.reserve())) if r]
    assert len(admitted) == 10
    assert sorted(r.hold_nano for r in admitted) == [CENT // 2] + [CENT] * 9


@pytest.mark.parametrize("seed", [1, 2])
def test_200_that_start_settle_and_are_booked_all_at_the_same_time(world, seed):
    """Costs are not what was estimated, some requests fail, and each worker books while others reserve."""
    random = Random(seed)
    costs = [random.choice((0, CENT // 3, CENT, 2 * CENT)) for _ in range(200)]
    world.put_ann(10 * CENT, ref_credits=3 * CENT)
    workers = world.workers(4)

    def serve(worker, index):
        reservation = worker.reserve()
        if reservation is None:
            return None
        worker.settle(reservation, costs[index])
        if index % 3 == 0:
            worker.book()
        return costs[index], reservation.hold_nano

    served = [result for result in at_once(spread(workers, 200, serve)) if result]
    for worker in workers:
        worker.book()
        worker.book()

    spent = sum(cost for cost, _ in served)
    assert spent <= 13 * CENT + sum(max(0, cost - hold) for cost, hold in served)
    left = world.money("credits") + world.money("refCredits")
    assert world.ann["credits"] >= 0
    assert world.ann["refCredits"] >= 0
    assert world.money("creditsUsed") == spent
    assert left + spent - world.ann.get("overdraftNanoUsd", 0) == 13 * CENT
    assert "holds" not in world.ann
    # Whatever is left can still be spent, to the last nano-dollar, and no more once the cache is fresh.
    workers[0].directory.user_changed("ann", True)
    last = workers[0].reserve(1)
    assert (last is not None) == (left > 0)


def test_stale_caches_cost_at_most_the_small_change_of_each_worker(world, monkeypatch):
    """The worst case: every worker believes in the whole balance, and all use it to the full."""
    monkeypatch.setattr(credit_holds, "MAX_HELD", 1000)
    estimate = NANO // 10_000
    balance = 2 * AMPLE_FACTOR * estimate
    world.put_ann(balance)
    workers = world.workers(4)
    for worker in workers:
        worker.directory.balance("ann")

    unheld = [worker.reserve(estimate) for worker in workers for _ in range(2)]
    assert not any(reservation.held for reservation in unheld)
    held = 0
    is_open = True
    while is_open:
        reservations = [worker.reserve(estimate) for worker in workers]
        assert all(reservation is None or reservation.held for reservation in reservations)
        held += sum(reservation is not None for reservation in reservations)
        is_open = any(reservations)

    spent = (len(unheld) + held) * estimate
    assert balance < spent <= balance + len(workers) * balance // AMPLE_FACTOR


def test_what_a_stale_worker_gave_away_it_gives_away_once(world):
    estimate = NANO // 10_000
    world.put_ann(AMPLE_FACTOR * estimate)
    stale = Worker(world, "stale")
    stale.directory.balance("ann")
    world.change_ann(credits=0.0)

    given = 0
    for _ in range(20):
        reservation = stale.reserve(estimate)
        if reservation is not None:
            given += 1
            stale.settle(reservation, estimate)
        stale.book()
    assert given == 1
    assert world.ann["overdraftNanoUsd"] == estimate


@pytest.mark.parametrize("seed", range(3))
def test_the_database_shares_as_the_policy_says(world, seed):
    random = Random(seed)
    world.put_ann(random.randrange(1, NANO), ref_credits=random.randrange(NANO))
    left = world.money("credits") + world.money("refCredits")
    holds = credit_holds.CreditHolds(world.db)
    for running in range(40):
        least, usual, most = sorted(random.randrange(1, NANO // 2**k) for k in random.choices(range(12), k=3))
        expected = share(left, most=most, usual=usual, running=running, least=least)
        placed = holds.place(
            "ann",
            f"r{running}",
            most,
            usual_nano=usual,
            least_nano=least,
            committed_nano=0,
            own=(),
            timeout_s=10,
        )
        assert placed.nano == expected
        left -= expected
    assert left >= 0


def test_300_at_once_that_may_need_all_get_what_there_is_and_no_more(world):
    """Each keeps to its grant, as a model does that is sent the lowered limit: nothing is overspent."""
    world.put_ann(100 * CENT)
    workers = world.workers(2)

    def serve(worker, _):
        try:
            reservation = worker.gate.reserve("ann", str(uuid4()), 1000 * CENT, 5 * CENT)
        except CreditExhausted:
            return None
        return worker, reservation

    served = [result for result in at_once(spread(workers, 300, serve)) if result]
    assert sum(reservation.hold_nano for _, reservation in served) <= 100 * CENT
    assert len(served) >= 10
    for worker, reservation in served:
        worker.settle(reservation, reservation.nano)
    for worker in workers:
        worker.book()
    assert world.money("creditsUsed") <= 100 * CENT
    assert "overdraftNanoUsd" not in world.ann


def test_a_user_has_no_more_than_so_many_holds_at_once(world):
    world.put_ann(NANO)
    workers = world.workers(2)
    most = NANO // 99

    def reserve(worker, _):
        try:
            return worker, worker.gate.reserve("ann", str(uuid4()), most, 1000)
        except CreditExhausted as error:
            return error.is_crowded

    results = at_once(spread(workers, 300, reserve))
    assert results.count(True) == 300 - MAX_HELD
    admitted = [result for result in results if result is not True]
    assert len(admitted) == len(world.holds) == MAX_HELD
    worker, reservation = admitted[0]
    worker.settle(reservation, 1)
    # What has ended counts no longer where that is known, and nowhere once it is booked.
    assert reserve(worker, 0) is not True
    assert reserve(worker, 0) is True


def test_two_workers_race_for_the_last_cent(world):
    world.put_ann(0)
    workers = world.workers(2)
    for _ in range(20):
        world.change_ann(credits=0.01, holds={})
        won = at_once([worker.reserve for worker in workers])
        assert sum(reservation is not None for reservation in won) == 1
