"""`/api/admin/keys…`: client keys."""

from typing import Annotated

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.admin.auth import current_actor
from app.api.admin.users import Rpm
from app.api.operation import Body, Query, Section
from app.api.parameters import Text
from app.core.display import json_ready
from app.management.client_keys import ClientKey, ClientKeyAdmin

_NO_KEY = {404: "There is no such client key."}

Notes = Annotated[str, Field(max_length=500, description="What the key is for.")]


class KeysQuery(Query):
    """Which keys."""

    user: Text | None = Field(None, description="Only this user's.")


class DeletionQuery(Query):
    """Whether the key only stops working, or goes."""

    permanent: bool = Field(False, description="Remove the key's document; logs go on naming its id.")


class NewKeyBody(Body):
    """A client key to make."""

    name: str = Field(min_length=1, max_length=100, description="Whose it is: a user's name.")
    notes: Notes | None = None
    rpm: Rpm | None = None


class KeyChangeBody(Body):
    """What to change; what is left out stays."""

    notes: Notes | None = None
    isActive: bool | None = Field(None, description="false pauses the key; a revoked one stays revoked.")


class ClientKeyView(TypedDict):
    """A client key. `id` is what records carry; of the key itself only `hint` is shown."""

    id: str
    name: str
    hint: str
    tier: str | None
    tokensUsed: int
    requestsCount: int
    isActive: bool
    rpm: int | None
    notes: str | None
    createdAt: str | None
    lastUsedAt: str | None
    updatedAt: str | None
    expiresAt: str | None
    revokedAt: str | None
    resetAt: str | None


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


class KeyChangedView(TypedDict):
    """A key after a change."""

    id: str
    is_active: bool
    updated_at: str


class KeyRevokedView(TypedDict):
    """A key that is not accepted any more."""

    id: str
    revoked: bool
    revoked_at: str


class KeyDeletedView(TypedDict):
    """A key that is gone."""

    id: str
    deleted: bool
    deleted_at: str


class KeyResetView(TypedDict):
    """A key's counters after a reset."""

    id: str
    tokens_used: int
    requests_count: int
    reset_at: str


def add_client_key_routes(routes: Blueprint, keys: ClientKeyAdmin) -> None:
    """Add the routes."""
    describe = Section("Client keys")

    @routes.get("/keys")
    @describe("List client keys", answers=ClientKeysView)
    def list_client_keys(query: KeysQuery) -> Response:
        found = [client_key_view(key) for key in keys.list(query.user)]
        active = sum(key["isActive"] for key in found)
        return jsonify(ClientKeysView(total=len(found), active=active, keys=found))

    @routes.post("/keys")
    @describe("Make a client key", answers={201: NewClientKeyView})
    def add_client_key(body: NewKeyBody) -> tuple[Response, int]:
        """The key itself is in the answer, and never shown again."""
        made = keys.add(current_actor(), body.name, rpm=body.rpm, notes=body.notes)
        created_at = json_ready(keys.get(made.key_id).created_at)
        shown = NewClientKeyView(
            id=made.key_id, name=body.name, created_at=created_at, apiKey=made.secret, hint=made.hint
        )
        return jsonify(shown), 201

    @routes.get("/keys/<key_id>")
    @describe("One client key", answers=ClientKeyView, errors=_NO_KEY)
    def get_client_key(key_id: str) -> Response:
        return jsonify(client_key_view(keys.get(key_id)))

    @routes.patch("/keys/<key_id>")
    @describe(
        "Change a client key", answers=KeyChangedView, errors={**_NO_KEY, 409: "A revoked key stays revoked."}
    )
    def change_client_key(key_id: str, body: KeyChangeBody) -> Response:
        key = keys.change(current_actor(), key_id, notes=body.notes, is_active=body.isActive)
        return jsonify(
            KeyChangedView(id=key.key_id, is_active=key.is_active, updated_at=json_ready(key.updated_at))
        )

    @routes.delete("/keys/<key_id>")
    @describe("Revoke or delete a client key", answers=KeyRevokedView | KeyDeletedView, errors=_NO_KEY)
    def delete_client_key(key_id: str, query: DeletionQuery) -> Response:
        """Revoked, it is not accepted any more, for good, and stays listed."""
        if query.permanent:
            deleted_at = json_ready(keys.delete(current_actor(), key_id))
            return jsonify(KeyDeletedView(id=key_id, deleted=True, deleted_at=deleted_at))
        key = keys.revoke(current_actor(), key_id)
        return jsonify(KeyRevokedView(id=key.key_id, revoked=True, revoked_at=json_ready(key.revoked_at)))

    @routes.post("/keys/<key_id>/reset")
    @describe("Reset a client key's counters", answers=KeyResetView, errors=_NO_KEY)
    def reset_client_key(key_id: str) -> Response:
        """`flask verify` compares its counters no more, since they do not begin where its records do."""
        key = keys.reset_counters(current_actor(), key_id)
        return jsonify(
            KeyResetView(
                id=key.key_id,
                tokens_used=key.tokens_used,
                requests_count=key.requests_count,
                reset_at=json_ready(key.reset_at),
            )
        )


def client_key_view(key: ClientKey) -> ClientKeyView:
    """A key as shown."""
    return ClientKeyView(
        id=key.key_id,
        name=key.username,
        hint=key.hint,
        tier=key.tier,
        tokensUsed=key.tokens_used,
        requestsCount=key.requests_count,
        isActive=key.is_active,
        rpm=key.rpm,
        notes=key.notes,
        createdAt=json_ready(key.created_at),
        lastUsedAt=json_ready(key.last_used_at),
        updatedAt=json_ready(key.updated_at),
        expiresAt=json_ready(key.expires_at),
        revokedAt=json_ready(key.revoked_at),
        resetAt=json_ready(key.reset_at),
    )
