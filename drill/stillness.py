"""Noticing when the machine stands still: what has to happen within seconds cannot happen meanwhile."""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import gevent
from pymongo import WriteConcern
from pymongo.database import Database
from pymongo.errors import PyMongoError

_EVERY_S = 0.05
# What a look takes on a machine that is busy, and not at a standstill.
_UNSUSPICIOUS_S = 0.3


class Stillness:
    """Looks at something many times a second; `spans` are those in which it did not come to look again.

    Each of `processes` may stand still by itself, where it waits for a processor that others have. Times are
    seconds of the epoch, as the upstream's books have them.
    """

    def __init__(self, look: Callable[[], object], processes: Sequence[int] = ()) -> None:
        self._look = look
        self._processes = processes
        self.spans: list[tuple[float, float]] = []
        # When the processes were looked at, and for how long each had waited for a processor by then.
        self._moments: list[float] = []
        self._waits: list[list[float]] = []

    @classmethod
    def of(cls, database: Database[dict[str, int]], processes: Sequence[int]) -> "Stillness":
        """Look whether this process and those get their turns, and the database's disk takes a write."""
        place = database.client["drill"].get_collection("stillness", write_concern=WriteConcern(1, j=True))

        def look() -> None:
            with suppress(PyMongoError):  # how long it took is what counts
                place.update_one({"_id": 0}, {"$inc": {"looks": 1}}, upsert=True)

        return cls(look, processes)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Go on looking while the block runs."""
        watching = gevent.spawn(self._watch)
        try:
            yield
        finally:
            watching.kill()

    def between(self, since: float, until: float) -> float:
        """Return for how long it, or the process worst off, stood still between two moments, in seconds."""
        still = sum(max(0.0, min(end, until) - max(start, since)) for start, end in self.spans)
        return still + self._longest_wait(since, until)

    def _longest_wait(self, since: float, until: float) -> float:
        first = max(0, bisect_right(self._moments, since) - 1)
        last = bisect_left(self._moments, until)
        if last >= len(self._moments):
            last = len(self._moments) - 1
        if last <= first:
            return 0.0
        pairs = zip(self._waits[first], self._waits[last], strict=True)
        return max((after - before for before, after in pairs), default=0.0)

    def _watch(self) -> None:
        last = time.time()
        while True:
            gevent.sleep(_EVERY_S)
            self._look()
            now = time.time()
            self._moments.append(now)
            self._waits.append([_waited_s(pid) for pid in self._processes])
            if now - last > _UNSUSPICIOUS_S:
                self.spans.append((last, now))
            last = now


def _waited_s(pid: int) -> float:
    """Return for how long a process has waited for a processor so far; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
