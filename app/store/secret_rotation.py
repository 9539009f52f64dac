"""Another SECRET_KEY for a database: everything that is encrypted is encrypted anew.

The deployment document says that a rotation is under way, and to which secret, before the first value is
changed; the new secret takes the old one's place in one write when all is done. Each value is replaced by one
write, too, and is readable with one of the two at any moment. So whoever is killed, at whatever point, begins
again and finds what is left.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from app.common.errors import SettingsError
from app.store.deployment import (
    COLLECTION,
    ID,
    SecretKeyState,
    Store,
    WrongSecretKeyError,
    adopt,
    deployment,
    matches,
    new_check,
    secret_key_state,
)
from app.store.key_cipher import KeyCipher
from app.store.stored_secrets import StoredSecret, stored_secrets

_SHOWN = 5
NOTICE_S = 6.0
"""After so long every worker that reaches the database knows of a rotation, and stores nothing meanwhile."""


class RotationError(SettingsError):
    """The rotation cannot begin, or go on; the text is one line fit for an operator."""


class SecretRotation:
    """Takes a database from the secret `old` to the secret `new`."""

    def __init__(self, db: Store, old: str, new: str) -> None:
        self._db = db
        self._old, self._new = old, new
        self._old_cipher, self._new_cipher = KeyCipher(old), KeyCipher(new)

    def run(self, now: datetime, wait: Callable[[float], None], progress: Callable[[int], None]) -> int:
        """Do the rotation, or what is left of it; return how many values were encrypted anew.

        Raises `RotationError`, or `WrongSecretKeyError` if the database's secret is neither of the two.
        """
        if self._begin(now):
            wait(NOTICE_S)
        done = 0
        while count := self._encrypt_anew(done, progress):  # also what was stored meanwhile
            done += count
        self._finish()
        done += self._encrypt_anew(done, progress)
        left = list(self._unreadable(self._new_cipher))
        if left:
            raise RotationError(f"{_names(left)} cannot be read with the new SECRET_KEY: run this again")
        return done

    def count(self) -> int:
        """Count the values that are encrypted, with whichever secret."""
        return sum(1 for _ in stored_secrets(self._db))

    def _begin(self, now: datetime) -> bool:
        """Write down that the rotation is under way; False if that, or all of it, was done before."""
        found = deployment(self._db)
        if found is not None and matches(found["secretKey"], self._new):
            return False
        rotation = (found or {}).get("rotation")
        if rotation is not None and not matches(rotation, self._new):
            raise RotationError("a rotation to another new SECRET_KEY is under way: give that one, to end it")
        if secret_key_state(found, self._old) is SecretKeyState.UNKNOWN:
            adopt(self._db, self._old, now)
        elif not matches((found or {})["secretKey"], self._old):
            raise WrongSecretKeyError(
                f"SECRET_KEY is not the one that the database {self._db.name} has now: set the present one, "
                "and give the new one besides"
            )
        self._refuse_unreadable()
        if rotation is not None:
            return False
        under_way: dict[str, Any] = {"$set": {"rotation": {**new_check(self._new), "startedAt": now}}}
        begun = self._db[COLLECTION].update_one({"_id": ID, "rotation": {"$exists": False}}, under_way)
        return begun.modified_count == 1 or self._begin(now)

    def _encrypt_anew(self, before: int, progress: Callable[[int], None]) -> int:
        done = 0
        for stored in self._unreadable(self._new_cipher):
            if not stored.is_readable(self._old_cipher):
                continue  # the last look names it
            value = self._new_cipher.encrypt(self._old_cipher.decrypt(stored.value))
            where = {"_id": stored.document_id, stored.field: stored.value}
            changed = self._db[stored.collection].update_one(where, {"$set": {stored.field: value}})
            done += changed.modified_count
            progress(before + done)
        return done

    def _finish(self) -> None:
        rotation = (deployment(self._db) or {}).get("rotation")
        if rotation is None:
            return
        check = {name: rotation[name] for name in ("salt", "digest")}
        self._db[COLLECTION].update_one(
            {"_id": ID, "rotation.digest": rotation["digest"]},
            {"$set": {"secretKey": check, "rotatedAt": rotation["startedAt"]}, "$unset": {"rotation": ""}},
        )

    def _unreadable(self, *ciphers: KeyCipher) -> Iterator[StoredSecret]:
        for stored in stored_secrets(self._db):
            if not any(stored.is_readable(cipher) for cipher in ciphers):
                yield stored

    def _refuse_unreadable(self) -> None:
        lost = list(self._unreadable(self._old_cipher, self._new_cipher))
        if lost:
            raise RotationError(
                f"{_names(lost)} cannot be read with the present SECRET_KEY: delete it first, or add it anew"
            )


def _names(found: list[StoredSecret]) -> str:
    shown = ", ".join(f"{stored.document_id} of {stored.collection}" for stored in found[:_SHOWN])
    return f"{shown} and {len(found) - _SHOWN} more" if len(found) > _SHOWN else shown
