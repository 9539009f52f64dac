"""`/api/admin/users…`: users, their credit and its ledger."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired

from flask import Blueprint, Response, jsonify
from pydantic import AfterValidator, AwareDatetime, Field
from typing_extensions import TypedDict

from app.api.admin.auth import current_actor
from app.api.operation import Body, Query, Section
from app.api.parameters import Cursor, Limit, Text
from app.core.credentials import mask
from app.core.display import json_ready
from app.core.log_filter import PageCursor
from app.core.records import NANO
from app.management.users import CreditChange, Credited, NewUser, UserAdmin

Document = Mapping[str, Any]

_NO_USER = {404: "There is no such user."}
_MAX_PAGE = 1000
_RENEWS = (
    "Begin the credit's validity anew: `purchasedAt` is now, and `expiresAt` as long after it as it was "
    "before (7 days where nothing says how long). A user whose credit never expires keeps it so."
)
_FIRST_YEAR, _LAST_YEAR = 2000, 2200

Usd = Annotated[
    Decimal,
    Field(description="USD, at most 9 decimals, up to 1,000,000; as a number or a string."),
]
Reason = Annotated[str | None, Field(max_length=500, description="Why, for the ledger.")]
Renews = Annotated[bool, Field(description=_RENEWS)]
Password = Annotated[str, Field(min_length=8, max_length=1024)]
Rpm = Annotated[int, Field(ge=0, le=10_000_000, description="Requests per minute; 0: no limit.")]


def _of_our_time(moment: datetime) -> datetime:
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise ValueError(f"takes a time in the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_of_our_time)]


class UsersQuery(Query):
    """Which users, and in which order."""

    search: Text | None = Field(None, description="Only names that contain this, in any case.")
    sort: Literal["name", "spend", "credits", "created", "activity"] = Field(
        "name", description="By name from the first, by everything else from the most or the newest."
    )
    limit: Annotated[int, Field(ge=1, le=_MAX_PAGE)] = _MAX_PAGE
    cursor: Cursor = None


class LedgerQuery(Query):
    """Which page of the ledger."""

    limit: Limit = 50
    cursor: Cursor = None


class NewUserBody(Body):
    """A user to make."""

    username: str
    credits: Usd = Decimal(0)
    role: Literal["user", "admin"] = "user"
    rpm: Rpm | None = None
    password: Password | None = None


class UserChangeBody(Body):
    """What to change. What is left out stays; null takes a limit, an expiry or an override away."""

    role: Literal["user", "admin"] | None = None
    isActive: bool | None = None
    rpm: Rpm | None = None
    expiresAt: Moment | None = Field(None, description="When the credit ends; null: never.")
    onClientAbort: Literal["drain", "cancel"] | None = None


class CreditsBody(Body):
    """The credit to be."""

    credits: Usd
    resetExpiration: Renews = True
    reason: Reason = None


class CreditsAddBody(Body):
    """Credit to add, or, below 0, to take away."""

    amount: Usd
    resetExpiration: Renews = True
    reason: Reason = None


class RefCreditsBody(Body):
    """The referral credit to be."""

    refCredits: Usd
    reason: Reason = None


class RefCreditsAddBody(Body):
    """Referral credit to add, or, below 0, to take away."""

    amount: Usd
    reason: Reason = None


class PasswordBody(Body):
    """A new password."""

    password: Password


class UserView(TypedDict):
    """A user. Amounts are in USD; further fields are those of earlier software, as they are."""

    username: str
    role: str
    isActive: bool
    credits: float
    creditsUsed: float
    refCredits: float
    creditsBurned: Annotated[float, Field(description="Spent since the beginning.")]
    lastActivity: Annotated[str | None, Field(description="When the newest booked request was accepted.")]
    hasPassword: bool
    totalInputTokens: int
    totalOutputTokens: int
    rpm: int | None
    onClientAbort: str | None
    expiresAt: str | None
    createdAt: str | None
    lastLoginAt: str | None
    apiKey: NotRequired[Annotated[str, Field(description="Masked; users of this product have none.")]]


class UserCountsView(TypedDict):
    """How many users there are, whatever is searched for."""

    total: int
    activeUsers: int


class UsersView(TypedDict):
    """A page of users."""

    users: list[UserView]
    stats: UserCountsView
    nextCursor: str | None


class NewUserView(TypedDict):
    """A new user. The key is shown here and never again."""

    username: str
    apiKey: str
    keyId: str
    credits: float


class CreditsOfUserView(TypedDict):
    """A balance in USD."""

    username: str
    credits: float
    expiresAt: str | None


class CreditedView(TypedDict):
    """What a change of the credit came to."""

    success: bool
    message: str
    user: CreditsOfUserView


class RefCreditsOfUserView(TypedDict):
    """A referral balance in USD."""

    username: str
    refCredits: float


class RefCreditedView(TypedDict):
    """What a change of the referral credit came to."""

    success: bool
    message: str
    user: RefCreditsOfUserView


class LedgerLineView(TypedDict):
    """One change of a balance; amounts in USD, and exactly in nano-dollars."""

    id: str
    at: str
    purse: Annotated[str, Field(description="`credits` or `refCredits`.")]
    change: Annotated[str, Field(description="`opening`, `add` or `set`.")]
    amount: float
    amountNanoUsd: int
    balanceBefore: float
    balanceBeforeNanoUsd: int
    balanceAfter: float
    balanceAfterNanoUsd: int
    by: str
    via: Annotated[str, Field(description="`api`, `cli` or `dashboard`.")]
    reason: str | None
    requestId: str | None


class LedgerView(TypedDict):
    """A page of the ledger, newest first."""

    entries: list[LedgerLineView]
    nextCursor: str | None


class DoneView(TypedDict):
    """It was done."""

    success: bool
    message: str


def add_user_routes(routes: Blueprint, users: UserAdmin) -> None:
    """Add the routes."""
    describe = Section("Users")

    @routes.get("/users")
    @describe("List users", answers=UsersView)
    def list_users(query: UsersQuery) -> Response:
        found, next_cursor = users.page(
            search=query.search, order=query.sort, limit=query.limit, cursor=query.cursor
        )
        total, active = users.counts()
        stats = {"total": total, "activeUsers": active}
        return jsonify(users=[user_view(user) for user in found], stats=stats, nextCursor=next_cursor)

    @routes.post("/users")
    @describe("Make a user", answers={201: NewUserView}, errors={409: "There is such a user already."})
    def add_user(body: NewUserBody) -> tuple[Response, int]:
        """Makes the user's first client key too. It is shown here and never again."""
        new = NewUser(body.username, body.credits, body.role, body.rpm, body.password)
        user, key = users.add(current_actor(), new)
        shown = NewUserView(
            username=user.username, apiKey=key.secret, keyId=key.key_id, credits=user.credits_nano / NANO
        )
        return jsonify(shown), 201

    @routes.get("/users/<username>")
    @describe("One user", answers=UserView, errors=_NO_USER)
    def get_user(username: str) -> Response:
        return jsonify(user_view(users.get(username)))

    @routes.patch("/users/<username>")
    @describe("Change a user", answers=UserView, errors=_NO_USER)
    def change_user(username: str, body: UserChangeBody) -> Response:
        """Running workers follow within seconds."""
        fields = {name: getattr(body, name) for name in body.model_fields_set}
        for name in ("role", "isActive"):
            if fields.get(name, ...) is None:
                del fields[name]
        users.change(current_actor(), username, fields)
        return jsonify(user_view(users.get(username)))

    @routes.post("/users/<username>/disable")
    @describe("Refuse all keys of a user", answers=UserView, errors=_NO_USER)
    def disable_user(username: str) -> Response:
        users.set_active(current_actor(), username, False)
        return jsonify(user_view(users.get(username)))

    @routes.post("/users/<username>/enable")
    @describe("Accept the keys of a user again", answers=UserView, errors=_NO_USER)
    def enable_user(username: str) -> Response:
        users.set_active(current_actor(), username, True)
        return jsonify(user_view(users.get(username)))

    @routes.put("/users/<username>/password")
    @describe("Set a user's password", answers=DoneView, errors=_NO_USER)
    def set_password(username: str, body: PasswordBody) -> Response:
        users.set_password(current_actor(), username, body.password)
        return jsonify(DoneView(success=True, message=f"{username} has a new password"))

    _add_credit_routes(routes, users, describe)


def _add_credit_routes(routes: Blueprint, users: UserAdmin, describe: Section) -> None:
    overdrawn = {**_NO_USER, 409: "More was to be taken away than is left."}

    @routes.patch("/users/<username>/credits")
    @describe("Set a user's credit", answers=CreditedView, errors=_NO_USER)
    def set_credits(username: str, body: CreditsBody) -> Response:
        """Replaces what is left, whatever that is by now; what was charged stays charged."""
        change = CreditChange(body.credits, sets=True, renews=body.resetExpiration, reason=body.reason)
        return jsonify(_credited(users.credit(current_actor(), username, change)))

    @routes.post("/users/<username>/credits/add")
    @describe("Credit or debit a user", answers=CreditedView, errors=overdrawn)
    def add_credits(username: str, body: CreditsAddBody) -> Response:
        """Concurrent changes and charges all count."""
        change = CreditChange(body.amount, renews=body.resetExpiration, reason=body.reason)
        return jsonify(_credited(users.credit(current_actor(), username, change)))

    @routes.patch("/users/<username>/refCredits")
    @describe("Set a user's referral credit", answers=RefCreditedView, errors=_NO_USER)
    def set_ref_credits(username: str, body: RefCreditsBody) -> Response:
        change = CreditChange(body.refCredits, purse="refCredits", sets=True, reason=body.reason)
        return jsonify(_ref_credited(users.credit(current_actor(), username, change)))

    @routes.post("/users/<username>/refCredits/add")
    @describe("Credit or debit a user's referral credit", answers=RefCreditedView, errors=overdrawn)
    def add_ref_credits(username: str, body: RefCreditsAddBody) -> Response:
        change = CreditChange(body.amount, purse="refCredits", reason=body.reason)
        return jsonify(_ref_credited(users.credit(current_actor(), username, change)))

    @routes.get("/users/<username>/ledger")
    @describe("A user's credits and debits", answers=LedgerView, errors=_NO_USER)
    def user_ledger(username: str, query: LedgerQuery) -> Response:
        """Newest first. What requests cost is in the request log."""
        cursor = PageCursor.decode(query.cursor) if query.cursor else None
        found, next_cursor = users.ledger(username, query.limit, cursor)
        return jsonify(entries=[ledger_line(line) for line in found], nextCursor=next_cursor)


def user_view(document: Document) -> dict[str, Any]:
    """A user as shown: the visible fields, numbers and dates as JSON has them, the account key masked."""
    shown: dict[str, Any] = json_ready(document)
    for name in ("credits", "creditsUsed", "refCredits"):
        shown[name] = _number(document.get(name))
    for name in ("totalInputTokens", "totalOutputTokens"):
        shown[name] = int(_number(document.get(name)))
    for name in ("lastLoginAt", "createdAt", "expiresAt"):
        shown[name] = json_ready(moment) if isinstance(moment := document.get(name), datetime) else None
    shown["username"] = str(document["_id"])
    shown["role"] = str(document.get("role") or "user")
    shown["isActive"] = document.get("isActive", True) is not False
    shown["rpm"] = int(_number(rpm)) if (rpm := document.get("rpm")) is not None else None
    shown["onClientAbort"] = str(way) if (way := document.get("onClientAbort")) else None
    shown["creditsBurned"] = shown["creditsUsed"]
    last = document.get("lastUsedAt")
    shown["lastActivity"] = json_ready(last) if isinstance(last, datetime) else None
    if "apiKey" in shown:
        shown["apiKey"] = mask(str(document.get("apiKey") or ""))
    return shown


def ledger_line(line: Document) -> dict[str, Any]:
    """A line of the ledger as shown."""
    shown: dict[str, Any] = {"id": str(line["_id"])}
    shown |= {name: json_ready(line.get(name)) for name in ("at", "purse", "change")}
    for name in ("amount", "balanceBefore", "balanceAfter"):
        nano = int(line.get(f"{name}NanoUsd") or 0)
        shown |= {name: nano / NANO, f"{name}NanoUsd": nano}
    return {**shown, **{name: line.get(name) for name in ("by", "via", "reason", "requestId")}}


def _credited(done: Credited) -> CreditedView:
    user = done.user
    expires_at = None if user.expires_at is None else json_ready(user.expires_at)
    shown = CreditsOfUserView(username=user.username, credits=done.after_nano / NANO, expiresAt=expires_at)
    return CreditedView(success=True, message=_balance(done), user=shown)


def _ref_credited(done: Credited) -> RefCreditedView:
    shown = RefCreditsOfUserView(username=done.user.username, refCredits=done.after_nano / NANO)
    return RefCreditedView(success=True, message=_balance(done), user=shown)


def _balance(done: Credited) -> str:
    before, after = (Decimal(nano) / NANO for nano in (done.before_nano, done.after_nano))
    return f"{done.user.username} has {after.normalize():f} USD, had {before.normalize():f}"


def _number(value: Any) -> float:
    number = json_ready(value)
    try:
        return float(number) if number is not None and not isinstance(number, bool) else 0.0
    except (TypeError, ValueError):
        return 0.0
