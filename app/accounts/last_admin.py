"""One owner at least: whoever stops being one says so first, and looks who is left.

MongoDB may be a single server without transactions, and two workers may each take the role from one of the
last two owners. So both announce it in one document, which MongoDB changes for one after the other, and each
counts only on owners who had not announced it before: the first goes, the second finds nobody left. Who
announces and dies is forgotten after a while, longer than any action may take.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import PyMongoError

from app.accounts.roles import OWNERS
from app.store.deployment import COLLECTION

Document = dict[str, Any]

_ID = "admins"
# More than three times `ACTION_S`, and counted by the server's clock.
_FORGOTTEN_MS = 30_000


class LastAdminError(Exception):
    """There would be no owner left who can log in."""


class LastAdmin:
    """Lets users stop being owners as long as another one stays."""

    def __init__(self, db: Database[Document]) -> None:
        self._users = db["usersNew"]
        self._leaving = db[COLLECTION]

    @contextmanager
    def leaving(self, username: str, now: datetime) -> Iterator[None]:
        """Let the user lose the role, be disabled or expire within the block; raises `LastAdminError`."""
        announcement = ObjectId()
        gone = self._announce(announcement, username)
        try:
            self._check(username, gone, now)
            yield
        except PyMongoError:
            raise  # it may be done yet: nobody is to count on this owner before it surely is, or is not
        except BaseException:
            self._withdraw(announcement)
            raise
        self._withdraw(announcement)

    def _announce(self, announcement: ObjectId, username: str) -> list[str]:
        """Announce that the user is leaving; return the names of those who announced it before.

        Names of owners who are known to have left, or to have been refused, are not among them.
        """
        mine = {
            "id": announcement,
            "name": {"$literal": username},
            "until": {"$add": ["$$NOW", _FORGOTTEN_MS]},
        }
        others = {
            "$filter": {
                "input": {"$ifNull": ["$leaving", []]},
                "as": "one",
                "cond": {"$gt": ["$$one.until", "$$NOW"]},
            }
        }
        found = self._leaving.find_one_and_update(
            {"_id": _ID},
            [{"$set": {"leaving": {"$concatArrays": [others, [mine]]}}}],
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        names = []
        for one in found["leaving"] if found else ():
            if one["id"] == announcement:
                break
            names.append(one["name"])
        return names

    def _check(self, username: str, gone: list[str], now: datetime) -> None:
        able: Document = {"role": {"$in": OWNERS}, "isActive": {"$ne": False}}
        user = self._users.find_one({"_id": username, **able}, {"passwordHash": True})
        if user is None:
            return
        if user.get("passwordHash"):
            able["passwordHash"] = {"$nin": [None, ""]}
        able["expiresAt"] = {"$not": {"$lte": now}}
        if self._users.find_one({"_id": {"$nin": [username, *gone]}, **able}, {"_id": True}) is None:
            raise LastAdminError("no owner would be left who can log in: make another one first")

    def _withdraw(self, announcement: ObjectId) -> None:
        # What has been done or refused stays so; an announcement that is not withdrawn is forgotten.
        with suppress(PyMongoError):
            self._leaving.update_one({"_id": _ID}, {"$pull": {"leaving": {"id": announcement}}})
