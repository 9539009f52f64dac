"""Every text that the model table has had (`price_versions`), so that old records explain themselves.

{_id: the version, as records name it, text, firstAt, by, host,
 hosts: [{host, since, by, actor}]}       # the hosts on which it is the table now

A text is kept for ever, and never changed. `by` says how it came into force: `start`, `sighup` or `reload`.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

Document = dict[str, Any]

COLLECTION: Final = "price_versions"

START, SIGHUP, RELOAD = "start", "sighup", "reload"

_MOST_HOSTS = 200
_NO_TEXT = {"text": False}


@dataclass(frozen=True, slots=True)
class PutInForce:
    """When, how and on which host a text came into force; `actor` is the admin who asked for it, if one did.

    `by` is `start`, `sighup` or `reload`.
    """

    at: datetime
    by: str
    host: str
    actor: str | None = None

    def to_document(self) -> Document:
        """Return what is stored of it, for its host."""
        document: Document = {"host": self.host, "since": self.at, "by": self.by}
        return document if self.actor is None else {**document, "actor": self.actor}


class PriceVersions:
    """Reads and writes the versions. Every method raises `PyMongoError`; each write may be done again."""

    def __init__(self, db: Database[Any]) -> None:
        self._versions = db[COLLECTION]

    def keep(self, version: str, text: str, put: PutInForce) -> None:
        """Keep a text, if it is new."""
        first: Document = {"text": text, "firstAt": put.at, "by": put.by, "host": put.host}
        if put.actor is not None:
            first["actor"] = put.actor
        with suppress(DuplicateKeyError):  # another worker was quicker
            self._versions.update_one({"_id": version}, {"$setOnInsert": first}, upsert=True)

    def put_in_force(self, version: str, put: PutInForce) -> bool:
        """Note that a version is the one of this host now; return False if that was noted before.

        Of several workers that find the same table one is told True.
        """
        entry = {"$each": [put.to_document()], "$slice": -_MOST_HOSTS}
        done = self._versions.update_one(
            {"_id": version, "hosts.host": {"$ne": put.host}}, {"$push": {"hosts": entry}}
        )
        if done.modified_count == 0:
            return False
        self._versions.update_many(
            {"_id": {"$ne": version}, "hosts.host": put.host}, {"$pull": {"hosts": {"host": put.host}}}
        )
        return True

    def last_of(self, host: str) -> str | None:
        """Return the version that was last put in force there; of a host that is new, anywhere."""
        newest = [("hosts.since", -1)]
        for query in ({"hosts.host": host}, {"hosts.host": {"$exists": True}}):
            found = self._versions.find_one(query, {"_id": True}, sort=newest)
            if found is not None:
                return str(found["_id"])
        return None

    def text(self, version: str) -> str | None:
        """Return a version's text; None where it is not known."""
        found = self._versions.find_one({"_id": version}, {"text": True})
        return None if found is None else str(found["text"])

    def all(self, most: int) -> Iterator[Document]:
        """Iterate over the versions without their texts, the newest first."""
        yield from self._versions.find({}, _NO_TEXT).sort([("firstAt", -1), ("_id", 1)]).limit(most)
