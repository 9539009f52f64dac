"""Users, their balance and its ledger."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from app.accounts.client_keys import NewClientKey
from app.accounts.credentials import mask
from app.accounts.limits import Limits
from app.accounts.users import User
from app.common.display import json_ready
from app.common.money import NANO
from app.credit.credit_ledger import Credited
from app.management.limits import BudgetLeft
from app.management.views.limits import BudgetView, limits_view
from app.store.fields import nano_usd, optional_decimal, optional_text

Document = Mapping[str, Any]


class UserView(TypedDict):
    """A user. Amounts are in USD, and exactly in nano-dollars beside.

    Further fields are those of earlier software, as they are.
    """

    username: str
    role: str
    isActive: bool
    credits: float
    creditsNanoUsd: int
    creditsUsed: float
    creditsUsedNanoUsd: int
    refCredits: float
    refCreditsNanoUsd: int
    creditsBurned: Annotated[float, Field(description="Spent since the beginning: `creditsUsed`.")]
    creditsBurnedNanoUsd: int
    lastActivity: Annotated[str | None, Field(description="When the newest booked request was accepted.")]
    hasPassword: bool
    totalInputTokens: int
    totalOutputTokens: int
    rpm: int | None
    tpm: int | None
    maxParallel: int | None
    models: list[str] | None
    budgets: Annotated[list[BudgetView], Field(description="With what is left where one user is shown.")]
    onClientAbort: str | None
    priceFactor: Annotated[
        str | None, Field(description="What prices are multiplied by; null: the group's, else 1.")
    ]
    group: Annotated[str | None, Field(description="The group of the model table whose factor counts.")]
    expiresAt: str | None
    createdAt: str | None
    lastLoginAt: str | None
    apiKey: NotRequired[Annotated[str, Field(description="Masked; users of this product have none.")]]


class NewUserView(TypedDict):
    """A new user. The key is shown here and never again."""

    username: str
    apiKey: str
    keyId: str
    credits: float
    creditsNanoUsd: int


class CreditsOfUserView(TypedDict):
    """A balance in USD."""

    username: str
    credits: float
    creditsNanoUsd: int
    expiresAt: str | None


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
    idempotencyKey: str | None


def user_view(document: Document, left: Iterable[BudgetLeft] = ()) -> dict[str, Any]:
    """Show a user: the visible fields, numbers and dates as JSON has them, the account key masked."""
    shown: dict[str, Any] = json_ready(document)
    for name in ("credits", "creditsUsed", "refCredits"):
        shown |= {name: _number(document.get(name)), f"{name}NanoUsd": nano_usd(document.get(name))}
    for name in ("totalInputTokens", "totalOutputTokens"):
        shown[name] = int(_number(document.get(name)))
    for name in ("lastLoginAt", "createdAt", "expiresAt"):
        shown[name] = json_ready(moment) if isinstance(moment := document.get(name), datetime) else None
    shown["username"] = str(document["_id"])
    shown["role"] = str(document.get("role") or "user")
    shown["isActive"] = document.get("isActive", True) is not False
    rpm = int(_number(found)) if (found := document.get("rpm")) is not None else None
    shown |= limits_view(rpm, Limits.read(document), left)
    del shown["allowedIps"]
    shown["priceFactor"] = optional_decimal(document.get("priceFactor"))
    shown["group"] = optional_text(document.get("group"))
    shown["onClientAbort"] = str(way) if (way := document.get("onClientAbort")) else None
    shown |= {"creditsBurned": shown["creditsUsed"], "creditsBurnedNanoUsd": shown["creditsUsedNanoUsd"]}
    last = document.get("lastUsedAt")
    shown["lastActivity"] = json_ready(last) if isinstance(last, datetime) else None
    if "apiKey" in shown:
        shown["apiKey"] = mask(str(document.get("apiKey") or ""))
    return shown


def new_user_view(user: User, key: NewClientKey) -> NewUserView:
    """Show a user just made, with the first client key in the clear: there is no other moment to see it."""
    return NewUserView(
        username=user.username,
        apiKey=key.secret,
        keyId=key.key_id,
        credits=user.credits_nano / NANO,
        creditsNanoUsd=user.credits_nano,
    )


def credits_view(done: Credited) -> CreditsOfUserView:
    """Show a user's balance after a change."""
    user = done.user
    expires_at = None if user.expires_at is None else json_ready(user.expires_at)
    return CreditsOfUserView(
        username=user.username,
        credits=done.after_nano / NANO,
        creditsNanoUsd=done.after_nano,
        expiresAt=expires_at,
    )


def ledger_line_view(line: Document) -> dict[str, Any]:
    """Show a line of the ledger."""
    shown: dict[str, Any] = {"id": str(line["_id"])}
    shown |= {name: json_ready(line.get(name)) for name in ("at", "purse", "change")}
    for name in ("amount", "balanceBefore", "balanceAfter"):
        nano = int(line.get(f"{name}NanoUsd") or 0)
        shown |= {name: nano / NANO, f"{name}NanoUsd": nano}
    return {
        **shown,
        **{name: line.get(name) for name in ("by", "via", "reason", "requestId", "idempotencyKey")},
    }


def _number(value: Any) -> float:
    number = json_ready(value)
    try:
        return float(number) if number is not None and not isinstance(number, bool) else 0.0
    except (TypeError, ValueError):
        return 0.0
