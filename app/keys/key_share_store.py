"""The shares of workers in the limits of upstream keys, one document per key, and the workers' heartbeats.

`app.keys.key_shares` says what they mean. A document is replaced only if it is still the one that was read
(`stamp`), so that no two workers ever take the same slot.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bson import ObjectId
from pymongo import DeleteOne, InsertOne, ReturnDocument, UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from app.keys.key_shares import Kind, QuotaShare, Shares

Document = dict[str, Any]

COLLECTION = "key_shares"
WORKERS = "key_share_workers"

_SIGNS_ID = "workers"
_DUPLICATE_KEY = 11000


@dataclass(frozen=True, slots=True)
class Division:
    """The shares in one key's limits, by worker, and the stamp of the document; None: there is none."""

    shares: Mapping[str, Shares]
    stamp: ObjectId | None = None


class KeyShareStore:
    """Stores how the limits of upstream keys are divided, and the workers' heartbeats."""

    def __init__(self, db: Database[Document]) -> None:
        self._divisions = db[COLLECTION]
        self._signs = db[WORKERS]

    def heartbeat(self, worker_id: str) -> dict[str, int]:
        """Give a worker's heartbeat; return the numbers of all workers' signs so far."""
        document = self._signs.find_one_and_update(
            {"_id": _SIGNS_ID},
            {"$inc": {f"signs.{worker_id}": 1}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        return {str(name): int(number) for name, number in (document or {}).get("signs", {}).items()}

    def forget(self, worker_ids: Iterable[str]) -> None:
        """Forget the signs of workers that are gone for good."""
        names = {f"signs.{worker_id}": "" for worker_id in worker_ids}
        if names:
            self._signs.update_one({"_id": _SIGNS_ID}, {"$unset": names})

    def divisions(self, store_ids: Iterable[str]) -> dict[str, Division]:
        """Read the division of each of these keys."""
        wanted = list(store_ids)
        found = dict.fromkeys(wanted, Division({}))
        for document in self._divisions.find({"_id": {"$in": wanted}}):
            found[document["_id"]] = Division(_read(document.get("shares", {})), document["stamp"])
        return found

    def replace(self, changes: Mapping[str, tuple[Division, Mapping[str, Shares]]]) -> set[str]:
        """Replace divisions that are still as they were read; return the keys whose divisions were."""
        if not changes:
            return set()
        stamps = {store_id: ObjectId() for store_id in changes}
        steps = [_step(store_id, old, new, stamps[store_id]) for store_id, (old, new) in changes.items()]
        try:
            self._divisions.bulk_write(steps, ordered=False)
        except BulkWriteError as error:
            if any(problem["code"] != _DUPLICATE_KEY for problem in error.details["writeErrors"]):
                raise
        # A deletion leaves nothing to be seen; it has only let go of slots, so nothing depends on it.
        query = {"_id": {"$in": list(stamps)}, "stamp": {"$in": list(stamps.values())}}
        return {str(document["_id"]) for document in self._divisions.find(query, {"_id": True})}


def _step(
    store_id: str, old: Division, new: Mapping[str, Shares], stamp: ObjectId
) -> InsertOne[Document] | UpdateOne | DeleteOne:
    shares = {
        name: {str(kind): [share.slots, share.want] for kind, share in kinds.items()}
        for name, kinds in new.items()
    }
    if old.stamp is None:
        return InsertOne({"_id": store_id, "stamp": stamp, "shares": shares})
    same = {"_id": store_id, "stamp": old.stamp}
    return UpdateOne(same, {"$set": {"stamp": stamp, "shares": shares}}) if shares else DeleteOne(same)


def _read(document: Document) -> dict[str, dict[Kind, QuotaShare]]:
    return {
        name: {Kind(kind): QuotaShare(int(slots), int(want)) for kind, (slots, want) in kinds.items()}
        for name, kinds in document.items()
    }
