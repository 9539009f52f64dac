"""Following `request_logs` as records come in."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from pymongo.database import Database

Document = dict[str, Any]

# Records become visible not quite in the order they are inserted in, so that looking back goes on for a while
# past the first known one.
_LOOK_BACK = 500
_MOST_AT_ONCE = 10_000


class LogFollower:
    """Gives each record once, soon after it was written.

    Reads in the order of insertion: by time, a long request would turn up among those already shown, since
    `createdAt` is when it began. From the second poll on, only what is new is read.
    """

    def __init__(self, db: Database[Document]) -> None:
        self._logs = db["request_logs"]
        self._seen: OrderedDict[Any, None] = OrderedDict()
        self.skip(self._newest().limit(_LOOK_BACK))

    def poll(self) -> list[Document]:
        """Return what was written since the last time, oldest first; raises `PyMongoError`."""
        fresh: list[Document] = []
        known = 0
        for document in self._newest().limit(_MOST_AT_ONCE):
            if document["_id"] in self._seen:
                known += 1
                if known >= _LOOK_BACK:
                    break
            else:
                fresh.append(document)
        self.skip(reversed(fresh))
        while len(self._seen) > 2 * _MOST_AT_ONCE:
            self._seen.popitem(last=False)
        return fresh[::-1]

    def skip(self, records: Iterable[Document]) -> None:
        """Count these records as given already."""
        for document in records:
            self._seen[document["_id"]] = None

    def _newest(self) -> Any:
        return self._logs.find().sort([("$natural", -1)])
