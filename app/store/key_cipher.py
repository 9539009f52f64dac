"""Upstream keys at rest: encrypted in the database, so that a dump of it gives none away."""

from base64 import urlsafe_b64encode

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.common.errors import StoreUnavailable

PREFIX = "enc:v1:"
"""What an encrypted value begins with."""


class KeyCipherError(Exception):
    """A stored key cannot be read with this SECRET_KEY."""


class KeyCipher:
    """Encrypts and decrypts with a key derived from the configured secret.

    `may_encrypt` is False while the secret is not known to be the database's: what it encrypted, nobody else
    could read.
    """

    def __init__(self, secret: str) -> None:
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"weir upstream keys v1").derive(
            secret.encode()
        )
        self._fernet = Fernet(urlsafe_b64encode(derived))
        self._kept: dict[str, str] = {}
        self.may_encrypt = True

    def encrypt(self, plain: str) -> str:
        """Encrypt for the database, differently each time; raises `StoreUnavailable` while it must not."""
        if not self.may_encrypt:
            raise StoreUnavailable("SECRET_KEY is not the database's, or is being rotated: nothing is stored")
        return PREFIX + self._fernet.encrypt(plain.encode()).decode()

    def decrypt(self, stored: str, owner: str | None = None) -> str:
        """Return the key itself. Values without the prefix are plain: databases taken over hold such.

        With an `owner`, a name of its own for each thing that has a secret, what was read once is kept: when
        SECRET_KEY is rotated, a running process goes on with what it has in memory. Raises `KeyCipherError`
        when the value was written with another secret, or was tampered with.
        """
        if not stored.startswith(PREFIX):
            return stored
        try:
            plain = self._fernet.decrypt(stored.removeprefix(PREFIX)).decode()
        except (InvalidToken, ValueError):
            if owner is not None and owner in self._kept:
                return self._kept[owner]
            raise KeyCipherError("cannot be decrypted: it was stored with another SECRET_KEY") from None
        if owner is not None:
            self._kept[owner] = plain
        return plain
