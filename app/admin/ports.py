"""What logging in to the dashboard needs from the outside; `app.factory` puts it together."""

from dataclasses import dataclass

from app.accounts.login_tries import LoginGuard
from app.management.first_owner import FirstOwner
from app.management.reading import DashboardAccounts, EndedSessions


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """What logging in needs. `session_key` signs sessions and is used for nothing else."""

    admin_token: str
    session_key: str
    guard: LoginGuard
    accounts: DashboardAccounts
    ended: EndedSessions
    first_owner: FirstOwner
