"""What dashboard sessions stand and fall with: the admins' passwords, and the list of ended sessions."""

from datetime import datetime
from typing import Any

from pymongo import IndexModel
from pymongo.database import Database

from app.adapters.mongo.request_logs import make_indexes, store_errors
from app.adapters.mongo.users import UserStore

COLLECTION = "dashboard_logouts"

_INDEXES = (IndexModel("expiresAt", expireAfterSeconds=0),)


class AdminAccounts:
    """The users who may be admins. Raises `StoreUnavailable`."""

    def __init__(self, db: Database[Any]) -> None:
        self._users = UserStore(db)

    def password_mark(self, username: str) -> str | None:
        """What changes with the password of an active admin; None for everybody else."""
        with store_errors():
            user, password = self._users.get(username), self._users.password_of(username)
        if user is None or user.role != "admin" or not password.is_usable or not password.hash_hex:
            return None
        return f"{password.salt_hex}:{password.hash_hex}"


class EndedSessions:
    """Sessions that were logged out, until they would have ended anyway. Shared by all workers."""

    def __init__(self, db: Database[Any]) -> None:
        self._ended = db[COLLECTION]

    def ensure_indexes(self) -> None:
        """What forgets them in time. Raises `StoreUnavailable`."""
        with store_errors():
            make_indexes(self._ended, _INDEXES)

    def end(self, session_id: str, expires_at: datetime) -> None:
        """Remember that this session is over. Raises `StoreUnavailable`."""
        with store_errors():
            self._ended.update_one({"_id": session_id}, {"$set": {"expiresAt": expires_at}}, upsert=True)

    def has_ended(self, session_id: str) -> bool:
        """Whether it is. Raises `StoreUnavailable`."""
        with store_errors():
            return self._ended.find_one({"_id": session_id}, {"_id": True}) is not None
