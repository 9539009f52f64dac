"""Client keys (`user_keys`): what the users' programs authenticate with, stored as hashes.

Deployments taken over keep the keys themselves as `_id`; those go on working as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.database import Database

from app.adapters.mongo.users import optional_date, optional_int, optional_rpm
from app.core.credentials import hash_client_key, is_key_id, mask, new_client_key, public_key_id

Document = dict[str, Any]


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
    tier: str | None = None
    requests_count: int = 0
    tokens_used: int = 0
    notes: str | None = None

    @property
    def key_id(self) -> str:
        """The id to show and to revoke by."""
        return public_key_id(self.stored_id)

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
            tier=tier if isinstance(tier := document.get("tier"), str) else None,
            requests_count=optional_int(document.get("requestsCount")) or 0,
            tokens_used=optional_int(document.get("tokensUsed")) or 0,
            notes=document.get("notes"),
        )


@dataclass(frozen=True, slots=True)
class NewClientKey:
    """A key just made: the only moment its secret is known."""

    key_id: str
    secret: str
    hint: str

    def __repr__(self) -> str:
        return f"NewClientKey({self.key_id!r}, {self.hint!r})"


class ClientKeyStore:
    """The client keys, one document each."""

    def __init__(self, db: Database[Document]) -> None:
        self._keys = db["user_keys"]

    def add(
        self, username: str, *, now: datetime, rpm: int | None = None, notes: str | None = None
    ) -> NewClientKey:
        """Make a key for the user; the secret is in the answer and nowhere else."""
        secret = new_client_key()
        key = NewClientKey(hash_client_key(secret), secret, mask(secret))
        document: Document = {
            "_id": key.key_id,
            "name": username,
            "hint": key.hint,
            "tokensUsed": 0,
            "requestsCount": 0,
            "isActive": True,
            "createdAt": now,
        }
        document.update(
            {name: value for name, value in (("rpm", rpm), ("notes", notes)) if value is not None}
        )
        self._keys.insert_one(document)
        return key

    def find(self, secret: str) -> ClientKey | None:
        """The key stored for this secret, active or not.

        An id is not accepted in place of the secret it was derived from: ids are shown and logged.
        """
        candidates = [hash_client_key(secret)]
        if not is_key_id(secret):
            candidates.append(secret)
        document = self._keys.find_one({"_id": {"$in": candidates}})
        return ClientKey.from_document(document) if document else None

    def get(self, key_id: str) -> ClientKey | None:
        """The key with this id, as shown or as stored."""
        document = self._keys.find_one({"_id": key_id}) or self._find_older(key_id)
        return ClientKey.from_document(document) if document else None

    def get_shown(self, key_id: str) -> ClientKey | None:
        """The key with this id as shown. A key that is its own id is not found by itself: it is a secret."""
        return self.get(key_id) if is_key_id(key_id) else None

    def set_fields(self, stored_id: str, fields: Document) -> ClientKey | None:
        """Set fields of a key's document; None when there is no such key."""
        document = self._keys.find_one_and_update(
            {"_id": stored_id}, {"$set": fields}, return_document=ReturnDocument.AFTER
        )
        return ClientKey.from_document(document) if document else None

    def delete(self, stored_id: str) -> bool:
        """Remove a key's document; False when there is none."""
        return self._keys.delete_one({"_id": stored_id}).deleted_count == 1

    def list(self, username: str | None = None) -> Iterator[ClientKey]:
        """All keys, or one user's; oldest first."""
        query = {} if username is None else {"name": username}
        for document in self._keys.find(query).sort([("name", 1), ("createdAt", 1)]):
            yield ClientKey.from_document(document)

    def revoke(self, key_id: str, *, now: datetime) -> ClientKey | None:
        """Stop accepting the key, for good; its record stays, since logs refer to it. None: no such key."""
        key = self.get(key_id)
        if key is None:
            return None
        self._keys.update_one({"_id": key.stored_id}, {"$set": {"isActive": False, "revokedAt": now}})
        return self.get(key.stored_id)

    def _find_older(self, key_id: str) -> Document | None:
        """A key of an older deployment by the id it is shown under; there is no index on that."""
        if not is_key_id(key_id):
            return None
        for document in self._keys.find({"_id": {"$not": {"$regex": "^wk_"}}}):
            if public_key_id(str(document["_id"])) == key_id:
                return document
        return None
