"""The upstream keys as one worker has them: lent to requests, judged by what comes of it.

Everything here is memory, so a request never waits. `app.keys.key_sync` takes what has changed to the
database (`pending`, `take_events`) and brings what others know (`load`).
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import uniform
from threading import Lock

from app.accounts.credentials import mask
from app.keys import model_limits
from app.keys.key_account import KeyAccount
from app.keys.key_choice import (
    NO_WISH,
    CandidateIndex,
    Chosen,
    KeyRequest,
    KeyWish,
    NoKey,
    Shortage,
    Turn,
    choose_only,
    usable_count,
)
from app.keys.key_shares import Kind, QuotaNeed
from app.keys.key_state_store import KeyEvent, StoredState, env_store_id
from app.keys.key_states import (
    PROBE,
    Availability,
    KeyState,
    KeyStatus,
    Policy,
    Report,
    Transition,
    availability,
    capped,
    is_confirmed,
    is_doubtful,
    is_refused,
    learned,
    must_be_shared,
    next_probe,
    transition,
    uncapped,
)
from app.keys.lease import Lease, OnlyKey
from app.keys.pooled_key import PendingLimits, PendingState, PooledKey
from app.keys.provider_keys import ENV_ID_PREFIX, StoredProviderKey
from app.keys.upstream_outcome import CAPPED, Finding, KeyOutcome
from app.upstream.transport import ProviderKey

MAX_EVENTS = 10_000
"""Events of the audit that wait for the database; beyond it the oldest are dropped."""

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_PROBES = 20
_PROBE_PAUSE = timedelta(seconds=30)
_PROBE_LAG_S = 10.0
_RECENTLY = timedelta(seconds=5)  # longer than a client waits that was told to come back in a second
_MICROSECONDS = [timedelta(microseconds=count) for count in range(1000)]
_BAD = (
    KeyOutcome.MODEL_LIMITED,
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
    """`app.exchange.ports.KeyPool`: least in flight, in turn among equals, by what `key_states` says.

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
        self._probe_lag = timedelta(seconds=uniform(0, _PROBE_LAG_S))  # noqa: S311
        self._lock = Lock()
        seen = self._moment()
        state = KeyState(KeyStatus.HEALTHY, _LONG_AGO, _LONG_AGO)
        self._env = [
            PooledKey(
                ProviderKey(f"{ENV_ID_PREFIX}{number}", secret, env_store_id(secret)),
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
        self._candidate_index = CandidateIndex()
        self._turn = Turn(start % len(env_keys) if env_keys else 0)
        self._start = start
        self._leases: dict[Lease, PooledKey] = {}
        self._events: deque[KeyEvent] = deque(maxlen=MAX_EVENTS)
        self._unreadable: tuple[StoredProviderKey, ...] = ()
        self._arrange(self._env)

    # -- requests -----------------------------------------------------------------------------------------

    @property
    def has_choice(self) -> bool:
        """Whether there is more than one key, so that it matters which a request would rather have."""
        return len(self._entries) > 1

    def acquire(
        self,
        excluding: frozenset[str],
        client: str = "",
        model: str = "",
        wish: KeyWish = NO_WISH,
        only: OnlyKey | None = None,
    ) -> Lease | NoKey:
        """Lease the best key that is not in `excluding`, or the `only` one; or say why there is none."""
        with self._lock:
            now = self._moment()
            self._asked_at = now
            chosen = self._choose(now, KeyRequest(client, model, excluding, wish), only)
            if isinstance(chosen, NoKey):
                self.is_starved |= self._divides_limits and Shortage.BUSY in chosen.counts
                return chosen
            if only is None:
                self._turn = chosen.turn
            entry = self._by_id[chosen.candidate.key_id]
            lease = Lease(entry.key, now, chosen.is_probe, client, model)
            self._leases[lease] = entry
            entry.take(now, is_probe=chosen.is_probe)
            self._touch(entry)
            return lease

    def shortage(
        self,
        excluding: frozenset[str],
        client: str = "",
        model: str = "",
        only: OnlyKey | None = None,
    ) -> NoKey | None:
        """Say why `acquire` would give no key; None when it would give one."""
        with self._lock:
            chosen = self._choose(self._moment(), KeyRequest(client, model, excluding), only)
            return chosen if isinstance(chosen, NoKey) else None

    def _choose(self, now: datetime, wanted: KeyRequest, only: OnlyKey | None) -> Chosen | NoKey:
        if only is None:
            return self._candidate_index.choose(now, self._turn, wanted)
        entry = self._by_store_id.get(only.store_id)
        return choose_only(None if entry is None else entry.candidate(), now, wanted, is_free=only.is_free)

    def report(self, lease: Lease, finding: Finding, request_id: str) -> None:
        """Tell what came of the attempt; the key's state changes here at once, elsewhere soon."""
        with self._lock:
            entry = self._by_id.get(lease.key.key_id)
            if entry is None or entry.key is not lease.key:  # deleted, or given another secret, meanwhile
                return
            if entry.model_limits or finding.outcome is KeyOutcome.MODEL_LIMITED:
                self._limit_model(entry, lease, finding)
            if is_confirmed(entry.state, finding):
                return
            event = self._change(entry, finding, request_id, lease)
        if event is not None:
            _log(entry.key.key_id, event)

    def _change(self, entry: PooledKey, finding: Finding, request_id: str, lease: Lease) -> Transition | None:
        now = self._moment()
        if finding.outcome is KeyOutcome.SUSPECT and entry.account is not None and entry.account.is_capped:
            finding = CAPPED.keys_own() if finding.is_keys_own else CAPPED
        if not finding.is_keys_own:
            entry.failures += finding.outcome in _BAD
        may_spare = finding.outcome in (KeyOutcome.FAILED, KeyOutcome.RATE_LIMITED)
        is_last = may_spare and usable_count(self._candidate_index.candidates, now) <= 1
        report = Report(finding, request_id, lease.sent_at, lease.client)
        before = entry.state
        entry.state, event = transition(before, report, now, self.policy, is_last_usable=is_last)
        if must_be_shared(before, entry.state):
            # A probe that finds a banned key as it was is no second death.
            entry.share(is_own=event is not None or lease.client != PROBE)
        if event is not None:
            self._events.append(KeyEvent.of(entry.key.key_id, event))
            is_unproved = entry.state.status is KeyStatus.ERROR and entry.state.limited_by is not None
            entry.is_own_doubt = is_unproved or entry.state.suspected_by is not None
        self._touch(entry)
        return event

    def _limit_model(self, entry: PooledKey, lease: Lease, finding: Finding) -> None:
        before = entry.model_limits
        if finding.outcome is KeyOutcome.MODEL_LIMITED and not finding.is_keys_own:
            entry.model_limits = model_limits.met(
                before, lease.model, lease.client, lease.sent_at, self._moment(), finding.cooldown_s
            )
            entry.news_of_models.add(lease.model)
        elif finding.outcome is KeyOutcome.OK:
            entry.model_limits = model_limits.served(before, lease.model, lease.sent_at)
        if entry.model_limits is not before:
            self._touch(entry)

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

    # -- probes -------------------------------------------------------------------------------------------

    def due_probes(self) -> list[Lease]:
        """Lease the keys to ask the upstream about now, a few at a time; report what comes of each.

        A suspicion is looked into at once by the worker that has it, a ban again and again, ever less often.
        """
        with self._lock:
            now = self._moment()
            due = [
                entry
                for entry in self._entries
                if is_doubtful(entry.state, now) and self._is_probe_due(entry, now)
            ]
            for entry in due[:_MOST_PROBES]:
                entry.probe_at, entry.is_own_doubt = now + _PROBE_PAUSE, False
            return [Lease(entry.key, now, client=PROBE) for entry in due[:_MOST_PROBES]]

    def _is_probe_due(self, entry: PooledKey, now: datetime) -> bool:
        if entry.probe_at is not None and now < entry.probe_at:
            return False
        # By then the worker that knows more has asked, or is gone; and not all others come at once.
        return entry.is_own_doubt or now >= next_probe(entry.state) + self._probe_lag

    # -- the exchange with others -------------------------------------------------------------------------

    def pending(self) -> list[PendingState]:
        """List the states other workers must hear of."""
        with self._lock:
            return [entry.pending for entry in self._entries if entry.pending is not None]

    def shared(self, done: PendingState) -> None:
        """Note that this state is out; what has changed since then stays pending."""
        with self._lock:
            entry = self._by_store_id.get(done.store_id)
            if entry is not None and entry.pending is done:
                entry.pending = None

    def pending_limits(self) -> list[PendingLimits]:
        """List the limits of models other workers must hear of."""
        with self._lock:
            return [
                PendingLimits(
                    entry.key.key_id,
                    entry.store_id,
                    entry.is_env,
                    {model: entry.model_limits.get(model, ()) for model in entry.news_of_models},
                )
                for entry in self._entries
                if entry.news_of_models
            ]

    def shared_limits(self, done: PendingLimits) -> None:
        """Note that these limits are out; what has changed since then stays pending."""
        with self._lock:
            entry = self._by_store_id.get(done.store_id)
            if entry is not None:
                known = entry.model_limits
                entry.news_of_models -= {m for m, claims in done.limits.items() if known.get(m, ()) == claims}

    def take_events(self) -> list[KeyEvent]:
        """Take the audit's events since the last time."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
            return events

    def return_events(self, events: Sequence[KeyEvent]) -> None:
        """Take back events that could not be kept yet."""
        with self._lock:
            self._events.extendleft(reversed(events))

    @property
    def has_news(self) -> bool:
        """Whether there is anything to share."""
        return bool(self._events) or any(
            entry.pending is not None or entry.news_of_models for entry in self._entries
        )

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

    def hear(self, states: Mapping[str, StoredState]) -> None:
        """Take over the stored states of these keys only, by the ids under which they are stored."""
        with self._lock:
            now = self._moment()
            for store_id, stored in states.items():
                if (entry := self._by_store_id.get(store_id)) is not None:
                    self._learn(entry, stored, now)

    # -- what OhMyGPT says --------------------------------------------------------------------------------

    def secrets(self) -> dict[str, str]:
        """Return the keys themselves, by the ids under which they are stored."""
        with self._lock:
            return {entry.store_id: entry.key.secret for entry in self._entries}

    def names(self) -> dict[str, str]:
        """Return the keys' pool ids, by the ids under which they are stored."""
        with self._lock:
            return {entry.store_id: entry.key.key_id for entry in self._entries}

    @property
    def has_refused_keys(self) -> bool:
        """Whether a key is away, or suspected, that may only have used up its cap, or has done so."""
        with self._lock:
            states = [entry.state for entry in self._entries]
        return any(is_refused(state) or state.last_error == CAPPED.reason for state in states)

    def note_accounts(self, accounts: Mapping[str, KeyAccount], *, decides: bool) -> None:
        """Take over what OhMyGPT says about the keys, by the ids under which they are stored.

        What follows for their states `decides` one worker of all, which has just asked.
        """
        changed: list[tuple[str, Transition]] = []
        with self._lock:
            now = self._moment()
            for entry in self._entries:
                entry.account = accounts.get(entry.store_id)
                if decides and entry.account is not None:
                    changed += self._settle_cap(entry, entry.account, now)
        for key_id, event in changed:
            _log(key_id, event)

    def _settle_cap(
        self, entry: PooledKey, account: KeyAccount, now: datetime
    ) -> list[tuple[str, Transition]]:
        if account.is_capped:
            moved = capped(entry.state, now, self.policy) if is_refused(entry.state) else None
        else:
            moved = uncapped(entry.state, now)
        if moved is None:
            return []
        entry.state, event = moved
        entry.share(is_own=True)
        self._events.append(KeyEvent.of(entry.key.key_id, event))
        self._touch(entry)
        return [(entry.key.key_id, event)]

    def accounts(self) -> dict[str, KeyAccount]:
        """Return what OhMyGPT says about the keys, by pool id, as far as it is known."""
        return {entry.key.key_id: entry.account for entry in self._entries if entry.account is not None}

    # -- shares in the limits -----------------------------------------------------------------------------

    def needs(self) -> dict[str, dict[Kind, QuotaNeed]]:
        """Return, by the ids under which keys are stored, the limits and what this worker needs of them.

        What the worker wants follows from what it has had to do since it was asked the last time.
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
        """Shrink to these shares at once, but not below what is occupied; return the shares then held."""
        with self._lock:
            entry = self._by_store_id.get(store_id)
            if entry is None:
                return {}
            entry.cede(slots, self._moment())
            self._touch(entry)
            return dict(entry.shares)

    def grant(self, store_id: str, slots: Mapping[Kind, int]) -> None:
        """Make these shares this worker's."""
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

    def some_key(self) -> ProviderKey | None:
        """Return a key to ask the upstream something with: one that may serve, if there is one."""
        with self._lock:
            now = self._moment()
            usable = (e for e in self._entries if availability(e.state, now) is Availability.USABLE)
            found = next(usable, None) or next(iter(self._entries), None)
            return None if found is None else found.key

    def is_empty(self) -> bool:
        """Return whether there is no key at all, usable or not."""
        return not self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def statuses(self) -> list[str]:
        """List every key's status; that of unreadable keys is `error`."""
        return [str(entry.state.status) for entry in self._entries] + ["error"] * len(self._unreadable)

    def snapshot(self) -> list[KeyView]:
        """List every key with its state, in order of use; unreadable keys last, with the status `error`."""
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
            self._candidate_index.put(entry.index, entry.candidate())

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
        before, told = entry.state, stored.restore(entry.first_seen, now, self.policy)
        entry.state = learned(before, told, now)
        if entry.state not in (before, told):  # more than either of them knew
            entry.share(is_own=entry.pending is not None and entry.pending.is_own)
        limits = entry.model_limits
        if entry.state.version > before.version:
            limits = {}  # an operator's word is about them, too
        if limits or stored.model_limits:
            limits = model_limits.fresh(model_limits.merged(limits, stored.model_limits), now)
        if entry.state is not before or limits != entry.model_limits:
            entry.model_limits = limits
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
        self._candidate_index = CandidateIndex(entry.candidate() for entry in entries)


def _view(entry: PooledKey, now: datetime) -> KeyView:
    state = entry.state
    return KeyView(
        key_id=entry.key.key_id,
        masked=mask(entry.key.secret),
        status=str(state.status),
        available=availability(state, now) is not Availability.RESTRICTED,
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
