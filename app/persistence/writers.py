"""Writers that will book nothing any more: their marks are taken off users and keys.

A document that is charged keeps a mark of each writer (`applied.<writerId>`). Journals that stay on their
disk keep their writer ids, but where disks come and go (containers, scaling), each start brings new ones, and
the marks would grow without end. A mark may go only if nothing it covers can ever be booked again, so two
rules hold together:

- What is older than `BOOKABLE` is not added to any sum. (Its record is written, since that is harmless, and
  its figures are put aside, where an operator finds them.)
- A writer says that it lives before it books anything, at least every `ANNOUNCED`. One that has not been
  heard of for `FORGOTTEN`, which is a month longer, is forgotten. Both moments are the server's.

What such a writer may still hold was either accepted before it was last heard of, and is too old to be
booked; or after, and then it was never sent, so that no mark covers it. A writer that returns while its marks
are being taken off sets higher ones: those found before it was seen to be gone are the only ones that go.

This relies on hosts' clocks being right to within two weeks (so that no two are a month apart).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

COLLECTION = "journal_writers"
MARKED = ("usersNew", "user_keys", "ohmygpt_keys")
"""The collections whose documents many writers charge."""

BOOKABLE = timedelta(days=60)
FORGOTTEN = timedelta(days=90)
ANNOUNCED = timedelta(hours=1)


def announce(db: Database[Any], writer_id: str) -> None:
    """Note that the writer lives; raises PyMongoError, and then nothing may be booked."""
    db[COLLECTION].update_one({"_id": writer_id}, {"$currentDate": {"seenAt": True}}, upsert=True)


def is_bookable(created_at: datetime, now: datetime) -> bool:
    """Return whether figures of this moment may still be added to sums."""
    return now - created_at < BOOKABLE


def highest_marks(db: Database[Any], collection: str) -> dict[str, float]:
    """Return the highest mark of each writer in one of the `MARKED` collections."""
    pipeline: list[dict[str, Any]] = [
        {"$match": {"applied": {"$type": "object"}}},
        {"$project": {"marks": {"$objectToArray": "$applied"}}},
        {"$unwind": "$marks"},
        {"$group": {"_id": "$marks.k", "highest": {"$max": "$marks.v"}}},
    ]
    return {found["_id"]: found["highest"] for found in db[collection].aggregate(pipeline)}


class WriterMarks:
    """The marks of all writers, for whoever takes off those of dead ones."""

    def __init__(self, db: Database[Any]) -> None:
        self._db = db

    def forget_dead(self) -> list[str]:
        """Take off the marks of writers not heard of for long; return their ids. Raises PyMongoError.

        A writer that left marks and never announced itself (earlier versions) counts as heard of now. Any
        number of processes may do this at once, and stop in the middle.
        """
        # In this order: who books after this line was heard of before the next ones, or sets higher marks.
        highest = {name: highest_marks(self._db, name) for name in MARKED}
        marked = sorted({writer_id for marks in highest.values() for writer_id in marks})
        now = self._now()
        self._register(marked, now)
        long_ago = {"$lt": now - FORGOTTEN}
        dead = [found["_id"] for found in self._writers.find({"_id": {"$in": marked}, "seenAt": long_ago})]
        for name in MARKED:
            for writer_id in dead:
                if writer_id in highest[name]:
                    mark = f"applied.{writer_id}"
                    covered = {mark: {"$lte": highest[name][writer_id]}}
                    self._db[name].update_many(covered, {"$unset": {mark: ""}})
        # Those that are not marked anywhere: nothing depends on them.
        self._writers.delete_many({"_id": {"$nin": marked}, "seenAt": long_ago})
        return dead

    @property
    def _writers(self) -> Collection[Any]:
        return self._db[COLLECTION]

    def _now(self) -> datetime:
        moment: datetime = self._db.command("hello")["localTime"]
        return moment.replace(tzinfo=moment.tzinfo or UTC)

    def _register(self, writer_ids: Sequence[str], now: datetime) -> None:
        heard_of = {"$setOnInsert": {"seenAt": now}}
        updates = [UpdateOne({"_id": name}, heard_of, upsert=True) for name in writer_ids]
        if updates:
            self._writers.bulk_write(updates, ordered=False)
