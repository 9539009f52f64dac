"""The upstream keys in use: handed out in turn, from the configuration and from `ohmygpt_keys`."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from pymongo.errors import PyMongoError

from app.adapters.mongo.connection import store_problem
from app.adapters.mongo.provider_keys import ENV_ID_PREFIX, HEALTHY, RATE_LIMITED, StoredProviderKey
from app.core.credentials import mask
from app.core.ports import ProviderKey

REFRESH_S = 2.0

log = logging.getLogger(__name__)


class ProviderKeyReader(Protocol):
    """Where the pool's keys come from."""

    def list(self) -> Iterable[StoredProviderKey]:
        """All keys, in a stable order."""


class StopEvent(Protocol):
    """`threading.Event` or gevent's."""

    def wait(self, timeout: float) -> object:
        """Truthy once the event is set; else falsy after the timeout (seconds)."""


@dataclass(frozen=True, slots=True)
class KeyState:
    """A key in status views: nothing here gives it away."""

    key_id: str
    masked: str
    status: str
    available: bool
    last_error: str | None
    cooldown_until: datetime | None
    in_flight: int
    requests: int
    failures: int
    last_status_code: int | None


@dataclass(slots=True)
class _Tally:
    """What this process saw of a key."""

    in_flight: int = 0
    requests: int = 0
    failures: int = 0
    last_status_code: int | None = None
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class _PooledKey:
    key: ProviderKey
    status: str
    cooldown_until: datetime | None
    last_error: str | None = None
    tally: _Tally = field(default_factory=_Tally)

    def is_usable(self, now: datetime) -> bool:
        if self.status == RATE_LIMITED:
            return self.cooldown_until is not None and self.cooldown_until <= now
        return self.status == HEALTHY


class RoundRobinKeyPool:
    """`app.core.ports.KeyPool`: the usable keys in turn.

    A process may have its turn begin elsewhere (`start`), so that several do not hit the same key first.
    """

    def __init__(
        self,
        env_keys: Sequence[str],
        store: ProviderKeyReader | None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        start: int = 0,
    ) -> None:
        self._store = store
        self._now = now
        self._next = start
        self._env = tuple(
            _PooledKey(ProviderKey(f"{ENV_ID_PREFIX}{number}", secret), HEALTHY, None)
            for number, secret in enumerate(env_keys, 1)
        )
        self._tallies = {pooled.key.key_id: pooled.tally for pooled in self._env}
        self._keys = self._env
        self._unreadable: tuple[StoredProviderKey, ...] = ()
        self._is_store_down = False

    def acquire(self, excluding: frozenset[str]) -> ProviderKey | None:
        """The next usable key that is not in `excluding`; None when there is none."""
        keys, now = self._keys, self._now()
        for step in range(len(keys)):
            index = (self._next + step) % len(keys)
            pooled = keys[index]
            if pooled.key.key_id not in excluding and pooled.is_usable(now):
                self._next = index + 1
                pooled.tally.in_flight += 1
                return pooled.key
        return None

    def release(self, key: ProviderKey, status: int | None, error: str | None) -> None:
        """Give the key back with what came of it."""
        tally = self._tallies.get(key.key_id)
        if tally is None:  # deleted meanwhile
            return
        tally.in_flight = max(0, tally.in_flight - 1)
        tally.requests += 1
        tally.last_status_code = status
        if error is not None:
            tally.failures += 1
            tally.last_error = error

    def refresh(self) -> None:
        """Read the stored keys anew; while the store is down the last list stays in use."""
        if self._store is None:
            return
        try:
            stored = tuple(self._store.list())
        except PyMongoError as error:
            if not self._is_store_down:
                log.warning("upstream keys cannot be read, the last list stays: %s", store_problem(error))
            self._is_store_down = True
            return
        self._is_store_down = False
        unreadable = tuple(key for key in stored if key.secret is None)
        for key_id in {key.key_id for key in unreadable} - {key.key_id for key in self._unreadable}:
            log.error("upstream key %s is left out: it was stored with another SECRET_KEY", key_id)
        self._unreadable = unreadable
        self._keys = self._env + tuple(self._pooled(key, key.secret) for key in stored if key.secret)
        known = {pooled.key.key_id for pooled in self._keys}
        self._tallies = {key_id: tally for key_id, tally in self._tallies.items() if key_id in known}

    def run(self, stop: StopEvent, interval_s: float = REFRESH_S) -> None:
        """Refresh now and then every `interval_s`, until `stop` is set."""
        while True:
            try:
                self.refresh()
            except Exception:
                # One odd document must not end the loop: nobody would notice until the keys had run out.
                log.exception("upstream keys could not be refreshed")
            if stop.wait(interval_s):
                return

    def is_empty(self) -> bool:
        """Whether there is no key at all, usable or not."""
        return not self._keys

    def snapshot(self) -> list[KeyState]:
        """Every key with its state, in the order of use; unreadable ones last, with the status `error`."""
        now = self._now()
        states = [
            KeyState(
                key_id=pooled.key.key_id,
                masked=mask(pooled.key.secret),
                status=pooled.status,
                available=pooled.is_usable(now),
                last_error=pooled.tally.last_error or pooled.last_error,
                cooldown_until=pooled.cooldown_until,
                in_flight=pooled.tally.in_flight,
                requests=pooled.tally.requests,
                failures=pooled.tally.failures,
                last_status_code=pooled.tally.last_status_code,
            )
            for pooled in self._keys
        ]
        return states + [
            KeyState(key.key_id, key.masked, "error", False, key.last_error, None, 0, 0, 0, None)
            for key in self._unreadable
        ]

    def _pooled(self, stored: StoredProviderKey, secret: str) -> _PooledKey:
        tally = self._tallies.setdefault(stored.key_id, _Tally())
        key = ProviderKey(stored.key_id, secret)
        return _PooledKey(key, stored.status, stored.cooldown_until, stored.last_error, tally)
