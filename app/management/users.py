"""Users: made, credited, disabled, changed."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Any

from pymongo.database import Database

from app.accounts.client_keys import ClientKeyStore, NewClientKey
from app.accounts.directory import ENV_ID
from app.accounts.last_admin import LastAdmin, LastAdminError
from app.accounts.limits import NO_LIMITS, Limits
from app.accounts.prices import PriceError, checked_prices
from app.accounts.roles import OWNER, OWNERS
from app.accounts.user_pages import UserPages
from app.accounts.users import PasswordHash, User, UserStore, hash_password
from app.common.clock import now_ms
from app.common.cursor import PageCursor
from app.common.money import NANO
from app.common.secret_strength import PASSWORD_MIN_CHARS, weakness
from app.credit.credit_holds import CreditHolds
from app.credit.credit_ledger import (
    CREDITS,
    PENDING,
    Credited,
    CreditLedger,
    InsufficientCreditError,
    KeyReusedError,
)
from app.management.audit import Actor, AuditLog
from app.management.errors import Conflict, Missing, Unusable, asks_store
from app.management.limits import USER_FIELDS, BudgetBooks, BudgetLeft, stored_expiry, stored_limits
from app.store.fields import exact_double, nano_usd, optional_date
from app.verify.reconciled_budgets import Wrong

__all__ = [
    "TOKEN_HOLDER",
    "CreditChange",
    "Credited",
    "ListedUser",
    "NewClientKey",
    "NewUser",
    "User",
    "UserAdmin",
    "check_password",
    "check_username",
]

Document = dict[str, Any]

TOKEN_HOLDER = "admin-token"  # noqa: S105 - a name, no token
"""What the audit log calls an admin who came with the admin token."""

_KEY = re.compile(r"[!-~]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


@dataclass(frozen=True, slots=True)
class NewUser:
    """What a user is made of; credit is in USD. `limits` are those beside `rpm` (`app.accounts.limits`),
    with what is paid (`app.accounts.prices`).
    """

    username: str
    credits: Decimal = Decimal(0)
    role: str = "user"
    rpm: int | None = None
    password: str | None = field(default=None, repr=False)
    limits: Mapping[str, Any] = field(default_factory=dict)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ListedUser:
    """A user as lists show them."""

    user: User
    last_used_at: datetime | None
    budgets: Sequence[BudgetLeft]


@dataclass(frozen=True, slots=True)
class CreditChange:
    """A change of the credit, or of the referral credit, in USD; `sets` replaces what is there.

    With `renews` the credit's validity begins anew, for as long as it was; without an expiry there is none
    to begin. With a `key` the change is made once, however often it is asked for.
    """

    amount: Decimal
    purse: str = CREDITS
    sets: bool = False
    renews: bool = False
    reason: str | None = None
    key: str | None = None


def check_username(name: str) -> None:
    """Raise `Unusable` for what cannot be a user's name."""
    if not _NAME.fullmatch(name):
        raise Unusable("username", "takes 1 to 64 letters, digits and . _ @ + -, a letter or digit first")
    if name == ENV_ID:
        raise Unusable("username", f"{ENV_ID} is what requests with PROXY_API_KEY are logged under")
    if name == TOKEN_HOLDER:
        raise Unusable("username", f"{TOKEN_HOLDER} is who the audit log calls the holder of ADMIN_TOKEN")


def check_password(username: str, password: str) -> None:
    """Raise `Unusable` for a password that is found by trying."""
    problem = weakness(password, PASSWORD_MIN_CHARS, username)
    if problem is not None:
        raise Unusable("password", f"takes {PASSWORD_MIN_CHARS} characters or more, and {problem}")


class UserAdmin:
    """Actions on users. `changed` is told whose cached state is old; `derive` hashes a password.

    Times that are given without a zone are in `zone`, where budgets begin their days as well.
    """

    def __init__(
        self,
        db: Database[Document],
        audit: AuditLog,
        changed: Callable[[str, bool], None] = lambda _name, _active: None,
        derive: Callable[[str], PasswordHash] = hash_password,
        zone: tzinfo = UTC,
    ) -> None:
        self._books = BudgetBooks(db, zone)
        self._zone = zone
        self._users = UserStore(db)
        self._pages = UserPages(db)
        self._keys = ClientKeyStore(db)
        self._ledger = CreditLedger(db)
        self._holds = CreditHolds(db)
        self._last_admin = LastAdmin(db)
        self._audit = audit
        self._changed = changed
        self._derive = derive

    def add(self, actor: Actor, new: NewUser) -> tuple[User, NewClientKey]:
        """Make a user and its first client key, whose secret is in the answer and nowhere else."""
        made: list[NewClientKey] = []
        password = self._hashed(new)
        user = self._add(actor, new, password, lambda now: made.append(self._keys.add(new.username, now=now)))
        self._changed(new.username, user.is_active)
        return user, made[0]

    def add_owner(self, actor: Actor, username: str, password: str) -> User:
        """Make an owner without a client key."""
        owner = NewUser(username, role=OWNER, password=password)
        return self._add(actor, owner, self._hashed(owner), lambda _now: None)

    def _hashed(self, new: NewUser) -> PasswordHash | None:
        # Slow on purpose, so it is done before the time begins that the database has.
        check_username(new.username)
        if new.password is None:
            return None
        check_password(new.username, new.password)
        return self._derive(new.password)

    @asks_store
    def _add(
        self, actor: Actor, new: NewUser, password: PasswordHash | None, then: Callable[[datetime], object]
    ) -> User:
        limits = stored_limits({name: new.limits[name] for name in USER_FIELDS if name in new.limits})
        limits |= _stored_prices(new.limits)
        details = {"credits": str(new.credits), "role": new.role, "rpm": new.rpm, **_shown(limits)}
        more = {name: value for name, value in limits.items() if value is not None}
        if new.expires_at is not None:
            more["expiresAt"] = stored_expiry(new.expires_at, self._zone)
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
                password=password,
                more={**more, PENDING: opening} if opening else more,
            )
            self._ledger.settle(new.username)
            then(now)
        return user

    @asks_store
    def credit(self, actor: Actor, username: str, change: CreditChange) -> Credited:
        """Add to, take from or set a balance, with a line in the ledger."""
        action = f"users.{change.purse}.{'set' if change.sets else 'add'}"
        if change.key is not None and not _KEY.fullmatch(change.key):
            raise Unusable("Idempotency-Key", "takes 1 to 128 printable ASCII characters")
        details = {"amount": str(change.amount), "reason": change.reason}
        if change.key is not None:
            details["idempotencyKey"] = change.key
        with self._audit.action(actor, action, f"user:{username}", details), _amounts("amount"):
            make = self._ledger.set if change.sets else self._ledger.add
            note = actor.note(now_ms(), change.reason, change.key)
            try:
                done = make(username, change.amount, note, purse=change.purse, renews=change.renews)
            except InsufficientCreditError as error:
                left = Decimal(error.left_nano) / NANO
                raise Conflict(f"only {left.normalize():f} USD is left to take away") from None
            except KeyReusedError:
                reused = "this Idempotency-Key was used for another change of this user: take a new one"
                raise Conflict(reused) from None
            if done is None:
                raise _unknown(username)
        self._changed(username, done.user.is_active)
        return done

    @asks_store
    def change(self, actor: Actor, username: str, fields: Mapping[str, Any]) -> User:
        """Set `role`, `isActive`, `expiresAt`, `onClientAbort`, limits, `priceFactor` and `group`.

        None takes the value away. Raises `Conflict` where the last owner would be none any more.
        """
        leaves = (
            fields.get("role", OWNER) not in OWNERS
            or fields.get("isActive") is False
            or fields.get("expiresAt") is not None
        )
        limits = stored_limits({name: fields[name] for name in USER_FIELDS if name in fields})
        fields = {**fields, **limits, **_stored_prices(fields)}
        if "expiresAt" in fields:
            fields["expiresAt"] = stored_expiry(fields["expiresAt"], self._zone)
        action = self._audit.action(actor, "users.change", f"user:{username}", _shown(fields))
        with action, self._leaving(username, leaves):
            if "budgets" in fields:
                self._give_budgets(username, fields)
            user = self._users.set_fields(username, dict(fields)) if fields else self._users.get(username)
            if user is None:
                raise _unknown(username)
        self._changed(username, user.is_active)
        return user

    def _give_budgets(self, username: str, fields: Mapping[str, Any]) -> None:
        if (user := self._users.get(username)) is None:
            raise _unknown(username)
        before, after = user.limits or NO_LIMITS, Limits.read(fields) or NO_LIMITS
        self._books.give(username, before.budgets, after.budgets)

    @asks_store
    def budgets_left(self, user: User) -> list[BudgetLeft]:
        """Return what is left of each budget of the user."""
        return self._books.left(user.username, user.limits)

    @asks_store
    def set_active(self, actor: Actor, username: str, active: bool) -> User:
        """Enable or disable the user with all keys; raises `Conflict` for the last owner."""
        action = "users.enable" if active else "users.disable"
        logged = self._audit.action(actor, action, f"user:{username}")
        with logged, self._leaving(username, not active):
            user = self._users.set_active(username, active)
            if user is None:
                raise _unknown(username)
        self._changed(username, user.is_active)
        return user

    def set_password(self, actor: Actor, username: str, password: str) -> None:
        """Replace the password."""
        check_password(username, password)
        self._set_password(actor, username, self._derive(password))

    @asks_store
    def _set_password(self, actor: Actor, username: str, password: PasswordHash) -> None:
        with self._audit.action(actor, "users.password", f"user:{username}"):
            if self._users.get(username) is None:
                raise _unknown(username)
            self._users.set_password(username, password)

    @asks_store
    def repair_holds(self, actor: Actor) -> int:
        """Remove holds on credit that no process owns any more; return how many."""
        with self._audit.action(actor, "users.holds.repair", "users"):
            return self._holds.remove_orphans()

    @asks_store
    def repair_budgets(self, actor: Actor, wrong: Sequence[Wrong]) -> int:
        """Put right what budgets hold, where that has not changed meanwhile; return of how many periods."""
        with self._audit.action(actor, "users.budgets.repair", "users", {"periods": len(wrong)}):
            return sum(self._books.put_right(found) for found in wrong)

    @asks_store
    def get(self, username: str) -> Document:
        """Return the visible fields of one user's document."""
        found = self._pages.get(username)
        if found is None:
            raise _unknown(username)
        return found

    @asks_store
    def find(self, username: str) -> User | None:
        """Read one user as the proxy needs it, as it is stored now; None for an unknown one."""
        return self._users.get(username)

    @asks_store
    def page(
        self, *, search: str | None, order: str, limit: int, cursor: PageCursor | None = None
    ) -> tuple[list[Document], str | None]:
        """Return users' documents, and the cursor of the next page; the orders are `user_pages.ORDERS`."""
        return self._pages.page(search=search, order=order, limit=limit, cursor=cursor)

    @asks_store
    def numbered(
        self, *, search: str, state: str, sort: str, skip: int, limit: int
    ) -> tuple[list["ListedUser"], int]:
        """Return the users after the first `skip` ones, and how many there are (`UserPages.numbered`)."""
        found, count = self._pages.numbered(search=search, state=state, sort=sort, skip=skip, limit=limit)
        return [self._listed(document) for document in found], count

    @asks_store
    def some(self, names: Sequence[str]) -> dict[str, "ListedUser"]:
        """Return the users of these names, those that there are."""
        return {str(found["_id"]): self._listed(found) for found in self._pages.some(names)}

    @asks_store
    def balances(self, *, search: str, state: str) -> dict[str, int]:
        """Return what each user has left to spend, in nano-dollars."""
        return {
            str(found["_id"]): nano_usd(found.get("credits")) + nano_usd(found.get("refCredits"))
            for found in self._pages.balances(search=search, state=state)
        }

    def _listed(self, document: Document) -> "ListedUser":
        user = User.from_document(document)
        budgets = self._books.left_of(document, user.limits)
        return ListedUser(user, optional_date(document.get("lastUsedAt")), budgets)

    @asks_store
    def beginning(self, text: str, limit: int) -> list[str]:
        """Return the first names that begin with a text."""
        return self._pages.beginning(text, limit)

    @asks_store
    def all(self) -> list[Document]:
        """Read all users' documents, by name."""
        return list(self._pages.all())

    @asks_store
    def counts(self) -> tuple[int, int]:
        """Count all users, and those who are active."""
        return self._pages.counts()

    @asks_store
    def ledger(
        self, username: str, limit: int, cursor: PageCursor | None = None
    ) -> tuple[list[Document], str | None]:
        """Return the user's credits and debits, newest first."""
        if self._users.get(username) is None:
            raise _unknown(username)
        return self._ledger.page(username, limit, cursor)

    @contextmanager
    def _leaving(self, username: str, leaves: bool) -> Iterator[None]:
        """Guard a change after which the user may be no owner any more."""
        if not leaves:
            yield
            return
        try:
            with self._last_admin.leaving(username, now_ms()):
                yield
        except LastAdminError as error:
            raise Conflict(str(error)) from None


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


def _stored_prices(given: Mapping[str, Any]) -> Document:
    try:
        return dict(checked_prices(given))
    except PriceError as error:
        raise Unusable(error.field, str(error)) from None


def _shown(fields: Mapping[str, Any]) -> Document:
    return {name: None if value is None else str(value) for name, value in fields.items()}
