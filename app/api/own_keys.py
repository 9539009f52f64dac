"""`/api/user/keys…`: users make, change, rotate and revoke keys of their own, within the limits they have.

What limits a user holds for all of their keys together, so that another key is nothing more to spend. A key
that has limits of its own does not reach this: whoever was given it could make one without them.
"""

from flask import Blueprint, Response, g, jsonify, request

from app.accounts.client_keys import ClientKey
from app.accounts.principal import Principal
from app.api.admin.client_keys import KeyChangeBody, Notes, RotateBody
from app.api.answers import error_answer
from app.api.limits import KeyLimitsBody
from app.api.operation import USER, ApiSection
from app.management.audit import Actor
from app.management.client_keys import ClientKeyAdmin
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

_own = ApiSection("User", access=USER)
_ERRORS = {403: "The key that asks has limits of its own.", 404: "You have no such key."}


class NewOwnKeyBody(KeyLimitsBody):
    """A key to make for oneself."""

    notes: Notes | None = None


def add_own_keys(routes: Blueprint, keys: ClientKeyAdmin) -> None:
    """Add the routes; whoever asks has been identified before."""

    @routes.before_request
    def refuse_limited_keys() -> Response | None:
        if request.endpoint is None or not request.endpoint.endswith("_own_key"):
            return None
        key = keys.find(_principal().user_key_id)
        if key is not None and key.is_limited:
            hint = "use a key of yours without limits, or ask the operator"
            return error_answer(403, "this key has limits of its own, and cannot manage keys", hint=hint)
        return None

    @routes.get("/keys", endpoint="list_own_key")
    @_own("Your keys", answers=ClientKeysView, errors={403: _ERRORS[403]})
    def list_keys() -> Response:
        return jsonify(client_keys_view(keys.list(_principal().user_id)))

    @routes.post("/keys", endpoint="add_own_key")
    @_own(
        "Make a key of your own",
        answers={201: NewClientKeyView},
        errors={403: _ERRORS[403], 409: "You have as many as you may make."},
    )
    def add_key(body: NewOwnKeyBody) -> tuple[Response, int]:
        """Make a key, which is itself in the answer, and never shown again."""
        made = keys.add_own(_actor(), _principal().user_id, body.given())
        return jsonify(new_client_key_view(made)), 201

    @routes.get("/keys/<key_id>", endpoint="get_own_key")
    @_own("One of your keys", answers=ClientKeyView, errors=_ERRORS)
    def get_key(key_id: str) -> Response:
        """Show a key, and what is left of its budgets."""
        key = own(key_id)
        return jsonify(client_key_view(key, keys.budgets_left(key)))

    @routes.patch("/keys/<key_id>", endpoint="change_own_key")
    @_own("Change one of your keys", answers=ClientKeyView, errors={**_ERRORS, 409: "It is revoked."})
    def change_key(key_id: str, body: KeyChangeBody) -> Response:
        """Change the key; running workers follow within seconds."""
        key = keys.change(_actor(), own(key_id).key_id, body.given())
        return jsonify(client_key_view(key, keys.budgets_left(key)))

    @routes.post("/keys/<key_id>/rotate", endpoint="rotate_own_key")
    @_own(
        "Give one of your keys another secret",
        answers=KeyRotatedView,
        errors={**_ERRORS, 409: "It is revoked, or was rotated at the same time."},
    )
    def rotate_key(key_id: str, body: RotateBody) -> Response:
        """Make a new secret under the same id; limits, budgets and records stay."""
        made = keys.rotate(_actor(), own(key_id).key_id, body.overlapHours)
        return jsonify(rotated_key_view(made, body.overlapHours))

    @routes.delete("/keys/<key_id>", endpoint="revoke_own_key")
    @_own("Revoke one of your keys", answers=KeyRevokedView, errors=_ERRORS)
    def revoke_key(key_id: str) -> Response:
        """Revoke the key: it stays listed, and is never accepted again."""
        return jsonify(revoked_key_view(keys.revoke(_actor(), own(key_id).key_id)))

    def own(key_id: str) -> ClientKey:
        return keys.get_own(_principal().user_id, key_id)


def _principal() -> Principal:
    principal: Principal = g.principal
    return principal


def _actor() -> Actor:
    return Actor(_principal().user_id, "api", request.remote_addr)
