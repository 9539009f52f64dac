"""Who may use the admin API: the holder of the admin token, or an admin user by name and password."""

import hmac
from collections.abc import Callable

from flask import Blueprint, Response, g, request
from werkzeug.datastructures import Authorization

from app.api.answers import error_answer
from app.core.ports import TooManyTries
from app.management.audit import Actor
from app.management.users import TOKEN_HOLDER

VerifyAdmin = Callable[[str, str], bool | None]
"""Checks a name and password: True for an admin, False for a user who is none, None for wrong ones.

May raise `StoreUnavailable` and `TooManyTries`. It is slow on purpose and has to run off the event loop.
"""

_CHALLENGE = 'Bearer realm="weir-admin", Basic realm="weir-admin", charset="UTF-8"'


_READS = ("GET", "HEAD", "OPTIONS")


def require_admin(routes: Blueprint, admin_token: str, verify_admin: VerifyAdmin) -> None:
    """Let only admins reach the blueprint's routes; `current_admin` tells which."""

    @routes.before_request
    def check() -> Response | None:
        if request.method not in _READS and _is_foreign_page():
            return error_answer(403, "a page of another site may not change anything here")
        admin = identify(request.authorization, admin_token, verify_admin)
        if isinstance(admin, Response):
            return admin
        g.admin = admin
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
    """The admin who makes this request, as the audit log names him."""
    return Actor(g.admin, "api", request.remote_addr, g.get("request_id"))


def identify(
    authorization: Authorization | None, admin_token: str, verify_admin: VerifyAdmin
) -> str | Response:
    """The admin's name, or the 401 or 403 to answer with."""
    if authorization is None or authorization.type not in ("bearer", "basic"):
        return _unauthorized("this needs an admin's credentials")
    if authorization.type == "bearer":
        # WSGI hands over the bytes of a header as Latin-1.
        given = (authorization.token or "").encode("latin-1", "replace")
        if admin_token and hmac.compare_digest(given, admin_token.encode()):
            return TOKEN_HOLDER
        return _unauthorized("this is not the admin token")
    name = authorization.username or ""
    try:
        is_admin = verify_admin(name, authorization.password or "")
    except TooManyTries as error:
        answer = error_answer(429, str(error), retry_after=error.retry_after_s)
        answer.headers["Retry-After"] = str(error.retry_after_s)
        return answer
    if is_admin is None:
        return _unauthorized("wrong user name or password")
    if not is_admin:
        return error_answer(403, "this user is not an admin", hint="ask an admin for the role")
    return name


def _is_foreign_page() -> bool:
    """Whether a browser says that another site's page makes the request.

    A browser that knows an admin's Basic credentials sends them along by itself, whoever asks.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != request.host


def _unauthorized(message: str) -> Response:
    hint = "send `Authorization: Bearer ADMIN_TOKEN`, or an admin user's Basic one"
    response = error_answer(401, message, hint=hint)
    response.headers["WWW-Authenticate"] = _CHALLENGE
    return response
