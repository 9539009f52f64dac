"""Client keys: made, paused, revoked, deleted, their counters reset."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from pymongo.database import Database

from app.adapters.clock import now_ms
from app.adapters.mongo.client_keys import ClientKey, ClientKeyStore, NewClientKey
from app.adapters.mongo.users import UserStore
from app.core.display import shown_key_id
from app.management.audit import Actor, AuditLog
from app.management.errors import Conflict, Missing, Unusable, asks_store

__all__ = ["ClientKey", "ClientKeyAdmin"]

Document = dict[str, Any]


class ClientKeyAdmin:
    """Actions on client keys, by the id as shown. `changed` is told whose cached state is old."""

    def __init__(self, db: Database[Document], audit: AuditLog, changed: Callable[[str], None]) -> None:
        self._keys = ClientKeyStore(db)
        self._users = UserStore(db)
        self._audit = audit
        self._changed = changed

    @asks_store
    def list(self, username: str | None = None) -> list[ClientKey]:
        """All keys, or one user's."""
        return list(self._keys.list(username))

    @asks_store
    def get(self, key_id: str) -> ClientKey:
        """One key."""
        return self._known(key_id)

    @asks_store
    def add(
        self, actor: Actor, username: str, *, rpm: int | None = None, notes: str | None = None
    ) -> NewClientKey:
        """Make a key for the user; the secret is in the answer and nowhere else."""
        with self._audit.action(actor, "client-keys.add", f"user:{username}", {"notes": notes}):
            if self._users.get(username) is None:
                raise Unusable("name", f"there is no user {username[:80]}")
            key = self._keys.add(username, now=now_ms(), rpm=rpm, notes=notes)
        self._changed(key.key_id)
        return key

    @asks_store
    def change(
        self, actor: Actor, key_id: str, *, notes: str | None = None, is_active: bool | None = None
    ) -> ClientKey:
        """Change the notes; pause the key, or let it be used again unless it is revoked."""
        details = {"notes": notes, "isActive": is_active}
        with self._audit.action(actor, "client-keys.change", _target(key_id), details):
            key = self._known(key_id)
            if is_active and key.revoked_at is not None:
                raise Conflict("a revoked key stays revoked: make a new one")
            fields: Document = {"updatedAt": now_ms()}
            if notes is not None:
                fields["notes"] = notes
            if is_active is not None:
                fields["isActive"] = is_active
            changed = self._updated(key, fields)
        self._changed(changed.key_id)
        return changed

    @asks_store
    def revoke(self, actor: Actor, key_id: str) -> ClientKey:
        """Stop accepting the key, for good; its document stays, since logs refer to it."""
        with self._audit.action(actor, "client-keys.revoke", _target(key_id)):
            key = self._keys.revoke(self._known(key_id).stored_id, now=now_ms())
            if key is None:
                raise _unknown()
        self._changed(key.key_id)
        return key

    @asks_store
    def delete(self, actor: Actor, key_id: str) -> datetime:
        """Remove the key's document; when it was."""
        with self._audit.action(actor, "client-keys.delete", _target(key_id)):
            key = self._known(key_id)
            self._keys.delete(key.stored_id)
        self._changed(key.key_id)
        return now_ms()

    @asks_store
    def reset_counters(self, actor: Actor, key_id: str) -> ClientKey:
        """Count requests and tokens from 0 again; `resetAt` says since when, so that `verify` knows."""
        with self._audit.action(actor, "client-keys.reset", _target(key_id)):
            key = self._known(key_id)
            return self._updated(key, {"tokensUsed": 0, "requestsCount": 0, "resetAt": now_ms()})

    def _known(self, key_id: str) -> ClientKey:
        key = self._keys.get_shown(key_id)
        if key is None:
            raise _unknown()
        return key

    def _updated(self, key: ClientKey, fields: Document) -> ClientKey:
        found = self._keys.set_fields(key.stored_id, fields)
        if found is None:
            raise _unknown()
        return found


def _target(key_id: str) -> str:
    return f"client-key:{shown_key_id(key_id)}"


def _unknown() -> Missing:
    # The id is not repeated: it may be a key that was pasted by mistake.
    return Missing("there is no client key with this id")
