"""What the dashboard needs from the outside, as protocols; `app.factory` puts the real things behind them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from app.core.ports import RateLimiter

VerifyAdmin = Callable[[str, str], bool | None]
"""Checks a name and password: True for an admin, False for a user who is none, None for wrong ones.

May raise `StoreUnavailable`. It is slow on purpose and has to run off the event loop.
"""


class Accounts(Protocol):
    """The users who may be admins; raises `StoreUnavailable`."""

    def password_mark(self, username: str) -> str | None:
        """What changes with the password of an active admin; None for everybody else."""


class EndedSessions(Protocol):
    """The sessions that were ended before their time; raises `StoreUnavailable`."""

    def end(self, session_id: str, expires_at: datetime) -> None:
        """Remember that this one is over, until it would have been anyway."""

    def has_ended(self, session_id: str) -> bool:
        """Whether it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """What logging in needs. `session_key` signs sessions and is used for nothing else."""

    admin_token: str
    session_key: str
    verify_admin: VerifyAdmin
    accounts: Accounts
    ended: EndedSessions
    limiter: RateLimiter
