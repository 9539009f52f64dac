"""Keys: those of clients, those of the upstream, their spares, and what happened to them."""

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from app.accounts.client_keys import ClientKey, NewClientKey
from app.common.display import json_ready
from app.keys.backup_keys import BackupKey
from app.keys.key_state_store import KeyEvent
from app.keys.provider_keys import StoredProviderKey
from app.management.limits import BudgetLeft
from app.management.upstream_keys import AccountReading, is_configured
from app.management.views.limits import BudgetView, limits_view

_HEALTHY = "healthy"


class ClientKeyView(TypedDict):
    """A client key. `id` is what records carry; of the key itself only `hint` is shown."""

    id: str
    name: str
    hint: str
    tier: str | None
    tokensUsed: int
    requestsCount: int
    isActive: bool
    keyName: Annotated[str | None, Field(description="What the key is called; `name` is whose it is.")]
    rpm: int | None
    tpm: int | None
    maxParallel: int | None
    models: list[str] | None
    allowedIps: list[str] | None
    budgets: Annotated[list[BudgetView], Field(description="With what is left where one key is shown.")]
    notes: str | None
    createdAt: str | None
    lastUsedAt: str | None
    updatedAt: str | None
    expiresAt: str | None
    revokedAt: str | None
    resetAt: str | None
    rotatedAt: Annotated[str | None, Field(description="When it was last given another secret.")]
    oldUntil: Annotated[str | None, Field(description="Until when a secret before that is accepted.")]


class ClientKeysView(TypedDict):
    """Client keys, by user and age."""

    total: int
    active: int
    keys: list[ClientKeyView]


class NewClientKeyView(TypedDict):
    """A new key. `apiKey` is shown here and never again."""

    id: str
    name: str
    created_at: str
    apiKey: str
    hint: str


class KeyRotatedView(NewClientKeyView):
    """A key with another secret, which is shown here and never again."""

    oldUntil: Annotated[str, Field(description="Until when the secret before is accepted.")]


class KeyRevokedView(TypedDict):
    """A key that is not accepted any more."""

    id: str
    revoked: bool
    revoked_at: str


class UpstreamKeyView(TypedDict):
    """A key of the pool; `apiKey` is masked."""

    id: str
    _id: str
    apiKey: str
    source: Annotated[str, Field(description="`store`, or `env`: OHMYGPT_API_KEYS.")]
    status: Annotated[str, Field(description="`healthy`, `rate_limited`, `exhausted` or `error`.")]
    suspected: bool
    since: Annotated[str | None, Field(description="Since when it has been in this status.")]
    cooldownUntil: str | None
    lastError: str | None
    replacedBy: str | None
    tokensUsed: int
    requestsCount: int
    weight: int
    rpm: int | None
    maxInFlight: int | None
    usedFee: Annotated[str | None, Field(description="What OhMyGPT says it has used, in its units.")]
    maxFee: Annotated[str | None, Field(description="What it may use; null: no cap, or not known.")]
    expiresAt: Annotated[str | None, Field(description="Until when OhMyGPT takes it.")]
    capped: Annotated[bool | None, Field(description="Whether its cap is used up; null: not known.")]
    createdAt: str | None
    updatedAt: str | None
    lastUsedAt: str | None


class UpstreamAccountView(TypedDict):
    """The account behind the keys as OhMyGPT told it; all null without OHMYGPT_MANAGEMENT_KEY."""

    balance: Annotated[str | None, Field(description="In OhMyGPT's units, as a decimal.")]
    freeBalance: str | None
    readAt: str | None
    problem: Annotated[str | None, Field(description="Why there is no newer reading.")]
    unmatchedKeys: Annotated[int | None, Field(description="Keys of the account that are not in the pool.")]


class UpstreamKeysView(TypedDict):
    """The pool, OHMYGPT_API_KEYS first."""

    keys: list[UpstreamKeyView]
    totalKeys: int
    healthyKeys: int


class KeyEventView(TypedDict):
    """A change of a key's state; `from` is null for a new key."""

    at: str
    keyId: str
    to: str
    why: str
    requestId: str | None


class BackupKeyView(TypedDict):
    """A backup key; `usedFor` is the key whose place it took."""

    id: str
    maskedApiKey: str
    isUsed: bool
    activated: bool
    usedFor: str | None
    usedAt: str | None
    createdAt: str | None


class BackupKeysView(TypedDict):
    """The backup keys, oldest first."""

    keys: list[BackupKeyView]
    total: int
    available: int
    used: int


def client_key_view(key: ClientKey, left: Iterable[BudgetLeft] = ()) -> ClientKeyView:
    """Show a client key; with what is `left` of its budgets, where that was read."""
    limits = limits_view(key.rpm, key.limits, left)
    return ClientKeyView(
        id=key.key_id,
        name=key.username,
        hint=key.hint,
        tier=key.tier,
        tokensUsed=key.tokens_used,
        requestsCount=key.requests_count,
        isActive=key.is_active,
        keyName=key.key_name,
        rpm=key.rpm,
        tpm=limits["tpm"],
        maxParallel=limits["maxParallel"],
        models=limits["models"],
        allowedIps=limits["allowedIps"],
        budgets=limits["budgets"],
        notes=key.notes,
        createdAt=json_ready(key.created_at),
        lastUsedAt=json_ready(key.last_used_at),
        updatedAt=json_ready(key.updated_at),
        expiresAt=json_ready(key.expires_at),
        revokedAt=json_ready(key.revoked_at),
        resetAt=json_ready(key.reset_at),
        rotatedAt=json_ready(key.rotated_at),
        oldUntil=json_ready(key.old_secrets_until),
    )


def client_keys_view(keys: Iterable[ClientKey]) -> ClientKeysView:
    """Show a list of client keys."""
    found = [client_key_view(key) for key in keys]
    return ClientKeysView(total=len(found), active=sum(key["isActive"] for key in found), keys=found)


def new_client_key_view(key: NewClientKey) -> NewClientKeyView:
    """Show a key just made in the clear: there is no other moment to see it."""
    return NewClientKeyView(
        id=key.key_id,
        name=key.username,
        created_at=json_ready(key.created_at),
        apiKey=key.secret,
        hint=key.hint,
    )


def rotated_key_view(key: NewClientKey, overlap_hours: float) -> KeyRotatedView:
    """Show a key just rotated, its secret in the clear."""
    until = key.created_at + timedelta(hours=overlap_hours)
    return KeyRotatedView(**new_client_key_view(key), oldUntil=json_ready(until))


def revoked_key_view(key: ClientKey) -> KeyRevokedView:
    """Show that a client key is not accepted any more."""
    return KeyRevokedView(id=key.key_id, revoked=True, revoked_at=json_ready(key.revoked_at))


def upstream_key_view(key: StoredProviderKey) -> UpstreamKeyView:
    """Show a key of the pool, masked."""
    account = key.account
    return UpstreamKeyView(
        id=key.key_id,
        _id=key.key_id,
        apiKey=key.masked,
        source="env" if is_configured(key.key_id) else "store",
        status=key.status,
        suspected=bool(key.state.suspected_by),
        since=json_ready(key.state.since),
        cooldownUntil=json_ready(key.cooldown_until),
        lastError=key.last_error,
        replacedBy=key.replaced_by,
        tokensUsed=key.tokens_used,
        requestsCount=key.requests_count,
        weight=key.limits.weight,
        rpm=key.limits.rpm,
        maxInFlight=key.limits.max_in_flight,
        usedFee=_amount(account.used_fee) if account is not None else None,
        maxFee=_amount(account.max_fee) if account is not None else None,
        expiresAt=json_ready(account.expires_at) if account is not None else None,
        capped=account.is_capped if account is not None else None,
        createdAt=json_ready(key.created_at),
        updatedAt=json_ready(key.state.updated_at),
        lastUsedAt=json_ready(key.last_used_at),
    )


def upstream_account_view(reading: AccountReading) -> UpstreamAccountView:
    """Show the account behind the keys."""
    return UpstreamAccountView(
        balance=_amount(reading.balance.balance),
        freeBalance=_amount(reading.balance.free_balance),
        readAt=json_ready(reading.read_at),
        problem=reading.problem,
        unmatchedKeys=reading.unmatched_keys,
    )


def _amount(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:f}"


def upstream_keys_view(keys: Iterable[StoredProviderKey]) -> UpstreamKeysView:
    """Show the pool."""
    found = [upstream_key_view(key) for key in keys]
    healthy = sum(key["status"] == _HEALTHY for key in found)
    return UpstreamKeysView(keys=found, totalKeys=len(found), healthyKeys=healthy)


def key_event_view(event: KeyEvent) -> dict[str, Any]:
    """Show a change of a key's state, as `KeyEventView` says, which cannot name `from`."""
    return {
        "at": json_ready(event.at),
        "keyId": event.key_id,
        "from": event.from_status,
        "to": event.to_status,
        "why": event.why,
        "requestId": event.request_id,
    }


def backup_key_view(key: BackupKey) -> BackupKeyView:
    """Show a backup key, masked."""
    return BackupKeyView(
        id=key.key_id,
        maskedApiKey=key.masked,
        isUsed=key.is_used,
        activated=key.activated,
        usedFor=key.used_for,
        usedAt=json_ready(key.used_at),
        createdAt=json_ready(key.created_at),
    )


def backup_keys_view(keys: Iterable[BackupKey]) -> BackupKeysView:
    """Show the backup keys."""
    found = [backup_key_view(key) for key in keys]
    used = sum(key["isUsed"] for key in found)
    return BackupKeysView(keys=found, total=len(found), available=len(found) - used, used=used)
