"""`/api/admin/users…`: users, their credit and its ledger."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.accounts.prices import MAX_FACTOR
from app.api.admin.auth import current_actor
from app.api.limits import ZONE, LimitsBody, Usd
from app.api.operation import ApiSection, Body, Query
from app.api.parameters import Cursor, Limit, Text
from app.common.cursor import PageCursor
from app.common.money import NANO
from app.common.secret_strength import PASSWORD_MIN_CHARS
from app.management.users import CreditChange, Credited, NewUser, User, UserAdmin
from app.management.views.users import (
    CreditsOfUserView,
    LedgerLineView,
    NewUserView,
    UserView,
    credits_view,
    ledger_line_view,
    new_user_view,
    user_view,
)

Document = Mapping[str, Any]

_NO_USER = {404: "There is no such user."}
_NO_OWNER_LEFT = {**_NO_USER, 409: "This is the last owner: make another one first."}
_MAX_PAGE = 1000
_RENEWS = (
    "Begin the credit's validity anew: `purchasedAt` is now, and `expiresAt` as long after it as it was "
    "before (7 days where nothing says how long). A user whose credit never expires keeps it so."
)

Role = Annotated[
    Literal["user", "viewer", "billing", "owner", "admin"],
    Field(
        description="A viewer sees everything, billing also changes credit and closes months, an owner may "
        "everything; `admin` is the same as `owner`."
    ),
]
Reason = Annotated[str | None, Field(max_length=500, description="Why, for the ledger.")]
Renews = Annotated[bool, Field(description=_RENEWS)]
Password = Annotated[
    str,
    Field(
        min_length=PASSWORD_MIN_CHARS,
        max_length=1024,
        description="No placeholder, and not made of the user's name.",
    ),
]


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


class PaysBody(LimitsBody):
    """What a user may do, and what they pay."""

    priceFactor: Decimal | None = Field(
        None,
        ge=0,
        le=MAX_FACTOR,
        description="What prices are multiplied by for this user, up to 9 decimals, as a number or a "
        "string; null: the factor of the group, else 1.",
    )
    group: str | None = Field(
        None, max_length=64, description="The group of the model table whose factor counts; null: none."
    )


class NewUserBody(PaysBody):
    """A user to make."""

    username: str
    credits: Usd = Decimal(0)
    role: Role = "user"
    password: Password | None = None
    expiresAt: datetime | None = Field(None, description=f"When the credit ends; null: never. {ZONE}")


class UserChangeBody(PaysBody):
    """What to change. What is left out stays; null takes a limit, an expiry or an override away."""

    role: Role | None = None
    isActive: bool | None = None
    expiresAt: datetime | None = Field(None, description=f"When the credit ends; null: never. {ZONE}")
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


class UserCountsView(TypedDict):
    """How many users there are, whatever is searched for."""

    total: int
    activeUsers: int


class UsersView(TypedDict):
    """A page of users."""

    users: list[UserView]
    stats: UserCountsView
    nextCursor: str | None


class CreditedView(TypedDict):
    """What a change of the credit came to."""

    success: bool
    message: str
    user: CreditsOfUserView


class RefCreditsOfUserView(TypedDict):
    """A referral balance in USD."""

    username: str
    refCredits: float
    refCreditsNanoUsd: int


class RefCreditedView(TypedDict):
    """What a change of the referral credit came to."""

    success: bool
    message: str
    user: RefCreditsOfUserView


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
    describe = ApiSection("Users")

    def shown(username: str) -> Document:
        document = users.get(username)
        return user_view(document, users.budgets_left(User.from_document(document)))

    @routes.get("/users")
    @describe("List users", answers=UsersView)
    def list_users(query: UsersQuery) -> Response:
        cursor = PageCursor.parse(query.cursor, query.sort)
        found, next_cursor = users.page(
            search=query.search, order=query.sort, limit=query.limit, cursor=cursor
        )
        total, active = users.counts()
        stats = {"total": total, "activeUsers": active}
        return jsonify(users=[user_view(user) for user in found], stats=stats, nextCursor=next_cursor)

    @routes.post("/users")
    @describe("Make a user", answers={201: NewUserView}, errors={409: "There is such a user already."})
    def add_user(body: NewUserBody) -> tuple[Response, int]:
        """Make the user and their first client key, which is shown here and never again."""
        new = NewUser(
            body.username,
            body.credits,
            body.role,
            body.rpm,
            body.password,
            limits=body.given(),
            expires_at=body.expiresAt,
        )
        user, key = users.add(current_actor(), new)
        return jsonify(new_user_view(user, key)), 201

    @routes.get("/users/<username>")
    @describe("One user", answers=UserView, errors=_NO_USER)
    def get_user(username: str) -> Response:
        return jsonify(shown(username))

    @routes.patch("/users/<username>")
    @describe("Change a user", answers=UserView, errors=_NO_OWNER_LEFT)
    def change_user(username: str, body: UserChangeBody) -> Response:
        """Change the user; running workers follow within seconds."""
        fields = body.given()
        for name in ("role", "isActive"):
            if fields.get(name, ...) is None:
                del fields[name]
        users.change(current_actor(), username, fields)
        return jsonify(shown(username))

    @routes.post("/users/<username>/disable")
    @describe("Refuse all keys of a user", answers=UserView, errors=_NO_OWNER_LEFT)
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


def _add_credit_routes(routes: Blueprint, users: UserAdmin, describe: ApiSection) -> None:
    overdrawn = {**_NO_USER, 409: "More was to be taken away than is left, or the key was used before."}
    reused = {**_NO_USER, 409: "The Idempotency-Key was used for another change of this user."}

    @routes.patch("/users/<username>/credits")
    @describe("Set a user's credit", answers=CreditedView, errors=reused)
    def set_credits(username: str, body: CreditsBody, idempotency_key: str | None) -> Response:
        """Replace what is left, whatever that is by now; what was charged stays charged."""
        change = CreditChange(
            body.credits, sets=True, renews=body.resetExpiration, reason=body.reason, key=idempotency_key
        )
        return jsonify(_credited(users.credit(current_actor(), username, change)))

    @routes.post("/users/<username>/credits/add")
    @describe("Credit or debit a user", answers=CreditedView, errors=overdrawn)
    def add_credits(username: str, body: CreditsAddBody, idempotency_key: str | None) -> Response:
        """Add to the credit: concurrent changes and charges all count."""
        change = CreditChange(
            body.amount, renews=body.resetExpiration, reason=body.reason, key=idempotency_key
        )
        return jsonify(_credited(users.credit(current_actor(), username, change)))

    @routes.patch("/users/<username>/refCredits")
    @describe("Set a user's referral credit", answers=RefCreditedView, errors=reused)
    def set_ref_credits(username: str, body: RefCreditsBody, idempotency_key: str | None) -> Response:
        change = CreditChange(
            body.refCredits, purse="refCredits", sets=True, reason=body.reason, key=idempotency_key
        )
        return jsonify(_ref_credited(users.credit(current_actor(), username, change)))

    @routes.post("/users/<username>/refCredits/add")
    @describe("Credit or debit a user's referral credit", answers=RefCreditedView, errors=overdrawn)
    def add_ref_credits(username: str, body: RefCreditsAddBody, idempotency_key: str | None) -> Response:
        change = CreditChange(body.amount, purse="refCredits", reason=body.reason, key=idempotency_key)
        return jsonify(_ref_credited(users.credit(current_actor(), username, change)))

    @routes.get("/users/<username>/ledger")
    @describe("A user's credits and debits", answers=LedgerView, errors=_NO_USER)
    def user_ledger(username: str, query: LedgerQuery) -> Response:
        """List credits and debits, newest first. What requests cost is in the request log."""
        cursor = PageCursor.parse(query.cursor)
        found, next_cursor = users.ledger(username, query.limit, cursor)
        return jsonify(entries=[ledger_line_view(line) for line in found], nextCursor=next_cursor)


def _credited(done: Credited) -> CreditedView:
    return CreditedView(success=True, message=_balance(done), user=credits_view(done))


def _ref_credited(done: Credited) -> RefCreditedView:
    shown = RefCreditsOfUserView(
        username=done.user.username,
        refCredits=done.after_nano / NANO,
        refCreditsNanoUsd=done.after_nano,
    )
    return RefCreditedView(success=True, message=_balance(done), user=shown)


def _balance(done: Credited) -> str:
    before, after = (Decimal(nano) / NANO for nano in (done.before_nano, done.after_nano))
    return f"{done.user.username} has {after.normalize():f} USD, had {before.normalize():f}"
