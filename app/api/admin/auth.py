"""Who may use the admin API: the holder of the admin token, or an admin user by name and password."""

import hmac
from collections.abc import Callable

from flask import Response, jsonify
from werkzeug.datastructures import Authorization

VerifyAdmin = Callable[[str, str], bool | None]
"""Checks a name and password: True for an admin, False for a user who is none, None for wrong ones.

May raise `StoreUnavailable`. It is slow on purpose and has to run off the event loop.
"""

_CHALLENGE = 'Bearer realm="weir-admin", Basic realm="weir-admin", charset="UTF-8"'


def refusal(
    authorization: Authorization | None, admin_token: str, verify_admin: VerifyAdmin
) -> Response | None:
    """The 401 or 403 to answer with; None when the credentials are an admin's."""
    if authorization is None or authorization.type not in ("bearer", "basic"):
        return _unauthorized("this needs an admin's credentials")
    if authorization.type == "bearer":
        # WSGI hands over the bytes of a header as Latin-1.
        given = (authorization.token or "").encode("latin-1", "replace")
        if admin_token and hmac.compare_digest(given, admin_token.encode()):
            return None
        return _unauthorized("this is not the admin token")
    is_admin = verify_admin(authorization.username or "", authorization.password or "")
    if is_admin is None:
        return _unauthorized("wrong user name or password")
    return None if is_admin else _error(403, "this user is not an admin", "ask an admin for the role")


def _unauthorized(message: str) -> Response:
    response = _error(401, message, "send `Authorization: Bearer ADMIN_TOKEN`, or an admin user's Basic one")
    response.headers["WWW-Authenticate"] = _CHALLENGE
    return response


def _error(status: int, message: str, hint: str) -> Response:
    response = jsonify(error=message, hint=hint)
    response.status_code = status
    return response
