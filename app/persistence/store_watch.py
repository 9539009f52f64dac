"""Watching whether the database answers, and whether it acknowledges writes.

A replica set with an arbiter and a dead member has a primary that answers reads, and never acknowledges a
write, since no majority of the members with data has it. Only a write can tell.
"""

from typing import Any

import pymongo
from pymongo.database import Database
from pymongo.errors import PyMongoError

from app.persistence import writers
from app.store.driver import store_problem
from app.store.incomplete_restore import IncompleteRestore, refuse_incomplete

UNREACHABLE = "unreachable"
UNACKNOWLEDGED = "writes are not acknowledged"
INCOMPLETE = "a restore has not ended"

_TIMEOUT_S = 2.0

# A write with every third look: at one look each two seconds, what is wrong is known within eight.
_LOOKS_PER_WRITE = 3


def unreachable(db: Database[Any]) -> str | None:
    """Return why the store does not answer, in one line; None when it does. Takes two seconds at most."""
    try:
        with pymongo.timeout(_TIMEOUT_S):
            db.command("ping")
    except PyMongoError as error:
        return store_problem(error)
    return None


class StoreWatch:
    """Looks at the database again and again, on behalf of one writer."""

    def __init__(self, db: Database[Any], writer_id: str) -> None:
        self._db = db
        self._writer_id = writer_id
        self._looks = 0
        self._problem: str | None = None
        self.reason = ""

    def look(self) -> str | None:
        """Return what is wrong, one of the constants here; `reason` then says what was heard, in one line."""
        reason = unreachable(self._db)
        if reason is not None:
            self._looks, self._problem, self.reason = 0, UNREACHABLE, reason
            return UNREACHABLE
        if self._looks % _LOOKS_PER_WRITE == 0:
            self._problem = self._write()
        self._looks += 1
        return self._problem

    def _write(self) -> str | None:
        """Announce the writer, harmless in a whole database, and see whether that is acknowledged."""
        try:
            with pymongo.timeout(_TIMEOUT_S):
                refuse_incomplete(self._db)
                writers.announce(self._db, self._writer_id)
        except IncompleteRestore as error:
            self.reason = str(error)
            return INCOMPLETE
        except PyMongoError as error:
            self.reason = store_problem(error)
            return UNACKNOWLEDGED
        return None
