"""Operations endpoints for the admin: the key pool's state, and reading everything anew."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NotRequired, Protocol

from flask import Blueprint, Response, jsonify
from typing_extensions import TypedDict

from app.api.admin.auth import VerifyAdmin, require_admin
from app.api.answers import handle_errors
from app.api.operation import Section

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
    """What was read, or what was not and why."""

    success: bool
    message: str
    models: int
    ohmygpt_reloaded: bool
    ohmygpt_keys: int


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
    describe = Section("Operations")
    require_admin(routes, admin_token, verify_admin)
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
        "Read keys, users and the model table anew", answers={200: ReloadView, UNPROCESSABLE: ReloadView}
    )
    def reload_all() -> Response:
        """In this worker at once, in the others of the host within seconds. 422: not all could be read."""
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


def _shown(key: KeyView) -> PoolKeyView:
    shown: PoolKeyView = {"id": key.key_id, "status": key.status, "available": key.available}
    if key.last_error is not None:
        shown["last_error"] = key.last_error
    if key.cooldown_until is not None:
        shown["cooldown_until"] = key.cooldown_until.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return shown
