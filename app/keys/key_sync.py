"""The exchange of key states between this worker and all others, through MongoDB.

In each round what happened here goes out first and what others know comes in after, so that a key that was
just limited is never taken for good because the database had not heard of it. While the database is away
nothing is lost: states stay as this worker knows them and go out later.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import cycle

from pymongo.errors import PyMongoError

from app.keys.key_pool import SharedKeyPool
from app.keys.key_rotation import KeyRotation
from app.keys.key_shares import Kind
from app.keys.key_state_store import KeyStateStore
from app.keys.provider_keys import ProviderKeyStore
from app.keys.worker_shares import KeyShares
from app.periodic import FailureLog, StopEvent, every

# Seconds between two readings. What happens here goes out sooner, so others know of it within two seconds.
INTERVAL_S = 1.0

_LOOKS_PER_ROUND = 5
_CARE_S = 60.0

log = logging.getLogger(__name__)


class KeySync:
    """Keeps one worker's pool and the database together."""

    def __init__(
        self,
        pool: SharedKeyPool,
        keys: ProviderKeyStore,
        states: KeyStateStore,
        caretaker: KeyRotation | None = None,
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
        self._sharing = FailureLog(
            log, "key states are not shared for now, the last ones stay", "key states are shared again"
        )

    def refresh(self) -> bool:
        """Do one round of exchange; return False when the database was away."""
        return self._guarded(self._round)

    def flush(self) -> bool:
        """Send this worker's news only; return False when the database was away."""
        return self._guarded(self._send)

    def leave(self) -> bool:
        """Send the last news, and cede this worker's shares; return False when the database was away."""
        return self._guarded(self._leave)

    def run(self, stop: StopEvent, interval_s: float = INTERVAL_S) -> None:
        """Refresh every `interval_s` until `stop` is set; what happens here in between goes out sooner."""
        # One odd document must not end this: nobody would notice until the keys had run out.
        failures = FailureLog(log, "upstream keys cannot be refreshed", "upstream keys are refreshed again")
        looks = cycle(range(_LOOKS_PER_ROUND))
        every(
            stop,
            interval_s / _LOOKS_PER_ROUND,
            lambda: self._send_news() if next(looks) else self.refresh(),
            failures,
            is_at_once=True,
        )
        self.flush()

    def look(self) -> int:
        """Take in what is stored, write nothing; return how many keys have been replaced by backup keys.

        Raises `PyMongoError`.
        """
        stored = list(self._keys.list())
        env_states = self._states.states(self._pool.env_ids, is_env=True)
        self._pool.load(stored, env_states)
        states = [*env_states.values(), *(key.state for key in stored)]
        return sum(state.replaced_by is not None for state in states)

    def _send_news(self) -> bool:
        """Share, between two rounds, what cannot wait for the next; False, since this is no round."""
        if self._pool.has_news and not self._sharing.is_failing:
            self.flush()
        if self._pool.is_starved and not self._sharing.is_failing:
            self._guarded(self._share)
        return False

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
        told = self._pool.pending()
        for is_env in (True, False):
            # Two workers that have met the same limit, each for one client, must not overwrite each other.
            ids = [item.store_id for item in told if item.is_env is is_env]
            self._pool.hear(self._states.states(ids, is_env=is_env))
        for item in self._pool.pending():
            self._states.write(
                item.store_id, item.key_id, item.state, is_env=item.is_env, wants_backup=item.is_own
            )
            self._pool.shared(item)
        for news in self._pool.pending_limits():
            self._states.limit_models(
                news.store_id, news.key_id, news.limits, self._now(), is_env=news.is_env
            )
            self._pool.shared_limits(news)
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
            self._sharing.note_failure(error)
            return False
        self._sharing.note_success()
        return True
