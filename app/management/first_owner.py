"""The first owner, made by whoever has the set-up link that the first start writes into the log."""

from datetime import datetime
from typing import Any

from pymongo.database import Database

from app.accounts.setup_link import SetupLink
from app.management.audit import Actor
from app.management.errors import Conflict, ManagementError
from app.management.users import UserAdmin, check_password, check_username


class FirstOwner:
    """Makes the first owner, once. Raises `StoreUnavailable`."""

    def __init__(self, db: Database[Any], users: UserAdmin) -> None:
        self._link = SetupLink(db)
        self._users = users

    def offer(self, now: datetime) -> str | None:
        """Return the link's secret to whoever starts first with this database; None ever after."""
        return self._link.offer(now)

    def is_open(self, secret: str, now: datetime) -> bool:
        """Return whether the link with this secret is good."""
        return self._link.is_good(secret, now)

    def make(self, actor: Actor, secret: str, username: str, password: str, now: datetime) -> None:
        """Make the owner; raises `Unusable`, and `Conflict` where somebody else was first."""
        check_username(username)
        check_password(username, password)
        if not self._link.use(secret, now):
            raise Conflict("this link was used already: log in, or ask whoever used it")
        try:
            self._users.add_owner(actor, username, password)
        except ManagementError:
            self._link.give_back(secret)
            raise

    def is_not_needed(self, now: datetime) -> None:
        """Have the link be good for nothing: an owner has logged in."""
        self._link.end(now)
