"""Rate limits per client key: counted in the worker, shared through MongoDB in the background.

A round trip to a database for every request would cost more than the rest of the proxy, and an outage of it
would stop the traffic. So a worker decides by its own count plus what the others had published a moment
ago (`SYNC_INTERVAL_S`): exact on one worker; with several, a key can pass its limit by what the other
workers let through within that moment. `app.accounts.storage_rate_limiter` is the exact
alternative, at the price of that round trip.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from app.accounts.rate_window import WINDOW_S, RateDecision, decide, window_start

Document = dict[str, Any]

SYNC_INTERVAL_S = 0.5
COLLECTION = "rate_windows"
_NEWS = 500
"""How many keys that were not asked for just now have the others' counts read in one exchange."""


@dataclass(slots=True)
class _Count:
    mine: int = 0
    others: int = 0
    published: int = 0


class SharedRateLimiter:
    """Fixed one-minute windows; `sync()` publishes this worker's counts and reads the others'."""

    def __init__(self, worker_id: str, now: Callable[[], float]) -> None:
        self._worker_id = worker_id
        self._now = now
        self._window = 0
        self._counts: dict[str, _Count] = {}
        self._running: Counter[str] = Counter()
        # Keys asked for since the last exchange, and all of the window in turn: so many keys there may be,
        # an exchange costs by the first, and by no more than `_NEWS` of the others.
        self._touched: set[str] = set()
        self._in_turn: deque[str] = deque()
        self.failed_open = 0  # never: memory does not fail

    def hit(self, key_id: str, limit: int, cost: int = 1) -> RateDecision:
        """Count one request of this key against `limit` per minute."""
        now = self._now()
        count = self._count(key_id, now)
        decision = decide(count.mine + count.others, limit, now)
        if decision.allowed:
            count.mine += cost
        return decision

    def enter(self, name: str, limit: int) -> bool:
        """Count something that runs under this name, unless `limit` of them do; to be ended by `leave`.

        What others run is known as it was at the last exchange. A worker that died is counted until the
        window ends.
        """
        count = self._count(name, self._now())
        if count.mine + count.others >= limit:
            return False
        count.mine += 1
        self._running[name] += 1
        return True

    def leave(self, name: str) -> None:
        """Count something as ended that had entered."""
        self._count(name, self._now()).mine -= 1
        self._running[name] -= 1
        if not self._running[name]:
            del self._running[name]

    def _count(self, name: str, now: float) -> _Count:
        self._turn(now)
        self._touched.add(name)
        count = self._counts.get(name)
        if count is None:
            count = self._counts[name] = _Count()
            self._in_turn.append(name)
        return count

    def _turn(self, now: float) -> None:
        """Begin a new window where one has begun: with nothing in it but what runs."""
        if (window := window_start(now)) != self._window:
            self._window = window
            self._counts = {name: _Count(mine=running) for name, running in self._running.items()}
            self._touched, self._in_turn = set(self._counts), deque(self._counts)

    def sync(self, database: Database[Document]) -> None:
        """Exchange counts with the other workers; raises `PyMongoError`, then the own count stands alone."""
        self._turn(self._now())
        window, counts, touched = self._window, self._counts, self._touched
        if not counts:
            return
        others = [self._in_turn.popleft() for _ in range(min(_NEWS, len(self._in_turn)))]
        self._in_turn.extend(others)
        self._touched = set()
        try:
            self._exchange(database[COLLECTION], window, {key: counts[key] for key in touched.union(others)})
        except BaseException:
            if self._counts is counts:
                self._touched |= touched
            raise

    def _exchange(self, collection: Collection[Document], window: int, counts: dict[str, _Count]) -> None:
        # One document per key and window, one field per worker: nobody overwrites another's count.
        expires = datetime.fromtimestamp(window, UTC) + timedelta(seconds=2 * WINDOW_S)
        changed = {key: count.mine for key, count in counts.items() if count.mine != count.published}
        if changed:
            collection.bulk_write(
                [
                    UpdateOne(
                        {"_id": f"{window}:{key}"},
                        {"$set": {f"w.{self._worker_id}": mine, "expiresAt": expires}},
                        upsert=True,
                    )
                    for key, mine in changed.items()
                ],
                ordered=False,
            )
        for key, mine in changed.items():
            counts[key].published = mine
        self._read_others(collection.find({"_id": {"$in": [f"{window}:{key}" for key in counts]}}), counts)

    def _read_others(self, documents: Iterable[Document], counts: dict[str, _Count]) -> None:
        for document in documents:
            key = document["_id"].split(":", 1)[1]
            shares = document.get("w", {})
            if key in counts:
                counts[key].others = sum(n for worker, n in shares.items() if worker != self._worker_id)


def ensure_expiry(database: Database[Document]) -> None:
    """Have MongoDB delete counts of past windows by itself."""
    database[COLLECTION].create_index("expiresAt", expireAfterSeconds=0)
