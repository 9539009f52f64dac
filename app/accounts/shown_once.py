"""What is shown once: sealed in the database until it is looked at, for minutes at most.

A page that answered a form with a secret would make another one when it is reloaded. So the form leads to a
page whose address ends in a random text. What that page shows is encrypted with a key made of this text and
of whose session it is, and both are nowhere in the database; whoever looks takes it out, and a second look
finds nothing.
"""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo import IndexModel
from pymongo.database import Database

from app.store.driver import make_indexes, store_errors
from app.store.key_cipher import KeyCipher

COLLECTION: Final = "shown_once"
KEPT: Final = timedelta(minutes=10)

_INDEXES = (IndexModel("expiresAt", expireAfterSeconds=0),)


class ShownOnce:
    """Keeps texts until they are looked at. Raises `StoreUnavailable`."""

    def __init__(self, db: Database[Any]) -> None:
        self._kept = db[COLLECTION]

    def ensure_indexes(self) -> None:
        """Make the index that has what nobody looked at forgotten. Raises `StoreUnavailable`."""
        with store_errors():
            make_indexes(self._kept, _INDEXES)

    def keep(self, text: str, session_id: str, now: datetime) -> str:
        """Keep a text for whoever is in this session; return where it is to be found."""
        place = secrets.token_urlsafe(32)
        sealed = _cipher(place, session_id).encrypt(text)
        with store_errors():
            self._kept.insert_one({"_id": _name(place, session_id), "text": sealed, "expiresAt": now + KEPT})
        return place

    def take(self, place: str, session_id: str, now: datetime) -> str | None:
        """Return the text, which is gone then; None for one that was looked at, is too old, or another's."""
        with store_errors():
            found = self._kept.find_one_and_delete(
                {"_id": _name(place, session_id), "expiresAt": {"$gt": now}}
            )
        return None if found is None else _cipher(place, session_id).decrypt(found["text"])


def _name(place: str, session_id: str) -> str:
    return hashlib.sha256(f"name:{place}:{session_id}".encode("utf-8", "surrogatepass")).hexdigest()


def _cipher(place: str, session_id: str) -> KeyCipher:
    return KeyCipher(hashlib.sha256(f"key:{place}:{session_id}".encode("utf-8", "surrogatepass")).hexdigest())
