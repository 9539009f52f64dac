"""Records of earlier software get the fields of today and are added to the hourly sums.

They have no `outcome`, by which readers know that no hourly sum contains them. Hour by hour, so that at no
point one is counted twice or not at all for good:

1. The hour is noted as begun. Its sums are written as those of a writer of their own (`earlier-<run>`); an
   end here means that they are removed and written again.
2. The hour is noted as summed up. Then its records get their `outcome`, and the id of their client key
   where they name the key itself; an end here means that the rest of them gets it later.

Between the two, for a moment, statistics count the hour's records twice. Hours that are not over for long are
left for later: earlier software may still write into them.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from typing import Any, TypeVar, cast

from bson import Decimal128
from pymongo import ReplaceOne, ReturnDocument
from pymongo.database import Database

from app.common.money import NANO
from app.migration.client_keys import Names
from app.migration.step import STATE, Document, Progress, StepReport
from app.records.records import Outcome
from app.statistics import rollups, summaries
from app.statistics.figures import Figures
from app.statistics.sum_sources import COST_NANO
from app.store.fields import nano_usd

SETTLED_AFTER = timedelta(hours=2)
"""How long an hour must be over before its records are taken as complete."""

_HOUR = timedelta(hours=1)
_HOUR_MS = 3_600_000
_CHUNK = 2000
_ID = "records"
_SUMMING, _STAMPING = "summing", "stamping"
_LEFT_EARLY = 499
_FIELDS = (
    *("userId", "userKeyId", "factoryKeyId", "model", "apiFormat", "createdAt", "isSuccess", "statusCode"),
    *("inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens", "reasoningTokens"),
    *("costNanoUsd", "creditsCost", "latencyMs", "ttftMs"),
)
_NEW_FIELDS: Document = {
    "outcome": {
        "$switch": {
            "branches": [
                {"case": "$isSuccess", "then": str(Outcome.OK)},
                {"case": {"$eq": ["$statusCode", _LEFT_EARLY]}, "then": str(Outcome.CLIENT_ABORT)},
            ],
            "default": str(Outcome.UPSTREAM_ERROR),
        }
    },
    "costNanoUsd": COST_NANO,
    "requestId": {"$ifNull": ["$requestId", {"$toString": "$_id"}]},
    "earlierSoftware": True,
}

Item = TypeVar("Item")


class EarlierRecords:
    """All records without an `outcome` whose hour has been over for `SETTLED_AFTER`."""

    name = "records"
    title = "add records of earlier software to the statistics"
    unit = "records"

    def __init__(self, db: Database[Document], now: datetime, tz: tzinfo = UTC) -> None:
        self._db = db
        self._logs = db["request_logs"]
        self._rollups = db[rollups.COLLECTION]
        self._state = db[STATE]
        self._names = Names(db)
        self._tz = tz
        self._end = rollups.hour_of(now - SETTLED_AFTER)

    def look(self) -> StepReport:
        """Count the records to take over, and those that have to wait."""
        pending = self._logs.count_documents(self.due())
        others = self._logs.count_documents({"outcome": None}) - pending
        notes = []
        if self._begun() is not None:
            notes.append("an earlier run was interrupted: it is taken up where it ended")
        if others:
            notes.append(f"{others} more are younger than two hours, or have no date: counted as they are")
        return StepReport(pending, tuple(notes))

    def apply(self, progress: Progress) -> int:
        """Take the records over, hour by hour."""
        done = 0
        begun = self._begun()
        if begun is not None:
            done += self._finish(begun)
            progress(done)
        state = self._state.find_one_and_update(
            {"_id": _ID}, {"$inc": {"run": 1}}, upsert=True, return_document=ReturnDocument.AFTER
        )
        for hour in self._hours():
            begun = {"run": (state or {})["run"], "hour": hour, "phase": _SUMMING}
            self._state.update_one({"_id": _ID}, {"$set": begun})
            done += self._finish(begun)
            progress(done)
        return done

    def due(self) -> Document:
        """Build the query of the records whose turn it is."""
        return {"outcome": None, "createdAt": {"$type": "date", "$lt": self._end}}

    def _begun(self) -> Document | None:
        state = self._state.find_one({"_id": _ID}) or {}
        return state if state.get("hour") is not None else None

    def _hours(self) -> Iterator[datetime]:
        by_hour = {"$subtract": ["$createdAt", {"$mod": [{"$toLong": "$createdAt"}, _HOUR_MS]}]}
        stages: list[Document] = [
            {"$match": self.due()},
            {"$group": {"_id": by_hour}},
            {"$sort": {"_id": 1}},
        ]
        for found in self._logs.aggregate(stages, allowDiskUse=True):
            yield found["_id"]

    def _finish(self, begun: Document) -> int:
        """Do what is left of a begun hour; return how many records got their fields."""
        hour, writer_id = begun["hour"], f"earlier-{begun['run']}"
        selected = {"outcome": None, "createdAt": {"$gte": hour, "$lt": hour + _HOUR}}
        if begun["phase"] == _SUMMING:
            self._rollups.delete_many({"hour": {"$gte": hour, "$lt": hour + _HOUR}, "writerId": writer_id})
            self._write_sums(writer_id, selected)
            summaries.mark_late(self._db, [hour], self._end + SETTLED_AFTER)
            self._state.update_one({"_id": _ID}, {"$set": {"phase": _STAMPING}})
        fields = {**_NEW_FIELDS, **self._new_key_ids(selected)}
        changed = self._logs.update_many(selected, [{"$set": fields}]).modified_count
        self._state.update_one({"_id": _ID}, {"$unset": {"hour": "", "phase": ""}})
        return changed

    def _new_key_ids(self, selected: Document) -> Document:
        """Build the expression of what the records' client keys become; nothing if all stay as they are."""
        found = self._logs.aggregate([{"$match": selected}, {"$group": {"_id": "$userKeyId"}}])
        new_ids = {name: self._names.new(name) for name in (row["_id"] for row in found)}
        branches = [
            {"case": {"$eq": ["$userKeyId", {"$literal": name}]}, "then": {"$literal": new}}
            for name, new in new_ids.items()
            if new is not None
        ]
        if not branches:
            return {}
        return {"userKeyId": {"$switch": {"branches": branches, "default": "$userKeyId"}}}

    def _write_sums(self, writer_id: str, selected: Document) -> None:
        documents: dict[str, Document] = {}
        records = self._logs.find(selected, dict.fromkeys(_FIELDS, True), batch_size=_CHUNK)
        for chunk in _chunks(enumerate(records, start=1)):
            groups: defaultdict[str, list[Figures]] = defaultdict(list)
            for number, record in chunk:
                row = _figures(number, record, self._names.new(record.get("userKeyId")))
                groups[rollups.rollup_id(writer_id, row, self._tz)].append(row)
            for key, rows in groups.items():
                sums = rollups.rollup_update(writer_id, rows, self._tz)
                _add(documents.setdefault(key, {"_id": key}), sums)
        for part in _chunks(documents.values()):
            writes = [ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in part]
            self._rollups.bulk_write(writes, ordered=False)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _add(document: Document, update: Document) -> None:
    """Apply the update to the document as the server would."""
    for name, value in {**update["$setOnInsert"], **update["$set"]}.items():
        document[name] = value
    for path, amount in update["$inc"].items():
        outer, _, inner = path.partition(".")
        if inner:
            sums = document.setdefault(outer, {})
            sums[inner] = sums.get(inner, 0) + amount
        else:
            document[outer] = type(amount)(document.get(outer, 0) + amount)


def _figures(number: int, record: Document, key_id: str | None) -> Figures:
    """Read a record's figures with the leniency with which they were counted directly."""
    status = _whole(record.get("statusCode"))
    is_success = bool(record.get("isSuccess"))
    failure = Outcome.CLIENT_ABORT if status == _LEFT_EARLY else Outcome.UPSTREAM_ERROR
    return Figures(
        seq=number,
        request_id=str(record["_id"]),
        # Some have no user or key, and none has a format: the sums keep that as it is.
        user_id=cast(str, record.get("userId")),
        user_key_id=cast(str, key_id or record.get("userKeyId")),
        factory_key_id=record.get("factoryKeyId"),
        model=record.get("model"),
        api_format=cast(str, record.get("apiFormat")),
        created_at=record["createdAt"],
        outcome=str(Outcome.OK if is_success else failure),
        status_code=status,
        input_tokens=_whole(record.get("inputTokens")),
        output_tokens=_whole(record.get("outputTokens")),
        cache_write_tokens=_whole(record.get("cacheWriteTokens")),
        cache_write_1h_tokens=0,
        cache_hit_tokens=_whole(record.get("cacheHitTokens")),
        reasoning_tokens=_whole(record.get("reasoningTokens")),
        cost_nano_usd=_cost(record),
        latency_ms=_whole(record.get("latencyMs")),
        ttft_ms=None if record.get("ttftMs") is None else _whole(record["ttftMs"]),
    )


def _cost(record: Document) -> int:
    """Work out a record's cost as `COST_NANO` has the server do it."""
    exact, cost = record.get("costNanoUsd"), record.get("creditsCost")
    if exact is not None:
        return _whole(exact)
    if isinstance(cost, Decimal128):
        return nano_usd(cost)
    return round(float(cost) * NANO) if isinstance(cost, int | float) and _is_number(cost) else 0


def _whole(value: Any) -> int:
    return int(value) if _is_number(value) else 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
