"""Operations endpoints for the admin: the key pool's state, and reading everything anew."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import NotRequired

from flask import Blueprint, Response, jsonify
from typing_extensions import TypedDict

from app.accounts.login_tries import LoginGuard
from app.api.admin.auth import current_actor, require_admin
from app.api.answers import handle_errors
from app.api.operation import ApiSection
from app.management.reading import KeyView, Reloaded

FAILED, UNAVAILABLE = 500, 503


class PoolKeyView(TypedDict):
    """An upstream key of the pool."""

    id: str
    status: str
    available: bool
    last_error: NotRequired[str]
    cooldown_until: NotRequired[str]


class PoolView(TypedDict):
    """The pool; `backup_keys_available` is null while the database cannot say."""

    stats: dict[str, int]
    backup_keys_available: int | None
    keys: list[PoolKeyView]


class ReloadView(TypedDict):
    """What was read, or what was not, why, and what stays in force; `failed` names the parts."""

    success: bool
    message: str
    failed: list[str]
    models: int
    ohmygpt_reloaded: bool
    ohmygpt_keys: int


def operations_blueprint(
    *,
    keys: Callable[[], Sequence[KeyView]],
    key_states: Callable[[Sequence[KeyView]], Mapping[str, int]],
    backup_keys: Callable[[], int | None],
    reload: Callable[[str], Reloaded],
    guard: LoginGuard,
) -> Blueprint:
    """Make `GET /keys/status` and `/reload`; `backup_keys` is None while the store cannot say."""
    routes = Blueprint("operations", __name__)
    describe = ApiSection("Operations")
    require_admin(routes, guard)
    handle_errors(routes)

    @routes.get("/keys/status")
    @describe("The pool of upstream keys, as this worker sees it", answers=PoolView)
    def key_status() -> Response:
        found = keys()
        return jsonify(
            stats={"total": len(found), **key_states(found)},
            backup_keys_available=backup_keys(),
            keys=[_shown(key) for key in found],
        )

    @routes.route("/reload", methods=["GET", "POST"])
    @describe(
        "Read keys, users and the model table anew",
        answers={200: ReloadView, FAILED: ReloadView, UNAVAILABLE: ReloadView},
    )
    def reload_all() -> Response:
        """Reload in this worker at once, in the others of the host within seconds.

        Not all could be read: 503 where that will pass (the database is away), else 500.
        """
        done = reload(current_actor().name)
        response = jsonify(
            success=done.success,
            message=done.message,
            failed=list(done.problems),
            models=done.models,
            ohmygpt_reloaded=done.keys_read,
            ohmygpt_keys=done.upstream_keys,
        )
        if not done.success:
            response.status_code = UNAVAILABLE if done.is_temporary else FAILED
        return response

    return routes


def _shown(key: KeyView) -> PoolKeyView:
    shown: PoolKeyView = {"id": key.key_id, "status": key.status, "available": key.available}
    if key.last_error is not None:
        shown["last_error"] = key.last_error
    if key.cooldown_until is not None:
        shown["cooldown_until"] = key.cooldown_until.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return shown
