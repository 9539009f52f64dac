"""One upstream key as one worker's pool has it."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b

from app.keys.key_account import KeyAccount
from app.keys.key_choice import NO_LIMITS, Candidate, Limits
from app.keys.key_shares import MINUTE_S, Kind, QuotaNeed, wanted
from app.keys.key_states import NEVER, KeyState, KeyStatus
from app.keys.model_limits import ModelLimits
from app.upstream.transport import ProviderKey

_MINUTE = timedelta(seconds=MINUTE_S)


@dataclass(frozen=True, slots=True)
class PendingState:
    """A state others must hear of. `is_own` is False for one that another program has written by its own."""

    key_id: str
    store_id: str
    is_env: bool
    state: KeyState
    is_own: bool


@dataclass(frozen=True, slots=True)
class PendingLimits:
    """The limits of models on a key others must hear of."""

    key_id: str
    store_id: str
    is_env: bool
    limits: ModelLimits


@dataclass(slots=True, eq=False)
class PooledKey:
    """A key in the pool: its state and its load, as this worker sees them."""

    key: ProviderKey
    store_id: str
    is_env: bool
    state: KeyState
    first_seen: datetime
    is_divided: bool = False
    limits: Limits = NO_LIMITS
    shares: dict[Kind, int] = field(default_factory=dict)
    peaks: dict[Kind, int] = field(default_factory=dict)
    sent: deque[datetime] = field(default_factory=deque)  # in the last minute, if that is limited
    index: int = -1  # in the list of candidates; -1 once the key has left the pool
    in_flight: int = 0
    probes: int = 0
    requests: int = 0
    failures: int = 0
    pending: PendingState | None = None
    model_limits: ModelLimits = field(default_factory=dict)
    news_of_models: set[str] = field(default_factory=set)  # whose limits are to be told to the others
    probe_at: datetime | None = None  # not before may this worker ask the upstream about the key
    is_own_doubt: bool = False  # a suspicion of this worker's
    account: KeyAccount | None = None  # what OhMyGPT says about it
    lot: int = field(init=False)  # the same wherever the key is in a pool

    def __post_init__(self) -> None:
        self.lot = int.from_bytes(blake2b(self.store_id.encode(), digest_size=8).digest())

    def candidate(self) -> Candidate:
        """Make the candidate that the choice sees."""
        slots = self.slot_limits()
        if not slots:
            return Candidate(
                self.key.key_id,
                self.state,
                self.in_flight,
                limits=self.limits,
                model_limits=self.model_limits or None,
                lot=self.lot,
            )
        rate, at_once = self._share(slots, Kind.RATE), self._share(slots, Kind.IN_FLIGHT)
        probe = self._share(slots, Kind.PROBE)
        full_until = None
        if rate is not None and len(self.sent) >= rate:
            full_until = self.sent[-rate] + _MINUTE if rate else NEVER
        return Candidate(
            self.key.key_id,
            self.state,
            self.in_flight,
            full_until,
            may_probe=probe is None or self.probes < probe,
            limits=Limits(self.limits.weight, rate, at_once),
            is_shared=rate != self.limits.rpm or at_once != self.limits.max_in_flight,
            model_limits=self.model_limits or None,
            lot=self.lot,
        )

    def slot_limits(self) -> dict[Kind, int]:
        """Return the limits that are divided among workers."""
        limits = self.limits
        slots: dict[Kind, int] = {}
        if limits.max_in_flight is not None:
            slots[Kind.IN_FLIGHT] = limits.max_in_flight
        if limits.rpm is not None:
            slots[Kind.RATE] = limits.rpm
        if self.state.status is KeyStatus.EXHAUSTED:
            slots[Kind.PROBE] = 1
        return slots

    def allowed(self, kind: Kind) -> int | None:
        """Return how many slots this worker may occupy; None: there is no limit."""
        return self._share(self.slot_limits(), kind)

    def _share(self, slots: dict[Kind, int], kind: Kind) -> int | None:
        limit = slots.get(kind)
        return limit if limit is None or not self.is_divided else self.shares.get(kind, 0)

    def occupied(self, kind: Kind, now: datetime) -> int:
        """Count the slots this worker has occupied."""
        if kind is Kind.RATE:
            while self.sent and self.sent[0] <= now - _MINUTE:
                self.sent.popleft()
            return len(self.sent)
        if kind is Kind.IN_FLIGHT:
            return self.in_flight
        # What a trial has told must be known to all before another worker may make the next one.
        return max(self.probes, min(self.shares.get(kind, 0), self.pending is not None))

    def take(self, now: datetime, *, is_probe: bool) -> None:
        """Count one more request."""
        self.in_flight += 1
        self.probes += is_probe
        if self.limits.rpm is not None:
            self.sent.append(now)
        for kind in self.slot_limits():
            self.peaks[kind] = max(self.peaks.get(kind, 0), self.occupied(kind, now))

    def take_needs(self, now: datetime, *, was_asked: bool) -> dict[Kind, QuotaNeed]:
        """Return this worker's needs; what it wants of a limit follows from its peaks since the last call."""
        needs = {}
        for kind, limit in self.slot_limits().items():
            occupied, share = self.occupied(kind, now), self.shares.get(kind, 0)
            peak = max(occupied, self.peaks.get(kind, 0))
            needs[kind] = QuotaNeed(limit, occupied, wanted(share, peak, limit) if was_asked else occupied)
        self.peaks.clear()
        return needs

    def cede(self, slots: Mapping[Kind, int], now: datetime) -> None:
        """Shrink to these shares, but not below what is occupied."""
        self.shares = {
            kind: min(self.shares.get(kind, 0), max(count, self.occupied(kind, now)))
            for kind, count in slots.items()
        }

    def share(self, *, is_own: bool) -> None:
        """Have the key's state told to the other workers."""
        self.pending = PendingState(self.key.key_id, self.store_id, self.is_env, self.state, is_own)
