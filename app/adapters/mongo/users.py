"""Users (`usersNew`): their credit, role and password."""

import hashlib
import hmac
import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from bson import Decimal128
from bson.int64 import Int64
from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.core.records import NANO

Document = dict[str, Any]

# The most credit a double still tells apart to the nano-dollar, with room for the sums made of it.
MAX_CREDITS = Decimal(1_000_000)
_NANO_DOLLAR = Decimal(1).scaleb(-9)

GRANTED = "creditsGrantedNanoUsd"
"""All that was ever granted (less what was taken back), exactly. Only users made by this product have it."""

_ABORT_CHOICES = ("drain", "cancel")

# Passwords of the deployments taken over have 1000 rounds and no field that says so.
_LEGACY_ROUNDS = 1000
_ROUNDS = 210_000
_HASH_BYTES = 64


@dataclass(frozen=True, slots=True)
class StoredPassword:
    """A password as stored. Values only, so that checking one may run in any thread."""

    hash_hex: str
    salt_hex: str
    rounds: int
    is_usable: bool

    def matches(self, password: str) -> bool:
        """Whether this is the password.

        Takes tenths of a second on purpose: keep it off the event loop. Unknown users take as long as known
        ones, so that the time tells nothing.
        """
        derived = _derive(password, self.salt_hex, self.rounds)
        return hmac.compare_digest(derived.encode(), self.hash_hex.encode()) and self.is_usable


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A password on its way into the store."""

    hash_hex: str = field(repr=False)
    salt_hex: str
    rounds: int


class AlreadyExistsError(Exception):
    """There is one under this name already."""


@dataclass(frozen=True, slots=True)
class User:
    """A user as the proxy needs it; money is in nano-dollars."""

    username: str
    role: str
    is_active: bool
    credits_nano: int
    ref_credits_nano: int
    credits_used_nano: int
    created_at: datetime | None = None
    expires_at: datetime | None = None
    last_login_at: datetime | None = None
    rpm: int | None = None
    on_client_abort: str | None = None
    has_api_key: bool = False
    has_password: bool = False
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def spendable_nano(self) -> int:
        """What is left to spend: bought and referral credit together."""
        return self.credits_nano + self.ref_credits_nano

    @classmethod
    def from_document(cls, document: Document) -> "User":
        """Read a document of this product or of the one it takes over from; absent fields have defaults."""
        return cls(
            username=str(document["_id"]),
            role=document.get("role") or "user",
            is_active=document.get("isActive", True) is not False,
            credits_nano=nano_usd(document.get("credits")),
            ref_credits_nano=nano_usd(document.get("refCredits")),
            credits_used_nano=nano_usd(document.get("creditsUsed")),
            created_at=document.get("createdAt"),
            expires_at=optional_date(document.get("expiresAt")),
            last_login_at=document.get("lastLoginAt"),
            rpm=optional_rpm(document.get("rpm")),
            on_client_abort=abort if (abort := document.get("onClientAbort")) in _ABORT_CHOICES else None,
            has_api_key=bool(document.get("apiKey")),
            has_password=bool(document.get("passwordHash")),
            input_tokens=optional_int(document.get("totalInputTokens")) or 0,
            output_tokens=optional_int(document.get("totalOutputTokens")) or 0,
        )


def nano_usd(value: object) -> int:
    """Nano-dollars out of any number MongoDB may hold in USD; 0 for what is no finite number."""
    if isinstance(value, Decimal128):
        value = value.to_decimal()
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return 0
    exact = Decimal(value)
    return int((exact * NANO).to_integral_value(ROUND_HALF_EVEN)) if exact.is_finite() else 0


def optional_int(value: object) -> int | None:
    """A whole number that a shell may have written as a double; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value)


def optional_rpm(value: object) -> int | None:
    """A limit in requests per minute; None, the configured one, for what cannot be a limit."""
    number = optional_int(value)
    return number if number is not None and number >= 0 else None


def optional_date(value: object) -> datetime | None:
    """A date; None for anything else, since a single odd document must not fail a request."""
    return value if isinstance(value, datetime) else None


class UserStore:
    """The users, one document each, under the username."""

    def __init__(self, db: Database[Document]) -> None:
        self._users = db["usersNew"]

    def add(
        self,
        username: str,
        *,
        now: datetime,
        credits_usd: Decimal = Decimal(0),
        role: str = "user",
        rpm: int | None = None,
        password: PasswordHash | None = None,
        more: Document | None = None,
    ) -> User:
        """Make a user, with `more` fields; `AlreadyExistsError`, or ValueError for an amount not exact."""
        document: Document = {
            "_id": username,
            **_password_fields(password),
            **(more or {}),
            "role": role,
            "isActive": True,
            "createdAt": now,
            "credits": exact_double(credits_usd),
            GRANTED: nano_dollars(credits_usd),
            "creditsUsed": 0.0,
            "creditsNew": 0.0,
            "creditsNewUsed": 0.0,
            "tokensUserNew": 0,
            "totalInputTokens": 0,
            "totalOutputTokens": 0,
            "referralCode": secrets.token_hex(8).upper(),
            "refCredits": 0.0,
            "referralBonusAwarded": False,
            "migration": True,
        }
        if rpm is not None:
            document["rpm"] = rpm
        try:
            self._users.insert_one(document)
        except DuplicateKeyError:
            raise AlreadyExistsError(f"user {username} exists already") from None
        return User.from_document(document)

    def get(self, username: str) -> User | None:
        """The user, or None."""
        document = self._users.find_one({"_id": username})
        return User.from_document(document) if document else None

    def list(self) -> Iterator[User]:
        """All users, by name."""
        for document in self._users.find().sort("_id", 1):
            yield User.from_document(document)

    def find_username_by_api_key(self, secret: str) -> str | None:
        """Whose account key this is. Only users made before this product have one in their document."""
        document = self._users.find_one({"apiKey": secret}, {"_id": True})
        return str(document["_id"]) if document else None

    def set_active(self, username: str, active: bool) -> User | None:
        """Enable or disable the user with all its keys; None when there is no such user."""
        return self._change(username, {"$set": {"isActive": active}})

    def set_fields(self, username: str, fields: Document) -> User | None:
        """Set fields, and remove those given as None; None when there is no such user."""
        update: Document = {
            "$set": {name: value for name, value in fields.items() if value is not None},
            "$unset": {name: "" for name, value in fields.items() if value is None},
        }
        return self._change(username, {operator: changes for operator, changes in update.items() if changes})

    def set_password(self, username: str, password: PasswordHash) -> User | None:
        """Replace the password; None when there is no such user."""
        return self._change(username, {"$set": _password_fields(password)})

    def password_of(self, username: str) -> "StoredPassword":
        """What is stored of the user's password; of an unknown or disabled user something nothing matches."""
        fields = {"passwordHash": True, "passwordSalt": True, "passwordRounds": True, "isActive": True}
        user = self._users.find_one({"_id": username}, fields) or {"isActive": False}
        stored = str(user.get("passwordHash") or "")
        return StoredPassword(
            stored.lower(),
            str(user.get("passwordSalt") or ""),
            optional_int(user.get("passwordRounds")) or (_LEGACY_ROUNDS if stored else _ROUNDS),
            is_usable=user.get("isActive", True) is not False,
        )

    def verify_password(self, username: str, password: str) -> bool:
        """Whether this is an active user's password; `StoredPassword.matches` says how long that takes."""
        return self.password_of(username).matches(password)

    def _change(self, username: str, update: Document | Sequence[Document]) -> User | None:
        document = self._users.find_one_and_update(
            {"_id": username}, update, return_document=ReturnDocument.AFTER
        )
        return User.from_document(document) if document else None


def exact_double(amount: Decimal) -> float:
    """The amount in USD as it is stored; ValueError for one that a double cannot tell to the nano-dollar."""
    if not amount.is_finite() or abs(amount) > MAX_CREDITS:
        raise ValueError(f"takes an amount in USD up to {MAX_CREDITS:,}")
    if amount != amount.quantize(_NANO_DOLLAR):
        raise ValueError("takes an amount in USD with at most 9 decimals")
    return float(amount)


def nano_dollars(amount: Decimal) -> Int64:
    """An amount that `exact_double` accepts, in nano-dollars: 64 bits wide in the store, however small."""
    return Int64(int(amount * NANO))


def hash_password(password: str) -> PasswordHash:
    """What is stored of a password. Takes tenths of a second on purpose: keep it off the event loop."""
    salt = secrets.token_hex(16)
    return PasswordHash(_derive(password, salt, _ROUNDS), salt, _ROUNDS)


def _password_fields(password: PasswordHash | None) -> Document:
    """No password at all is empty text: nothing hashes to it, and old readers expect text."""
    if password is None:
        return {"passwordHash": "", "passwordSalt": ""}
    return {
        "passwordHash": password.hash_hex,
        "passwordSalt": password.salt_hex,
        "passwordRounds": password.rounds,
    }


def _derive(password: str, salt_hex: str, rounds: int) -> str:
    # The salt is the hex text itself, not the bytes it stands for: so it was in existing databases.
    return hashlib.pbkdf2_hmac("sha512", password.encode(), salt_hex.encode(), rounds, _HASH_BYTES).hex()
