"""Client keys: made, paused, revoked, deleted, their counters reset."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from pymongo.database import Database

from app.accounts.client_keys import ClientKey, ClientKeyStore, NewClientKey
from app.accounts.credentials import shown_key_id
from app.accounts.limits import NO_LIMITS, Limits
from app.accounts.users import UserStore
from app.common.clock import now_ms
from app.management.audit import Actor, AuditLog
from app.management.errors import Conflict, Missing, Unusable, asks_store
from app.management.limits import (
    KEY_FIELDS,
    MAX_NAME,
    BudgetBooks,
    BudgetLeft,
    stored_expiry,
    stored_limits,
)

__all__ = ["ClientKey", "ClientKeyAdmin"]

Document = dict[str, Any]

MAX_OVERLAP_HOURS = 24 * 365
MAX_OWN_KEYS = 50
"""How many keys that may be used a user can have, to make another one by themselves."""


class ClientKeyAdmin:
    """Actions on client keys, by the id as shown. `changed` is told whose cached state is old.

    Times that are given without a zone are in `zone`, where budgets begin their days as well.
    """

    def __init__(
        self,
        db: Database[Document],
        audit: AuditLog,
        changed: Callable[[str, bool], None] = lambda _key_id, _active: None,
        zone: tzinfo = UTC,
    ) -> None:
        self._books = BudgetBooks(db, zone)
        self._zone = zone
        self._keys = ClientKeyStore(db)
        self._users = UserStore(db)
        self._audit = audit
        self._changed = changed

    @asks_store
    def list(self, username: str | None = None) -> list[ClientKey]:
        """Return all keys, or one user's."""
        return list(self._keys.list(username))

    @asks_store
    def numbered(
        self, *, search: str, state: str, sort: str, skip: int, limit: int
    ) -> tuple[Sequence[ClientKey], int]:
        """Return the keys after the first `skip` ones, and how many there are (`ClientKeyStore.numbered`)."""
        return self._keys.numbered(search=search, state=state, sort=sort, skip=skip, limit=limit)

    @asks_store
    def stored_ids(self, *, search: str, state: str) -> Sequence[str]:
        """Return the ids of these keys as records have them, by user. Some are secrets."""
        return self._keys.ids(search=search, state=state)

    @asks_store
    def some(self, stored_ids: Sequence[str]) -> dict[str, ClientKey]:
        """Return the keys of these ids, those that there are."""
        return self._keys.some(stored_ids)

    @asks_store
    def get(self, key_id: str) -> ClientKey:
        """Return one key."""
        return self._known(key_id)

    @asks_store
    def find(self, stored_id: str) -> ClientKey | None:
        """Return the key that records name by this id; None for an account key, or an unknown one."""
        return self._keys.get(stored_id)

    @asks_store
    def beginning(self, text: str, limit: int) -> Sequence[ClientKey]:
        """Return keys whose name or id begins with a text, or of which it is what is shown, or the end."""
        return self._keys.beginning(text, limit)

    @asks_store
    def add(
        self,
        actor: Actor,
        username: str,
        *,
        rpm: int | None = None,
        notes: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> NewClientKey:
        """Make a key for the user; the secret is in the answer and nowhere else.

        `more` are further fields, as of `change`.
        """
        fields = _stored({"rpm": rpm, "notes": notes, **(more or {})}, self._zone)
        with self._audit.action(actor, "client-keys.add", f"user:{username}", _shown(fields)):
            if self._users.get(username) is None:
                raise Unusable("name", f"there is no user {username[:80]}")
            key = self._keys.add(username, now=now_ms(), more=fields)
        self._changed(key.key_id, fields.get("isActive", True))
        return key

    def add_own(self, actor: Actor, username: str, given: Mapping[str, Any]) -> NewClientKey:
        """Make a key for the user who asks for it; raises `Conflict` for one too many."""
        usable = [key for key in self.list(username) if key.is_active]
        if len(usable) >= MAX_OWN_KEYS:
            raise Conflict(f"you have {len(usable)} keys: revoke one first")
        return self.add(actor, username, notes=given.get("notes"), more=given)

    @asks_store
    def get_own(self, username: str, key_id: str) -> ClientKey:
        """Return a key of this user; another's is none."""
        key = self._known(key_id)
        if key.username != username:
            raise _unknown()
        return key

    @asks_store
    def change(self, actor: Actor, key_id: str, given: Mapping[str, Any]) -> ClientKey:
        """Set `notes`, `keyName`, `expiresAt` and limits; pause the key, or let it be used again.

        None takes a limit away; a revoked key stays revoked.
        """
        fields = _stored(given, self._zone)
        with self._audit.action(actor, "client-keys.change", _target(key_id), _shown(fields)):
            key = self._known(key_id)
            if fields.get("isActive") and key.revoked_at is not None:
                raise Conflict("a revoked key stays revoked: make a new one")
            if "budgets" in fields:
                self._give_budgets(key, fields)
            changed = self._updated(key, {**fields, "updatedAt": now_ms()})
        self._changed(changed.key_id, changed.is_active)
        return changed

    @asks_store
    def revoke(self, actor: Actor, key_id: str) -> ClientKey:
        """Stop accepting the key, for good; its document stays, since logs refer to it."""
        with self._audit.action(actor, "client-keys.revoke", _target(key_id)):
            key = self._keys.revoke(self._known(key_id).stored_id, now=now_ms())
            if key is None:
                raise _unknown()
        self._changed(key.key_id, False)
        return key

    @asks_store
    def rotate(self, actor: Actor, key_id: str, overlap_hours: float) -> NewClientKey:
        """Give the key another secret under the same id; the one it has is accepted for so many hours."""
        if not 0 <= overlap_hours <= MAX_OVERLAP_HOURS:
            raise Unusable("overlapHours", f"takes a number of hours from 0 to {MAX_OVERLAP_HOURS}")
        details = {"overlapHours": str(overlap_hours)}
        with self._audit.action(actor, "client-keys.rotate", _target(key_id), details):
            key, now = self._known(key_id), now_ms()
            if key.revoked_at is not None:
                raise Conflict("a revoked key stays revoked: make a new one")
            made = self._keys.rotate(key, now=now, until=now + timedelta(hours=overlap_hours))
            if made is None:
                raise Conflict("the key was changed at the same time: look at it, and try again")
        self._changed(key.key_id, key.is_active)
        return made

    @asks_store
    def delete(self, actor: Actor, key_id: str) -> datetime:
        """Remove the key's document; return when that was."""
        with self._audit.action(actor, "client-keys.delete", _target(key_id)):
            key = self._known(key_id)
            self._give_budgets(key, {})
            self._keys.delete(key.stored_id)
        self._changed(key.key_id, False)
        return now_ms()

    @asks_store
    def reset_counters(self, actor: Actor, key_id: str) -> ClientKey:
        """Count requests and tokens from 0 again; `resetAt` says since when, so that `verify` knows."""
        with self._audit.action(actor, "client-keys.reset", _target(key_id)):
            key = self._known(key_id)
            return self._updated(key, {"tokensUsed": 0, "requestsCount": 0, "resetAt": now_ms()})

    def _give_budgets(self, key: ClientKey, fields: Document) -> None:
        before, after = key.limits or NO_LIMITS, Limits.read(fields) or NO_LIMITS
        self._books.give(
            key.username, before.budgets, after.budgets, key_id=key.key_id, stored_key=key.stored_id
        )

    @asks_store
    def budgets_left(self, key: ClientKey) -> Sequence[BudgetLeft]:
        """Return what is left of each budget of the key."""
        return self._books.left(key.username, key.limits, key.key_id)

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


def _stored(given: Mapping[str, Any], zone: tzinfo) -> Document:
    """Return the fields of a key as they are stored; raises `Unusable`."""
    fields = stored_limits({name: given[name] for name in KEY_FIELDS if name in given})
    if "keyName" in given:
        name = given["keyName"]
        if name is not None and (len(name) > MAX_NAME or not name.isprintable()):
            raise Unusable("keyName", f"takes at most {MAX_NAME} characters that can be shown")
        fields["keyName"] = name or None
    if "expiresAt" in given:
        fields["expiresAt"] = stored_expiry(given["expiresAt"], zone)
    # Of these, None stands for "as it is".
    return fields | {name: given[name] for name in ("notes", "isActive") if given.get(name) is not None}


def _shown(fields: Document) -> Document:
    return {name: None if value is None else str(value) for name, value in fields.items()}


def _target(key_id: str) -> str:
    return f"client-key:{shown_key_id(key_id)}"


def _unknown() -> Missing:
    # The id is not repeated: it may be a key that was pasted by mistake.
    return Missing("there is no client key with this id")
