"""How far a new installation has come."""

from dataclasses import dataclass
from typing import Any

from pymongo.database import Database

from app.accounts.roles import ROLES, USER
from app.management.errors import asks_store
from app.statistics.rollups import COLLECTION

_ALL = True, True, True


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """Whether there is a user who is not of the staff, a client key, and an answered request."""

    has_user: bool
    has_client_key: bool
    has_answered: bool


class FirstStepsStore:
    """Looks how far it has come; once a request was answered, never again. Raises `StoreUnavailable`."""

    def __init__(self, db: Database[Any]) -> None:
        self._users = db["usersNew"]
        self._keys = db["user_keys"]
        self._sums = db[COLLECTION]
        self._has_answered = False

    @asks_store
    def found(self) -> FirstSteps:
        """Return how far it has come."""
        if self._has_answered:
            return FirstSteps(*_ALL)
        staff = [role for role in ROLES if role != USER]
        steps = FirstSteps(
            has_user=self._users.find_one({"role": {"$nin": staff}}, {"_id": 1}) is not None,
            has_client_key=self._keys.find_one({"isActive": {"$ne": False}}, {"_id": 1}) is not None,
            has_answered=self._sums.find_one({"success": {"$gt": 0}}, {"_id": 1}) is not None,
        )
        self._has_answered = steps.has_answered
        return steps
