"""Whether all that is stored agrees: journal = records = hourly sums = summaries = credits and counters.

The first look at each pair of sums goes through everything. What differs there, be it only because a batch
is being booked in that moment, is looked at again as `app.verify.reconcile` says, so that only what stays
counts as a difference. What a journal still holds is pending, not a difference.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Protocol, TypeVar

import gevent
from pymongo.database import Database

from app.accounts.users import GRANTED
from app.billing.statements import Statements
from app.common.display import iso_utc
from app.credit.credit_holds import FIELD as HOLDS
from app.credit.credit_holds import orphans
from app.credit.credit_policy import HOLD_TTL_S
from app.persistence.record_writes import DEAD_COLLECTION
from app.statistics.rollups import hour_of
from app.store.driver import store_errors
from app.store.fields import nano_usd
from app.verify.journal_audit import JournalAudit
from app.verify.reconcile import (
    MAX_SHOWN,
    CheckResult,
    Difference,
    Look,
    PairVerdict,
    Sums,
    balance_differences,
    is_explained,
    recheck,
    report_json,
)
from app.verify.reconciled_budgets import BudgetPairs, Wrong
from app.verify.reconciled_summaries import SummaryPairs
from app.verify.reconciled_sums import COUNTERS, CounterPairs, HourPairs

Document = dict[str, Any]

# The oldest hours are left out: their records may expire while they are counted.
_EXPIRY_MARGIN = timedelta(hours=2)

_MAX_SUSPECTS = 200

_BUDGETS = "what budgets have spent = what was charged in their periods"

_STUCK_HINT = "journals hold records not booked to the end: `weir journal replay`, then verify again"
_MOVING_HINT = "it changes all the time: verify again when less is being written"

Key = TypeVar("Key")


class _Pairs(Protocol[Key]):
    """Sums in two places, by key."""

    def read_source(self, keys: Any) -> Mapping[Key, Sums]:
        """Read the sums of the place that is booked first."""

    def read_derived(self, keys: Any) -> Mapping[Key, Sums]:
        """Read the sums of the place that is booked later."""

    def pending_hint(self, key: Key) -> str | None:
        """Say why what is missing in the later place is on its way; None: not known to be."""

    def differences(self, key: Key, look: Look) -> list[Difference]:
        """Describe in words what does not agree."""


class Reconciliation:
    """The checks, one after the other; each raises `StoreUnavailable` when the store cannot answer.

    An object makes one run at a time.

    `retention_s` is how long records are kept (0: for ever), `journal_root` where this machine's journals
    are, `tz` where days start, `lost` how many records the running process knows to be lost, `pause` waits
    the seconds it is given.
    """

    def __init__(
        self,
        db: Database[Any],
        *,
        retention_s: int,
        journal_root: str | None = None,
        tz: tzinfo = UTC,
        lost: Callable[[], int] | None = None,
        pause: Callable[[float], None] = gevent.sleep,
    ) -> None:
        self._db = db
        self._retention_s = retention_s
        self._journal = JournalAudit(self._db, journal_root)
        self._tz = tz
        self._lost = lost
        self._pause = pause
        self._started_at = datetime.min.replace(tzinfo=UTC)
        self._stuck: int | None = None

    def report(self, now: datetime, since: datetime | None = None) -> Document:
        """Return all checks, for programs."""
        with store_errors():
            return {"checkedAt": iso_utc(now), **report_json(list(self._checks(now, since)))}

    def run(self, now: datetime, since: datetime | None = None) -> Iterator[CheckResult]:
        """Run every check in turn, yielding results as they come out; `since` leaves out earlier records."""
        with store_errors():
            yield from self._checks(now, since)

    def _checks(self, now: datetime, since: datetime | None) -> Iterator[CheckResult]:
        self._started_at, self._stuck = now, None
        kept_since = self._kept_since(now)
        yield self._journal.check(kept_since)
        first = max((start for start in (kept_since, since) if start is not None), default=None)
        yield self._check_ids(first)
        yield self._check_hours(first)
        yield self._check_summaries()
        for counters in COUNTERS:
            pairs = CounterPairs(self._db, counters)
            result = CheckResult(counters.name, counters.title, unit=counters.unit)
            self._compare(result, pairs, pairs.first_looks(result))
            yield result
        yield self._check_budgets(first)[0]
        yield self._check_balances(now)
        yield self._check_dead_letters()
        yield self._check_statements()
        yield self._check_lost()

    def wrong_budgets(self, now: datetime) -> list[Wrong]:
        """Return the periods of budgets that hold less or more than was charged."""
        with store_errors():
            self._started_at, self._stuck = now, None
            return self._check_budgets(self._kept_since(now))[1]

    def _check_budgets(self, first: datetime | None) -> tuple[CheckResult, list[Wrong]]:
        result, pairs = (
            CheckResult("budgets", _BUDGETS, unit="periods"),
            BudgetPairs(self._db, first, self._tz),
        )
        self._compare(result, pairs, pairs.first_looks(result))
        return result, pairs.wrong

    def _kept_since(self, now: datetime) -> datetime | None:
        """Return from when on every record must still be there; None: from the beginning."""
        expiries = [
            int(index["expireAfterSeconds"])
            for index in self._db["request_logs"].index_information().values()
            if "expireAfterSeconds" in index
        ]
        kept_s = min([*expiries, *([self._retention_s] if self._retention_s else [])], default=None)
        if kept_s is None:
            return None
        try:
            return hour_of(now - timedelta(seconds=kept_s) + _EXPIRY_MARGIN)
        except OverflowError:
            return None

    def _check_ids(self, first: datetime | None) -> CheckResult:
        result = CheckResult("records", "every record is stored under its request id", unit="records")
        booked: Document = {"outcome": {"$ne": None}}
        if first is not None:
            booked["createdAt"] = {"$gte": first}
        logs = self._db["request_logs"]
        result.compared = logs.count_documents(booked)
        misplaced = {**booked, "$expr": {"$ne": ["$requestId", {"$toString": "$_id"}]}}
        for found in logs.find(misplaced, {"requestId": 1}).limit(MAX_SHOWN):
            hint = "two records may stand for one request: compare them"
            where, request_id = f"record {found['_id']}", str(found.get("requestId"))
            result.add([Difference("requestId of request_logs", where, str(found["_id"]), request_id, hint)])
        return result

    def _check_hours(self, first: datetime | None) -> CheckResult:
        result = CheckResult("hourly_sums", "records = hourly sums", unit="combinations")
        pairs = HourPairs(self._db)
        start = datetime(1970, 1, 1, tzinfo=UTC) if first is None else hour_of(first)
        if first is not None and start < first:
            start += timedelta(hours=1)

        def first_looks() -> Iterator[Any]:
            for hour in pairs.hours(start):
                compared, looks = pairs.first_looks(hour)
                result.compared += compared
                yield looks

        self._compare(result, pairs, first_looks())
        return result

    def _check_summaries(self) -> CheckResult:
        title = "hourly sums = sums of hours, days and months"
        result = CheckResult("summaries", title, unit="sums")
        pairs = SummaryPairs(self._db)
        self._compare(result, pairs, pairs.first_looks(result))
        return result

    def _compare(
        self, result: CheckResult, pairs: "_Pairs[Any]", pages: Iterable[dict[Any, list[Look]]]
    ) -> None:
        """Decide on what did not agree at first sight, a bounded number at a time."""
        suspects: dict[Any, list[Look]] = {}
        for page in pages:
            for key, looks in page.items():
                suspects[key] = looks
                if len(suspects) == _MAX_SUSPECTS:
                    self._decide(result, pairs, suspects)
                    suspects = {}
                    if result.is_full:
                        result.notes.append(f"stopped after {result.difference_count} differences")
                        return
        self._decide(result, pairs, suspects)

    def _decide(self, result: CheckResult, pairs: "_Pairs[Any]", suspects: dict[Any, list[Look]]) -> None:
        verdicts = recheck(suspects, pairs.read_source, pairs.read_derived, self._pause)
        for key, verdict in verdicts.items():
            if verdict is PairVerdict.SAME:
                continue
            look = suspects[key][-1]
            found = pairs.differences(key, look)
            hint = pairs.pending_hint(key) if verdict is PairVerdict.AHEAD else None
            if verdict is PairVerdict.MOVING:
                result.add(_hinting(found, _MOVING_HINT), is_pending=True)
            elif hint is not None:
                result.add(_hinting(found, hint), is_pending=True)
            elif verdict is PairVerdict.AHEAD and is_explained(look, self._stuck_records()):
                result.add(_hinting(found, _STUCK_HINT), is_pending=True)
            else:
                result.add(found)

    def _stuck_records(self) -> int:
        if self._stuck is None:
            self._stuck = self._journal.stuck(self._started_at)
        return self._stuck

    def _check_balances(self, now: datetime) -> CheckResult:
        result = CheckResult("balances", "granted − used + overdraft = what is left", unit="users")
        unknown = 0
        names = ("credits", "refCredits", "creditsUsed", "overdraftNanoUsd", HOLDS, GRANTED)
        for user in self._db["usersNew"].find({}, dict.fromkeys(names, 1)):
            result.compared += 1
            unknown += GRANTED not in user
            where = f"user {user['_id']}"
            result.add(
                balance_differences(
                    where,
                    granted_nano=int(user[GRANTED]) if GRANTED in user else None,
                    used_nano=nano_usd(user.get("creditsUsed")),
                    overdraft_nano=int(user.get("overdraftNanoUsd") or 0),
                    balances={name: nano_usd(user.get(name)) for name in ("credits", "refCredits")},
                )
            )
            result.add(_orphaned_holds(where, user.get(HOLDS), now))
        if unknown:
            result.notes.append(
                f"{unknown} checked for their signs only: made by other software, their grants are not known"
            )
        return result

    def _check_dead_letters(self) -> CheckResult:
        result = CheckResult("dead_letters", "nothing was put aside", unit="letters")
        letters = self._db[DEAD_COLLECTION]
        result.compared = letters.count_documents({})
        for letter in letters.find({}, {"content": 0}).sort("createdAt", 1).limit(MAX_SHOWN):
            result.add(
                [
                    Difference(
                        "dead letter",
                        f"request {letter.get('requestId')}, stage {letter.get('stage')}",
                        "booked",
                        str(letter.get("reason")),
                        f"see {DEAD_COLLECTION} _id {letter['_id']}; remove it once it is dealt with",
                    )
                ]
            )
        result.difference_count = max(result.difference_count, result.compared)
        return result

    def _check_statements(self) -> CheckResult:
        result = CheckResult("statements", "closed months are as they were closed", unit="months")
        statements = Statements(self._db, UTC)
        for month in statements.closed_months():
            result.compared += 1
            for problem in statements.check(month):
                hint = "the collection was changed by other means: restore it from a backup"
                result.add([Difference("closed month", month, "unchanged", problem, hint)])
        return result

    def _check_lost(self) -> CheckResult:
        result = CheckResult("lost_records", "no record was lost", unit="processes")
        if self._lost is None:
            result.notes.append("only a running process knows: GET /api/admin/verify asks it")
            return result
        result.compared = 1
        lost = self._lost()
        if lost:
            hint = "its log says why: the journal and the memory were both full or unusable"
            result.add([Difference("lost records", "this process", 0, lost, hint)])
        return result


def _hinting(differences: Iterable[Difference], hint: str) -> Iterator[Difference]:
    for found in differences:
        yield Difference(found.what, found.where, found.expected, found.found, hint)


def _orphaned_holds(where: str, holds: object, now: datetime) -> Iterator[Difference]:
    """Report each hold of credit for a request that nobody runs any more."""
    for request_id, renewed_at in orphans(holds, now).items():
        yield Difference(
            "orphaned hold",
            f"{where}, request {request_id}",
            f"renewed within {HOLD_TTL_S // 60} min",
            iso_utc(renewed_at),
            "no process owns it, and it counts no more: `weir verify --repair-holds` removes it",
        )
