"""Which upstream key serves next, and why none does.

Of the keys that may serve now, the one with the least in flight for its weight; in turn among equals, so
that an idle pool is used evenly too. A half-open key competes like any other, for one request at a time:
under load it has the least in flight and is tried at once, and the request moves on if the trial fails.

A request of a conversation prefers the key that the others of it prefer, since the cache behind that one
knows how it begins. Each conversation has its own order of all keys (rendezvous hashing: the highest of the
numbers drawn for it comes first), the same in every process without a word between them, and a key that
comes, goes or cools down moves its own conversations alone. It gets the first key that may serve and does not
have much more than its part of all that is in flight (bounded loads). The turn of other requests stays where
it was.

The turn is a value that goes in and comes out, so that the choice is a function of its arguments.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from math import inf, log

import msgspec

from app.keys.key_states import (
    NEVER,
    Availability,
    KeyState,
    KeyStatus,
    availability,
    is_doubted,
    is_ejected,
    is_hearsay,
    returns_at,
)
from app.keys.model_limits import ModelLimits, closed_until, is_claimed, is_closed

MOST_BY_PREFERENCE = 8
"""So many requests may be in flight on a key, and worker, before it counts whether others have less to do."""
_MOST_OF_ITS_PART = 1.25
"""Beyond that, a preferred key may have this many times its part of all that is in flight."""

# Odd, with digits like those of a random number: multiplying by it spreads what differs over all 64 bits.
_SPREAD = 0x9E3779B97F4A7C15
_64_BITS = (1 << 64) - 1

_CONVERSATIONS_KNOWN = 4096

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
    slots too, some of which may come over any moment (`app.keys.key_shares`). `lot`, 64 bits that are the
    same wherever the key is used, is what conversations draw its place in their order from.
    """

    key_id: str
    state: KeyState
    in_flight: int = 0
    rate_full_until: datetime | None = None
    may_probe: bool = True
    limits: Limits = NO_LIMITS
    is_shared: bool = False
    model_limits: ModelLimits | None = None
    lot: int = 0


class KeyWish(msgspec.Struct, frozen=True, gc=False):
    """Which of the keys that may serve it a request would rather have: that of its conversation.

    `conversation` is a number of 64 bits (`app.wires.conversation`); None: no key more than another.
    """

    conversation: int | None = None


NO_WISH = KeyWish()


class KeyRequest(msgspec.Struct, frozen=True, gc=False):
    """What a request wants a key for: the model, for the client; and the pool ids of those it has tried.

    And which it would rather have.
    """

    client: str = ""
    model: str = ""
    tried: frozenset[str] = frozenset()
    wish: KeyWish = NO_WISH


ANY_KEY = KeyRequest()


class Turn(msgspec.Struct, frozen=True, gc=False):
    """Where in the list the next search begins, and how often the key there has been served in a row."""

    position: int = 0
    streak: int = 0


class Shortage(StrEnum):
    """Why no key can serve, the most hopeful reason there is among the keys."""

    ALL_TRIED = "all_tried"  # by this very request
    BUSY = "busy"  # at a limit of its own, or its probe is on its way or another worker's to make
    MODEL = "model"  # cooling for the request's model only
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

    `retry_at` is None when time alone helps nobody. Waiting is worth a client's while for `BUSY`, `MODEL` and
    `COOLING` only (`is_brief`); the next trial of an exhausted key is hours away.
    """

    reason: Shortage
    counts: dict[Shortage, int]
    retry_at: datetime | None

    @property
    def is_brief(self) -> bool:
        """Whether a client should be told to come back."""
        return self.reason in (Shortage.ALL_TRIED, Shortage.BUSY, Shortage.MODEL, Shortage.COOLING)

    def __str__(self) -> str:
        keys = ", ".join(f"{count} {reason.value}" for reason, count in self.counts.items())
        return f"no upstream key can serve: {keys or 'there is none'}"


def choose(
    candidates: Sequence[Candidate], now: datetime, turn: Turn, wanted: KeyRequest = ANY_KEY
) -> Chosen | NoKey:
    """Choose the key for the next request; keys keep their order.

    The last resort are keys that were ejected for failures, since workers may have ejected different ones at
    the same time, and keys that only other clients say are of no use: a key that may fail is better than
    none.
    """
    preferred = _preferred(candidates, now, turn, wanted)
    if preferred is not None:
        return preferred
    step = _least_loaded(candidates, now, turn, wanted)
    if step is None:
        step = _least_loaded(candidates, now, turn, wanted, is_last_resort=True)
    if step is None:
        return _explain(candidates, now, wanted)
    return _serve(candidates, now, turn, step)


def choose_only(
    candidate: Candidate | None, now: datetime, wanted: KeyRequest = ANY_KEY, *, is_free: bool = False
) -> Chosen | NoKey:
    """Choose the one key that can serve a request, if it may.

    What is free may go to a key that serves nothing else for now, but not to one that is banned.
    """
    if candidate is None:
        return NoKey(Shortage.NO_KEYS, {}, None)
    if candidate.key_id in wanted.tried:
        return NoKey(Shortage.ALL_TRIED, {Shortage.ALL_TRIED: 1}, None)
    if is_free and candidate.state.status is not KeyStatus.ERROR:
        return Chosen(candidate, False, Turn())
    if _obstacle(candidate, now, wanted, is_last_resort=True) is not None:
        return _explain([candidate], now, wanted)
    return _serve([candidate], now, Turn(), 0)


class CandidateIndex:
    """Candidates that change one at a time, and `choose` among them without looking at each.

    Kept is what `choose` finds out of every candidate: its load if it may serve; if not, when time alone may
    change that. And which place is the first of a conversation: a draw for each key takes half a microsecond.
    """

    __slots__ = ("_firsts", "_loads", "_look_at", "candidates")

    def __init__(self, candidates: Iterable[Candidate] = ()) -> None:
        self.candidates = list(candidates)
        self._loads = [inf] * len(self.candidates)  # infinite for those that may not serve
        self._look_at = NEVER
        self._firsts: dict[int, int] = {}
        for index, candidate in enumerate(self.candidates):
            self.put(index, candidate)

    def put(self, index: int, candidate: Candidate) -> None:
        """Put this candidate in that place."""
        if candidate.limits.weight != self.candidates[index].limits.weight:
            self._firsts.clear()
        self.candidates[index] = candidate
        free_from = _free_from(candidate)
        if free_from is None:
            self._loads[index] = _load(candidate)
            return
        self._loads[index] = inf
        self._look_at = min(self._look_at, free_from)

    def choose(self, now: datetime, turn: Turn, wanted: KeyRequest = ANY_KEY) -> Chosen | NoKey:
        """Choose among the candidates as the function `choose` does."""
        conversation = wanted.wish.conversation
        if conversation is not None:
            first = self._first_of(conversation)
            if first is not None and _is_preferable(self.candidates, first, now, wanted):
                return _serve_preferred(self.candidates[first], now, turn)
        elif not wanted.tried:
            if now >= self._look_at:
                self._look_again(now)
            index = self._least_loaded(turn)
            # Looked at again, since the clock may have been set back, and there may be more to it.
            if index is not None and _obstacle(self.candidates[index], now, wanted) is None:
                return _serve(self.candidates, now, turn, index - turn.position)
        return choose(self.candidates, now, turn, wanted)

    def _first_of(self, conversation: int) -> int | None:
        place = self._firsts.get(conversation)
        if place is None and self.candidates:
            if len(self._firsts) >= _CONVERSATIONS_KNOWN:
                self._firsts.clear()
            draws = [_draw(conversation, candidate) for candidate in self.candidates]
            place = self._firsts[conversation] = draws.index(max(draws))
        return place

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
    """Choose the candidate `step` steps from the turn (or a full round more or less)."""
    size = len(candidates)
    index = (turn.position + step) % size
    chosen = candidates[index]
    is_probe = availability(chosen.state, now) is Availability.HALF_OPEN
    streak = 1 if step % size else turn.streak + 1
    is_due = streak >= chosen.limits.weight
    return Chosen(chosen, is_probe, Turn((index + 1) % size) if is_due else Turn(index, streak))


def _preferred(
    candidates: Sequence[Candidate], now: datetime, turn: Turn, wanted: KeyRequest
) -> Chosen | None:
    """Choose the key of the request's conversation; None where it has none, or none of them may serve."""
    conversation = wanted.wish.conversation
    if conversation is None:
        return None
    draws = [_draw(conversation, candidate) for candidate in candidates]
    for _ in draws:
        place = draws.index(max(draws))
        if _is_preferable(candidates, place, now, wanted):
            return _serve_preferred(candidates[place], now, turn)
        draws[place] = -inf
    return None


def _is_preferable(candidates: Sequence[Candidate], place: int, now: datetime, wanted: KeyRequest) -> bool:
    candidate = candidates[place]
    if candidate.key_id in wanted.tried or _obstacle(candidate, now, wanted) is not None:
        return False
    return not _is_overloaded(candidate, candidates, now, wanted)


def _serve_preferred(candidate: Candidate, now: datetime, turn: Turn) -> Chosen:
    return Chosen(candidate, availability(candidate.state, now) is Availability.HALF_OPEN, turn)


def _draw(conversation: int, candidate: Candidate) -> float:
    """Draw a key's number for a conversation: how often it is the highest is in ratio to the key's weight.

    That is so for log(u) / weight with u evenly spread from 0 to 1 (Efraimidis and Spirakis, 2006).
    """
    drawn = ((conversation ^ candidate.lot) * _SPREAD) & _64_BITS
    drawn = ((drawn ^ (drawn >> 32)) * _SPREAD) & _64_BITS
    return log((drawn + 1) / (_64_BITS + 2)) / candidate.limits.weight


def _is_overloaded(
    candidate: Candidate, candidates: Iterable[Candidate], now: datetime, wanted: KeyRequest
) -> bool:
    """Return whether a key has so much in flight that a conversation must do without its cache."""
    if candidate.in_flight < MOST_BY_PREFERENCE:
        return False
    serving = [other for other in candidates if _obstacle(other, now, wanted) is None]
    in_flight = 1 + sum(other.in_flight for other in serving)
    part = in_flight * candidate.limits.weight / sum(other.limits.weight for other in serving)
    return candidate.in_flight + 1 > _MOST_OF_ITS_PART * part


def _least_loaded(
    candidates: Sequence[Candidate],
    now: datetime,
    turn: Turn,
    wanted: KeyRequest,
    *,
    is_last_resort: bool = False,
) -> int | None:
    """Return how many steps from the turn the best key is; None when there is none."""
    best: tuple[float, int] | None = None
    size = len(candidates)
    for step in range(size):
        candidate = candidates[(turn.position + step) % size]
        if candidate.key_id in wanted.tried or _obstacle(candidate, now, wanted, is_last_resort) is not None:
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
    """Count the keys that stand by without a trial; with one left, failures must not eject it."""
    return sum(availability(candidate.state, now) is Availability.USABLE for candidate in candidates)


def _obstacle(
    candidate: Candidate, now: datetime, wanted: KeyRequest, is_last_resort: bool = False
) -> Shortage | None:
    state = candidate.state
    stands = availability(state, now)
    if stands is Availability.RESTRICTED and not (
        is_last_resort and (is_ejected(state) or is_hearsay(state, wanted.client))
    ):
        return _RESTRICTIONS[state.status]
    if candidate.model_limits:
        is_bound = is_closed(candidate.model_limits, wanted.model, wanted.client, now)
        if is_bound or (not is_last_resort and is_claimed(candidate.model_limits, wanted.model, now)):
            return Shortage.MODEL
    if state.suspected_by is not None and not is_last_resort and is_doubted(state, wanted.client, now):
        return Shortage.ALL_TRIED
    if stands is Availability.HALF_OPEN and (candidate.in_flight > 0 or not candidate.may_probe):
        return Shortage.BUSY
    limits = candidate.limits
    if limits.max_in_flight is not None and candidate.in_flight >= limits.max_in_flight:
        return Shortage.BUSY
    if candidate.rate_full_until is not None and candidate.rate_full_until > now:
        return Shortage.BUSY
    return None


def _free_from(candidate: Candidate) -> datetime | None:
    """Return from when on `_obstacle` finds none while nothing but time changes; None: always."""
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


def _explain(candidates: Sequence[Candidate], now: datetime, wanted: KeyRequest) -> NoKey:
    # What a tried key suffers from by now says more than that it was tried.
    obstacles = [_obstacle(candidate, now, wanted) or Shortage.ALL_TRIED for candidate in candidates]
    counts = {reason: obstacles.count(reason) for reason in Shortage if reason in obstacles}
    reason = next(iter(counts), Shortage.NO_KEYS)
    moments = [
        _free_at(candidate, now, wanted)
        for candidate, obstacle in zip(candidates, obstacles, strict=True)
        if obstacle is reason
    ]
    earliest = min(moments, default=NEVER)
    return NoKey(reason, counts, None if earliest == NEVER else earliest)


def _free_at(candidate: Candidate, now: datetime, wanted: KeyRequest) -> datetime:
    if availability(candidate.state, now) is Availability.RESTRICTED:
        return returns_at(candidate.state)
    soon = now + timedelta(seconds=_BUSY_S)
    claims = (candidate.model_limits or {}).get(wanted.model, ())
    if (closed := closed_until(claims, wanted.client)) is not None and closed > now:
        return closed
    if candidate.rate_full_until is None or candidate.is_shared:
        return soon
    return max(soon, candidate.rate_full_until)
