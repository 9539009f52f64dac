"""Several workers' key pools over one database, each with a round whenever a test says so."""

from datetime import UTC, datetime, timedelta

from app.adapters.key_cipher import KeyCipher
from app.adapters.key_pool import SharedKeyPool
from app.adapters.key_shares import KeyShares
from app.adapters.key_sync import KeySync
from app.adapters.mongo.key_shares import KeyShareStore
from app.adapters.mongo.key_states import KeyStateStore
from app.adapters.mongo.provider_keys import ProviderKeyStore
from app.core.key_choice import NoKey
from app.core.ports import Lease
from app.core.upstream_outcome import Finding, KeyOutcome

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NONE: frozenset[str] = frozenset()
OK = Finding(KeyOutcome.OK, "ok")
LIMITED = Finding(KeyOutcome.RATE_LIMITED, "rate_limited", 60.0)
SPENT = Finding(KeyOutcome.EXHAUSTED, "budget_code")
REFUSED = Finding(KeyOutcome.SUSPECT, "unauthorized")
BANNED = Finding(KeyOutcome.BANNED, "ban_code")
FAILED = Finding(KeyOutcome.FAILED, "server_error")


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Worker:
    """One worker's pool and its exchange with the others."""

    def __init__(self, db, clock: Clock, env: tuple[str, ...] = (), caretaker=None, sharing=None) -> None:
        """With `sharing` (its name and a monotonic clock) it shares the limits of keys with others."""
        self.clock = clock
        self.pool = SharedKeyPool(env, now=clock, divides_limits=sharing is not None)
        self.keys = ProviderKeyStore(db, KeyCipher("secret"))
        self.states = KeyStateStore(db)
        shares = None
        if sharing is not None:
            name, ticks = sharing
            shares = KeyShares(name, self.pool, KeyShareStore(db), ticks)
        self.sync = KeySync(self.pool, self.keys, self.states, caretaker, shares=shares, now=clock)
        self.sync.refresh()

    def ends(self, key_id: str, finding: Finding, request_id: str = "r1") -> None:
        """A request on this very key that ends so."""
        others = frozenset(view.key_id for view in self.pool.snapshot()) - {key_id}
        lease = self.pool.acquire(others)
        assert isinstance(lease, Lease), str(lease)
        self.pool.report(lease, finding, request_id)
        self.pool.release(lease)

    def status(self, key_id: str) -> str:
        return {view.key_id: view.status for view in self.pool.snapshot()}[key_id]

    def usable(self) -> set[str]:
        return {view.key_id for view in self.pool.snapshot() if view.available}

    def taken(self, count: int, excluding: frozenset[str] = NONE) -> list[str | None]:
        leases = [self.pool.acquire(excluding) for _ in range(count)]
        return [None if isinstance(lease, NoKey) else lease.key.key_id for lease in leases]
