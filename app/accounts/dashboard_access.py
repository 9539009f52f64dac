"""What dashboard sessions stand and fall with: passwords and roles, client keys, ended sessions."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import IndexModel
from pymongo.database import Database

from app.accounts.client_keys import ClientKey, ClientKeyStore
from app.accounts.credentials import hash_client_key, is_key_id
from app.accounts.roles import USER, role_name
from app.accounts.users import UserStore
from app.store.driver import make_indexes, store_errors

COLLECTION = "dashboard_logouts"

_INDEXES = (IndexModel("expiresAt", expireAfterSeconds=0),)
_ACCOUNT_KEY = "user:"
"""What the id begins with under which a user's account key is logged; it has no document of its own."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What somebody is now. `mark` changes with whatever ends the sessions that were opened with it."""

    role: str
    mark: str


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """Whose client key this is, under which id it is shown, and when the secret that was given ends."""

    username: str
    key_id: str
    ends_at: datetime | None


class DashboardAccounts:
    """Who may have a session, by password or by client key. Raises `StoreUnavailable`."""

    def __init__(self, db: Database[Any]) -> None:
        self._users = UserStore(db)
        self._keys = ClientKeyStore(db)

    def by_password(self, username: str) -> Standing | None:
        """Return what an active user with a password is; None for everybody else."""
        with store_errors():
            login = self._users.login(username)
        if not login.has_password:
            return None
        role = role_name(login.role)
        return Standing(role, f"{role}:{login.password.salt_hex}:{login.password.hash_hex}")

    def by_key(self, username: str, key_id: str, address: str | None, now: datetime) -> Standing | None:
        """Return what the holder of this key of the user is; None where it is not accepted (any more).

        Whatever the user's own role is, a key makes nobody more than a user.
        """
        with store_errors():
            user = self._users.get(username)
            if user is None or not user.is_active:
                return None
            if key_id == _ACCOUNT_KEY + username:
                secret = self._users.api_key(username)
                return None if secret is None else Standing(USER, hash_client_key(secret))
            key = self._keys.get_shown(key_id) if is_key_id(key_id) else None
        if key is None or key.username != username or not _is_accepted(key, address, now):
            return None
        return Standing(USER, f"{key.hint}:{key.rotated_at}")

    def holder(self, secret: str, now: datetime) -> KeyHolder | None:
        """Return whose client key this is; None for an unknown, revoked or expired one."""
        with store_errors():
            key = self._keys.find(secret)
            if key is not None:
                is_over = not key.is_active or (key.expires_at is not None and key.expires_at <= now)
                return None if is_over else KeyHolder(key.username, key.key_id, key.expires_at)
            username = self._users.find_username_by_api_key(secret)
        return None if username is None else KeyHolder(username, _ACCOUNT_KEY + username, None)


class EndedSessions:
    """Sessions that were logged out, until they would have ended anyway. Shared by all workers."""

    def __init__(self, db: Database[Any]) -> None:
        self._ended = db[COLLECTION]

    def ensure_indexes(self) -> None:
        """Make the index that has ended sessions forgotten in time. Raises `StoreUnavailable`."""
        with store_errors():
            make_indexes(self._ended, _INDEXES)

    def end(self, session_id: str, expires_at: datetime) -> None:
        """Remember that this session is over. Raises `StoreUnavailable`."""
        with store_errors():
            self._ended.update_one({"_id": session_id}, {"$set": {"expiresAt": expires_at}}, upsert=True)

    def has_ended(self, session_id: str) -> bool:
        """Return whether this session is over. Raises `StoreUnavailable`."""
        with store_errors():
            return self._ended.find_one({"_id": session_id}, {"_id": True}) is not None


def _is_accepted(key: ClientKey, address: str | None, now: datetime) -> bool:
    if not key.is_active or (key.expires_at is not None and key.expires_at <= now):
        return False
    return key.limits is None or key.limits.allows_address(address)
