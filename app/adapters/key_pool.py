"""The upstream keys as one worker has them: lent to requests, judged by what comes of it.

Everything here is memory, so a request never waits. `app.adapters.key_sync` takes what has changed to the
database (`pending`, `take_events`) and brings what others know (`load`).
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock

from app.adapters.mongo.key_states import KeyEvent, StoredState, env_store_id
from app.adapters.mongo.provider_keys import ENV_ID_PREFIX, StoredProviderKey
from app.adapters.pooled_key import PendingState, PooledKey
from app.core.credentials import mask
from app.core.key_choice import NoKey, Roster, Shortage, Turn, usable_count
from app.core.key_shares import Kind, Need
from app.core.key_states import (
    KeyState,
    KeyStatus,
    Policy,
    Report,
    Standing,
    Transition,
    is_confirmed,
    merge,
    must_be_shared,
    standing,
    transition,
)
from app.core.ports import Lease, ProviderKey
from app.core.upstream_outcome import Finding, KeyOutcome

MAX_EVENTS = 10_000
"""Events of the audit that wait for the database; beyond it the oldest are dropped."""

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_RECENTLY = timedelta(seconds=5)  # longer than a client waits that was told to come back in a second
_MICROSECONDS = [timedelta(microseconds=count) for count in range(1000)]
_BAD = (
    KeyOutcome.RATE_LIMITED,
    KeyOutcome.EXHAUSTED,
    KeyOutcome.SUSPECT,
    KeyOutcome.BANNED,
    KeyOutcome.FAILED,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key in status views: nothing here gives it away. Counts are of this process."""

    key_id: str
    masked: str
    status: str
    available: bool
    last_error: str | None
    cooldown_until: datetime | None
    in_flight: int
    requests: int
    failures: int


class SharedKeyPool:
    """`app.core.ports.KeyPool`: least in flight, in turn among equals; states as in `app.core.key_states`.

    A process may have its turn begin elsewhere (`start`), so that several do not hit the same key first. With
    `divides_limits` it uses only the shares it is granted in the limits of keys; else it has them to itself.
    `now` is cut to milliseconds, as the database keeps it.
    """

    def __init__(
        self,
        env_keys: Sequence[str],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        start: int = 0,
        policy: Policy | None = None,
        divides_limits: bool = False,
    ) -> None:
        self._now = now
        self._divides_limits = divides_limits
        self._asked_at = _LONG_AGO
        self.is_starved = False
        self.policy = policy or Policy()
        self._lock = Lock()
        seen = self._moment()
        state = KeyState(KeyStatus.HEALTHY, _LONG_AGO, _LONG_AGO)
        self._env = [
            PooledKey(
                ProviderKey(f"{ENV_ID_PREFIX}{number}", secret),
                env_store_id(secret),
                True,
                state,
                seen,
                divides_limits,
            )
            for number, secret in enumerate(env_keys, 1)
        ]
        self._entries: list[PooledKey] = []
        self._by_id: dict[str, PooledKey] = {}
        self._by_store_id: dict[str, PooledKey] = {}
        self._roster = Roster()
        self._turn = Turn(start % len(env_keys) if env_keys else 0)
        self._start = start
        self._leases: dict[Lease, PooledKey] = {}
        self._events: deque[KeyEvent] = deque(maxlen=MAX_EVENTS)
        self._unreadable: tuple[StoredProviderKey, ...] = ()
        self._arrange(self._env)

    # -- requests -----------------------------------------------------------------------------------------

    def acquire(self, excluding: frozenset[str]) -> Lease | NoKey:
        """The best key that is not in `excluding`, or why there is none."""
        with self._lock:
            now = self._moment()
            self._asked_at = now
            chosen = self._roster.choose(now, self._turn, excluding)
            if isinstance(chosen, NoKey):
                self.is_starved |= self._divides_limits and Shortage.BUSY in chosen.counts
                return chosen
            self._turn = chosen.turn
            entry = self._by_id[chosen.candidate.key_id]
            lease = Lease(entry.key, now, chosen.is_probe)
            self._leases[lease] = entry
            entry.take(now, is_probe=chosen.is_probe)
            self._touch(entry)
            return lease

    def shortage(self, excluding: frozenset[str]) -> NoKey | None:
        """Why `acquire` would give none; None when it would give one."""
        with self._lock:
            chosen = self._roster.choose(self._moment(), self._turn, excluding)
            return chosen if isinstance(chosen, NoKey) else None

    def report(self, lease: Lease, finding: Finding, request_id: str) -> None:
        """Tell what came of the attempt; the key's state changes here at once, elsewhere soon."""
        with self._lock:
            entry = self._leases.get(lease)
            if entry is None or entry.index < 0:  # deleted, or given another secret, meanwhile
                return
            if is_confirmed(entry.state, finding):
                return
            now = self._moment()
            entry.failures += finding.outcome in _BAD
            is_last = finding.outcome is KeyOutcome.FAILED and usable_count(self._roster.candidates, now) <= 1
            report = Report(finding, request_id, lease.sent_at)
            before = entry.state
            entry.state, event = transition(before, report, now, self.policy, is_last_usable=is_last)
            if must_be_shared(before, entry.state):
                entry.share(is_own=True)
            if event is not None:
                self._events.append(KeyEvent.of(entry.key.key_id, event))
            self._touch(entry)
        if event is not None:
            _log(entry.key.key_id, event)

    def release(self, lease: Lease) -> None:
        """Give the key back. Idempotent."""
        with self._lock:
            entry = self._leases.pop(lease, None)
            if entry is None:
                return
            entry.in_flight -= 1
            entry.probes -= lease.is_probe
            entry.requests += 1
            self._touch(entry)

    # -- the exchange with others -------------------------------------------------------------------------

    def pending(self) -> list[PendingState]:
        """The states others must hear of."""
        with self._lock:
            return [entry.pending for entry in self._entries if entry.pending is not None]

    def shared(self, done: PendingState) -> None:
        """This one is out; what has changed since then stays pending."""
        with self._lock:
            entry = self._by_store_id.get(done.store_id)
            if entry is not None and entry.pending is done:
                entry.pending = None

    def take_events(self) -> list[KeyEvent]:
        """The audit's events since the last time."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
            return events

    def return_events(self, events: Sequence[KeyEvent]) -> None:
        """These could not be kept yet."""
        with self._lock:
            self._events.extendleft(reversed(events))

    @property
    def has_news(self) -> bool:
        """Whether there is anything to share."""
        return bool(self._events) or any(entry.pending is not None for entry in self._entries)

    @property
    def env_ids(self) -> dict[str, str]:
        """The pool ids of the configured keys, by the ids under which their states are stored."""
        return {entry.store_id: entry.key.key_id for entry in self._env}

    def load(self, stored: Iterable[StoredProviderKey], env_states: Mapping[str, StoredState]) -> None:
        """Take over the stored keys and states: a key's state becomes what holds longer, here or there."""
        keys = tuple(stored)
        bad = tuple(key for key in keys if key.secret is None)
        with self._lock:
            now = self._moment()
            known = {entry.store_id: entry for entry in self._entries if not entry.is_env}
            for entry in self._env:
                if entry.store_id in env_states:
                    self._learn(entry, env_states[entry.store_id], now)
            readable = [(key, key.secret) for key in keys if key.secret is not None]
            entries = self._env + [self._entry(known, key, secret, now) for key, secret in readable]
            self._arrange(entries)
            found = {key.key_id for key in bad} - {key.key_id for key in self._unreadable}
            self._unreadable = bad
        for key_id in sorted(found):
            log.error("upstream key %s is left out: it was stored with another SECRET_KEY", key_id)

    # -- shares in the limits -----------------------------------------------------------------------------

    def needs(self) -> dict[str, dict[Kind, Need]]:
        """By the ids under which keys are stored: the limits and what this worker needs of them.

        What it wants follows from what it has had to do since it was asked the last time.
        """
        with self._lock:
            now = self._moment()
            was_asked = now - self._asked_at < _RECENTLY
            self.is_starved = False
            return {
                entry.store_id: needs
                for entry in self._entries
                if (needs := entry.take_needs(now, was_asked=was_asked))
            }

    def cede(self, store_id: str, slots: Mapping[Kind, int]) -> dict[Kind, int]:
        """Shrink to these shares at once, but not below what is occupied; what this worker then holds."""
        with self._lock:
            entry = self._by_store_id.get(store_id)
            if entry is None:
                return {}
            entry.cede(slots, self._moment())
            self._touch(entry)
            return dict(entry.shares)

    def grant(self, store_id: str, slots: Mapping[Kind, int]) -> None:
        """These shares are this worker's."""
        with self._lock:
            entry = self._by_store_id.get(store_id)
            if entry is not None:
                entry.shares = dict(slots)
                self._touch(entry)

    @property
    def lacks_shares(self) -> bool:
        """Whether this worker has no share in a limit of some key."""
        return any(
            limit > 0 and entry.allowed(kind) == 0
            for entry in self._entries
            for kind, limit in entry.slot_limits().items()
            if kind is not Kind.PROBE
        )

    # -- what there is ------------------------------------------------------------------------------------

    def is_empty(self) -> bool:
        """Whether there is no key at all, usable or not."""
        return not self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def statuses(self) -> list[str]:
        """Every key's status; that of unreadable ones is `error`."""
        return [str(entry.state.status) for entry in self._entries] + ["error"] * len(self._unreadable)

    def snapshot(self) -> list[KeyView]:
        """Every key with its state, in the order of use; unreadable ones last, with the status `error`."""
        with self._lock:
            now = self._moment()
            views = [_view(entry, now) for entry in self._entries]
            return views + [
                KeyView(key.key_id, key.masked, "error", False, key.last_error, None, 0, 0, 0)
                for key in self._unreadable
            ]

    # -- under the lock -----------------------------------------------------------------------------------

    def _moment(self) -> datetime:
        now = self._now()
        return now - _MICROSECONDS[now.microsecond % 1000]

    def _touch(self, entry: PooledKey) -> None:
        if entry.index >= 0:
            self._roster.put(entry.index, entry.candidate())

    def _entry(
        self, known: Mapping[str, PooledKey], key: StoredProviderKey, secret: str, now: datetime
    ) -> PooledKey:
        entry = known.get(key.key_id)
        if entry is None or entry.key.secret != secret:
            state = key.state.restore(now, now, self.policy)
            entry = PooledKey(ProviderKey(key.key_id, secret), key.key_id, False, state, now)
            entry.is_divided = self._divides_limits
        if entry.limits != key.limits:
            entry.limits = key.limits
            self._touch(entry)
        self._learn(entry, key.state, now)
        return entry

    def _learn(self, entry: PooledKey, stored: StoredState, now: datetime) -> None:
        before = entry.state
        entry.state = merge(before, stored.restore(entry.first_seen, now, self.policy))
        if entry.state is not before:
            self._touch(entry)
        if not stored.is_whole and entry.pending is None:
            entry.share(is_own=False)

    def _arrange(self, entries: list[PooledKey]) -> None:
        if entries == self._entries:  # the same ones: what has changed in them has been touched
            return
        for entry in self._entries:
            entry.index = -1
        if not self._entries and entries:
            self._turn = Turn(self._start % len(entries))
        self._entries = entries
        self._by_id = {entry.key.key_id: entry for entry in entries}
        self._by_store_id = {entry.store_id: entry for entry in entries}
        for index, entry in enumerate(entries):
            entry.index = index
        self._roster = Roster(entry.candidate() for entry in entries)


def _view(entry: PooledKey, now: datetime) -> KeyView:
    state = entry.state
    return KeyView(
        key_id=entry.key.key_id,
        masked=mask(entry.key.secret),
        status=str(state.status),
        available=standing(state, now) is not Standing.RESTRICTED,
        last_error=state.last_error,
        cooldown_until=state.cooldown_until,
        in_flight=entry.in_flight,
        requests=entry.requests,
        failures=entry.failures,
    )


def _log(key_id: str, event: Transition) -> None:
    is_good = event.to_status is KeyStatus.HEALTHY and not event.why.startswith("suspected")
    log.log(
        logging.INFO if is_good else logging.WARNING,
        "upstream key %s: %s → %s (%s)",
        key_id,
        event.from_status,
        event.to_status,
        event.why,
    )
