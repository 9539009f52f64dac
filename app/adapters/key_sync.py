"""The exchange of key states between this worker and all others, through MongoDB.

In each round what happened here goes out first and what others know comes in after, so that a key that was
just limited is never taken for good because the database had not heard of it. While the database is away
nothing is lost: states stay as this worker knows them and go out later.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from pymongo.errors import PyMongoError

from app.adapters.key_pool import SharedKeyPool
from app.adapters.key_shares import KeyShares
from app.adapters.mongo.connection import store_problem
from app.adapters.mongo.key_states import KeyEvent, StoredState
from app.adapters.mongo.provider_keys import StoredProviderKey
from app.core.key_shares import Kind
from app.core.key_states import KeyState

INTERVAL_S = 1.0
"""Between two readings. What happens here goes out sooner, so others know of it within two seconds."""

_LOOKS_PER_ROUND = 5
_CARE_S = 60.0

log = logging.getLogger(__name__)


class ProviderKeyReader(Protocol):
    """Where the pool's keys come from."""

    def list(self) -> Iterable[StoredProviderKey]:
        """All keys, in a stable order."""


class StateStore(Protocol):
    """Where states meet: `app.adapters.mongo.key_states.KeyStateStore`."""

    def env_states(self, store_ids: Iterable[str]) -> Mapping[str, StoredState]:
        """What is stored of the configured keys."""

    def write(
        self, store_id: str, key_id: str, state: KeyState, *, is_env: bool, wants_backup: bool = False
    ) -> bool:
        """Store the state unless one that ranks higher is there; True if it was stored."""

    def add_events(self, events: Sequence[KeyEvent]) -> None:
        """Keep events for the audit."""


class Caretaker(Protocol):
    """What else is done with the stored keys, from time to time."""

    def replace_dead_keys(self, now: datetime, pool_size: int) -> int:
        """Put spare keys in the place of dead ones that ask for it; how many."""

    def tidy(self, now: datetime) -> None:
        """Finish what a process that died has left, and encrypt keys found in plain text."""


class StopEvent(Protocol):
    """`threading.Event` or gevent's."""

    def wait(self, timeout: float) -> object:
        """Truthy once the event is set; else falsy after the timeout (seconds)."""


class KeySync:
    """Keeps one worker's pool and the database together."""

    def __init__(
        self,
        pool: SharedKeyPool,
        keys: ProviderKeyReader,
        states: StateStore,
        caretaker: Caretaker | None = None,
        *,
        shares: KeyShares | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._states = states
        self._caretaker = caretaker
        self._shares = shares
        self._now = now
        self._tidied_at: datetime | None = None
        self._is_down = False

    def refresh(self) -> bool:
        """One round; False when the database was away."""
        return self._guarded(self._round)

    def flush(self) -> bool:
        """Only the way out; False when the database was away."""
        return self._guarded(self._send)

    def leave(self) -> bool:
        """The last way out: the others get this worker's shares. False when the database was away."""
        return self._guarded(self._leave)

    def run(self, stop: StopEvent, interval_s: float = INTERVAL_S) -> None:
        """Rounds every `interval_s` until `stop` is set; what happens here in between goes out sooner."""
        while True:
            self._logged(self.refresh)
            for _ in range(_LOOKS_PER_ROUND):
                if stop.wait(interval_s / _LOOKS_PER_ROUND):
                    self._logged(self.flush)
                    return
                if self._pool.has_news and not self._is_down:
                    self._logged(self.flush)
                if self._pool.is_starved and not self._is_down:
                    self._logged(lambda: self._guarded(self._share))

    def look(self) -> int:
        """Take in what is stored, write nothing; how many keys spare ones took the place of.

        Raises `PyMongoError`.
        """
        stored = list(self._keys.list())
        env_states = self._states.env_states(self._pool.env_ids)
        self._pool.load(stored, env_states)
        states = [*env_states.values(), *(key.state for key in stored)]
        return sum(state.replaced_by is not None for state in states)

    def _round(self) -> None:
        self._send()
        replaced = self.look()
        self._send()  # states that other programs have written get their fields completed
        self._share()
        if self._caretaker is None:
            return
        now = self._now()
        if self._tidied_at is None or (now - self._tidied_at).total_seconds() >= _CARE_S:
            self._caretaker.tidy(now)
            self._tidied_at = now
        if self._caretaker.replace_dead_keys(now, len(self._pool) - replaced):
            self.look()

    def _share(self) -> None:
        """Take this worker's shares in the limits of keys anew."""
        grown = self._shares.exchange() if self._shares is not None else {}
        if any(slots.get(Kind.PROBE) for slots in grown.values()):
            self.look()  # a trial that another worker has made is known before this one may make the next
        for store_id, slots in grown.items():
            self._pool.grant(store_id, slots)

    def _leave(self) -> None:
        self._send()
        if self._shares is not None:
            self._shares.exchange(is_leaving=True)

    def _send(self) -> None:
        for item in self._pool.pending():
            self._states.write(
                item.store_id, item.key_id, item.state, is_env=item.is_env, wants_backup=item.is_own
            )
            self._pool.shared(item)
        events = self._pool.take_events()
        try:
            self._states.add_events(events)
        except BaseException:
            self._pool.return_events(events)
            raise

    def _guarded(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except PyMongoError as error:
            if not self._is_down:
                log.warning("key states are not shared for now, the last ones stay: %s", store_problem(error))
            self._is_down = True
            return False
        self._is_down = False
        return True

    def _logged(self, work: Callable[[], bool]) -> None:
        try:
            work()
        except Exception:
            # One odd document must not end the loop: nobody would notice until the keys had run out.
            log.exception("upstream keys could not be refreshed")
