"""`/api/admin/keys…`: client keys."""

from typing import Annotated

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.admin.auth import current_actor
from app.api.limits import KeyLimitsBody
from app.api.operation import ApiSection, Body, Query
from app.api.parameters import Text
from app.common.display import json_ready
from app.management.client_keys import MAX_OVERLAP_HOURS, ClientKeyAdmin
from app.management.views.keys import (
    ClientKeysView,
    ClientKeyView,
    KeyRevokedView,
    KeyRotatedView,
    NewClientKeyView,
    client_key_view,
    client_keys_view,
    new_client_key_view,
    revoked_key_view,
    rotated_key_view,
)

_NO_KEY = {404: "There is no such client key."}

Notes = Annotated[str, Field(max_length=500, description="What the key is for.")]


class KeysQuery(Query):
    """Which keys."""

    user: Text | None = Field(None, description="Only this user's.")


class DeletionQuery(Query):
    """Whether the key only stops working, or goes."""

    permanent: bool = Field(False, description="Remove the key's document; logs go on naming its id.")


class NewKeyBody(KeyLimitsBody):
    """A client key to make."""

    name: str = Field(min_length=1, max_length=100, description="Whose it is: a user's name.")
    notes: Notes | None = None


class KeyChangeBody(KeyLimitsBody):
    """What to change; what is left out stays, null takes a limit away."""

    notes: Notes | None = None


class RotateBody(Body):
    """How long the secret of now goes on being accepted."""

    overlapHours: float = Field(24, ge=0, le=MAX_OVERLAP_HOURS, description="0: not at all.")


class KeyChangedView(TypedDict):
    """A key after a change."""

    id: str
    is_active: bool
    updated_at: str


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
    describe = ApiSection("Client keys")

    @routes.get("/keys")
    @describe("List client keys", answers=ClientKeysView)
    def list_client_keys(query: KeysQuery) -> Response:
        return jsonify(client_keys_view(keys.list(query.user)))

    @routes.post("/keys")
    @describe("Make a client key", answers={201: NewClientKeyView})
    def add_client_key(body: NewKeyBody) -> tuple[Response, int]:
        """Make a key, which is itself in the answer, and never shown again."""
        more = {name: value for name, value in body.given().items() if name != "name"}
        made = keys.add(current_actor(), body.name, more=more)
        return jsonify(new_client_key_view(made)), 201

    @routes.get("/keys/<key_id>")
    @describe("One client key", answers=ClientKeyView, errors=_NO_KEY)
    def get_client_key(key_id: str) -> Response:
        """Show a key, and what is left of its budgets."""
        key = keys.get(key_id)
        return jsonify(client_key_view(key, keys.budgets_left(key)))

    @routes.patch("/keys/<key_id>")
    @describe(
        "Change a client key", answers=KeyChangedView, errors={**_NO_KEY, 409: "A revoked key stays revoked."}
    )
    def change_client_key(key_id: str, body: KeyChangeBody) -> Response:
        """Change the key; running workers follow within seconds."""
        key = keys.change(current_actor(), key_id, body.given())
        return jsonify(
            KeyChangedView(id=key.key_id, is_active=key.is_active, updated_at=json_ready(key.updated_at))
        )

    @routes.delete("/keys/<key_id>")
    @describe("Revoke or delete a client key", answers=KeyRevokedView | KeyDeletedView, errors=_NO_KEY)
    def delete_client_key(key_id: str, query: DeletionQuery) -> Response:
        """Revoke the key, which stays listed and is never accepted again, or delete it if `permanent`."""
        if query.permanent:
            deleted_at = json_ready(keys.delete(current_actor(), key_id))
            return jsonify(KeyDeletedView(id=key_id, deleted=True, deleted_at=deleted_at))
        return jsonify(revoked_key_view(keys.revoke(current_actor(), key_id)))

    @routes.post("/keys/<key_id>/rotate")
    @describe(
        "Give a client key another secret",
        answers=KeyRotatedView,
        errors={**_NO_KEY, 409: "It is revoked, or was rotated at the same time."},
    )
    def rotate_client_key(key_id: str, body: RotateBody) -> Response:
        """Make a new secret under the same id; limits, budgets and records stay."""
        made = keys.rotate(current_actor(), key_id, body.overlapHours)
        return jsonify(rotated_key_view(made, body.overlapHours))

    @routes.post("/keys/<key_id>/reset")
    @describe("Reset a client key's counters", answers=KeyResetView, errors=_NO_KEY)
    def reset_client_key(key_id: str) -> Response:
        """Count from 0 again. `weir verify` compares the counters no more: they begin after the records."""
        key = keys.reset_counters(current_actor(), key_id)
        return jsonify(
            KeyResetView(
                id=key.key_id,
                tokens_used=key.tokens_used,
                requests_count=key.requests_count,
                reset_at=json_ready(key.reset_at),
            )
        )
