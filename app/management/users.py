"""Users: made, credited, disabled, changed."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pymongo.database import Database

from app.adapters.clock import now_ms
from app.adapters.directory import ENV_ID
from app.adapters.mongo.client_keys import ClientKeyStore, NewClientKey
from app.adapters.mongo.credit_ledger import (
    CREDITS,
    PENDING,
    Credited,
    CreditLedger,
    InsufficientCreditError,
)
from app.adapters.mongo.user_pages import UserPages
from app.adapters.mongo.users import PasswordHash, User, UserStore, exact_double, hash_password
from app.core.log_filter import PageCursor
from app.core.records import NANO
from app.management.audit import Actor, AuditLog
from app.management.errors import Conflict, Missing, Unusable, asks_store

__all__ = [
    "TOKEN_HOLDER",
    "CreditChange",
    "Credited",
    "NewClientKey",
    "NewUser",
    "User",
    "UserAdmin",
    "check_username",
]

Document = dict[str, Any]

TOKEN_HOLDER = "admin-token"  # noqa: S105 - a name, no token
"""What the audit log calls whoever has the admin token."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


@dataclass(frozen=True, slots=True)
class NewUser:
    """What a user is made of; credit is in USD."""

    username: str
    credits: Decimal = Decimal(0)
    role: str = "user"
    rpm: int | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class CreditChange:
    """A change of the credit, or of the referral credit, in USD; `sets` replaces what is there.

    With `renews` the credit's validity begins anew, for as long as it was; without an expiry there is none
    to begin.
    """

    amount: Decimal
    purse: str = CREDITS
    sets: bool = False
    renews: bool = False
    reason: str | None = None


def check_username(name: str) -> None:
    """Raise `Unusable` for what cannot be a user's name."""
    if not _NAME.fullmatch(name):
        raise Unusable("username", "takes 1 to 64 letters, digits and . _ @ + -, a letter or digit first")
    if name == ENV_ID:
        raise Unusable("username", f"{ENV_ID} is what requests with PROXY_API_KEY are logged under")
    if name == TOKEN_HOLDER:
        raise Unusable("username", f"{TOKEN_HOLDER} is who the audit log calls the holder of ADMIN_TOKEN")


class UserAdmin:
    """Actions on users. `changed` is told whose cached state is old; `derive` hashes a password."""

    def __init__(
        self,
        db: Database[Document],
        audit: AuditLog,
        changed: Callable[[str], None],
        derive: Callable[[str], PasswordHash] = hash_password,
    ) -> None:
        self._users = UserStore(db)
        self._pages = UserPages(db)
        self._keys = ClientKeyStore(db)
        self._ledger = CreditLedger(db)
        self._audit = audit
        self._changed = changed
        self._derive = derive

    @asks_store
    def add(self, actor: Actor, new: NewUser) -> tuple[User, NewClientKey]:
        """Make a user and its first client key, whose secret is in the answer and nowhere else."""
        check_username(new.username)
        details = {"credits": str(new.credits), "role": new.role, "rpm": new.rpm}
        with self._audit.action(actor, "users.add", f"user:{new.username}", details), _amounts("credits"):
            now = now_ms()
            if exact_double(new.credits) < 0:
                raise Unusable("credits", "takes an amount of 0 or more")
            opening = self._ledger.opening(new.credits, actor.note(now, None))
            user = self._users.add(
                new.username,
                now=now,
                credits_usd=new.credits,
                role=new.role,
                rpm=new.rpm,
                password=self._derive(new.password) if new.password is not None else None,
                more={PENDING: opening} if opening else None,
            )
            self._ledger.settle(new.username)
            key = self._keys.add(new.username, now=now)
        self._changed(new.username)
        return user, key

    @asks_store
    def credit(self, actor: Actor, username: str, change: CreditChange) -> Credited:
        """Add to, take from or set a balance, with a line in the ledger."""
        action = f"users.{change.purse}.{'set' if change.sets else 'add'}"
        details = {"amount": str(change.amount), "reason": change.reason}
        with self._audit.action(actor, action, f"user:{username}", details), _amounts("amount"):
            make = self._ledger.set if change.sets else self._ledger.add
            note = actor.note(now_ms(), change.reason)
            try:
                done = make(username, change.amount, note, purse=change.purse, renews=change.renews)
            except InsufficientCreditError as error:
                left = Decimal(error.left_nano) / NANO
                raise Conflict(f"only {left.normalize():f} USD is left to take away") from None
            if done is None:
                raise _unknown(username)
        self._changed(username)
        return done

    @asks_store
    def change(self, actor: Actor, username: str, fields: Mapping[str, Any]) -> User:
        """Set `role`, `isActive`, `rpm`, `expiresAt`, `onClientAbort`; None takes one of these away."""
        shown = {name: None if value is None else str(value) for name, value in fields.items()}
        with self._audit.action(actor, "users.change", f"user:{username}", shown):
            user = self._users.set_fields(username, dict(fields)) if fields else self._users.get(username)
            if user is None:
                raise _unknown(username)
        self._changed(username)
        return user

    @asks_store
    def set_active(self, actor: Actor, username: str, active: bool) -> User:
        """Enable or disable the user with all keys."""
        action = "users.enable" if active else "users.disable"
        with self._audit.action(actor, action, f"user:{username}"):
            user = self._users.set_active(username, active)
            if user is None:
                raise _unknown(username)
        self._changed(username)
        return user

    @asks_store
    def set_password(self, actor: Actor, username: str, password: str) -> None:
        """Replace the password."""
        with self._audit.action(actor, "users.password", f"user:{username}"):
            if self._users.get(username) is None:
                raise _unknown(username)
            self._users.set_password(username, self._derive(password))

    @asks_store
    def get(self, username: str) -> Document:
        """The visible fields of one user's document."""
        found = self._pages.get(username)
        if found is None:
            raise _unknown(username)
        return found

    @asks_store
    def page(
        self, *, search: str | None, order: str, limit: int, cursor: str | None = None
    ) -> tuple[list[Document], str | None]:
        """Users' documents, and the cursor of the next page; the orders are `user_pages.ORDERS`."""
        return self._pages.page(search=search, order=order, limit=limit, cursor=cursor)

    @asks_store
    def counts(self) -> tuple[int, int]:
        """All users, and those who are active."""
        return self._pages.counts()

    @asks_store
    def ledger(
        self, username: str, limit: int, cursor: PageCursor | None = None
    ) -> tuple[list[Document], str | None]:
        """The user's credits and debits, newest first."""
        if self._users.get(username) is None:
            raise _unknown(username)
        return self._ledger.page(username, limit, cursor)


class _amounts:  # noqa: N801 - reads as a phrase where it is used
    """Turns what the stores say of an amount into a refusal that names the field."""

    def __init__(self, field: str) -> None:
        self._field = field

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ValueError):
            raise Unusable(self._field, str(error)) from None


def _unknown(username: str) -> Missing:
    return Missing(f"there is no user {username[:80]}")
