"""Where secrets are stored: all that is encrypted with SECRET_KEY, in one list."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pymongo.database import Database

from app.store.key_cipher import PREFIX, KeyCipher, KeyCipherError

PLACES = (("ohmygpt_keys", "apiKey"), ("ohmygpt_backup_keys", "apiKey"), ("proxies", "password"))
"""Collection and field of each kind of secret: upstream keys, backup keys, passwords of proxies."""


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """One encrypted value and where it is."""

    collection: str
    field: str
    document_id: Any
    value: str

    def is_readable(self, cipher: KeyCipher) -> bool:
        """Return whether this cipher decrypts the secret."""
        try:
            cipher.decrypt(self.value)
        except KeyCipherError:
            return False
        return True


def stored_secrets(db: Database[dict[str, Any]]) -> Iterator[StoredSecret]:
    """Read every encrypted value there is; plain text of earlier software is left out."""
    for collection, field in PLACES:
        for found in db[collection].find({field: {"$regex": f"^{PREFIX}"}}, {field: True}):
            yield StoredSecret(collection, field, found["_id"], found[field])
