"""The audit log (`admin_audit`): every action of an administrator, by API, command or dashboard.

An entry is there before its action and says `begun`; afterwards it says what came of it. One that stays
`begun` is of a process that died, or lost the database, in between. Entries are kept for ever.
"""

from datetime import datetime
from typing import Any

from bson import ObjectId
from pymongo.database import Database

from app.adapters.mongo.paging import Page, newest_first
from app.core.log_filter import PageCursor

Document = dict[str, Any]

COLLECTION = "admin_audit"

BEGUN = "begun"
DONE = "done"
REFUSED = "refused"
FAILED = "failed"
OUTCOMES = (BEGUN, DONE, REFUSED, FAILED)


class AuditStore:
    """The entries. Every method raises `PyMongoError`."""

    def __init__(self, db: Database[Document]) -> None:
        self._entries = db[COLLECTION]

    def ensure_indexes(self) -> None:
        """What pages are read by."""
        self._entries.create_index([("at", -1), ("_id", -1)])
        self._entries.create_index([("target", 1), ("at", -1), ("_id", -1)])

    def begin(self, entry: Document) -> ObjectId:
        """Keep an entry; its id."""
        entry_id = ObjectId()
        self._entries.insert_one({"_id": entry_id, **entry, "outcome": BEGUN})
        return entry_id

    def finish(self, entry_id: ObjectId, outcome: str, at: datetime, reason: str | None) -> None:
        """Say what came of it."""
        fields: Document = {"outcome": outcome, "endedAt": at}
        if reason:
            fields["reason"] = reason
        self._entries.update_one({"_id": entry_id}, {"$set": fields})

    def page(self, query: Document, limit: int, cursor: PageCursor | None = None) -> Page:
        """Entries, newest first; `query` may select by `actor`, `action`, `target`, `outcome`."""
        return newest_first(self._entries, query, "at", limit, cursor)
