"""Users (`usersNew`): their credit, role and password."""

import hashlib
import hmac
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.accounts.funds import pending_nano
from app.accounts.limits import Limits
from app.accounts.roles import USER
from app.store.driver import AlreadyExistsError
from app.store.fields import (
    changes_of,
    exact_double,
    nano_dollars,
    nano_usd,
    optional_date,
    optional_decimal,
    optional_int,
    optional_rpm,
    optional_text,
)

Document = dict[str, Any]


GRANTED = "creditsGrantedNanoUsd"
"""All that was ever granted (less what was taken back), exactly. Only users made by this product have it."""

LOGIN_NETWORKS = "loginNetworks"
_MOST_LOGIN_NETWORKS = 8
_LOGIN_FIELDS = dict.fromkeys(
    ("passwordHash", "passwordSalt", "passwordRounds", "isActive", "role", LOGIN_NETWORKS), True
)

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
        """Return whether this is the password.

        Takes tenths of a second on purpose: keep it off the event loop. Unknown users take as long as known
        ones, so that the time tells nothing.
        """
        derived = _derive(password, self.salt_hex, self.rounds)
        return hmac.compare_digest(derived.encode(), self.hash_hex.encode()) and self.is_usable


@dataclass(frozen=True, slots=True)
class Login:
    """What a login of a user is checked against; of nobody, something that nothing matches."""

    password: StoredPassword
    role: str
    networks: tuple[str, ...]
    """Where the user has logged in from with the password of now."""

    @property
    def has_password(self) -> bool:
        """Whether there is a password that could match."""
        return self.password.is_usable and bool(self.password.hash_hex)


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A password on its way into the store."""

    hash_hex: str = field(repr=False)
    salt_hex: str
    rounds: int


@dataclass(frozen=True, slots=True)
class User:
    """A user as the proxy needs it; money is in nano-dollars.

    `pending_nano` is held for what goes on in the background, and not charged yet.
    """

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
    has_password: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    pending_nano: int = 0
    limits: Limits | None = None
    budget_spent: Mapping[str, Any] = field(default_factory=dict, repr=False)
    price_factor: str | None = None
    group: str | None = None

    @property
    def spendable_nano(self) -> int:
        """What is left to spend: bought and referral credit together."""
        return self.credits_nano + self.ref_credits_nano

    @property
    def available_nano(self) -> int:
        """What of it is not held for something that goes on in the background."""
        return self.spendable_nano - self.pending_nano

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
            has_password=bool(document.get("passwordHash")),
            input_tokens=optional_int(document.get("totalInputTokens")) or 0,
            output_tokens=optional_int(document.get("totalOutputTokens")) or 0,
            pending_nano=pending_nano(document.get("holds")),
            limits=Limits.read(document),
            budget_spent=spent if isinstance(spent := document.get("budgetSpent"), Mapping) else {},
            price_factor=optional_decimal(document.get("priceFactor")),
            group=optional_text(document.get("group")),
        )


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
        """Make a user, with `more` fields; raises `AlreadyExistsError`, ValueError for an inexact amount."""
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
        """Return the user, or None."""
        document = self._users.find_one({"_id": username})
        return User.from_document(document) if document else None

    def list(self) -> Iterator[User]:
        """Iterate over all users, by name."""
        for document in self._users.find().sort("_id", 1):
            yield User.from_document(document)

    def find_username_by_api_key(self, secret: str) -> str | None:
        """Return the name of the user whose account key this is, or None.

        Only users made before this product have one in their document.
        """
        document = self._users.find_one({"apiKey": secret}, {"_id": True})
        return str(document["_id"]) if document else None

    def api_key(self, username: str) -> str | None:
        """Return the account key of a user made before this product; None for everybody else."""
        document = self._users.find_one({"_id": username}, {"apiKey": True}) or {}
        return optional_text(document.get("apiKey"))

    def set_active(self, username: str, active: bool) -> User | None:
        """Enable or disable the user with all their keys; return None when there is no such user."""
        return self._change(username, {"$set": {"isActive": active}})

    def set_fields(self, username: str, fields: Document) -> User | None:
        """Set fields, and remove those given as None; return None when there is no such user."""
        return self._change(username, changes_of(fields))

    def set_password(self, username: str, password: PasswordHash) -> User | None:
        """Replace the password; return None when there is no such user.

        Login networks go with it: where the old password was used says nothing about the new one's owner.
        """
        return self._change(username, {"$set": _password_fields(password), "$unset": {LOGIN_NETWORKS: ""}})

    def login(self, username: str) -> Login:
        """Return what a login is checked against; for an unknown or disabled user nothing matches it."""
        user = self._users.find_one({"_id": username}, _LOGIN_FIELDS) or {"isActive": False}
        stored = str(user.get("passwordHash") or "")
        networks = user.get(LOGIN_NETWORKS)
        return Login(
            StoredPassword(
                stored.lower(),
                str(user.get("passwordSalt") or ""),
                optional_int(user.get("passwordRounds")) or (_LEGACY_ROUNDS if stored else _ROUNDS),
                is_usable=user.get("isActive", True) is not False,
            ),
            role=str(user.get("role") or USER),
            networks=tuple(map(str, networks)) if isinstance(networks, list) else (),
        )

    def add_login_network(self, username: str, network: str) -> None:
        """Remember where the user has logged in from: of the last few places each once."""
        self._users.update_one(
            {"_id": username, LOGIN_NETWORKS: {"$ne": network}},
            {"$push": {LOGIN_NETWORKS: {"$each": [network], "$slice": -_MOST_LOGIN_NETWORKS}}},
        )

    def _change(self, username: str, update: Document | Sequence[Document]) -> User | None:
        document = self._users.find_one_and_update(
            {"_id": username}, update, return_document=ReturnDocument.AFTER
        )
        return User.from_document(document) if document else None


def hash_password(password: str) -> PasswordHash:
    """Hash a password for the store. Takes tenths of a second on purpose: keep it off the event loop."""
    salt = secrets.token_hex(16)
    return PasswordHash(_derive(password, salt, _ROUNDS), salt, _ROUNDS)


def _password_fields(password: PasswordHash | None) -> Document:
    """Return a password's fields: empty texts for none, which no hash equals and old readers expect."""
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
