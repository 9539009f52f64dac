"""Several workers' key pools over one database, each with a round whenever a test says so."""

from datetime import UTC, datetime, timedelta

from app.keys.key_choice import NoKey
from app.keys.key_pool import SharedKeyPool
from app.keys.key_share_store import KeyShareStore
from app.keys.key_state_store import KeyStateStore
from app.keys.key_sync import KeySync
from app.keys.lease import Lease
from app.keys.provider_keys import ProviderKeyStore
from app.keys.upstream_outcome import Finding, KeyOutcome
from app.keys.worker_shares import KeyShares
from app.store.key_cipher import KeyCipher

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NONE: frozenset[str] = frozenset()
OK = Finding(KeyOutcome.OK, "ok")
LIMITED = Finding(KeyOutcome.RATE_LIMITED, "rate_limited", 60.0)
SPENT = Finding(KeyOutcome.EXHAUSTED, "budget_code")
REFUSED = Finding(KeyOutcome.SUSPECT, "unauthorized")
BANNED = Finding(KeyOutcome.BANNED, "ban_code")
MODEL_LIMITED = Finding(KeyOutcome.MODEL_LIMITED, "model_limited", 60.0)
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

    def ends(
        self, key_id: str, finding: Finding, request_id: str = "r1", client: str = "ann", model: str = "m"
    ) -> None:
        """A request on this very key that ends so; a ban takes a second client's."""
        others = frozenset(view.key_id for view in self.pool.snapshot()) - {key_id}
        for name in (client, "bob") if finding is BANNED else (client,):
            lease = self.pool.acquire(others, name, model)
            assert isinstance(lease, Lease), str(lease)
            self.pool.report(lease, finding, request_id)
            self.pool.release(lease)

    def status(self, key_id: str) -> str:
        return {view.key_id: view.status for view in self.pool.snapshot()}[key_id]

    def usable(self) -> set[str]:
        return {view.key_id for view in self.pool.snapshot() if view.available}

    def taken(
        self, count: int, excluding: frozenset[str] = NONE, client: str = "ann", model: str = "m"
    ) -> list[str | None]:
        leases = [self.pool.acquire(excluding, client, model) for _ in range(count)]
        return [None if isinstance(lease, NoKey) else lease.key.key_id for lease in leases]
