"""The deployment document: that a database is Weir's, and which SECRET_KEY its secrets are stored with.

One document, `{"_id": "weir", "createdAt": …, "secretKey": CHECK, "rotation": CHECK?}`. A check is a random
salt and what scrypt makes of SECRET_KEY with it. That is slow on purpose: whoever has a dump of the database
guesses at a weak SECRET_KEY more slowly by the check than by any stored upstream key.
"""

import hashlib
import hmac
import secrets
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.common.errors import SettingsError
from app.store.key_cipher import KeyCipher
from app.store.stored_secrets import stored_secrets

Document = dict[str, Any]
Store = Database[Document]

COLLECTION = "deployment"
ID = "weir"

_KNOWN = ("request_logs", "usersNew", "user_keys", "ohmygpt_keys", "ohmygpt_backup_keys", "ohmygpt_bindings")
"""Collections that version 0.1 and the earlier software have, and hardly anybody else."""

_SALT_BYTES = 16
# 16 MB and some 40 ms for each guess.
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}


class WrongSecretKeyError(SettingsError):
    """The database's secrets were stored with another SECRET_KEY; the text is one line, what to do."""


class SecretKeyState(StrEnum):
    """How a SECRET_KEY stands to a database."""

    SAME = "same"
    ROTATING = "rotating"
    """A rotation is under way, and it is the old or the new one."""
    DIFFERENT = "different"
    UNKNOWN = "unknown"
    """There is no deployment document yet."""


def is_used(db: Store) -> bool:
    """Return whether Weir, of whatever version, or the earlier software has ever used this database."""
    return not {COLLECTION, *_KNOWN}.isdisjoint(db.list_collection_names())


def deployment(db: Store) -> Document | None:
    """Return the deployment document; None in a database of version 0.1, of earlier software, or if new."""
    return db[COLLECTION].find_one({"_id": ID})


def new_check(secret: str) -> Document:
    """Make what is stored of a SECRET_KEY to know it again."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return {"salt": salt, "digest": _digest(secret, salt)}


def matches(check: Document, secret: str) -> bool:
    """Return whether the check was made of this SECRET_KEY."""
    return hmac.compare_digest(_digest(secret, bytes(check["salt"])), bytes(check["digest"]))


def secret_key_state(found: Document | None, secret: str) -> SecretKeyState:
    """Return how this SECRET_KEY stands to the database with that deployment document."""
    if found is None:
        return SecretKeyState.UNKNOWN
    is_current, rotation = matches(found["secretKey"], secret), found.get("rotation")
    if rotation is not None and (is_current or matches(rotation, secret)):
        return SecretKeyState.ROTATING
    return SecretKeyState.SAME if is_current else SecretKeyState.DIFFERENT


def require_secret_key(db: Store, secret: str) -> SecretKeyState:
    """Make sure that this is the database's SECRET_KEY, before anything is written; return its state.

    Without a deployment document, the stored secrets have to speak for it: there are none, or one of them can
    be read. Raises `WrongSecretKeyError`, and `PyMongoError` when the database does not answer.
    """
    state = secret_key_state(deployment(db), secret)
    if state is SecretKeyState.DIFFERENT or (state is SecretKeyState.UNKNOWN and not _speak_for(db, secret)):
        raise WrongSecretKeyError(
            f"SECRET_KEY is not the one that the database {db.name} was set up with: set SECRET_KEY (or "
            "SECRET_KEY_FILE) to that one, or copy DATA_DIR/secret-key of the installation that made it"
        )
    return state


def adopt(db: Store, secret: str, now: datetime) -> bool:
    """Write the deployment document if there is none; return whether it was missing.

    Of several that do so at once one wins, and the others are measured by it. Raises as `require_secret_key`.
    """
    if require_secret_key(db, secret) is not SecretKeyState.UNKNOWN:
        return False
    try:
        db[COLLECTION].insert_one({"_id": ID, "createdAt": now, "secretKey": new_check(secret)})
    except DuplicateKeyError:
        require_secret_key(db, secret)
        return False
    return True


def take_secret_key(db: Database[Document], secret: str) -> None:
    """Make this the SECRET_KEY of a database in which nothing is stored yet."""
    if secret_key_state(deployment(db), secret) is not SecretKeyState.SAME:
        change = {"$set": {"secretKey": new_check(secret)}, "$unset": {"rotation": ""}}
        db[COLLECTION].update_one({"_id": ID}, change)


def _speak_for(db: Store, secret: str) -> bool:
    cipher, is_empty = KeyCipher(secret), True
    for stored in stored_secrets(db):
        if stored.is_readable(cipher):
            return True
        is_empty = False
    return is_empty


@lru_cache(maxsize=8)
def _digest(secret: str, salt: bytes) -> bytes:
    # Workers look at the document every other second: what does not change is not computed again.
    return hashlib.scrypt(secret.encode(), salt=salt, dklen=32, **_SCRYPT)
