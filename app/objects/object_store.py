"""What the upstream keeps, in MongoDB (`upstream_objects`): for all workers and hosts.

{_id: the upstream's id, ids: [it, and those of its parts], upstreamKey, userId, …, expiresAt,
 state: "pending", askedAt, until                  # while it goes on in the background, unpaid
 settledBy: requestId}                             # the request, or poll, that saw its end
"""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo import ASCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.database import Database

from app.objects.upstream_object import KEPT_AT_LEAST, MAX_PARTS, UpstreamObject
from app.store.driver import make_indexes, store_errors

Document = dict[str, Any]

COLLECTION: Final = "upstream_objects"
PENDING: Final = "pending"

_LONGEST_PAUSE: Final = timedelta(minutes=4)

INDEXES = (
    IndexModel([("ids", ASCENDING)]),
    IndexModel([("expiresAt", ASCENDING)], expireAfterSeconds=0),
    IndexModel([("askedAt", ASCENDING)], partialFilterExpression={"state": PENDING}),
)


class ObjectStore:
    """Reads and writes them. `kept_s` is how long records are kept (0: for ever), and so are ids."""

    def __init__(self, db: Database[Any], kept_s: int) -> None:
        self._objects = db[COLLECTION]
        self._kept = max(timedelta(seconds=kept_s), KEPT_AT_LEAST) if kept_s else None

    def ensure_indexes(self) -> None:
        """Make the missing indexes; raises `PyMongoError`."""
        make_indexes(self._objects, INDEXES)

    def find(self, ids: Collection[str]) -> list[UpstreamObject]:
        """Return those that have one of these ids; raises `StoreUnavailable`."""
        with store_errors():
            found = self._objects.find({"ids": {"$in": list(ids)}}).limit(len(ids))
            return [UpstreamObject.from_document(document) for document in found]

    def add(self, objects: Iterable[UpstreamObject], now: datetime) -> None:
        """Store these; what is stored of them already stays, but for the ids of further parts.

        Raises `StoreUnavailable`; adding them again changes nothing.
        """
        updates = [self.addition(made, now) for made in objects]
        if updates:
            with store_errors():
                self._objects.bulk_write(updates, ordered=False)

    def addition(self, made: UpstreamObject, now: datetime) -> UpdateOne:
        """Return the write that adds one: who comes first says whose it is."""
        update: Document = {
            "$setOnInsert": made.to_document(),
            "$addToSet": {"ids": {"$each": [made.object_id, *made.parts[:MAX_PARTS]]}},
        }
        if self._kept is not None:
            update["$max"] = {"expiresAt": now + self._kept}
        return UpdateOne({"_id": made.object_id}, update, upsert=True)

    def take_due(self, now: datetime, interval: timedelta) -> UpstreamObject | None:
        """Take one that nobody has asked about for `interval`; nobody else takes it before as long again.

        Old ones are asked about less often. Raises `StoreUnavailable`.
        """
        with store_errors():
            found = self._objects.find_one_and_update(
                {"state": PENDING, "askedAt": {"$lte": now - interval}},
                [{"$set": {"askedAt": _next_ask(now, interval)}}],
                sort=[("askedAt", ASCENDING)],
                return_document=ReturnDocument.AFTER,
            )
        return None if found is None else UpstreamObject.from_document(found)


def _next_ask(now: datetime, interval: timedelta) -> Document:
    """Build the moment by which it counts as asked about: a fifth of its age lies between, within bounds.

    What is not stored for long is gone ten minutes after it has ended.
    """
    most = max(interval, _LONGEST_PAUSE)
    age_ms = {"$divide": [{"$subtract": [now, {"$ifNull": ["$createdAt", now]}]}, 5]}
    extra = {"$min": [age_ms, (most - interval) / timedelta(milliseconds=1)]}
    return {"$add": [now, {"$toLong": {"$max": [0, extra]}}]}
