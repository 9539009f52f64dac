"""Noticing when the machine stands still: what has to happen within seconds cannot happen meanwhile."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import gevent
from pymongo import WriteConcern
from pymongo.database import Database
from pymongo.errors import PyMongoError

_EVERY_S = 0.05
# What a look takes on a machine that is busy, and not at a standstill.
_UNSUSPICIOUS_S = 0.3


class Stillness:
    """Looks at something many times a second; `spans` are those in which it did not come to look again.

    Times are seconds of the epoch, as the upstream's books have them.
    """

    def __init__(self, look: Callable[[], object]) -> None:
        self._look = look
        self.spans: list[tuple[float, float]] = []

    @classmethod
    def of(cls, database: Database[dict[str, int]]) -> "Stillness":
        """Look whether this process gets its turn, and the database's disk takes a write."""
        place = database.client["drill"].get_collection("stillness", write_concern=WriteConcern(1, j=True))

        def look() -> None:
            with suppress(PyMongoError):  # how long it took is what counts
                place.update_one({"_id": 0}, {"$inc": {"looks": 1}}, upsert=True)

        return cls(look)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Go on looking while the block runs."""
        watching = gevent.spawn(self._watch)
        try:
            yield
        finally:
            watching.kill()

    def between(self, since: float, until: float) -> float:
        """Return for how long it stood still between two moments, in seconds."""
        return sum(max(0.0, min(end, until) - max(start, since)) for start, end in self.spans)

    def _watch(self) -> None:
        last = time.time()
        while True:
            gevent.sleep(_EVERY_S)
            self._look()
            now = time.time()
            if now - last > _UNSUSPICIOUS_S:
                self.spans.append((last, now))
            last = now
