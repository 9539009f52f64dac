"""Backup upstream keys (`ohmygpt_backup_keys`), which take the place of keys that ran out."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.accounts.credentials import mask
from app.keys.key_rotation import BACKUPS, FROM_BACKUP
from app.keys.key_state_store import KEYS
from app.keys.provider_keys import check_key, decrypted, import_key_lines
from app.store.driver import AlreadyExistsError
from app.store.key_cipher import KeyCipher

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BackupKey:
    """A backup key; `secret` is None when it cannot be decrypted."""

    key_id: str
    secret: str | None
    is_used: bool
    activated: bool
    used_for: str | None = None
    used_at: datetime | None = None
    created_at: datetime | None = None

    @property
    def masked(self) -> str:
        """The key as it may be shown."""
        return mask(self.secret or "")

    def __repr__(self) -> str:
        return f"BackupKey({self.key_id!r}, is_used={self.is_used})"


class BackupKeyStore:
    """The backup keys, one document each."""

    def __init__(self, db: Database[Document], cipher: KeyCipher) -> None:
        self._keys = db[BACKUPS]
        self._pool = db[KEYS]
        self._cipher = cipher

    def add(self, key_id: str, secret: str, *, now: datetime) -> BackupKey:
        """Store a backup key; raises ValueError for a bad one, `AlreadyExistsError` for a taken id."""
        check_key(key_id, secret)
        document = self._document(key_id, secret, now)
        try:
            self._keys.insert_one(document)
        except DuplicateKeyError:
            raise AlreadyExistsError(f"there is a backup key {key_id} already") from None
        return self._read(document)

    def import_lines(self, text: str, *, now: datetime) -> list[str]:
        """Store every `id|key` line, all or none; return the ids.

        Raises `KeyFileError` naming each bad line.
        """
        return import_key_lines(self._keys, text, lambda key_id, secret: self._document(key_id, secret, now))

    def get(self, key_id: str) -> BackupKey | None:
        """Return the key, or None."""
        document = self._keys.find_one({"_id": key_id})
        return self._read(document) if document else None

    def list(self) -> Iterator[BackupKey]:
        """Iterate over all backup keys, oldest first."""
        for document in self._keys.find().sort([("createdAt", 1), ("_id", 1)]):
            yield self._read(document)

    def count_available(self) -> int:
        """Count the backup keys that are left to use."""
        return self._keys.count_documents({"isUsed": {"$ne": True}})

    def restore(self, key_id: str) -> BackupKey | None:
        """Make a used key available again; return None when there is no such key.

        Raises ValueError while the key serves in the pool: it would be there twice one day.
        """
        serving = self._pool.find_one({FROM_BACKUP: key_id}, {"_id": True})
        if serving is not None:
            raise ValueError(f"{key_id} serves in the pool as {serving['_id']}: delete it there first")
        fields = ("usedFor", "usedForVersion", "usedAt")
        update = {"$set": {"isUsed": False, "activated": False}, "$unset": dict.fromkeys(fields, "")}
        self._keys.update_one({"_id": key_id}, update)
        return self.get(key_id)

    def delete(self, key_id: str) -> bool:
        """Remove the key; return False when there is no such key."""
        return self._keys.delete_one({"_id": key_id}).deleted_count == 1

    def _document(self, key_id: str, secret: str, now: datetime) -> Document:
        return {
            "_id": key_id,
            "apiKey": self._cipher.encrypt(secret),
            "isUsed": False,
            "activated": False,
            "createdAt": now,
        }

    def _read(self, document: Document) -> BackupKey:
        secret, _ = decrypted(self._cipher, document)
        return BackupKey(
            key_id=str(document["_id"]),
            secret=secret,
            is_used=document.get("isUsed") is True,
            activated=document.get("activated") is True,
            used_for=document.get("usedFor"),
            used_at=document.get("usedAt"),
            created_at=document.get("createdAt"),
        )
