"""The link by which the first owner is made: one for each database, good once and for a while.

It is made where a start finds neither a user nor such a link, by the one process whose write comes first, and
never again. Only a digest of it is kept. It is good for nothing any more once it was used, once somebody
logged in as an owner, and once there is an owner with a password, however that came about.
"""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.accounts.roles import OWNERS
from app.store.deployment import COLLECTION
from app.store.driver import store_errors

GOOD_FOR: Final = timedelta(hours=24)

_ID = "setup"
_UNUSED: Final = {"usedAt": {"$exists": False}}


class SetupLink:
    """Makes the link and takes it back. Raises `StoreUnavailable`."""

    def __init__(self, db: Database[Any]) -> None:
        self._links = db[COLLECTION]
        self._users = db["usersNew"]

    def offer(self, now: datetime) -> str | None:
        """Return the secret of the link, if this is the first start with this database; else None."""
        secret = secrets.token_urlsafe(32)
        link = {"_id": _ID, "digest": _digest(secret), "expiresAt": now + GOOD_FOR}
        with store_errors():
            if self._users.find_one({}, {"_id": True}) is not None:
                return None
            try:
                self._links.insert_one(link)
            except DuplicateKeyError:
                return None
        return secret

    def is_good(self, secret: str, now: datetime) -> bool:
        """Return whether an owner can be made with it."""
        with store_errors():
            if self._links.find_one(_good(secret, now), {"_id": True}) is None:
                return False
            owner = {"role": {"$in": OWNERS}, "passwordHash": {"$nin": [None, ""]}}
            return self._users.find_one(owner, {"_id": True}) is None

    def use(self, secret: str, now: datetime) -> bool:
        """Use it up; of those who do so at once, one is told True."""
        if not self.is_good(secret, now):
            return False
        with store_errors():
            done = self._links.update_one(_good(secret, now), {"$set": {"usedAt": now}})
        return done.modified_count == 1

    def give_back(self, secret: str) -> None:
        """Make it good again: what it was used for was refused."""
        with store_errors():
            self._links.update_one({"_id": _ID, "digest": _digest(secret)}, {"$unset": {"usedAt": ""}})

    def end(self, now: datetime) -> None:
        """Have it be good for nothing: somebody has another way in."""
        with store_errors():
            self._links.update_one({"_id": _ID, **_UNUSED}, {"$set": {"usedAt": now}})


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _good(secret: str, now: datetime) -> dict[str, Any]:
    return {"_id": _ID, "digest": _digest(secret), "expiresAt": {"$gt": now}, **_UNUSED}
