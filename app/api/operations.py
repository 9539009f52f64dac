"""Operations endpoints for the admin: the key pool's state, and reading everything anew."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from flask import Blueprint, Response, jsonify, request

from app.api.admin.auth import VerifyAdmin, refusal

UNPROCESSABLE = 422


class KeyView(Protocol):
    """An upstream key as it may be shown."""

    @property
    def key_id(self) -> str:
        """Its id in the pool."""

    @property
    def status(self) -> str:
        """Its state."""

    @property
    def available(self) -> bool:
        """Whether a request would get it now."""

    @property
    def last_error(self) -> str | None:
        """What went wrong last."""

    @property
    def cooldown_until(self) -> datetime | None:
        """When it may be used again."""


class Reloaded(Protocol):
    """What came of a reload."""

    @property
    def success(self) -> bool:
        """Whether everything was read."""

    @property
    def message(self) -> str:
        """One line: what was read, or what was not and why."""

    @property
    def models(self) -> int:
        """Models in use now."""

    @property
    def upstream_keys(self) -> int:
        """Upstream keys in use now."""


def operations_blueprint(
    *,
    keys: Callable[[], Sequence[KeyView]],
    key_states: Callable[[Sequence[KeyView]], Mapping[str, int]],
    backup_keys: Callable[[], int | None],
    reload: Callable[[], Reloaded],
    admin_token: str,
    verify_admin: VerifyAdmin,
) -> Blueprint:
    """`GET /keys/status` and `/reload`; `backup_keys` is None while the store cannot say."""
    routes = Blueprint("operations", __name__)
    routes.before_request(lambda: refusal(request.authorization, admin_token, verify_admin))
    routes.after_request(_not_stored)

    @routes.get("/keys/status")
    def key_status() -> Response:
        found = keys()
        return jsonify(
            stats={"total": len(found), **key_states(found)},
            backup_keys_available=backup_keys(),
            keys=[_shown(key) for key in found],
        )

    @routes.route("/reload", methods=["GET", "POST"])
    def reload_all() -> Response:
        done = reload()
        response = jsonify(
            success=done.success,
            message=done.message,
            models=done.models,
            ohmygpt_reloaded=done.success,
            ohmygpt_keys=done.upstream_keys,
        )
        if not done.success:
            response.status_code = UNPROCESSABLE
        return response

    return routes


def _shown(key: KeyView) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": key.key_id, "status": key.status, "available": key.available}
    if key.last_error is not None:
        shown["last_error"] = key.last_error
    if key.cooldown_until is not None:
        shown["cooldown_until"] = key.cooldown_until.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return shown


def _not_stored(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response
