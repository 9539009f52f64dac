"""The keys of a pool, arranged so that the best one is found without looking at all of them.

With a thousand keys, of which most are busy or have no money, looking at each would cost a request as much as
all the rest of its way. So those that may serve are kept by their load, in the order of the pool, and the
others sleep until the moment at which time alone could change that. What `key_choice.obstacle` says of a key
decides; this is only about asking it less often.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from datetime import datetime
from heapq import heappop, heappush

from app.core.key_choice import Candidate, Turn, next_look, obstacle


class KeyLine:
    """Over a list of candidates whose owner says which of them have changed (`changed`)."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._candidates = candidates
        self._changed = set(range(len(candidates)))
        # The load under which each is kept; None: it sleeps.
        self._loads: list[float | None] = [None] * len(candidates)
        self._open: dict[float, list[int]] = {}
        self._sleeping: list[tuple[datetime, int]] = []
        self._wakes: list[datetime | None] = [None] * len(candidates)

    def changed(self, place: int) -> None:
        """The candidate at this place is another one now."""
        self._changed.add(place)

    def search(self, now: datetime, turn: Turn, excluding: frozenset[str]) -> int | None:
        """How many steps from the turn the least loaded key is that may serve; None when there is none."""
        self._arrange(now)
        size = len(self._candidates)
        for load in sorted(self._open):
            places = self._open[load]
            first = bisect_left(places, turn.position % size)
            for number in range(len(places)):
                place = places[(first + number) % len(places)]
                candidate = self._candidates[place]
                if candidate.key_id in excluding:
                    continue
                if obstacle(candidate, now) is None:
                    return (place - turn.position) % size
                self._changed.add(place)  # the clock was set back
        return None

    def _arrange(self, now: datetime) -> None:
        while self._sleeping and self._sleeping[0][0] <= now:
            moment, place = heappop(self._sleeping)
            self._changed.add(place)
            if self._wakes[place] == moment:
                self._wakes[place] = None
        for place in self._changed:
            self._put(place, now)
        self._changed.clear()

    def _put(self, place: int, now: datetime) -> None:
        candidate, old = self._candidates[place], self._loads[place]
        if obstacle(candidate, now) is None:
            new: float | None = candidate.in_flight / candidate.limits.weight
        else:
            new = None
            self._sleep(place, next_look(candidate, now))
        if new == old:
            return
        if old is not None:
            places = self._open[old]
            del places[bisect_left(places, place)]
            if not places:
                del self._open[old]
        if new is not None:
            insort(self._open.setdefault(new, []), place)
        self._loads[place] = new

    def _sleep(self, place: int, until: datetime | None) -> None:
        if until is None or until == self._wakes[place]:
            return  # only a change can wake it, or it is to be woken then already
        self._wakes[place] = until
        heappush(self._sleeping, (until, place))
