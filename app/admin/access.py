"""Who is logged in. A session is a signed cookie, and ends as soon as what it was opened with does.

It is good for `SESSION_HOURS` after the login. Before that it ends when the admin logs out, when the admin
token changes, and when the user is disabled, is no admin any more or has another password. While the store is
away a signed session counts: nothing can be changed then, and what is wrong with the store is to be seen.
"""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import session
from flask_login import UserMixin, login_user, logout_user

from app.admin.asking import ask, store_problem
from app.admin.ports import Entrance
from app.core.ports import Clock

SESSION_HOURS = 12
TOKEN_HOLDER = "admin-token"  # noqa: S105
"""What an admin is called who came with the token."""

_TOKEN_ID = "token"  # noqa: S105
_USER_PREFIX = "user:"
_LIFETIME = timedelta(hours=SESSION_HOURS)


class Admin(UserMixin):  # type: ignore[misc]  # it has no types
    """Somebody who may see and change everything. `username` is None for the holder of the token."""

    def __init__(self, username: str | None) -> None:
        self.username = username
        self.id = _TOKEN_ID if username is None else _USER_PREFIX + username

    @property
    def name(self) -> str:
        """What logs call this admin."""
        return TOKEN_HOLDER if self.username is None else self.username

    @classmethod
    def from_id(cls, user_id: str) -> "Admin":
        """The admin of a session."""
        return cls(user_id.removeprefix(_USER_PREFIX) if user_id.startswith(_USER_PREFIX) else None)


class Sessions:
    """Opens, checks and ends the session of the current request."""

    def __init__(self, entrance: Entrance, clock: Clock) -> None:
        self._entrance = entrance
        self._clock = clock

    def open(self, username: str | None) -> bool:
        """Log in; False when there is no such admin (any more). What the cookie held before is dropped."""
        mark = self._mark(username)
        if mark is None:
            return False
        session.clear()
        session.permanent = True
        session["sid"] = secrets.token_urlsafe(16)
        session["mark"] = mark
        session["at"] = int(self._clock.utcnow().timestamp())
        login_user(Admin(username))
        return True

    def resume(self, user_id: str) -> Admin | None:
        """The admin of a session, None when it is over."""
        admin = Admin.from_id(user_id)
        session_id, since, mark = session.get("sid"), session.get("at"), session.get("mark")
        if not (isinstance(session_id, str) and isinstance(since, int) and isinstance(mark, str)):
            return None
        if not 0 <= self._clock.utcnow().timestamp() - since <= _LIFETIME.total_seconds():
            return None
        current = ask(lambda: self._mark(admin.username))
        if store_problem() is None and (current is None or not hmac.compare_digest(current, mark)):
            return None
        return None if ask(lambda: self._entrance.ended.has_ended(session_id)) else admin

    def close(self) -> None:
        """Log out: the cookie is dropped, and a copy of it is worth nothing. Raises `StoreUnavailable`."""
        session_id, since = session.get("sid"), session.get("at")
        logout_user()
        session.clear()
        if isinstance(session_id, str) and isinstance(since, int):
            self._entrance.ended.end(session_id, datetime.fromtimestamp(since, UTC) + _LIFETIME)

    def _mark(self, username: str | None) -> str | None:
        """What a session stands and falls with, without giving it away."""
        if username is None:
            secret: str | None = self._entrance.admin_token
        else:
            secret = self._entrance.accounts.password_mark(username)
        if secret is None:
            return None
        kind = "user" if username is not None else "token"
        content = f"{kind}:{username or ''}:{secret}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._entrance.session_key.encode(), content, hashlib.sha256).hex()


def session_settings() -> dict[str, Any]:
    """The settings of the session cookie: of `/admin` only, out of reach of scripts and of other sites."""
    return {
        "SESSION_COOKIE_NAME": "weir_admin",
        "SESSION_COOKIE_PATH": "/admin",
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_SAMESITE": "Lax",
        "PERMANENT_SESSION_LIFETIME": _LIFETIME,
        "SESSION_REFRESH_EACH_REQUEST": False,
    }
