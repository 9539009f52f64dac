"""Upstream keys and proxy passwords in plain text are encrypted."""

from datetime import datetime

from pymongo.database import Database

from app.keys.provider_keys import encrypt_plain, plain_text
from app.migration.step import Document, MigrationError, Progress, StepReport
from app.store.key_cipher import KeyCipher
from app.store.stored_secrets import PLACES, stored_secrets


class StoredSecrets:
    """What is in plain text in the collections of upstream keys, backup keys and proxies.

    Running workers do the same for keys as soon as they see one.
    """

    name = "secrets"
    title = "encrypt upstream keys and proxy passwords"
    unit = "secrets"

    def __init__(self, db: Database[Document], cipher: KeyCipher, now: datetime) -> None:
        self._db = db
        self._cipher = cipher
        self._now = now

    def look(self) -> StepReport:
        """Count what is in plain text; see whether the rest can be read with this SECRET_KEY."""
        counts = {name: self._db[name].count_documents(plain_text(field)) for name, field in PLACES}
        notes = [f"{count} of {name}" for name, count in counts.items() if count]
        unreadable = self._unreadable()
        problem = f"{unreadable} were encrypted with another SECRET_KEY: set the one that all hosts share"
        return StepReport(sum(counts.values()), tuple(notes), (problem,) if unreadable else ())

    def apply(self, progress: Progress) -> int:
        """Encrypt what is in plain text; raises `MigrationError` while others have another SECRET_KEY."""
        problems = self.look().problems
        if problems:
            raise MigrationError(problems[0])
        done = 0
        for name, field in PLACES:
            done += encrypt_plain(self._db[name], self._cipher, self._now, field)
            progress(done)
        return done

    def _unreadable(self) -> int:
        return sum(not stored.is_readable(self._cipher) for stored in stored_secrets(self._db))
