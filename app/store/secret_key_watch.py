"""Whether this worker's SECRET_KEY is the database's: looked at from the start, and again and again."""

import logging
from datetime import UTC, datetime

import pymongo
from pymongo.errors import PyMongoError

from app.store.deployment import (
    SecretKeyState,
    Store,
    WrongSecretKeyError,
    adopt,
    deployment,
    secret_key_state,
)
from app.store.key_cipher import KeyCipher

log = logging.getLogger(__name__)

_BOUND_S = 2.0

UNCHECKED, OK, ROTATING, ROTATED, DIFFERS = "unchecked", "ok", "rotating", "rotated", "differs"

_SAYINGS = {
    ROTATING: "SECRET_KEY is being rotated: no secrets are stored by this worker meanwhile",
    ROTATED: "SECRET_KEY was rotated: this worker goes on with what it has in memory and stores no secrets; "
    "restart Weir with the new one (where it is in a file, SIGHUP is enough)",
}


class SecretKeyWatch:
    """Keeps `state`, and lets the cipher encrypt only while it is `ok`.

    `rotated` is for a worker that has known the secret as the right one, so that it can go on; `differs` is
    for one that never has.
    """

    def __init__(self, db: Store, secret: str, cipher: KeyCipher) -> None:
        self._db = db
        self._secret = secret
        self._cipher = cipher
        self._was_right = False
        self._problem = ""
        self.state = UNCHECKED

    def look(self) -> bool:
        """Compare once; False when the database does not answer within two seconds."""
        try:
            with pymongo.timeout(_BOUND_S):
                self.state = self._compared()
        except PyMongoError:
            self._cipher.may_encrypt = self.state == OK
            return False
        self._was_right = self._was_right or self.state == OK
        self._cipher.may_encrypt = self.state == OK
        return True

    def require(self) -> None:
        """Raise `WrongSecretKeyError` if the SECRET_KEY has been found to be another than the database's."""
        if self.state == DIFFERS:
            raise WrongSecretKeyError(self._problem)

    def follow(self) -> None:
        """Compare once more, and log it when something has changed."""
        before = self.state
        if not self.look() or self.state == before:
            return
        self.tell()
        if self.state == OK and before != UNCHECKED:
            log.info("SECRET_KEY is the database's again")

    def tell(self) -> None:
        """Say in the log what is not as it should be."""
        if self.state == DIFFERS:
            log.error("not ready, stored upstream keys cannot be used: %s", self._problem)
        elif self.state in _SAYINGS:
            log.warning(_SAYINGS[self.state])

    def _compared(self) -> str:
        found = secret_key_state(deployment(self._db), self._secret)
        if found is SecretKeyState.ROTATING:
            return ROTATING
        if found is SecretKeyState.DIFFERENT and self._was_right:
            return ROTATED
        try:
            adopt(self._db, self._secret, datetime.now(UTC))
        except WrongSecretKeyError as error:
            self._problem = str(error)
            return DIFFERS
        return OK
