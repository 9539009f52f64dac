"""Workers that share the limits of a key, against a count of what the key is asked."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from bson import ObjectId
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pymongo.errors import AutoReconnect, PyMongoError

from app.keys.key_choice import Limits
from app.keys.key_pool import SharedKeyPool
from app.keys.key_share_store import Division
from app.keys.key_shares import Shares
from app.keys.key_state_store import StoredState
from app.keys.lease import Lease
from app.keys.provider_keys import StoredProviderKey
from app.keys.worker_shares import KeyShares

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
AT_ONCE, PER_MINUTE = 5, 12
ROUND_S = 2.0


class MemoryStore:
    """What `KeyShareStore` does, in memory; others may come between a reading and the writing after it."""

    def __init__(self) -> None:
        self.stored: dict[str, Division] = {}
        self.signs: dict[str, int] = {}
        self.interferer: Worker | None = None
        self.loses_answer = self.is_down = False

    def heartbeat(self, worker_id: str) -> dict[str, int]:
        if self.is_down:
            raise AutoReconnect("down")
        self.signs[worker_id] = self.signs.get(worker_id, 0) + 1
        return dict(self.signs)

    def forget(self, worker_ids: set[str]) -> None:
        for worker_id in worker_ids:
            self.signs.pop(worker_id, None)

    def divisions(self, store_ids: set[str]) -> dict[str, Division]:
        return {store_id: self.stored.get(store_id, Division({})) for store_id in store_ids}

    def replace(self, changes: Mapping[str, tuple[Division, Mapping[str, Shares]]]) -> set[str]:
        interferer, self.interferer = self.interferer, None
        if interferer is not None:
            interferer.round()
        done = set()
        for store_id, (old, new) in changes.items():
            if self.stored.get(store_id, Division({})).stamp == old.stamp:
                self.stored[store_id] = Division(dict(new), ObjectId())
                done.add(store_id)
        if self.loses_answer:
            self.loses_answer = False
            raise AutoReconnect("the answer is lost")
        return done


@dataclass
class Worker:
    name: str
    pool: SharedKeyPool
    shares: KeyShares
    running: list[Lease] = field(default_factory=list)

    def round(self) -> None:
        try:
            grown = self.shares.exchange()
        except PyMongoError:
            return
        for store_id, slots in grown.items():
            self.pool.grant(store_id, slots)


class SharedLimits(RuleBasedStateMachine):
    """Requests, rounds that collide or fail, outages, deaths and departures."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.store = MemoryStore()
        self.workers: list[Worker] = []
        self.sent: deque[float] = deque()
        self.made = 0
        for _ in range(3):
            self.a_worker_comes()

    some = st.integers(0, 9)

    def worker(self, number: int) -> Worker:
        return self.workers[number % len(self.workers)]

    def clock(self) -> datetime:
        return START + timedelta(seconds=self.now_s)

    @precondition(lambda self: len(self.workers) < 5)
    @rule()
    def a_worker_comes(self) -> None:
        self.made += 1
        pool = SharedKeyPool((), now=self.clock, divides_limits=True)
        limits = Limits(max_in_flight=AT_ONCE, rpm=PER_MINUTE)
        pool.load(
            [StoredProviderKey("k", "sk-key-000000", "healthy", limits=limits, state=StoredState())], {}
        )
        name = f"w{self.made}"
        self.workers.append(Worker(name, pool, KeyShares(name, pool, self.store, lambda: self.now_s)))
        self.workers[-1].round()

    @rule(number=some, count=st.integers(1, 6))
    def requests_come(self, number: int, count: int) -> None:
        worker = self.worker(number)
        for _ in range(count):
            lease = worker.pool.acquire(frozenset())
            if isinstance(lease, Lease):
                worker.running.append(lease)
                self.sent.append(self.now_s)

    @rule(number=some, count=st.integers(1, 6))
    def requests_end(self, number: int, count: int) -> None:
        worker = self.worker(number)
        for lease in worker.running[:count]:
            worker.pool.release(lease)
        del worker.running[:count]

    @rule(number=some, other=st.none() | some, loses_answer=st.booleans())
    def a_round(self, number: int, other: int | None, loses_answer: bool) -> None:
        self.store.interferer = None if other is None else self.worker(other)
        self.store.loses_answer = loses_answer
        self.worker(number).round()
        self.store.interferer, self.store.loses_answer = None, False

    @rule(seconds=st.sampled_from([0.5, 2, 8, 30, 61]))
    def time_passes(self, seconds: float) -> None:
        """The living give signs all the while."""
        end = self.now_s + seconds
        while self.now_s < end:
            self.now_s = min(end, self.now_s + ROUND_S)
            for worker in self.workers:
                worker.round()

    @rule(seconds=st.sampled_from([8, 30, 90]))
    def the_database_is_away(self, seconds: float) -> None:
        self.store.is_down = True
        self.time_passes(seconds)
        self.store.is_down = False

    @precondition(lambda self: len(self.workers) > 1)
    @rule(number=some)
    def a_worker_is_killed(self, number: int) -> None:
        self.workers.remove(self.worker(number))

    @precondition(lambda self: len(self.workers) > 1)
    @rule(number=some)
    def a_worker_leaves(self, number: int) -> None:
        worker = self.worker(number)
        for lease in worker.running:
            worker.pool.release(lease)
        worker.shares.exchange(is_leaving=True)
        self.workers.remove(worker)

    @rule(number=some)
    def all_of_it_is_there_for_whoever_wants_it(self, number: int) -> None:
        """After some quiet, of which two minutes may be needed for the dead, within twelve rounds.

        A share doubles from round to round; the turn that moves on meanwhile may take a slot back once.
        """
        for worker in self.workers:
            self.requests_end(self.workers.index(worker), len(worker.running))
        self.time_passes(140)
        worker = self.worker(number)
        for _ in range(12):
            self.requests_come(number, AT_ONCE - len(worker.running))
            self.now_s += ROUND_S
            for each in self.workers:
                each.round()
        assert len(worker.running) == AT_ONCE

    @invariant()
    def the_key_is_never_asked_too_much(self) -> None:
        assert sum(len(worker.running) for worker in self.workers) <= AT_ONCE
        while self.sent and self.sent[0] <= self.now_s - 60:
            self.sent.popleft()
        assert len(self.sent) <= PER_MINUTE


TestSharedLimits = SharedLimits.TestCase
TestSharedLimits.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
