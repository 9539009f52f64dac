"""Client keys that are stored as they are become hashes; later, what names such a key names its hash.

A key goes on working: its hash is what is looked up first. In this order, so that an end at any point leaves
keys that work and counters that are whole:

1. A document under the hash is made beside the old one. What the old one has counted is in its field
   `earlier`, set anew each time this begins again.
2. The old document goes, if it is still what `earlier` says; else from the start.
3. `earlier` is added to the new document's counters, and goes.

Records and hourly sums that name the key are renamed afterwards (`KeyNames`). Those of an account's key
(`usersNew.apiKey`, which stays) name `user:<name>`, as the directory calls whoever shows that key.
"""

import re
from datetime import datetime
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from app.accounts.credentials import hash_client_key, mask
from app.keys.provider_keys import TAKEN_OVER
from app.migration.step import STATE, Document, Progress, StepReport
from app.statistics import rollups, summaries

_RAW_IDS: Document = {"_id": {"$type": "string", "$not": {"$regex": "^wk_"}}}
_ID = re.compile(r"wk_|user:|env$")
_SECRET = re.compile(r"sk-")
_COUNTED = ("tokensUsed", "requestsCount")
_EARLIER = "earlier"
_NOT_KEPT = ("_id", "applied", "hint", "isActive", TAKEN_OVER, _EARLIER, *_COUNTED)


class ClientKeys:
    """Every key of `user_keys` whose id is the key itself."""

    name = "client-keys"
    title = "store client keys as hashes"
    unit = "keys"

    def __init__(self, db: Database[Document], now: datetime) -> None:
        self._keys: Collection[Document] = db["user_keys"]
        self._now = now

    def look(self) -> StepReport:
        """Find keys to hash, and keys whose counters are still to be added up."""
        raw_ids, unfinished = self._to_do()
        return StepReport(len(raw_ids) + len(unfinished))

    def apply(self, progress: Progress) -> int:
        """Hash all the keys."""
        raw_ids, unfinished = self._to_do()
        for key_id in unfinished:
            self._fold(key_id)
        for done, raw in enumerate(raw_ids, start=1):
            self._replace(raw)
            progress(done)
        return len(raw_ids) + len(unfinished)

    def _to_do(self) -> tuple[list[str], list[str]]:
        """Find keys stored as they are, and new documents left with `earlier`, their old one being gone."""
        raw_ids = [str(found["_id"]) for found in self._keys.find(_RAW_IDS, {"_id": True}).sort("_id", 1)]
        hashes = set(map(hash_client_key, raw_ids))
        begun = self._keys.find({_EARLIER: {"$exists": True}}, {"_id": True})
        return raw_ids, [str(found["_id"]) for found in begun if found["_id"] not in hashes]

    def _prepare(self, raw: str) -> Document | None:
        """Do the first step; return the old document as it was then."""
        old = self._keys.find_one({"_id": raw})
        if old is None:
            return None
        kept = {name: value for name, value in old.items() if name not in _NOT_KEPT}
        counted = {name: old[name] for name in (*_COUNTED, "lastUsedAt") if old.get(name) is not None}
        self._keys.update_one(
            {"_id": hash_client_key(raw)},
            {
                "$set": {_EARLIER: counted, TAKEN_OVER: self._now, "isActive": old.get("isActive", True)},
                "$setOnInsert": {
                    "hint": mask(raw),
                    **dict.fromkeys(_COUNTED, 0),
                    **kept,
                },
            },
            upsert=True,
        )
        return old

    def _replace(self, raw: str) -> None:
        """Do all steps, from the start again while the key is being used."""
        while (old := self._prepare(raw)) is not None:
            unchanged: dict[str, Any] = {
                name: old.get(name, {"$exists": False}) for name in (*_COUNTED, "isActive")
            }
            if self._keys.delete_one({"_id": raw, **unchanged}).deleted_count:
                break
        self._fold(hash_client_key(raw))

    def _fold(self, key_id: str) -> None:
        sums: Document = {
            name: {"$add": [f"${name}", {"$ifNull": [f"${_EARLIER}.{name}", 0]}]} for name in _COUNTED
        }
        self._keys.update_one(
            {"_id": key_id, _EARLIER: {"$exists": True}},
            [
                {"$set": {**sums, "lastUsedAt": {"$max": ["$lastUsedAt", f"${_EARLIER}.lastUsedAt"]}}},
                {"$unset": _EARLIER},
            ],
        )


class Names:
    """What stands for a client key in records: its id, also where earlier software put the key itself."""

    def __init__(self, db: Database[Document]) -> None:
        self._keys: Collection[Document] = db["user_keys"]
        self._users: Collection[Document] = db["usersNew"]
        self._known: dict[str, str | None] = {}

    def new(self, name: object) -> str | None:
        """Return the id of the key that `name` is; None for what is an id already, or no key at all."""
        if not isinstance(name, str) or _ID.match(name):
            return None
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def _find(self, name: str) -> str | None:
        hashed = hash_client_key(name)
        if self._keys.find_one({"_id": {"$in": [hashed, name]}}, {"_id": True}) is not None:
            return hashed
        account = self._users.find_one({"apiKey": name}, {"_id": True})
        if account is not None:
            return f"user:{account['_id']}"
        return hashed if _SECRET.match(name) else None


class KeyNames:
    """Records and hourly sums that name a key, and are not renamed with the records of earlier software.

    Where hourly sums are renamed, summaries of them are made anew; that this is due is noted before.
    """

    name = "key-names"
    title = "name hashes instead of client keys"
    unit = "documents"

    def __init__(self, db: Database[Document], left_to_others: Document) -> None:
        self._db = db
        self._state = db[STATE]
        self._names = Names(db)
        self._places: tuple[tuple[Collection[Document], Document], ...] = (
            (db["request_logs"], {"$nor": [left_to_others]}),
            (db[rollups.COLLECTION], {}),
        )

    def look(self) -> StepReport:
        """Count the documents to rename."""
        pending = sum(
            collection.count_documents({"userKeyId": name, **match})
            for collection, match in self._places
            for name, _ in self._found(collection)
        )
        is_unfinished = self._state.find_one({"_id": self.name}) is not None
        return StepReport(pending, ("summaries are still to be made anew",) if is_unfinished else ())

    def apply(self, progress: Progress) -> int:
        """Rename keys in all the documents."""
        done = 0
        for collection, match in self._places:
            found = self._found(collection)
            if found and collection.name == rollups.COLLECTION:
                self._state.update_one({"_id": self.name}, {"$set": {"isBegun": True}}, upsert=True)
            for name, new in found:
                changed = collection.update_many({"userKeyId": name, **match}, {"$set": {"userKeyId": new}})
                done += changed.modified_count
                progress(done)
        if self._state.find_one({"_id": self.name}) is not None:
            summaries.discard(self._db)
            self._state.delete_one({"_id": self.name})
        return done

    def _found(self, collection: Collection[Document]) -> list[tuple[str, str]]:
        names = [found["_id"] for found in collection.aggregate([{"$group": {"_id": "$userKeyId"}}])]
        return [(name, new) for name in names if (new := self._names.new(name)) is not None]
