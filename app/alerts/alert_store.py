"""Which alerts there are (`alerts`): each once in its period, whoever sees it first, and sent by one worker.

{_id: kind:subject:period, kind, subject, period, title, meaning, advice, raisedAt,
 left: [numbers of the destinations that do not have it], tries, nextTryAt,   # while it is to be sent
 sentAt | givenUpAt, problem}
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

import pymongo
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.accounts.credentials import public_key_id
from app.accounts.limits import Limits
from app.accounts.users import GRANTED
from app.alerts.conditions import (
    EXPIRES_SOON,
    LOOKED_BACK,
    SPENT_PERCENT,
    Alert,
    BudgetUse,
    Spending,
    StoreFacts,
)
from app.common.money import NANO
from app.credit.budgets import FIELD, claim_on, spent_nano
from app.pricing.ledger_findings import Finding
from app.store.driver import make_indexes, store_errors
from app.store.fields import nano_usd

Document = dict[str, Any]

COLLECTION: Final = "alerts"
MAX_TRIES: Final = 10
"""Within about a day; then it is given up, which the log and the audit log say."""

_LOOK = "look"
_KEPT = timedelta(days=400)
_LEASE = timedelta(minutes=5)
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=4)
_MAX_SCANNED = 20_000
_MAX_SUBJECTS = 200
_MAX_BUDGETED = 10_000
_LATE_BOOKINGS = timedelta(hours=1)
_WINDOW_S = 5 * 3600
_MAX_TIME_S = 5.0

INDEXES = (
    IndexModel([("raisedAt", DESCENDING)], expireAfterSeconds=int(_KEPT.total_seconds())),
    IndexModel([("nextTryAt", ASCENDING)], partialFilterExpression={"nextTryAt": {"$exists": True}}),
)


class AlertStore:
    """Reads and writes them. Every method raises `StoreUnavailable`. Budgets of a day begin in `tz`.

    `findings` tells what is wrong today between the upstream's books and the own ones.
    """

    def __init__(
        self,
        db: Database[Any],
        tz: tzinfo = UTC,
        findings: Callable[[datetime], Iterable[Finding]] = lambda now: (),
    ) -> None:
        self._tz = tz
        self._findings = findings
        self._db = db
        self._alerts = db[COLLECTION]

    def ensure_indexes(self) -> None:
        """Make the indexes."""
        make_indexes(self._alerts, INDEXES)

    def claim_look(self, now: datetime, every: timedelta) -> bool:
        """Claim the next look at what the database shows; True for one of all workers only."""
        due = {"_id": _LOOK, "lookedAt": {"$not": {"$gt": now - every}}}
        with store_errors():
            try:
                done = self._alerts.update_one(due, {"$set": {"lookedAt": now}}, upsert=True)
            except DuplicateKeyError:  # it is there, and not due
                return False
        return bool(done.modified_count or done.upserted_id is not None)

    def note(self, alerts: Iterable[Alert], now: datetime, destinations: int) -> None:
        """Keep those that are new, to be sent to so many destinations."""
        with store_errors():
            new = [
                UpdateOne(
                    {"_id": alert.alert_id}, {"$setOnInsert": _document(alert, now, destinations)}, True
                )
                for alert in alerts
            ]
            if new:
                self._alerts.bulk_write(new, ordered=False)

    def take_due(self, now: datetime) -> Document | None:
        """Take one that is to be sent now; nobody else takes it for as long as sending may take."""
        with store_errors():
            return self._alerts.find_one_and_update(
                {"nextTryAt": {"$lte": now}},
                {"$set": {"nextTryAt": now + _LEASE}, "$inc": {"tries": 1}},
                sort=[("nextTryAt", ASCENDING)],
                return_document=ReturnDocument.AFTER,
            )

    def note_sent(self, taken: Document, left: list[int], problem: str | None, now: datetime) -> bool:
        """Keep what came of a try; False where it is given up now."""
        change: Document = {"$set": {"left": left}}
        is_over = not left or taken["tries"] >= MAX_TRIES
        if is_over:
            change["$set"]["givenUpAt" if left else "sentAt"] = now
            change["$unset"] = {"nextTryAt": ""}
        else:
            change["$set"]["nextTryAt"] = now + pause_after(taken["tries"])
        change["$set"]["problem"] = problem
        with store_errors():
            self._alerts.update_one({"_id": taken["_id"]}, change)
        return not (is_over and left)

    def newest(self, limit: int) -> list[Document]:
        """Return the newest alerts."""
        with store_errors():
            return list(self._alerts.find({"_id": {"$ne": _LOOK}}).sort("raisedAt", DESCENDING).limit(limit))

    def facts(self, now: datetime) -> StoreFacts:
        """Read what the alerts of the database are decided by: bounded in rows, and in time."""
        with store_errors(), pymongo.timeout(_MAX_TIME_S):
            requests, refused, unpriced = self._recent(now)
            return StoreFacts(
                requests,
                refused,
                unpriced,
                self._credits(),
                self._budgets(now),
                self._expiring(now),
                self._month_to_close(now),
                now.astimezone(self._tz).date().isoformat(),
                tuple(self._findings(now)),
            )

    def _recent(self, now: datetime) -> tuple[int, int, dict[str, tuple[str, ...]]]:
        fields = {"_id": 0, "outcome": 1, "unpriced": 1, "model": 1}
        newest = self._db["request_logs"].aggregate(
            [
                {"$match": {"createdAt": {"$gte": now - LOOKED_BACK}}},
                {"$sort": {"createdAt": DESCENDING}},
                {"$limit": _MAX_SCANNED},
                {"$project": fields},
                {"$group": {
                    "_id": {"model": "$model", "unpriced": "$unpriced"},
                    "requests": {"$sum": 1},
                    "refused": {"$sum": {"$cond": [{"$in": ["$outcome", list(_UPSTREAMS)]}, 1, 0]}},
                }},
                {"$limit": _MAX_SUBJECTS},
            ]
        )  # fmt: skip
        requests = refused = 0
        unpriced: dict[str, set[str]] = {}
        for row in newest:
            requests, refused = requests + row["requests"], refused + row["refused"]
            if units := row["_id"].get("unpriced"):
                unpriced.setdefault(str(row["_id"].get("model")), set()).update(map(str, units))
        return requests, refused, {model: tuple(sorted(units)) for model, units in unpriced.items()}

    def _credits(self) -> tuple[Spending, ...]:
        """Return users who have spent four fifths of all credit they were ever given."""
        nano = {"$multiply": ["$creditsUsed", NANO * 100]}
        found = self._db["usersNew"].find(
            {
                "isActive": {"$ne": False},
                GRANTED: {"$gt": 0},
                "$expr": {"$gte": [nano, {"$multiply": [f"${GRANTED}", min(SPENT_PERCENT)]}]},
            },
            {"creditsUsed": 1, GRANTED: 1},
        )
        return tuple(
            Spending(str(user["_id"]), nano_usd(user.get("creditsUsed")), int(user[GRANTED]))
            for user in found.limit(_MAX_SUBJECTS)
        )

    def _budgets(self, now: datetime) -> tuple[BudgetUse, ...]:
        """Return the budgets of which four fifths are spent: of users, and of their keys."""
        of_keys: dict[str, list[tuple[str, Limits]]] = {}
        keys = self._db["user_keys"].find({"budgets": {"$exists": True}, "isActive": True})
        for key in keys.limit(_MAX_BUDGETED):
            if (limits := Limits.read(key)) is not None:
                key_id = public_key_id(str(key["_id"]))
                of_keys.setdefault(str(key.get("name")), []).append((key_id, limits))
        found: list[BudgetUse] = []
        users = self._db["usersNew"].find({FIELD: {"$type": "object"}}, {FIELD: 1, "budgets": 1})
        for user in users.limit(_MAX_BUDGETED):
            name = str(user["_id"])
            own = Limits.read(user)
            claims = [claim_on(budget, None, now, self._tz) for budget in (own.budgets if own else ())]
            claims += [
                claim_on(budget, key_id, now, self._tz)
                for key_id, limits in of_keys.get(name, ())
                for budget in limits.budgets
            ]
            for claim in claims:
                use = BudgetUse(
                    name,
                    claim.key_id,
                    claim.budget.per,
                    claim.name,
                    claim.bucket if claim.budget.per != "5h" else claim.bucket // _WINDOW_S,
                    Spending(name, spent_nano(claim, user[FIELD]), claim.nano_usd),
                )
                if use.spending.percent() is not None:
                    found.append(use)
        return tuple(found[:_MAX_SUBJECTS])

    def _month_to_close(self, now: datetime) -> str | None:
        """Return the name of the last month if there is something in it and nobody has begun to close it."""
        end = now.astimezone(self._tz).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        begin = (end - timedelta(days=1)).replace(day=1)
        name = f"{begin:%Y-%m}"
        if now - end < _LATE_BOOKINGS or self._db["statements"].find_one({"_id": name}, {"_id": 1}):
            return None
        booked = {"hour": {"$gte": begin.astimezone(UTC), "$lt": end.astimezone(UTC)}}
        return name if self._db["request_rollups"].find_one(booked, {"_id": 1}) else None

    def _expiring(self, now: datetime) -> tuple[tuple[str, str, datetime], ...]:
        found = self._db["user_keys"].find(
            {"isActive": True, "expiresAt": {"$gt": now, "$lt": now + EXPIRES_SOON}},
            {"name": 1, "expiresAt": 1},
        )
        return tuple(
            (str(key.get("name")), public_key_id(str(key["_id"])), key["expiresAt"])
            for key in found.limit(_MAX_SUBJECTS)
        )


_UPSTREAMS = ("upstream_error", "upstream_unreachable", "upstream_timeout", "upstream_truncated")


def pause_after(tries: int) -> timedelta:
    """Return how long to wait before the next try: twice as long each time, four hours at most."""
    doubled: int = 2 ** min(tries - 1, 20)
    return min(_FIRST_PAUSE * doubled, _LONGEST_PAUSE)


def alert_of(stored: Document) -> Alert:
    """Read a stored alert."""
    return Alert(*(stored[name] for name in ("kind", "subject", "period", "title", "meaning", "advice")))


def _document(alert: Alert, now: datetime, destinations: int) -> Document:
    document: Document = {
        "kind": alert.kind, "subject": alert.subject, "period": alert.period, "title": alert.title,
        "meaning": alert.meaning, "advice": alert.advice, "raisedAt": now, "tries": 0,
        "left": list(range(destinations)), "nextTryAt": now,
    }  # fmt: skip
    return document
