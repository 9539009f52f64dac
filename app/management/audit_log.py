"""The audit log (`admin_audit`): every action of an administrator, by API, command or dashboard.

An entry is there before its action and says `begun`; afterwards it says what came of it. Where the process
died, or lost the database, in between, it ends as `unknown`. Entries are kept for ever.
"""

from datetime import datetime
from typing import Any

from bson import ObjectId
from pymongo.database import Database

from app.common.cursor import PageCursor
from app.store.paging import Page, newest_first

Document = dict[str, Any]

COLLECTION = "admin_audit"

BEGUN = "begun"
DONE = "done"
REFUSED = "refused"
FAILED = "failed"
UNKNOWN = "unknown"
OUTCOMES = (BEGUN, DONE, REFUSED, FAILED, UNKNOWN)


class AuditStore:
    """The entries. Every method raises `PyMongoError`."""

    def __init__(self, db: Database[Document]) -> None:
        self._entries = db[COLLECTION]

    def ensure_indexes(self) -> None:
        """Create the indexes that pages are read by."""
        self._entries.create_index([("at", -1), ("_id", -1)])
        self._entries.create_index([("target", 1), ("at", -1), ("_id", -1)])
        unended = {"outcome": BEGUN}
        self._entries.create_index([("outcome", 1), ("at", 1)], partialFilterExpression=unended)

    def begin(self, entry_id: ObjectId, entry: Document) -> None:
        """Keep an entry."""
        self._entries.insert_one({"_id": entry_id, **entry, "outcome": BEGUN})

    def finish(self, entry_id: ObjectId, outcome: str, at: datetime, reason: str | None) -> None:
        """Note in the entry what came of the action."""
        fields: Document = {"outcome": outcome, "endedAt": at}
        if reason:
            fields["reason"] = reason
        self._entries.update_one({"_id": entry_id}, {"$set": fields})

    def end_abandoned(self, begun_before: datetime, at: datetime, reason: str) -> None:
        """End the entries that were begun before then: nobody knows any more what came of them."""
        ending = {"outcome": UNKNOWN, "endedAt": at, "reason": reason}
        self._entries.update_many({"outcome": BEGUN, "at": {"$lt": begun_before}}, {"$set": ending})

    def page(
        self,
        query: Document,
        limit: int,
        cursor: PageCursor | None = None,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> Page:
        """Return entries from `start` up to `end`, exclusive, newest first.

        `query` may select by `actor`, `action`, `target`, `outcome`.
        """
        times = {name: time for name, time in (("$gte", start), ("$lt", end)) if time is not None}
        return newest_first(self._entries, {**query, **({"at": times} if times else {})}, "at", limit, cursor)
