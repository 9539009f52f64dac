"""Limits of users and client keys: checked, stored, and how much of each budget is left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

from bson.int64 import Int64
from pymongo.database import Database

from app.accounts.limits import LIMIT_FIELDS, Budget, LimitError, Limits, checked_limits
from app.common.clock import now_ms
from app.credit.budgets import (
    FIELD,
    GIVEN,
    Claim,
    begins_anew,
    bucket,
    bucket_name,
    claim_on,
    spent_nano,
)
from app.management.errors import Unusable
from app.verify.reconciled_budgets import Wrong

Document = dict[str, Any]

USER_FIELDS: Final = ("rpm", "tpm", "maxParallel", "models", "budgets")
KEY_FIELDS: Final = ("rpm", *LIMIT_FIELDS)
MAX_NAME: Final = 100
_EXPIRY_YEARS: Final = range(2000, 2201)


@dataclass(frozen=True, slots=True)
class BudgetLeft:
    """A budget, what of it is spent, and when it (or its first part) is there again; None: never."""

    budget: Budget
    spent_nano: int
    begins_anew: datetime | None

    @property
    def left_nano(self) -> int:
        """What of it is left."""
        return max(0, self.budget.nano_usd - self.spent_nano)

    @property
    def share(self) -> float:
        """The part of it that is spent, from 0 to 1; of a budget of nothing all is."""
        return min(1.0, self.spent_nano / self.budget.nano_usd) if self.budget.nano_usd else 1.0


def stored_limits(given: Mapping[str, Any]) -> Document:
    """Return limits as they are stored, None for what is taken away; raises `Unusable`."""
    try:
        return checked_limits(given)
    except LimitError as error:
        raise Unusable(error.field, str(error)) from None


def stored_expiry(moment: datetime | None, zone: tzinfo) -> datetime | None:
    """Return when something expires as it is stored; one without a zone is in `zone`. Raises `Unusable`."""
    if moment is None:
        return None
    if moment.year not in _EXPIRY_YEARS:
        years = f"{_EXPIRY_YEARS[0]} to {_EXPIRY_YEARS[-1]}"
        raise Unusable("expiresAt", f"takes a time in the years {years}")
    return (moment.replace(tzinfo=zone) if moment.tzinfo is None else moment).astimezone(UTC)


class BudgetBooks:
    """What is spent of budgets, in users' documents. Days begin at midnight in `zone`."""

    def __init__(self, db: Database[Document], zone: tzinfo = UTC) -> None:
        self._users = db["usersNew"]
        self._logs = db["request_logs"]
        self._zone = zone

    def left(self, username: str, limits: Limits | None, key_id: str | None = None) -> list[BudgetLeft]:
        """Return what is left of the budgets of a user, or of one of their keys."""
        if limits is None or not limits.budgets:
            return []
        return self.left_of(self._users.find_one({"_id": username}, {FIELD: True}) or {}, limits, key_id)

    def left_of(self, user: Document, limits: Limits | None, key_id: str | None = None) -> list[BudgetLeft]:
        """Return what is left of the budgets of this user's document, or of one of their keys."""
        if limits is None or not limits.budgets:
            return []
        now, spent = now_ms(), user.get(FIELD)
        spent = spent if isinstance(spent, Mapping) else {}
        claims = [claim_on(budget, key_id, now, self._zone) for budget in limits.budgets]
        return [
            BudgetLeft(claim.budget, spent_nano(claim, spent), begins_anew(claim, spent, now, self._zone))
            for claim in claims
        ]

    def give(
        self,
        username: str,
        before: Sequence[Budget],
        after: Sequence[Budget],
        *,
        key_id: str | None = None,
        stored_key: str | None = None,
    ) -> None:
        """Prepare for other budgets: a new one begins with what its period has spent before, as records say.

        To be called before they are stored. `key_id` is the key's id as shown, `stored_key` as records have
        it. A `total` begins with nothing. What is spent of a budget that stays is kept, whatever its amount.

        First a new one is empty, as of marks that say what was booked by then (`app.persistence.booking`).
        From there on, whatever names it is added by who books it; what was spent before is added after that.
        """
        now = now_ms()
        old, new = (
            {claim.name: claim for claim in (claim_on(budget, key_id, now, self._zone) for budget in budgets)}
            for budgets in (before, after)
        )
        update: Document = {}
        if gone := old.keys() - new.keys():
            update["$unset"] = {f"{field}.{name}": "" for name in gone for field in (FIELD, GIVEN)}
        if fresh := new.keys() - old.keys():
            update["$set"] = {f"{FIELD}.{name}": {} for name in fresh} | {
                f"{GIVEN}.{name}": now for name in fresh
            }
        if not update:
            return
        user = self._users.find_one_and_update({"_id": username}, update, {"applied": 1}) or {}
        for name in fresh:
            before_it = self._spent_before(username, new[name], stored_key, user.get("applied") or {})
            if before_it:
                added = {f"{FIELD}.{name}.{at}": Int64(nano) for at, nano in before_it.items()}
                self._users.update_one({"_id": username, f"{GIVEN}.{name}": now}, {"$inc": added})

    def put_right(self, wrong: Wrong) -> bool:
        """Store what a period of a budget should hold, if it still holds what was found wrong."""
        selector = {"_id": wrong.user_id, wrong.path: wrong.found}
        return self._users.update_one(selector, {"$set": {wrong.path: Int64(wrong.right)}}).matched_count == 1

    def _spent_before(
        self, username: str, claim: Claim, stored_key: str | None, marks: Mapping[str, float]
    ) -> dict[str, int]:
        """Return what records say, less those that name the budget and are beyond their writer's mark."""
        if claim.budget.per == "total":
            return {}
        begin = datetime.fromtimestamp(claim.since, UTC)
        match: Document = {"userId": username, "createdAt": {"$gte": begin}, "costNanoUsd": {"$gt": 0}}
        if stored_key is not None:
            match["userKeyId"] = stored_key
        unbooked: list[Document] = [{"writerId": {"$type": "string", "$nin": list(marks)}}]
        unbooked += [{"writerId": writer, "seq": {"$gt": mark}} for writer, mark in marks.items()]
        match["$nor"] = [{"budgets.name": claim.name, "$or": unbooked}]
        # No finer than the buckets: by the quarter of an hour, and for all but five hours by the hour.
        group: Document = {
            "model": "$model",
            "at": {"$dateTrunc": {"date": "$createdAt", "unit": "minute", "binSize": 15}},
        }
        sums = self._logs.aggregate(
            [{"$match": match}, {"$group": {"_id": group, "nano": {"$sum": "$costNanoUsd"}}}]
        )
        buckets: dict[str, int] = {}
        for found in sums:
            model, at = found["_id"]["model"], found["_id"]["at"]
            if claim.budget.models is None or (isinstance(model, str) and claim.budget.covers(model)):
                moment = at if at.tzinfo else at.replace(tzinfo=UTC)
                name = bucket_name(bucket(claim.budget.per, max(moment, begin), self._zone))
                buckets[name] = buckets.get(name, 0) + int(found["nano"])
        return buckets
