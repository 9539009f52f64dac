"""Snapshots of what each key has used so far, kept: one an hour for a while, the first of each day for ever.

Hours and days are those of `STATS_TIMEZONE`. A snapshot is taken by whoever has read the account, with the
first reading of an hour; where several have, the first one stays.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.keys.key_account import KeyAccount
from app.ohmygpt.used_fees import KeyBook, Snapshot, read_snapshot, snapshot_document

COLLECTION: Final = "ohmygpt_used_fees"
HOURS_KEPT: Final = timedelta(days=40)


class FeeSnapshots:
    """The snapshots. `own_nano` returns what was booked so far, by the names of keys in records."""

    def __init__(self, db: Database[dict[str, Any]], tz: tzinfo, own_nano: Callable[[], Mapping[str, int]]):
        self._snapshots = db[COLLECTION]
        self._tz = tz
        self._own_nano = own_nano

    def note(self, accounts: Mapping[str, KeyAccount], names: Mapping[str, str], now: datetime) -> None:
        """Keep a snapshot if this hour has none yet.

        `accounts` are by the ids under which keys are stored, and `names` what records call those.
        """
        local = now.astimezone(self._tz).replace(minute=0, second=0, microsecond=0)
        hour = local.astimezone(UTC)
        if self._snapshots.find_one({"_id": hour}, {"_id": 1}) is not None:
            return
        own = self._own_nano()
        books = {
            store_id: KeyBook(names[store_id], account.used_fee, own.get(names[store_id], 0))
            for store_id, account in accounts.items()
            if store_id in names
        }
        midnight = local.replace(hour=0).astimezone(UTC)
        is_first = self._snapshots.find_one({"_id": {"$gte": midnight, "$lt": hour}}, {"_id": 1}) is None
        document = snapshot_document(Snapshot(now, books))
        try:
            self._snapshots.insert_one({"_id": hour, "isFirstOfDay": is_first, **document})
        except DuplicateKeyError:  # another worker's reading came first
            return
        self._snapshots.delete_many({"_id": {"$lt": hour - HOURS_KEPT}, "isFirstOfDay": False})

    def around(self, start: datetime | None, end: datetime) -> tuple[Snapshot, Snapshot] | None:
        """Return the first snapshot from `start` (None: of all) and the last up to `end`, if two."""
        within = {"_id": {"$lte": end} if start is None else {"$gte": start, "$lte": end}}
        first = self._snapshots.find_one(within, sort=[("_id", 1)])
        last = self._snapshots.find_one(within, sort=[("_id", -1)])
        if first is None or last is None or first["_id"] >= last["_id"]:
            return None
        return read_snapshot(first), read_snapshot(last)
