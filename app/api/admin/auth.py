"""Who may use the admin API: the holder of the admin token, or a user with a role by name and password."""

from collections.abc import Callable
from dataclasses import dataclass

from flask import Blueprint, Response, g, request
from werkzeug.datastructures import Authorization

from app.accounts.login_tries import LoginGuard
from app.accounts.roles import OWNER, Permission, grants, least_role, role_name
from app.api.answers import error_answer
from app.management.audit import Actor
from app.management.permissions import needed
from app.management.users import TOKEN_HOLDER

_CHALLENGE = 'Bearer realm="weir-admin", Basic realm="weir-admin", charset="UTF-8"'


@dataclass(frozen=True, slots=True)
class Caller:
    """Who uses the admin API, and with which role."""

    name: str
    role: str


_READS = ("GET", "HEAD", "OPTIONS")


def require_admin(routes: Blueprint, guard: LoginGuard) -> None:
    """Let only whose role allows it reach each of the blueprint's routes; `current_actor` tells who it is."""

    @routes.before_request
    def check() -> Response | None:
        rule = request.url_rule.rule if request.url_rule is not None else ""
        wanted = needed(request.method, rule)
        # Some that change something are asked by GET, as an image of any page is.
        may_change = request.method not in _READS or wanted is not Permission.READ
        if may_change and _is_foreign_page():
            return error_answer(403, "a page of another site may not change anything here")
        found = identify(request.authorization, request.remote_addr, guard)
        if isinstance(found, Response):
            return found
        if not grants(found.role, wanted):
            return _beyond_role(found, wanted)
        g.admin = found
        return None


def identify_requests(routes: Blueprint, new_request_id: Callable[[], str]) -> None:
    """Give each request an id, which its answer carries and the audit log keeps."""

    @routes.before_request
    def begin() -> None:
        g.request_id = new_request_id()

    @routes.after_request
    def tell(response: Response) -> Response:
        response.headers["x-request-id"] = g.request_id
        return response


def current_actor() -> Actor:
    """Return the admin who makes this request, as the audit log names them."""
    admin: Caller = g.admin
    return Actor(admin.name, "api", request.remote_addr, g.get("request_id"), role_name(admin.role))


def identify(
    authorization: Authorization | None, address: str | None, guard: LoginGuard
) -> Caller | Response:
    """Return who asks, or the 401 to answer with; raises what the guard does."""
    if authorization is None or authorization.type not in ("bearer", "basic"):
        return _unauthorized("this needs an admin's credentials")
    if authorization.type == "bearer":
        # WSGI hands over the bytes of a header as Latin-1.
        given = (authorization.token or "").encode("latin-1", "replace")
        is_right = guard.check_token(given, address)
        return Caller(TOKEN_HOLDER, OWNER) if is_right else _unauthorized("this is not the admin token")
    name = authorization.username or ""
    role = guard.check_password(name, authorization.password or "", address)
    if role is None:
        return _unauthorized("wrong user name or password")
    return Caller(name, role)


def _beyond_role(caller: Caller, wanted: Permission) -> Response:
    takes = least_role(wanted)
    message = f"the role {role_name(caller.role)} does not allow this: it takes {takes}"
    return error_answer(403, message, hint="ask an owner for the role")


def _is_foreign_page() -> bool:
    """Return whether a browser says that another site's page makes the request.

    A browser that knows an admin's Basic credentials sends them along by itself, whoever asks.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != request.host


def _unauthorized(message: str) -> Response:
    hint = "send `Authorization: Bearer ADMIN_TOKEN`, or a user's with a role, Basic"
    response = error_answer(401, message, hint=hint)
    response.headers["WWW-Authenticate"] = _CHALLENGE
    return response
