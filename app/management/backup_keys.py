"""Backup OhMyGPT keys: added, restored, deleted."""

from typing import Any

from pymongo.database import Database

from app.common.clock import now_ms
from app.keys.backup_keys import BackupKey, BackupKeyStore
from app.management.audit import Actor, AuditLog
from app.management.errors import Conflict, Missing, Unusable, asks_store
from app.store.key_cipher import KeyCipher

__all__ = ["BackupKey", "BackupKeyAdmin"]

Document = dict[str, Any]
Ids = list[str]


class BackupKeyAdmin:
    """Actions on backup keys."""

    def __init__(self, db: Database[Document], cipher: KeyCipher, audit: AuditLog) -> None:
        self._store = BackupKeyStore(db, cipher)
        self._audit = audit

    @asks_store
    def list(self) -> list[BackupKey]:
        """Return all backup keys, oldest first."""
        return list(self._store.list())

    @asks_store
    def add(self, actor: Actor, key_id: str, secret: str) -> BackupKey:
        """Add a backup key."""
        with self._audit.action(actor, "backup-keys.add", _target(key_id)):
            try:
                return self._store.add(key_id, secret, now=now_ms())
            except ValueError as error:
                raise Unusable("", str(error)) from None

    @asks_store
    def import_lines(self, actor: Actor, text: str) -> Ids:
        """Add every `id|key` line, all or none; the ids. Raises `Unusable` with every bad line."""
        with self._audit.action(actor, "backup-keys.import", "backup-keys"):
            return self._store.import_lines(text, now=now_ms())

    @asks_store
    def restore(self, actor: Actor, key_id: str) -> BackupKey:
        """Make a used key available again."""
        with self._audit.action(actor, "backup-keys.restore", _target(key_id)):
            try:
                key = self._store.restore(key_id)
            except ValueError as error:
                raise Conflict(str(error)) from None
            if key is None:
                raise _unknown(key_id)
            return key

    @asks_store
    def delete(self, actor: Actor, key_id: str) -> None:
        """Remove the key."""
        with self._audit.action(actor, "backup-keys.delete", _target(key_id)):
            if not self._store.delete(key_id):
                raise _unknown(key_id)


def _target(key_id: str) -> str:
    return f"backup-key:{key_id}"


def _unknown(key_id: str) -> Missing:
    return Missing(f"there is no backup key {key_id[:80]}")
