"""However many requests start at once, on however many workers: what a user can spend is bounded."""

from functools import partial
from random import Random

import pytest
from credit_world import CENT, Worker, World, at_once

from app.core.credit_policy import AMPLE_FACTOR
from app.core.records import NANO


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
    workers[0].directory.invalidate_user("ann")
    last = workers[0].reserve(1)
    assert (last is not None) == (left > 0)


def test_stale_caches_cost_at_most_the_small_change_of_each_worker(world):
    """The worst case: every worker believes in the whole balance, and all use it to the full."""
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


def test_two_workers_race_for_the_last_cent(world):
    world.put_ann(0)
    workers = world.workers(2)
    for _ in range(20):
        world.change_ann(credits=0.01, holds={})
        won = at_once([worker.reserve for worker in workers])
        assert sum(reservation is not None for reservation in won) == 1
