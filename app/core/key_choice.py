"""Which upstream key serves next, and why none does.

Of the keys that may serve now, the one with the least in flight for its weight; in turn among equals, so
that an idle pool is used evenly too. A half-open key competes like any other, for one request at a time:
under load it has the least in flight and is tried at once, and the request moves on if the trial fails.

The turn is a value that goes in and comes out, so that the choice is a function of its arguments.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from math import inf

import msgspec

from app.core.key_states import NEVER, KeyState, KeyStatus, Standing, is_ejected, returns_at, standing

# Nobody knows when a busy key gets free; a client that asks again in a second is not far off.
_BUSY_S = 1.0


class Limits(msgspec.Struct, frozen=True, gc=False):
    """What an operator allows a key: its share of the load (1 or more), requests per minute and at a time."""

    weight: int = 1
    rpm: int | None = None
    max_in_flight: int | None = None


NO_LIMITS = Limits()


class Candidate(msgspec.Struct, frozen=True):
    """A key and its load as this worker sees it; `limits` are this worker's share in those of the key.

    `rate_full_until` is when the next request may be sent without there being too many in a minute (None:
    now), `may_probe` says that a trial would be this worker's to make, `is_shared` that other workers hold
    slots too, some of which may come over any moment (`app.core.key_shares`).
    """

    key_id: str
    state: KeyState
    in_flight: int = 0
    rate_full_until: datetime | None = None
    may_probe: bool = True
    limits: Limits = NO_LIMITS
    is_shared: bool = False


class Turn(msgspec.Struct, frozen=True, gc=False):
    """Where in the list the next search begins, and how often the key there has been served in a row."""

    position: int = 0
    streak: int = 0


class Shortage(StrEnum):
    """Why no key can serve, the most hopeful reason there is among the keys."""

    ALL_TRIED = "all_tried"  # by this very request
    BUSY = "busy"  # at a limit of its own, or its probe is on its way or another worker's to make
    COOLING = "cooling"
    EXHAUSTED = "exhausted"
    ERROR = "error"
    NO_KEYS = "no_keys"


class Chosen(msgspec.Struct, frozen=True):
    """The key to use, whether this is its trial, and the turn for the next choice."""

    candidate: Candidate
    is_probe: bool
    turn: Turn


@dataclass(frozen=True, slots=True)
class NoKey:
    """Why there is none: the reason, how many keys stand where, and when the first may serve again.

    `retry_at` is None when time alone helps nobody. Waiting is worth a client's while for `BUSY` and
    `COOLING` only (`is_brief`); the next trial of a key without money is hours away.
    """

    reason: Shortage
    counts: dict[Shortage, int]
    retry_at: datetime | None

    @property
    def is_brief(self) -> bool:
        """Whether a client should be told to come back."""
        return self.reason in (Shortage.ALL_TRIED, Shortage.BUSY, Shortage.COOLING)

    def __str__(self) -> str:
        keys = ", ".join(f"{count} {reason.value}" for reason, count in self.counts.items())
        return f"no upstream key can serve: {keys or 'there is none'}"


def choose(
    candidates: Sequence[Candidate], now: datetime, turn: Turn, excluding: frozenset[str] = frozenset()
) -> Chosen | NoKey:
    """The key for the next request, which has tried those in `excluding`; keys keep their order.

    Keys that were ejected for failures are the last resort: workers may have ejected different ones at the
    same time, and a key that may fail is better than none.
    """
    step = _least_loaded(candidates, now, turn, excluding)
    if step is None:
        step = _least_loaded(candidates, now, turn, excluding, is_last_resort=True)
    if step is None:
        return _explain(candidates, now, excluding)
    return _serve(candidates, now, turn, step)


class Roster:
    """Candidates that change one at a time, and `choose` among them without looking at each.

    Kept is what `choose` finds out of every candidate: its load if it may serve; if not, when time alone may
    change that.
    """

    __slots__ = ("_loads", "_look_at", "candidates")

    def __init__(self, candidates: Iterable[Candidate] = ()) -> None:
        self.candidates = list(candidates)
        self._loads = [inf] * len(self.candidates)  # infinite for those that may not serve
        self._look_at = NEVER
        for index, candidate in enumerate(self.candidates):
            self.put(index, candidate)

    def put(self, index: int, candidate: Candidate) -> None:
        """The candidate in this place is now this one."""
        self.candidates[index] = candidate
        free_from = _free_from(candidate)
        if free_from is None:
            self._loads[index] = _load(candidate)
            return
        self._loads[index] = inf
        self._look_at = min(self._look_at, free_from)

    def choose(self, now: datetime, turn: Turn, excluding: frozenset[str] = frozenset()) -> Chosen | NoKey:
        """The same as `choose` of the candidates."""
        if not excluding:
            if now >= self._look_at:
                self._look_again(now)
            index = self._least_loaded(turn)
            # Looked at again, since the clock may have been set back.
            if index is not None and _obstacle(self.candidates[index], now) is None:
                return _serve(self.candidates, now, turn, index - turn.position)
        return choose(self.candidates, now, turn, excluding)

    def _least_loaded(self, turn: Turn) -> int | None:
        loads = self._loads
        if not loads:
            return None
        start = turn.position % len(loads)
        if not loads[start]:
            return start  # none can have less, however many there are
        least = min(loads)
        if least == inf:
            return None
        try:
            return loads.index(least, start)
        except ValueError:
            return loads.index(least)

    def _look_again(self, now: datetime) -> None:
        self._look_at = NEVER
        for index, candidate in enumerate(self.candidates):
            if self._loads[index] != inf:
                continue
            free_from = _free_from(candidate)
            if free_from is None or free_from <= now:
                self._loads[index] = _load(candidate)
            else:
                self._look_at = min(self._look_at, free_from)


def _serve(candidates: Sequence[Candidate], now: datetime, turn: Turn, step: int) -> Chosen:
    """The choice of the candidate so many steps from the turn (or a full round more or less)."""
    size = len(candidates)
    index = (turn.position + step) % size
    chosen = candidates[index]
    is_probe = standing(chosen.state, now) is Standing.HALF_OPEN
    streak = 1 if step % size else turn.streak + 1
    is_due = streak >= chosen.limits.weight
    return Chosen(chosen, is_probe, Turn((index + 1) % size) if is_due else Turn(index, streak))


def _least_loaded(
    candidates: Sequence[Candidate],
    now: datetime,
    turn: Turn,
    excluding: frozenset[str],
    *,
    is_last_resort: bool = False,
) -> int | None:
    """How many steps from the turn the best key is; None when there is none."""
    best: tuple[float, int] | None = None
    size = len(candidates)
    for step in range(size):
        candidate = candidates[(turn.position + step) % size]
        if candidate.key_id in excluding or _obstacle(candidate, now, is_last_resort) is not None:
            continue
        load = _load(candidate)
        if best is None or load < best[0]:
            best = (load, step)
            if load == 0:  # no key can have less, so a large pool need not be searched
                break
    return None if best is None else best[1]


def _load(candidate: Candidate) -> float:
    return candidate.in_flight / candidate.limits.weight


def usable_count(candidates: Iterable[Candidate], now: datetime) -> int:
    """How many keys stand by without a trial; with one left, failures must not eject it."""
    return sum(standing(candidate.state, now) is Standing.USABLE for candidate in candidates)


def earliest_recovery(states: Iterable[KeyState], now: datetime) -> datetime | None:
    """When the first of the restricted keys may serve again; None if none comes back by itself."""
    restricted = (returns_at(state) for state in states if standing(state, now) is Standing.RESTRICTED)
    earliest = min(restricted, default=NEVER)
    return None if earliest == NEVER else earliest


def _obstacle(candidate: Candidate, now: datetime, is_last_resort: bool = False) -> Shortage | None:
    stands = standing(candidate.state, now)
    if stands is Standing.RESTRICTED and not (is_last_resort and is_ejected(candidate.state)):
        return _RESTRICTIONS[candidate.state.status]
    if stands is Standing.HALF_OPEN and (candidate.in_flight > 0 or not candidate.may_probe):
        return Shortage.BUSY
    limits = candidate.limits
    if limits.max_in_flight is not None and candidate.in_flight >= limits.max_in_flight:
        return Shortage.BUSY
    if candidate.rate_full_until is not None and candidate.rate_full_until > now:
        return Shortage.BUSY
    return None


def _free_from(candidate: Candidate) -> datetime | None:
    """From when on `_obstacle` finds none while nothing but time changes; None: always."""
    state, limits = candidate.state, candidate.limits
    if limits.max_in_flight is not None and candidate.in_flight >= limits.max_in_flight:
        return NEVER
    if state.status is KeyStatus.HEALTHY:
        return candidate.rate_full_until
    is_probing = candidate.in_flight > 0 or not candidate.may_probe
    if state.status is KeyStatus.EXHAUSTED and is_probing:
        return NEVER
    returns = returns_at(state)
    return returns if candidate.rate_full_until is None else max(returns, candidate.rate_full_until)


_RESTRICTIONS = {
    KeyStatus.RATE_LIMITED: Shortage.COOLING,
    KeyStatus.EXHAUSTED: Shortage.EXHAUSTED,
    KeyStatus.ERROR: Shortage.ERROR,
}


def _explain(candidates: Sequence[Candidate], now: datetime, excluding: frozenset[str]) -> NoKey:
    # What a tried key suffers from by now says more than that it was tried.
    obstacles = [_obstacle(candidate, now) or Shortage.ALL_TRIED for candidate in candidates]
    counts = {reason: obstacles.count(reason) for reason in Shortage if reason in obstacles}
    reason = next(iter(counts), Shortage.NO_KEYS)
    moments = [
        _free_at(candidate, now)
        for candidate, obstacle in zip(candidates, obstacles, strict=True)
        if obstacle is reason
    ]
    earliest = min(moments, default=NEVER)
    return NoKey(reason, counts, None if earliest == NEVER else earliest)


def _free_at(candidate: Candidate, now: datetime) -> datetime:
    if standing(candidate.state, now) is Standing.RESTRICTED:
        return returns_at(candidate.state)
    soon = now + timedelta(seconds=_BUSY_S)
    if candidate.rate_full_until is None or candidate.is_shared:
        return soon
    return max(soon, candidate.rate_full_until)
