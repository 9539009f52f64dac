"""Limits of keys that several workers keep together, over a real MongoDB."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pool_world import NOW, OK, SPENT, Clock, Worker
from pymongo.errors import OperationFailure

from app.keys.key_choice import NoKey, Shortage
from app.keys.key_pool import SharedKeyPool
from app.keys.key_share_store import COLLECTION, Division, KeyShareStore
from app.keys.key_shares import LEFT, Kind, QuotaShare
from app.keys.lease import Lease
from app.keys.worker_shares import KeyShares

NONE: frozenset[str] = frozenset()


class Ticks:
    """A monotonic clock that stands still unless told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


def workers_of(db, clock: Clock, ticks: Ticks, count: int = 4, env: tuple[str, ...] = ()) -> list[Worker]:
    return [Worker(db, clock, env, sharing=(f"w{number}", ticks)) for number in range(count)]


def limited(db, **limits: int) -> None:
    db.ohmygpt_keys.update_one({"_id": "a"}, {"$set": limits})


def rounds(workers: list[Worker], clock: Clock, ticks: Ticks, count: int = 1) -> None:
    for _ in range(count):
        clock.pass_s(1)
        ticks.now += 1
        for worker in workers:
            worker.sync.refresh()


def leases(worker: Worker, count: int) -> list[Lease]:
    got = [worker.pool.acquire(NONE) for _ in range(count)]
    return [lease for lease in got if isinstance(lease, Lease)]


@pytest.fixture
def key(database) -> None:
    Worker(database, Clock()).keys.add("a", "sk-aaaaaaaa", now=NOW)


@pytest.mark.parametrize("limit", ["maxInFlight", "rpm"])
def test_four_workers_keep_a_limit_together_and_each_has_a_part(database, key, clock, ticks, limit) -> None:
    limited(database, **{limit: 10})
    workers = workers_of(database, clock, ticks)
    rounds(workers, clock, ticks, 3)
    assert sorted(len(leases(worker, 20)) for worker in workers) == [2, 2, 3, 3]


def test_a_worker_gets_what_the_others_do_not_use(database, key, clock, ticks) -> None:
    limited(database, maxInFlight=8)
    workers = workers_of(database, clock, ticks)
    rounds(workers, clock, ticks, 2)
    running = 0
    for _ in range(8):
        running += len(leases(workers[0], 8))
        rounds(workers, clock, ticks)
    assert running == 8
    shortage = workers[1].pool.acquire(NONE)
    assert isinstance(shortage, NoKey)
    assert shortage.reason is Shortage.BUSY


def test_a_key_for_one_request_at_a_time_goes_to_the_worker_that_is_asked(
    database, key, clock, ticks
) -> None:
    limited(database, maxInFlight=1)
    workers = workers_of(database, clock, ticks)
    rounds(workers, clock, ticks)
    for worker in (workers[3], workers[1]):
        for _ in range(12):  # a client that comes back every second
            if got := leases(worker, 1):
                break
            rounds(workers, clock, ticks)
        assert len(got) == 1
        worker.pool.release(got[0])


def test_a_worker_that_leaves_gives_back_what_is_not_in_use(database, key, clock, ticks) -> None:
    limited(database, maxInFlight=4, rpm=6)
    first, second = workers_of(database, clock, ticks, 2)
    rounds([first, second], clock, ticks, 2)
    for lease in leases(first, 2):
        first.pool.release(lease)
    assert first.sync.leave()
    rounds([second], clock, ticks)
    (division,) = KeyShareStore(database).divisions(["a"]).values()
    assert division.shares["w0"] == {Kind.RATE: QuotaShare(2, LEFT)}
    assert len(leases(second, 9)) == 4  # two more have been sent in this minute


def test_the_share_of_a_dead_worker_comes_back_after_a_while(database, key, clock, ticks) -> None:
    limited(database, maxInFlight=4)
    dead, alive = workers_of(database, clock, ticks, 2)
    rounds([dead, alive], clock, ticks, 2)
    assert len(leases(dead, 9)) == 2
    rounds([alive], clock, ticks, 5)
    assert len(leases(alive, 9)) == 2
    rounds([alive], clock, ticks, 12)
    assert len(leases(alive, 9)) == 2
    assert "w0" not in database[COLLECTION].find_one({"_id": "a"})["shares"]


def test_a_key_without_limits_leaves_nothing_behind(database, key, clock, ticks) -> None:
    workers = workers_of(database, clock, ticks, 2)
    rounds(workers, clock, ticks)
    assert not database[COLLECTION].count_documents({})
    limited(database, maxInFlight=3)
    rounds(workers, clock, ticks, 2)
    assert database[COLLECTION].count_documents({}) == 1
    database.ohmygpt_keys.update_one({"_id": "a"}, {"$unset": {"maxInFlight": ""}})
    rounds(workers, clock, ticks, 2)
    assert not database[COLLECTION].count_documents({})
    assert len(leases(workers[0], 9)) == 9


@pytest.mark.parametrize("is_env", [False, True])
def test_one_worker_at_a_time_tries_a_key_without_money(database, key, clock, ticks, is_env: bool) -> None:
    workers = workers_of(database, clock, ticks, env=("sk-env-aaaaaaaa",) if is_env else ())
    tried = "env-1" if is_env else "a"
    workers[0].ends(tried, SPENT)
    rounds(workers, clock, ticks, 2)
    clock.pass_s(24 * 3600)
    others = frozenset({"a", "env-1"} - {tried})
    probes = [got for worker in workers if isinstance(got := worker.pool.acquire(others), Lease)]
    assert [lease.is_probe for lease in probes] == [True]
    # It finds no money: nobody tries again, also not who has just been handed the right to.
    prober = next(worker for worker in workers if worker.pool.snapshot()[0].in_flight)
    prober.pool.report(probes[0], SPENT, "r9")
    prober.pool.release(probes[0])
    rounds(workers, clock, ticks, 15)
    assert not [worker for worker in workers if isinstance(worker.pool.acquire(others), Lease)]
    # The next day it does.
    clock.pass_s(24 * 3600)
    probes = [got for worker in workers if isinstance(got := worker.pool.acquire(others), Lease)]
    assert len(probes) == 1
    prober = next(worker for worker in workers if worker.pool.snapshot()[0].in_flight)
    prober.pool.report(probes[0], OK, "r10")
    rounds(workers, clock, ticks)
    assert all(tried in worker.usable() for worker in workers)


def test_divisions_are_replaced_only_as_they_were_read(database) -> None:
    store = KeyShareStore(database)
    nothing = store.divisions(["a", "b"])
    mine, others = {"w1": {Kind.RATE: QuotaShare(3, 5)}}, {"w2": {Kind.RATE: QuotaShare(4, 4)}}
    assert nothing == {"a": Division({}), "b": Division({})}
    assert store.replace({"a": (nothing["a"], mine)}) == {"a"}
    assert store.replace({"a": (nothing["a"], others), "b": (nothing["b"], others)}) == {"b"}
    read = store.divisions(["a"])["a"]
    assert read.shares == mine
    assert store.replace({"a": (read, mine | others)}) == {"a"}
    assert store.replace({"a": (read, {})}) == set()
    assert store.divisions(["a"])["a"].shares == mine | others
    store.replace({"a": (store.divisions(["a"])["a"], {})})
    assert store.divisions(["a"])["a"] == Division({})
    database.command("collMod", COLLECTION, validator={"shares": {"$type": "string"}})
    with pytest.raises(OperationFailure):
        store.replace({"a": (Division({}), mine)})


def test_workers_in_a_hurry_never_exceed_a_limit(database, key) -> None:
    """Eight of them, in threads, over connections of their own."""
    limited(database, maxInFlight=6)
    running, most, lock = 0, 0, threading.Lock()
    started, served = threading.Barrier(8), [0] * 8

    def work(number: int) -> None:
        nonlocal running, most
        worker = Worker(database, Clock(), sharing=(f"w{number}", Ticks()))
        started.wait(300)
        for _ in range(40):
            got = leases(worker, 3)
            with lock:
                running += len(got)
                most = max(most, running)
            worker.sync.refresh()
            with lock:
                running -= len(got)
            served[number] += len(got)
            for lease in got:
                worker.pool.release(lease)
            worker.sync.refresh()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert 1 < most <= 6
    assert sum(count > 0 for count in served) > 1


def test_a_pool_by_itself_has_limits_to_itself() -> None:
    pool = SharedKeyPool(("sk-env-aaaaaaaa",))
    shares = KeyShares("w", pool, None)  # type: ignore[arg-type]  # nothing is divided: it is not asked
    assert shares.exchange() == {}
    assert not pool.lacks_shares
