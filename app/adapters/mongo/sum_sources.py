"""Where sums come from, and how MongoDB adds them up: by key, by bucket of time, with histograms.

There are two kinds of places: sums made before (with `latency` histograms), and the records themselves, of
which some are of earlier software and in no sums.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pymongo.collection import Collection

from app.core.histogram import bucket_key
from app.core.records import NANO, Outcome
from app.core.stats import SUM_FIELDS, Totals
from app.core.timeseries import HOUR, MINUTES, MONTH, Timeline

Document = dict[str, Any]
Label = Any
"""The bucket something belongs to, as `Timeline.label_of` names it; None where time is not cut up."""

Sums = dict[tuple[str | None, Label], Totals]

_WIDTH_MS = {MINUTES: 300_000, HOUR: 3_600_000}


@dataclass(frozen=True, slots=True)
class Source:
    """Some documents of one collection that count as they are, each request in exactly one source.

    `time` is the field that says when.
    """

    collection: Collection[Any]
    match: Document
    time: str
    is_records: bool = False

    def add_to(self, sums: Sums, by: str | None, timeline: Timeline | None, *, with_latency: bool) -> None:
        """Add what is here, by key (a field's name; None: all together) and bucket."""
        group = {
            "key": None if by is None else {"$ifNull": [f"${by}", None]},
            "label": None if timeline is None else self._label(timeline),
        }
        for found in self.collection.aggregate(self._sums(group), allowDiskUse=True):
            sums.setdefault(_place(found), Totals()).add(found)
        if with_latency:
            for found in self.collection.aggregate(self._histogram(group), allowDiskUse=True):
                sums[_place(found)].add_latency(*self._bar(found))

    def _label(self, timeline: Timeline) -> Any:
        field = f"${self.time}"
        width = _WIDTH_MS.get(timeline.size)
        if width is not None:
            return {"$subtract": [field, {"$mod": [{"$toLong": field}, width]}]} if self.is_records else field
        form = "%Y-%m" if timeline.size == MONTH else "%Y-%m-%d"
        return {"$dateToString": {"date": field, "format": form, "timezone": _offset(field, timeline)}}

    def _sums(self, group: Document) -> list[Document]:
        sums = _RECORD_SUMS if self.is_records else _STORED_SUMS
        return [{"$match": self.match}, {"$group": {"_id": group, **sums}}]

    def _histogram(self, group: Document) -> list[Document]:
        if self.is_records:
            timed = {"outcome": {"$ne": str(Outcome.REJECTED)}, "latencyMs": {"$type": "number"}}
            return [
                {"$match": {"$and": [self.match, timed]}},
                {"$group": {"_id": {**group, "bar": "$latencyMs"}, "number": {"$sum": 1}}},
            ]
        return [
            {"$match": self.match},
            {"$project": {"_id": 0, **_computed(group), "bar": {"$objectToArray": "$latency"}}},
            {"$unwind": "$bar"},
            {
                "$group": {
                    "_id": {"key": "$key", "label": "$label", "bar": "$bar.k"},
                    "number": {"$sum": "$bar.v"},
                }
            },
        ]

    def _bar(self, found: Document) -> tuple[str, int]:
        bar = found["_id"]["bar"]
        return (bucket_key(int(bar)) if self.is_records else bar), int(found["number"])


def _place(found: Document) -> tuple[str | None, Label]:
    group = found["_id"]
    return group.get("key"), group.get("label")


def _computed(group: Document) -> Document:
    """For `$project`, which takes a plain None for an instruction to leave the field out."""
    return {name: {"$literal": None} if value is None else value for name, value in group.items()}


def _offset(field: str, timeline: Timeline) -> Any:
    """The zone's offset at that time, worked out here: the server need not know the zone."""
    offsets = timeline.offsets()
    branches = [{"case": {"$gte": [field, since]}, "then": _offset_text(offset)} for since, offset in offsets]
    first = branches.pop(0)["then"]
    return {"$switch": {"branches": branches[::-1], "default": first}} if branches else first


def _offset_text(offset: timedelta) -> str:
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _number(field: str) -> Document:
    return {"$cond": [{"$isNumber": field}, field, 0]}


def _sum_if(condition: Document | str, amount: Any = 1) -> Document:
    return {"$sum": {"$cond": [condition, amount, 0]}}


_IS_TIMED: Document = {"$and": [{"$ne": ["$outcome", str(Outcome.REJECTED)]}, {"$isNumber": "$latencyMs"}]}
_HAS_FIRST_BYTE: Document = {"$and": [_IS_TIMED, {"$isNumber": "$ttftMs"}]}

COST_NANO: Document = {
    "$ifNull": [
        "$costNanoUsd",
        {"$toLong": {"$round": [{"$multiply": [_number("$creditsCost"), float(NANO)]}, 0]}},
    ]
}
"""A record's cost; earlier software stored it in USD only."""

_STORED_SUMS: Document = {name: {"$sum": f"${name}"} for name in SUM_FIELDS.values()}

_RECORD_SUMS: Document = {
    "requests": {"$sum": 1},
    "success": _sum_if("$isSuccess"),
    "rejected": _sum_if({"$eq": ["$outcome", str(Outcome.REJECTED)]}),
    **{
        name: {"$sum": f"${name}"}
        for name in ("inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens", "reasoningTokens")
    },
    "costNanoUsd": {"$sum": COST_NANO},
    "latencyCount": _sum_if(_IS_TIMED),
    "latencySumMs": _sum_if(_IS_TIMED, "$latencyMs"),
    "ttftCount": _sum_if(_HAS_FIRST_BYTE),
    "ttftSumMs": _sum_if(_HAS_FIRST_BYTE, "$ttftMs"),
}
