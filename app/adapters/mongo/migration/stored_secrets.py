"""Upstream keys and proxy passwords in plain text are encrypted."""

from datetime import datetime

from pymongo.database import Database

from app.adapters.key_cipher import PREFIX, KeyCipher, KeyCipherError
from app.adapters.mongo.migration.step import Document, Finding, MigrationError, Progress
from app.adapters.mongo.provider_keys import encrypt_plain, plain_text

_PLACES = (("ohmygpt_keys", "apiKey"), ("ohmygpt_backup_keys", "apiKey"), ("proxies", "password"))


class StoredSecrets:
    """What is in plain text in the collections of upstream keys, spare keys and proxies.

    Running workers do the same for keys as soon as they see one.
    """

    name = "secrets"
    title = "encrypt upstream keys and proxy passwords"
    unit = "secrets"

    def __init__(self, db: Database[Document], cipher: KeyCipher, now: datetime) -> None:
        self._db = db
        self._cipher = cipher
        self._now = now

    def look(self) -> Finding:
        """How many are in plain text; whether those that are not can be read with this SECRET_KEY."""
        counts = {name: self._db[name].count_documents(plain_text(field)) for name, field in _PLACES}
        notes = [f"{count} of {name}" for name, count in counts.items() if count]
        unreadable = self._unreadable()
        problem = f"{unreadable} were encrypted with another SECRET_KEY: set the one that all hosts share"
        return Finding(sum(counts.values()), tuple(notes), (problem,) if unreadable else ())

    def apply(self, progress: Progress) -> int:
        """Encrypt them; raises `MigrationError` while others were encrypted with another SECRET_KEY."""
        problems = self.look().problems
        if problems:
            raise MigrationError(problems[0])
        done = 0
        for name, field in _PLACES:
            done += encrypt_plain(self._db[name], self._cipher, self._now, field)
            progress(done)
        return done

    def _unreadable(self) -> int:
        count = 0
        for name, field in _PLACES:
            for found in self._db[name].find({field: {"$regex": f"^{PREFIX}"}}, {field: True}):
                try:
                    self._cipher.decrypt(found[field])
                except KeyCipherError:
                    count += 1
        return count
