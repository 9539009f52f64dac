"""Client keys (`user_keys`): what the users' programs authenticate with, stored as hashes.

Deployments taken over keep the keys themselves as `_id`; those go on working as they are.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.database import Database

from app.accounts.credentials import (
    CLIENT_KEY_PREFIX,
    KEY_ID_PREFIX,
    hash_client_key,
    is_key_id,
    mask,
    new_client_key,
    public_key_id,
)
from app.accounts.limits import Limits
from app.store.driver import yielding
from app.store.fields import changes_of, optional_date, optional_int, optional_rpm
from app.store.paging import BRIEF_MS, beginning_with

Document = dict[str, Any]

SECRETS = "secrets"
"""The hashes of a rotated key's secrets, and until when each is accepted (the newest: for good)."""
MAX_OLD_SECRETS = 4


SORTS: Mapping[str, Sequence[str]] = {
    "user": ("name", "keyName"),
    "name": ("keyName", "hint"),
    "activity": ("lastUsedAt",),
    "created": ("createdAt",),
}
"""What a numbered page of keys can be sorted by."""

STATES: Mapping[str, Document] = {
    "active": {"isActive": {"$ne": False}},
    "paused": {"isActive": False, "revokedAt": None},
    "revoked": {"revokedAt": {"$type": "date"}},
}
"""Some of the keys."""


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A client key as stored.

    `stored_id` is what records carry; for a key of an older deployment it is the key itself and must not be
    shown: `key_id` and `hint` can be.
    """

    stored_id: str
    username: str
    is_active: bool
    hint: str
    rpm: int | None = None
    expires_at: datetime | None = None
    created_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    updated_at: datetime | None = None
    reset_at: datetime | None = None
    rotated_at: datetime | None = None
    old_secrets_until: datetime | None = None
    tier: str | None = None
    requests_count: int = 0
    tokens_used: int = 0
    notes: str | None = None
    key_name: str | None = None
    limits: Limits | None = None

    @property
    def key_id(self) -> str:
        """The id to show and to revoke by."""
        return public_key_id(self.stored_id)

    @property
    def is_limited(self) -> bool:
        """Whether the key may less than its user."""
        return self.limits is not None or self.rpm is not None or self.expires_at is not None

    def __repr__(self) -> str:
        return f"ClientKey({self.key_id!r}, {self.username!r}, is_active={self.is_active})"

    @classmethod
    def from_document(cls, document: Document) -> "ClientKey":
        """Read a document of this product or of the one it takes over from."""
        stored_id = str(document["_id"])
        return cls(
            stored_id=stored_id,
            username=str(document.get("name", "")),
            is_active=document.get("isActive", True) is not False,
            hint=document.get("hint") or mask("" if is_key_id(stored_id) else stored_id),
            rpm=optional_rpm(document.get("rpm")),
            expires_at=optional_date(document.get("expiresAt")),
            created_at=document.get("createdAt"),
            last_used_at=document.get("lastUsedAt"),
            revoked_at=optional_date(document.get("revokedAt")),
            updated_at=optional_date(document.get("updatedAt")),
            reset_at=optional_date(document.get("resetAt")),
            rotated_at=optional_date(document.get("rotatedAt")),
            old_secrets_until=max(
                (end for found in _secrets(document) if (end := optional_date(found.get("until")))),
                default=None,
            ),
            tier=tier if isinstance(tier := document.get("tier"), str) else None,
            requests_count=optional_int(document.get("requestsCount")) or 0,
            tokens_used=optional_int(document.get("tokensUsed")) or 0,
            notes=document.get("notes"),
            key_name=named if isinstance(named := document.get("keyName"), str) else None,
            limits=Limits.read(document),
        )


@dataclass(frozen=True, slots=True)
class NewClientKey:
    """A key just made: the only moment its secret is known."""

    key_id: str
    secret: str
    hint: str
    username: str
    created_at: datetime

    def __repr__(self) -> str:
        return f"NewClientKey({self.key_id!r}, {self.hint!r})"


class ClientKeyStore:
    """The client keys, one document each."""

    def __init__(self, db: Database[Document]) -> None:
        self._keys = db["user_keys"]

    def add(self, username: str, *, now: datetime, more: Mapping[str, Any] | None = None) -> NewClientKey:
        """Make a key for the user, with `more` fields; the secret is in the answer and nowhere else."""
        secret = new_client_key()
        key = NewClientKey(hash_client_key(secret), secret, mask(secret), username, now)
        document: Document = {
            "_id": key.key_id,
            "name": username,
            "hint": key.hint,
            "tokensUsed": 0,
            "requestsCount": 0,
            "isActive": True,
            "createdAt": now,
        }
        document.update({name: value for name, value in (more or {}).items() if value is not None})
        self._keys.insert_one(document)
        return key

    def find(self, secret: str) -> ClientKey | None:
        """Return the key stored for this secret, active or not.

        An id is not accepted in place of the secret it was derived from: ids are shown and logged.
        """
        name = hash_client_key(secret)
        candidates = [name] if is_key_id(secret) else [name, secret]
        document = self._keys.find_one({"$or": [{"_id": {"$in": candidates}}, {f"{SECRETS}.id": name}]})
        if document is None:
            return None
        key = ClientKey.from_document(document)
        if SECRETS not in document:
            return key
        # Once a key was rotated, these alone say which secrets are its own, and until when.
        known = next((found for found in _secrets(document) if found["id"] == name), None)
        if known is None:
            return None
        ends = [end for end in (key.expires_at, optional_date(known.get("until"))) if end is not None]
        return replace(key, expires_at=min(ends, default=None))

    def rotate(self, key: ClientKey, *, now: datetime, until: datetime) -> NewClientKey | None:
        """Give the key another secret; those it has are accepted until then, if they have so long.

        Returns None where the key is gone, or was rotated by somebody else at the same time.
        """
        document = self._keys.find_one({"_id": key.stored_id})
        if document is None:
            return None
        secret = new_client_key()
        before = _secrets(document) if SECRETS in document else [{"id": key.key_id}]
        kept = [
            {"id": found["id"], "until": until if end is None else min(end, until)}
            for found in before
            if (end := optional_date(found.get("until"))) is None or end > now
        ]
        changed = self._keys.update_one(
            {"_id": key.stored_id, SECRETS: document.get(SECRETS, {"$exists": False})},
            {
                "$set": {
                    SECRETS: [*kept[-MAX_OLD_SECRETS:], {"id": hash_client_key(secret)}],
                    "hint": mask(secret),
                    "rotatedAt": now,
                    "updatedAt": now,
                }
            },
        )
        if not changed.matched_count:
            return None
        return NewClientKey(key.key_id, secret, mask(secret), key.username, now)

    def get(self, key_id: str) -> ClientKey | None:
        """Return the key with this id, as shown or as stored."""
        document = self._keys.find_one({"_id": key_id}) or self._find_older(key_id)
        return ClientKey.from_document(document) if document else None

    def get_shown(self, key_id: str) -> ClientKey | None:
        """Return the key with this id as shown.

        A key that is its own id is not found by itself: it is a secret.
        """
        return self.get(key_id) if is_key_id(key_id) else None

    def set_fields(self, stored_id: str, fields: Document) -> ClientKey | None:
        """Set fields, and remove those given as None; return None when there is no such key."""
        document = self._keys.find_one_and_update(
            {"_id": stored_id}, changes_of(fields), return_document=ReturnDocument.AFTER
        )
        return ClientKey.from_document(document) if document else None

    def delete(self, stored_id: str) -> bool:
        """Remove a key's document; return False when there is none."""
        return self._keys.delete_one({"_id": stored_id}).deleted_count == 1

    def ids_called(self, text: str, most: int) -> Sequence[str]:
        """Return the ids of keys whose name has this text in it, in any case, or what is shown of them."""
        part = re.escape(text)
        either = [{"keyName": {"$regex": part, "$options": "i"}}, {"hint": {"$regex": part}}]
        return [str(found["_id"]) for found in self._keys.find({"$or": either}, {"_id": 1}).limit(most)]

    def names(self, stored_ids: Collection[str]) -> dict[str, str]:
        """Return what to call those of these keys that there are: the name, else what is shown of it."""
        wanted = {"_id": {"$in": list(stored_ids)}}
        called = (
            (str(found["_id"]), found.get("keyName") or found.get("hint"))
            for found in self._keys.find(wanted, {"keyName": 1, "hint": 1})
        )
        return {stored_id: name for stored_id, name in called if isinstance(name, str)}

    def beginning(self, text: str, limit: int) -> Sequence[ClientKey]:
        """Return keys whose name or id begins with a text, or of which it is what is shown, or the end."""
        hints = [text, f"{CLIENT_KEY_PREFIX}...{text}"]
        ways: Sequence[Document] = [{"hint": {"$in": hints}}, *beginning_with("keyName", text)]
        if is_key_id(text):
            ways = beginning_with("_id", text)[:1]
        found = self._keys.find({"$or": ways}).limit(limit).max_time_ms(BRIEF_MS)
        return [ClientKey.from_document(document) for document in found]

    def list(self, username: str | None = None) -> Iterator[ClientKey]:
        """Iterate over all keys, or one user's; oldest first."""
        query = {} if username is None else {"name": username}
        for document in self._keys.find(query).sort([("name", 1), ("createdAt", 1)]):
            yield ClientKey.from_document(document)

    def numbered(
        self, *, search: str, state: str, sort: str, skip: int, limit: int
    ) -> tuple[Sequence[ClientKey], int]:
        """Read the keys after the first `skip` ones, and how many there are.

        `sort` is one of `SORTS` (with a `-` before it the newest, or most, come first), `state` one of
        `STATES` (else: all).
        """
        query = _query(search, state)
        direction = -1 if sort.startswith("-") else 1
        order = [*((field, direction) for field in SORTS[sort.removeprefix("-")]), ("_id", 1)]
        found = self._keys.find(query).sort(order).skip(skip).limit(limit)
        return [ClientKey.from_document(document) for document in found], self._keys.count_documents(query)

    def ids(self, *, search: str, state: str) -> Sequence[str]:
        """Return the ids of these keys as they are stored, by user."""
        found = self._keys.find(_query(search, state), {"_id": 1}).sort([("name", 1), ("_id", 1)])
        return [str(document["_id"]) for document in yielding(found)]

    def some(self, stored_ids: Collection[str]) -> dict[str, ClientKey]:
        """Return the keys of these ids, those that there are."""
        found = map(ClientKey.from_document, self._keys.find({"_id": {"$in": list(stored_ids)}}))
        return {key.stored_id: key for key in found}

    def revoke(self, key_id: str, *, now: datetime) -> ClientKey | None:
        """Stop accepting the key, for good; return None when there is no such key.

        The key's document stays, since logs refer to it.
        """
        key = self.get(key_id)
        if key is None:
            return None
        self._keys.update_one({"_id": key.stored_id}, {"$set": {"isActive": False, "revokedAt": now}})
        return self.get(key.stored_id)

    def _find_older(self, key_id: str) -> Document | None:
        """Find a key of an older deployment by the id it is shown under; there is no index on that."""
        if not is_key_id(key_id):
            return None
        for document in self._keys.find({"_id": {"$not": {"$regex": "^wk_"}}}):
            if public_key_id(str(document["_id"])) == key_id:
                return document
        return None


def _query(search: str, state: str) -> Document:
    """Select by a part of the user's name, the key's name, its purpose, what is shown of it, or its id.

    An id that is the key itself is not looked at: what a text is found by would tell it.
    """
    if not search:
        return dict(STATES.get(state, {}))
    part = re.escape(search)
    ways: list[Document] = [
        {field: {"$regex": part, "$options": "i"}} for field in ("name", "keyName", "notes")
    ]
    ways += [{"hint": {"$regex": part}}, {"_id": {"$regex": f"^{KEY_ID_PREFIX}[0-9a-f]*{part}"}}]
    if is_key_id(search):
        ways.append({"_id": {"$regex": f"^{part}"}})
    return {"$or": ways, **STATES.get(state, {})}


def _secrets(document: Document) -> Sequence[Document]:
    found = document.get(SECRETS)
    entries = found if isinstance(found, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
