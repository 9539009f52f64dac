"""Who is logged in. A session is a signed cookie, and ends as soon as what it was opened with does.

It is good for `SESSION_HOURS` after the login. Before that it ends when whoever it is logs out, when the
admin token changes, when the user is disabled or has another password or role, and, opened with a client
key, when that key is paused, revoked, rotated or expired. While the store is away a signed session counts:
nothing can be changed then, and what is wrong with the store is to be seen.
"""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from flask import g, request, session
from flask_login import UserMixin, current_user, login_user, logout_user
from flask_wtf.csrf import generate_csrf

from app.accounts.dashboard_access import KeyHolder, Standing
from app.accounts.roles import OWNER, USER, Permission, grants, role_name
from app.admin.asking import ask, store_problem
from app.admin.ports import AuthConfig
from app.exchange.ports import Clock

SESSION_HOURS = 12
SESSIONS = "weir.sessions"
"""Under which the dashboard's sessions are found in `extensions`."""
TOKEN_HOLDER = "admin-token"  # noqa: S105
"""What an owner is called who came with the token."""

_TOKEN_ID = "token"  # noqa: S105
_USER_PREFIX: Final = "user:"
_KEY_PREFIX: Final = "key:"
_LIFETIME = timedelta(hours=SESSION_HOURS)


class Visitor(UserMixin):  # type: ignore[misc]  # it has no types
    """Somebody who is logged in. `username` is None for the holder of the token.

    `key_id` is the client key they came with. Whoever did is a user, whatever role the user has.
    """

    def __init__(self, username: str | None, role: str, key_id: str | None = None) -> None:
        self.username = username
        self.role = role
        self.key_id = key_id
        self.id = _TOKEN_ID if username is None else _USER_PREFIX + username
        if key_id is not None:
            self.id = f"{_KEY_PREFIX}{key_id} {username}"

    @property
    def name(self) -> str:
        """What logs call them."""
        return TOKEN_HOLDER if self.username is None else self.username

    @property
    def role_name(self) -> str:
        """What pages call their role."""
        return role_name(self.role)

    def may(self, permission: Permission | str) -> bool:
        """Return whether they have this permission."""
        permission = Permission(permission)
        if permission in (Permission.OPEN, Permission.ENTER):
            return True
        if permission is Permission.OWN:
            return self.username is not None
        return grants(self.role, permission)

    @classmethod
    def from_id(cls, user_id: str, role: str) -> "Visitor | None":
        """Return whom a session's id means; None for an id of another version."""
        if user_id == _TOKEN_ID:
            return cls(None, OWNER)
        if user_id.startswith(_KEY_PREFIX):
            key_id, _, username = user_id.removeprefix(_KEY_PREFIX).partition(" ")
            return cls(username, USER, key_id)
        return cls(user_id.removeprefix(_USER_PREFIX), role) if user_id.startswith(_USER_PREFIX) else None


class Sessions:
    """Opens, checks and ends the session of the current request."""

    def __init__(self, auth: AuthConfig, clock: Clock) -> None:
        self._auth = auth
        self._clock = clock

    def open(self, username: str | None) -> bool:
        """Log in with token or password; False when there is no such user (any more)."""
        standing = self._standing(Visitor(username, OWNER))
        if standing is None:
            return False
        self._begin(Visitor(username, standing.role), standing, self._clock.utcnow() + _LIFETIME)
        return True

    def open_with_key(self, secret: str) -> bool:
        """Log in with a client key; False where it is not accepted, or not from this address."""
        now = self._clock.utcnow()
        holder: KeyHolder | None = self._auth.accounts.holder(secret, now)
        if holder is None:
            return False
        visitor = Visitor(holder.username, USER, holder.key_id)
        standing = self._standing(visitor)
        if standing is None:
            return False
        self._begin(visitor, standing, min(now + _LIFETIME, holder.ends_at or now + _LIFETIME))
        return True

    def _begin(self, visitor: Visitor, standing: Standing, ends_at: datetime) -> None:
        """Put the session into the cookie. What that held before is dropped."""
        session.clear()
        # The forms' secret is made now, not with the first page: the cookie stays the same all through the
        # session, and logging out works with any copy of it.
        g.pop("csrf_token", None)
        generate_csrf()
        session.permanent = True
        session["sid"] = secrets.token_urlsafe(16)
        session["role"] = standing.role
        session["mark"] = self._signed(visitor, standing)
        session["at"] = int(self._clock.utcnow().timestamp())
        session["until"] = int(ends_at.timestamp())
        login_user(visitor)

    def renew(self) -> None:
        """Have the session go on after its own key was rotated by whoever is in it."""
        standing = self._standing(current_user)
        if standing is not None:
            session["mark"] = self._signed(current_user, standing)

    def resume(self, user_id: str) -> Visitor | None:
        """Return who is in a session, None when it is over."""
        session_id, mark, role = session.get("sid"), session.get("mark"), session.get("role")
        since, until = session.get("at"), session.get("until")
        if not (isinstance(session_id, str) and isinstance(mark, str) and isinstance(role, str)):
            return None
        if not (isinstance(since, int) and isinstance(until, int)):
            return None
        if not since <= self._clock.utcnow().timestamp() <= until:
            return None
        visitor = Visitor.from_id(user_id, role)
        if visitor is None:
            return None
        standing = ask(lambda: self._standing(visitor))
        if store_problem() is None and (
            standing is None or not hmac.compare_digest(self._signed(visitor, standing), mark)
        ):
            return None
        return None if ask(lambda: self._auth.ended.has_ended(session_id)) else visitor

    def close(self) -> None:
        """Log out: the cookie is dropped, and a copy of it is worth nothing. Raises `StoreUnavailable`."""
        session_id, since = session.get("sid"), session.get("at")
        logout_user()
        session.clear()
        if isinstance(session_id, str) and isinstance(since, int):
            self._auth.ended.end(session_id, datetime.fromtimestamp(since, UTC) + _LIFETIME)

    def _standing(self, visitor: Visitor) -> Standing | None:
        if visitor.username is None:
            return Standing(OWNER, self._auth.admin_token)
        if visitor.key_id is not None:
            now = self._clock.utcnow()
            return self._auth.accounts.by_key(visitor.username, visitor.key_id, request.remote_addr, now)
        return self._auth.accounts.by_password(visitor.username)

    def _signed(self, visitor: Visitor, standing: Standing) -> str:
        """Return what the session stands and falls with, without giving it away."""
        content = f"{visitor.id}:{standing.role}:{standing.mark}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._auth.session_key.encode(), content, hashlib.sha256).hex()


def session_settings() -> dict[str, Any]:
    """Return the settings of the session cookie: of `/admin` only, out of reach of scripts, other sites."""
    return {
        "SESSION_COOKIE_NAME": "weir_admin",
        "SESSION_COOKIE_PATH": "/admin",
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_SAMESITE": "Lax",
        "PERMANENT_SESSION_LIFETIME": _LIFETIME,
        "SESSION_REFRESH_EACH_REQUEST": False,
    }
