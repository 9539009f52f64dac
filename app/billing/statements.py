"""Statements of months, as the books say them now or as they were closed, and the closing itself.

A closed month is in `statements`, never changed again:

    {_id: "2026-11", state: "closed", claim, from, to, timezone, closedAt, closedBy, users, sums, sha256,
     requests, records, priceVersions, verify}
    {_id: "2026-11/CLAIM/USER/0", month, claim, user, part, charges, ledger, ...}     # the sums in part 0

The parts of a user hold so many lines each that no document can become too large. `sha256` is over the
statements of all users in order, each as `statement.canonical` writes it. While a month is being closed its
document says `closing` and when that was last gone on with; a closing whose process died is taken over.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Any, Final

from pymongo import ASCENDING, IndexModel
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.billing.month_figures import AT_ONCE, MonthFigures
from app.billing.statement import Month, MonthTotals, Statement, months_between, parts_of
from app.common.display import json_ready
from app.pricing.price_versions import COLLECTION as PRICE_VERSIONS
from app.store.driver import make_indexes, store_errors, yielding

Document = dict[str, Any]

COLLECTION: Final = "statements"
INDEXES = (
    IndexModel([("month", ASCENDING), ("claim", ASCENDING), ("user", ASCENDING), ("part", ASCENDING)]),
)

CLOSED, CLOSING, OPEN = "closed", "closing", "open"

_LINES = 5000
# Written at once: each time waits for the disk, and so many lines are some megabytes.
_PARTS_AT_ONCE, _LINES_AT_ONCE = 200, 20_000
_ABANDONED = timedelta(minutes=5)
_HEAD = (
    *("closedAt", "closedBy", "users", "sums", "sha256", "requests", "records", "priceVersions", "verify"),
)

Progress = Callable[[int, int], object]
"""Told how many of how many statements are done."""


class CannotClose(Exception):
    """The month cannot be closed, or not now; the text says why."""


class Statements:
    """Reads statements and closes months; `tz` is where days start. Methods raise `StoreUnavailable`."""

    def __init__(self, db: Database[Any], tz: tzinfo) -> None:
        self._db = db
        self._closed = db[COLLECTION]
        self._figures = MonthFigures(db)
        self.tz = tz

    def ensure_indexes(self) -> None:
        """Make the index that closed statements are found by."""
        with store_errors():
            make_indexes(self._closed, INDEXES)

    def month(self, name: str) -> Month:
        """Return the month of this name; raises `FilterError`."""
        return Month.parse(name, self.tz)

    def months(self, now: datetime) -> list[Document]:
        """List the months there is anything of, newest first: open, being closed, or closed."""
        with store_errors():
            heads = {head["_id"]: head for head in self._closed.find({"month": {"$exists": False}})}
            first = self._figures.first_month()
            names = set(heads) | set(months_between(first or now, now, self.tz))
            return [
                self._head(self.month(name), heads.get(name), now) for name in sorted(names, reverse=True)
            ]

    def head(self, month: Month, now: datetime) -> Document:
        """Say of a month whether it is closed, and if so all that is kept with it."""
        with store_errors():
            return self._head(month, self._closed.find_one({"_id": month.name}), now)

    def users(self, month: Month, now: datetime) -> list[str]:
        """List the users who have a statement of a month, in order."""
        with store_errors():
            claim = self._claim_of(month.name)
            if claim is None:
                return self._figures.users(month, now)
            found = self._closed.find({"month": month.name, "claim": claim, "part": 0}, {"user": 1})
            return [document["user"] for document in yielding(found.sort("user", 1))]

    def statements(self, month: Month, users: list[str], now: datetime) -> Iterator[Statement]:
        """Yield the statements of these users, who are in order: as closed, else as they are now."""
        with store_errors():
            claim = self._claim_of(month.name)
            if claim is None:
                yield from self._current(month, users, now)
            else:
                for at in range(0, len(users), AT_ONCE):
                    yield from self._frozen(month.name, claim, users[at : at + AT_ONCE])

    def rows(self, month: Month, users: list[str], now: datetime) -> list[Document]:
        """Return the sums of these users' statements, as `Statement.row` has them."""
        with store_errors():
            claim = self._claim_of(month.name)
            if claim is None:
                return [found.row() for found in self._current(month, users, now, itemised=False)]
            wanted = {"month": month.name, "claim": claim, "user": {"$in": users}, "part": 0}
            left_out = ("_id", "month", "claim", "part", "ledger", "charges")
            found = self._closed.find(wanted, dict.fromkeys(left_out, 0)).sort("user", 1)
            return list(yielding(found))

    def statement(self, month: Month, user: str, now: datetime) -> Statement | None:
        """Return a user's statement; None when there is no such user, and nothing was charged."""
        found = next(iter(self.statements(month, [user], now)), None)
        if found is None or (found.opening_nano is None and not found.charges):
            return None
        return found

    def late(self, month: Month, user: str, now: datetime) -> list[Document]:
        """Return what was booked into closed months of a user after they were closed, as it is known now."""
        late = []
        with store_errors():
            for head in self._closed.find({"state": CLOSED}).sort("_id", 1):
                closed = self.month(head["_id"])
                if closed.start >= month.start:
                    continue
                then = next(self._frozen(closed.name, head["claim"], [user]), None)
                nano = next(iter(self._figures.statements(closed, [user], now))).charges_nano
                if then is not None and nano != then.charges_nano:
                    late.append({"month": closed.name, "chargesNanoUsd": nano - then.charges_nano})
        return late

    def close(
        self,
        month: Month,
        by: str,
        now: datetime,
        clock: Callable[[], datetime],
        verify: Callable[[], Mapping[str, Any]],
        *,
        anyway: bool = False,
        progress: Progress = lambda _done, _of: None,
    ) -> Document:
        """Freeze a month, and return all that is kept with it; raises `CannotClose`.

        `verify` says whether everything stored agrees; where it does not, nothing is closed unless `anyway`.
        """
        with store_errors():
            self._check(month, now)
            report = verify()
            if not report["consistent"] and not anyway:
                count = report["differenceCount"]
                raise CannotClose(f"verify finds {count} differences: see `weir verify`, or close it anyway")
            claim = self._claim(month, by, clock)
            try:
                return self._close(month, claim, by, clock, report, progress)
            except BaseException:
                self._closed.delete_many({"month": month.name, "claim": claim})
                self._closed.delete_one({"_id": month.name, "claim": claim, "state": CLOSING})
                raise

    def _close(
        self,
        month: Month,
        claim: str,
        by: str,
        clock: Callable[[], datetime],
        report: Mapping[str, Any],
        progress: Progress,
    ) -> Document:
        now, totals = clock(), MonthTotals()
        users = self._figures.users(month, now)
        documents: list[Document] = []
        lines = 0
        for statement in self._current(month, users, now):
            totals.add(statement)
            for number, part in enumerate(parts_of(statement, _LINES)):
                place = f"{month.name}/{claim}/{statement.user}/{number}"
                named = {"month": month.name, "claim": claim, "user": statement.user, "part": number}
                documents.append({"_id": place, **part, **named})
            lines += len(statement.charges) + len(statement.ledger)
            is_much = len(documents) >= _PARTS_AT_ONCE or lines >= _LINES_AT_ONCE
            if is_much or totals.users == len(users):
                self._closed.insert_many(documents)
                documents, lines = [], 0
                self._go_on(month, claim, clock())
                progress(totals.users, len(users))
        within = {"createdAt": {"$gte": month.start, "$lt": month.end}}
        versions = self._db[PRICE_VERSIONS].find({"firstAt": {"$lt": month.end}}, {"text": 0, "hosts": 0})
        kept = {
            "closedAt": clock(),
            "closedBy": by,
            "users": totals.users,
            "sums": totals.sums,
            "sha256": totals.sha256,
            "requests": self._figures.requests(month, now),
            "records": self._db["request_logs"].count_documents(within),
            "priceVersions": [json_ready(version) for version in versions.sort("firstAt", 1)],
            "verify": json_ready(
                {name: report[name] for name in ("consistent", "differenceCount", "pendingCount")}
            ),
        }
        done = self._closed.update_one(
            {"_id": month.name, "claim": claim, "state": CLOSING}, {"$set": {**kept, "state": CLOSED}}
        )
        if not done.matched_count:
            raise CannotClose("somebody else has taken the closing over")
        return self._head(month, self._closed.find_one({"_id": month.name}), now)

    def check(self, name: str) -> list[str]:
        """Say what is wrong with a closed month: it is not what was closed, or adds up wrongly."""
        with store_errors():
            head = self._closed.find_one({"_id": name, "state": CLOSED})
            if head is None:
                return []
            totals, problems = MonthTotals(), []
            users = self._closed.find({"month": name, "claim": head["claim"], "part": 0}, {"user": 1})
            names = [document["user"] for document in yielding(users.sort("user", 1))]
            for at in range(0, len(names), AT_ONCE):
                for whole in self._wholes(name, head["claim"], names[at : at + AT_ONCE]):
                    statement = Statement.from_json(whole)
                    totals.add(statement)
                    if any(whole[amount] != value for amount, value in statement.row().items()):
                        problems.append(f"the statement of {statement.user} does not add up")
            if totals.users != head["users"] or totals.sums != head["sums"]:
                problems.append("its statements do not add up to its sums")
            if totals.sha256 != head["sha256"]:
                problems.append("its statements are not those it was closed with (SHA-256)")
            return problems

    def closed_months(self) -> list[str]:
        """List the closed months, oldest first."""
        with store_errors():
            return [head["_id"] for head in self._closed.find({"state": CLOSED}, {"_id": 1}).sort("_id", 1)]

    def _current(
        self, month: Month, users: list[str], now: datetime, *, itemised: bool = True
    ) -> Iterator[Statement]:
        claim = self._claim_of(month.previous)
        for at in range(0, len(users), AT_ONCE):
            some = users[at : at + AT_ONCE]
            rows = {} if claim is None else self._closed_with(month.previous, claim, some)
            for statement in self._figures.statements(month, some, now, itemised=itemised):
                row = rows.get(statement.user)
                yield statement if row is None else statement.continuing(row)

    def _closed_with(self, name: str, claim: str, users: list[str]) -> dict[str, Document]:
        wanted = {"month": name, "claim": claim, "user": {"$in": users}, "part": 0}
        found = self._closed.find(wanted, {"user": 1, "closingNanoUsd": 1, "spentNanoUsd": 1})
        return {document["user"]: document for document in yielding(found)}

    def _frozen(self, name: str, claim: str, users: list[str]) -> Iterator[Statement]:
        return map(Statement.from_json, self._wholes(name, claim, users))

    def _wholes(self, name: str, claim: str, users: list[str]) -> Iterator[Document]:
        wanted = {"month": name, "claim": claim, "user": {"$in": users}}
        whole: Document | None = None
        for part in yielding(self._closed.find(wanted).sort([("user", 1), ("part", 1)])):
            if part["part"] == 0:
                if whole is not None:
                    yield whole
                whole = part
            elif whole is not None:
                whole["charges"] += part["charges"]
                whole["ledger"] += part["ledger"]
        if whole is not None:
            yield whole

    def _claim_of(self, name: str) -> str | None:
        """Return under which claim a month was closed; None: it is not."""
        head = self._closed.find_one({"_id": name, "state": CLOSED}, {"claim": 1})
        return None if head is None else head["claim"]

    def _head(self, month: Month, document: Mapping[str, Any] | None, now: datetime) -> Document:
        when = {"hasBegun": month.has_begun(now), "isOver": month.is_over(now)}
        head = {**month.to_json(), "state": OPEN, **when}
        if document is not None:
            head["state"] = document["state"]
            if document["state"] == CLOSED:
                # The zone may have been another one then.
                head |= {name: document[name] for name in ("from", "to", "timezone")}
                head |= {name: json_ready(document[name]) for name in _HEAD}
        return head

    def _check(self, month: Month, now: datetime) -> None:
        if not month.has_begun(now):
            raise CannotClose(f"{month.name} has not begun yet")
        if not month.is_over(now):
            raise CannotClose(f"{month.name} is not over yet")
        later = self._closed.find_one({"_id": {"$gt": month.name}, "state": {"$in": [CLOSED, CLOSING]}})
        if later is not None:
            raise CannotClose(f"{later['_id']} is closed already: months are closed in their order")

    def _claim(self, month: Month, by: str, clock: Callable[[], datetime]) -> str:
        claim, now = secrets.token_hex(8), clock()
        head = {"state": CLOSING, "claim": claim, "at": now, "by": by}
        times = {name: value for name, value in month.to_json().items() if name != "month"}
        try:
            self._closed.insert_one({"_id": month.name, **head, **times})
        except DuplicateKeyError:
            abandoned = {"_id": month.name, "state": CLOSING, "at": {"$lt": now - _ABANDONED}}
            if not self._closed.update_one(abandoned, {"$set": head}).matched_count:
                found = self._closed.find_one({"_id": month.name}) or {}
                state = "closed already" if found.get("state") == CLOSED else "being closed just now"
                raise CannotClose(f"{month.name} is {state}") from None
            self._closed.delete_many({"month": month.name, "claim": {"$ne": claim}})
        return claim

    def _go_on(self, month: Month, claim: str, now: datetime) -> None:
        mine = {"_id": month.name, "claim": claim, "state": CLOSING}
        if not self._closed.update_one(mine, {"$set": {"at": now}}).matched_count:
            raise CannotClose("somebody else has taken the closing over")
