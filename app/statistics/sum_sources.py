"""Where sums come from, and how MongoDB adds them up: by key, by bucket of time, with histograms.

There are two kinds of places: sums made before (with `latency` histograms), and the records themselves, of
which some are of earlier software and in no sums.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database

from app.common.money import NANO
from app.records.records import Outcome
from app.statistics.figures import SUM_FIELDS, Totals
from app.statistics.histogram import BOUNDS, bucket_key
from app.statistics.rollups import COMMON_ENDPOINTS
from app.statistics.timeseries import ENDPOINT, HOUR, MINUTES, MONTH, TAGS, Timeline
from app.store.driver import yielding

Document = dict[str, Any]
Label = Any
"""The bucket something belongs to, as `Timeline.label_of` names it; None where time is not cut up."""

Sums = dict[tuple[str | None, Label], Totals]

_Bars = tuple[tuple[str | None, Label], Mapping[str, int]]
"""Key and bucket of time, and a part of the histogram."""

_BATCH = 200
_ROWS_AT_ONCE = 500

_WIDTH_MS = {MINUTES: 300_000, HOUR: 3_600_000}


@dataclass(frozen=True, slots=True)
class Source:
    """Some documents of one collection that count as they are, each request in exactly one source.

    `time` is the field that says when; `key` the one that says whose, where that is not the field sums are
    made by; of sums by two, `second` is the field whose value is in `_id.second`.
    """

    collection: MongoCollection[Any]
    match: Document
    time: str
    key: str | None = None
    is_records: bool = False
    second: str | None = None

    def pipeline(
        self, by: str | None, timeline: Timeline | None, *, with_latency: bool = False
    ) -> list[Document]:
        """Return the pipeline that adds up by key (a field's name; None: all together) and bucket of time.

        `with_latency`: of records also by how long they took, as the buckets of a histogram.
        """
        group = {
            "key": None if by is None else self.value_of(by),
            "label": None if timeline is None else self.label(timeline),
            "bar": _BAR if with_latency and self.is_records else None,
        }
        return self.grouped(group, each=TAGS if by == TAGS else None)

    def value_of(self, by: str) -> Any:
        """Return the expression for the value of a field, null where there is none."""
        missing = _ENDPOINT_BY_FORMAT if by == ENDPOINT else None
        path = "_id.second" if by == self.second else self.key or by
        return {"$ifNull": [f"${path}", missing]}

    def label(self, timeline: Timeline) -> Any:
        """Return the expression for the bucket of time, as `Timeline.label_of` names it."""
        field = f"${self.time}"
        width = _WIDTH_MS.get(timeline.size)
        if width is not None:
            return {"$subtract": [field, {"$mod": [{"$toLong": field}, width]}]}
        form = "%Y-%m" if timeline.size == MONTH else "%Y-%m-%d"
        return {"$dateToString": {"date": field, "format": form, "timezone": _offset(field, timeline)}}

    @classmethod
    def of_records(cls, db: Database[Any], start: datetime | None, end: datetime | None) -> "Source":
        """Select the records of a time, those that are kept."""
        times = {name: time for name, time in (("$gte", start), ("$lt", end)) if time is not None}
        return cls(db["request_logs"], {"createdAt": times} if times else {}, "createdAt", is_records=True)

    def grouped(
        self, group: Document, *, each: str | None = None, only: Collection[str] = ()
    ) -> list[Document]:
        """Return the pipeline that adds up what is here by this expression.

        `each` is a field that may hold several values: then everything counts once by each. `only` are the
        sums that are wanted, where not all are: MongoDB then reads them out of an index where it can.
        """
        sums = _RECORD_SUMS if self.is_records else _STORED_SUMS
        if only:
            sums = {name: sums[name] for name in only}
        return [{"$match": self.match}, *_unwound(each), {"$group": {"_id": group, **sums}}]

    def largest(self, by: str, rank: Document | str, top: int) -> list[str]:
        """Return the values of a field that come to most by an expression over the sums, one of `RANKS`."""
        ranked: list[Document] = [
            *self.grouped({"key": self.value_of(by)}, each=TAGS if by == TAGS else None),
            {"$project": {"rank": rank}},
            {"$match": {"_id.key": {"$type": "string"}, "rank": {"$gt": 0}}},
            {"$sort": {"rank": -1, "_id.key": 1}},
            {"$limit": top},
        ]
        return [found["_id"]["key"] for found in self.collection.aggregate(ranked, allowDiskUse=True)]

    def stored_bars(self, by: str | None, timeline: Timeline | None) -> Iterator[_Bars]:
        """Yield the histograms of sums made before; records have none."""
        # Added up here: the server takes five times as long to take maps apart.
        key = None if by is None else self.key or by
        wanted = {"latency": 1, self.time: 1, **({} if key is None else {key: 1})}
        for found in yielding(self.collection.find(self.match, wanted, batch_size=_BATCH)):
            place = None if key is None else _at(found, key)
            label = None if timeline is None else timeline.label_of(timeline.start_of(_at(found, self.time)))
            yield (place, label), found.get("latency") or {}


def add_up(
    sums: Sums,
    sources: Sequence[Source],
    by: str | None,
    timeline: Timeline | None,
    *,
    with_latency: bool = False,
) -> None:
    """Add what is in all these, by key (a field's name; None: all together) and bucket.

    `with_latency` fills the histograms.
    """
    if not sources:
        return
    pipelines = [source.pipeline(by, timeline, with_latency=with_latency) for source in sources]
    place = {"key": "$_id.key", "label": "$_id.label"}
    bars = {"bars": {"$push": {"$ifNull": ["$_id.bar", None]}}, "numbers": {"$push": "$latencyCount"}}
    together: Document = {
        "$group": {"_id": place, **merged(SUM_FIELDS.values()), **(bars if with_latency else {})}
    }
    for found in at_once(zip(sources, pipelines, strict=True), [together]):
        totals = sums.setdefault((found["_id"].get("key"), found["_id"].get("label")), Totals())
        totals.add(found)
        for bar, number in zip(found.get("bars", ()), found.get("numbers", ()), strict=True):
            if bar is not None:
                totals.add_latencies({bar: int(number)})
    if with_latency:
        for source in sources:
            if not source.is_records:
                for at, counts in source.stored_bars(by, timeline):
                    sums.setdefault(at, Totals()).add_latencies(counts)


def at_once(parts: Iterable[tuple[Source, list[Document]]], stages: Sequence[Document] = ()) -> Any:
    """Ask for what the pipelines of some sources find, one after another, in one question."""
    (first, pipeline), *others = parts
    rest = [{"$unionWith": {"coll": source.collection.name, "pipeline": asked}} for source, asked in others]
    return first.collection.aggregate([*pipeline, *rest, *stages], allowDiskUse=True, batchSize=_ROWS_AT_ONCE)


def merged(names: Iterable[str]) -> Document:
    """Return what adds up sums of these names."""
    return {name: {"$sum": f"${name}"} for name in names}


def _unwound(field: str | None) -> list[Document]:
    return [{"$unwind": {"path": f"${field}", "preserveNullAndEmptyArrays": True}}] if field else []


def _at(document: Document, path: str) -> Any:
    for name in path.split("."):
        document = document.get(name, {})
    return document or None


def _offset(field: str, timeline: Timeline) -> Any:
    """Return the zone's offset at that time, worked out here: the server need not know the zone."""
    offsets = timeline.offsets()
    branches = [{"case": {"$gte": [field, since]}, "then": _offset_text(offset)} for since, offset in offsets]
    first = branches.pop(0)["then"]
    return {"$switch": {"branches": branches[::-1], "default": first}} if branches else first


def _offset_text(offset: timedelta) -> str:
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _number(field: str) -> Document:
    return {"$cond": [{"$isNumber": field}, field, 0]}


STOOD_FOR: Document = {"$cond": [{"$isNumber": "$count"}, "$count", 1]}
"""How many requests a record stands for."""


def sum_if(condition: Document | str, amount: Any = 1) -> Document:
    """Sum up an amount of each request, over those requests that meet a condition."""
    return {"$sum": {"$cond": [condition, {"$multiply": [amount, STOOD_FOR]}, 0]}}


_IS_TIMED: Document = {"$and": [{"$ne": ["$outcome", str(Outcome.REJECTED)]}, {"$isNumber": "$latencyMs"}]}
_HAS_FIRST_BYTE: Document = {"$and": [_IS_TIMED, {"$isNumber": "$ttftMs"}]}


def _search(low: int, high: int) -> Document | str:
    """Return the expression for the bucket of a duration, one of those from `low` to `high`."""
    if low == high:
        return bucket_key(BOUNDS[low])
    middle = (low + high) // 2
    is_lower = {"$lte": ["$latencyMs", BOUNDS[middle]]}
    return {"$cond": [is_lower, _search(low, middle), _search(middle + 1, high)]}


_BAR: Document = {"$cond": [_IS_TIMED, _search(0, len(BOUNDS) - 1), None]}
"""Where a record is counted in a histogram, by eight comparisons; null: nowhere."""

COST_NANO: Document = {
    "$ifNull": [
        "$costNanoUsd",
        {"$toLong": {"$round": [{"$multiply": [_number("$creditsCost"), float(NANO)]}, 0]}},
    ]
}
"""A record's cost; earlier software stored it in USD only."""

IS_TOLD: Document = {"$isNumber": "$upstreamCostNanoUsd"}
"""Whether the upstream said what it charged."""

_ENDPOINT_BY_FORMAT: Document = {
    "$switch": {
        "branches": [
            {"case": {"$eq": ["$apiFormat", api_format]}, "then": name}
            for api_format, name in COMMON_ENDPOINTS.items()
        ],
        "default": None,
    }
}

RANKS: Mapping[str, Document | str] = {
    "requests": "$requests",
    "tokens": {"$add": ["$inputTokens", "$outputTokens"]},
    "cost": "$costNanoUsd",
    "latency": "$requests",
    "errors": {"$subtract": ["$requests", "$success"]},
}
"""`app.statistics.timeseries.RANKINGS`, as the server works them out of sums."""

MARKUP_NANO: Document = {
    "$cond": [{"$isNumber": "$listCostNanoUsd"}, {"$subtract": ["$costNanoUsd", "$listCostNanoUsd"]}, 0]
}
"""What the operator's own factors have added to a record's cost."""

_STORED_SUMS: Document = merged(SUM_FIELDS.values())

_RECORD_SUMS: Document = {
    "requests": {"$sum": STOOD_FOR},
    "success": sum_if("$isSuccess"),
    "rejected": sum_if({"$eq": ["$outcome", str(Outcome.REJECTED)]}),
    **{
        name: {"$sum": f"${name}"}
        for name in ("inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens", "reasoningTokens")
    },
    "costNanoUsd": {"$sum": COST_NANO},
    "upstreamCostNanoUsd": {"$sum": "$upstreamCostNanoUsd"},
    "toldRequests": sum_if(IS_TOLD),
    "toldCostNanoUsd": {"$sum": {"$cond": [IS_TOLD, COST_NANO, 0]}},
    "markupNanoUsd": {"$sum": MARKUP_NANO},
    "toldMarkupNanoUsd": {"$sum": {"$cond": [IS_TOLD, MARKUP_NANO, 0]}},
    "latencyCount": sum_if(_IS_TIMED),
    "latencySumMs": sum_if(_IS_TIMED, "$latencyMs"),
    "ttftCount": sum_if(_HAS_FIRST_BYTE),
    "ttftSumMs": sum_if(_HAS_FIRST_BYTE, "$ttftMs"),
}
