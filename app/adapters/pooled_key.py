"""One upstream key as one worker's pool has it."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.core.key_choice import NO_LIMITS, Candidate, Limits
from app.core.key_shares import MINUTE_S, Kind, Need, wanted
from app.core.key_states import NEVER, KeyState, KeyStatus
from app.core.ports import ProviderKey

_MINUTE = timedelta(seconds=MINUTE_S)


@dataclass(frozen=True, slots=True)
class PendingState:
    """A state others must hear of. `is_own` is False for one that another program has written by its own."""

    key_id: str
    store_id: str
    is_env: bool
    state: KeyState
    is_own: bool


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

    def candidate(self) -> Candidate:
        """As the choice sees it."""
        slots = self.slot_limits()
        if not slots:
            return Candidate(self.key.key_id, self.state, self.in_flight, limits=self.limits)
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
        )

    def slot_limits(self) -> dict[Kind, int]:
        """The limits that are divided among workers."""
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
        """How many slots this worker may occupy; None: there is no limit."""
        return self._share(self.slot_limits(), kind)

    def _share(self, slots: dict[Kind, int], kind: Kind) -> int | None:
        limit = slots.get(kind)
        return limit if limit is None or not self.is_divided else self.shares.get(kind, 0)

    def occupied(self, kind: Kind, now: datetime) -> int:
        """How many it has occupied."""
        if kind is Kind.RATE:
            while self.sent and self.sent[0] <= now - _MINUTE:
                self.sent.popleft()
            return len(self.sent)
        if kind is Kind.IN_FLIGHT:
            return self.in_flight
        # What a trial has told must be known to all before another worker may make the next one.
        return max(self.probes, min(self.shares.get(kind, 0), self.pending is not None))

    def take(self, now: datetime, *, is_probe: bool) -> None:
        """One more request."""
        self.in_flight += 1
        self.probes += is_probe
        if self.limits.rpm is not None:
            self.sent.append(now)
        for kind in self.slot_limits():
            self.peaks[kind] = max(self.peaks.get(kind, 0), self.occupied(kind, now))

    def take_needs(self, now: datetime, *, was_asked: bool) -> dict[Kind, Need]:
        """What this worker needs of the limits; what it wants is told by the peaks since the last time."""
        needs = {}
        for kind, limit in self.slot_limits().items():
            occupied, share = self.occupied(kind, now), self.shares.get(kind, 0)
            peak = max(occupied, self.peaks.get(kind, 0))
            needs[kind] = Need(limit, occupied, wanted(share, peak, limit) if was_asked else occupied)
        self.peaks.clear()
        return needs

    def cede(self, slots: Mapping[Kind, int], now: datetime) -> None:
        """Shrink to these shares, but not below what is occupied."""
        self.shares = {
            kind: min(self.shares.get(kind, 0), max(count, self.occupied(kind, now)))
            for kind, count in slots.items()
        }

    def share(self, *, is_own: bool) -> None:
        """Its state is to be told to the others."""
        self.pending = PendingState(self.key.key_id, self.store_id, self.is_env, self.state, is_own)
