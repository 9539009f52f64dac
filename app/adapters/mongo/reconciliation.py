"""Whether all that is stored agrees: journal = records = hourly sums = summaries = credits and counters.

The first look at each pair of sums goes through everything. What differs there, be it only because a batch
is being booked in that moment, is looked at again as `app.core.reconcile` says, so that only what stays
counts as a difference. What a journal still holds is pending, not a difference.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import gevent
from pymongo import ReadPreference
from pymongo.database import Database

from app.adapters.mongo.credit_holds import FIELD as HOLDS
from app.adapters.mongo.journal_audit import JournalAudit
from app.adapters.mongo.reconciled_summaries import SummaryPairs
from app.adapters.mongo.reconciled_sums import COUNTERS, CounterPairs, HourPairs
from app.adapters.mongo.record_writes import DEAD_COLLECTION
from app.adapters.mongo.request_logs import store_errors
from app.adapters.mongo.rollups import hour_of
from app.adapters.mongo.users import GRANTED, nano_usd
from app.core.credit_policy import HOLD_TTL_S
from app.core.display import iso_utc
from app.core.reconcile import (
    MAX_SHOWN,
    CheckResult,
    Difference,
    Look,
    Sums,
    Verdict,
    balance_differences,
    is_explained,
    recheck,
    report_json,
)

Document = dict[str, Any]

_EXPIRY_MARGIN = timedelta(hours=2)
"""The oldest hours are left out: their records may expire while they are counted."""

_MAX_SUSPECTS = 200

_STUCK_HINT = "journals hold records not booked to the end: `flask journal replay`, then verify again"
_MOVING_HINT = "it changes all the time: verify again when less is being written"

Key = TypeVar("Key")


class _Pairs(Protocol[Key]):
    """Sums in two places, by key."""

    def read_source(self, keys: Any) -> Mapping[Key, Sums]:
        """Of the place that is booked first."""

    def read_derived(self, keys: Any) -> Mapping[Key, Sums]:
        """Of the place that is booked later."""

    def pending_hint(self, key: Key) -> str | None:
        """Why what is missing in the later place is on its way; None: not known to be."""

    def differences(self, key: Key, look: Look) -> list[Difference]:
        """What does not agree, in words."""


class Reconciliation:
    """The checks, one after the other; each raises `StoreUnavailable` when the store cannot answer.

    An object makes one run at a time.

    `retention_s` is how long records are kept (0: for ever), `journal_root` where this machine's journals
    are, `lost` how many records the running process knows to be lost, `pause` waits so many seconds.
    """

    def __init__(
        self,
        db: Database[Any],
        *,
        retention_s: int,
        journal_root: str | None = None,
        lost: Callable[[], int] | None = None,
        pause: Callable[[float], None] = gevent.sleep,
    ) -> None:
        # A secondary may lag behind in any order.
        self._db = db.with_options(read_preference=ReadPreference.PRIMARY)
        self._retention_s = retention_s
        self._journal = JournalAudit(self._db, journal_root)
        self._lost = lost
        self._pause = pause
        self._started_at = datetime.min.replace(tzinfo=UTC)
        self._stuck: int | None = None

    def report(self, now: datetime, since: datetime | None = None) -> Document:
        """All checks, for programs."""
        with store_errors():
            return {"checkedAt": iso_utc(now), **report_json(list(self._checks(now, since)))}

    def run(self, now: datetime, since: datetime | None = None) -> Iterator[CheckResult]:
        """Every check in turn, as it comes out; `since` leaves out what the records before it say."""
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
        yield self._check_balances(now)
        yield self._check_dead_letters()
        yield self._check_lost()

    def _kept_since(self, now: datetime) -> datetime | None:
        """From when on every record must still be there; None: from the beginning."""
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
            if verdict is Verdict.SAME:
                continue
            look = suspects[key][-1]
            found = pairs.differences(key, look)
            hint = pairs.pending_hint(key) if verdict is Verdict.AHEAD else None
            if verdict is Verdict.MOVING:
                result.add(_hinting(found, _MOVING_HINT), is_pending=True)
            elif hint is not None:
                result.add(_hinting(found, hint), is_pending=True)
            elif verdict is Verdict.AHEAD and is_explained(look, self._stuck_records()):
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
            result.add(_stale_holds(where, user.get(HOLDS), now))
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


def _stale_holds(where: str, holds: object, now: datetime) -> Iterator[Difference]:
    """Credit held for requests that must have ended long ago."""
    for request_id, hold in holds.items() if isinstance(holds, Mapping) else ():
        moment = hold.get("at") if isinstance(hold, Mapping) else None
        if isinstance(moment, datetime) and now - moment > timedelta(seconds=HOLD_TTL_S):
            yield Difference(
                "stale hold",
                f"{where}, request {request_id}",
                f"at most {HOLD_TTL_S // 3600} h old",
                iso_utc(moment),
                "its process died without leaving a record; it counts no more, and the next hold removes it",
            )
