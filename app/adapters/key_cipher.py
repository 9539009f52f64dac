"""Upstream keys at rest: encrypted in the database, so that a dump of it gives none away."""

from base64 import urlsafe_b64encode

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PREFIX = "enc:v1:"
"""What an encrypted value begins with."""


class KeyCipherError(Exception):
    """A stored key cannot be read with this SECRET_KEY."""


class KeyCipher:
    """Encrypts and decrypts with a key derived from the configured secret."""

    def __init__(self, secret: str) -> None:
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"weir upstream keys v1").derive(
            secret.encode()
        )
        self._fernet = Fernet(urlsafe_b64encode(derived))

    def encrypt(self, plain: str) -> str:
        """The form kept in the database; differs each time."""
        return PREFIX + self._fernet.encrypt(plain.encode()).decode()

    def decrypt(self, stored: str) -> str:
        """The key itself. Values without the prefix are plain: databases taken over hold such.

        Raises `KeyCipherError` when the value was written with another secret, or was tampered with.
        """
        if not stored.startswith(PREFIX):
            return stored
        try:
            return self._fernet.decrypt(stored.removeprefix(PREFIX)).decode()
        except (InvalidToken, ValueError):
            raise KeyCipherError("cannot be decrypted: it was stored with another SECRET_KEY") from None
