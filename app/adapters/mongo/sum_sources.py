"""Where sums come from, and how MongoDB adds them up: by key, by bucket of time, with histograms.

There are two kinds of places: sums made before (with `latency` histograms), and the records themselves, of
which some are of earlier software and in no sums.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pymongo.collection import Collection

from app.adapters.mongo.record_writes import paced
from app.core.histogram import bucket_key
from app.core.records import NANO, Outcome
from app.core.stats import SUM_FIELDS, Totals
from app.core.timeseries import HOUR, MINUTES, MONTH, Timeline

Document = dict[str, Any]
Label = Any
"""The bucket something belongs to, as `Timeline.label_of` names it; None where time is not cut up."""

Sums = dict[tuple[str | None, Label], Totals]

_Bars = tuple[tuple[str | None, Label], Mapping[str, int]]
"""Key and bucket of time, and a part of the histogram."""

_BATCH = 200

_WIDTH_MS = {MINUTES: 300_000, HOUR: 3_600_000}


@dataclass(frozen=True, slots=True)
class Source:
    """Some documents of one collection that count as they are, each request in exactly one source.

    `time` is the field that says when; `key` the one that says whose, where that is not the field sums are
    made by.
    """

    collection: Collection[Any]
    match: Document
    time: str
    key: str | None = None
    is_records: bool = False

    def add_to(
        self, sums: Sums, by: str | None, timeline: Timeline | None, *, with_latency: bool = False
    ) -> None:
        """Add what is here, by key (a field's name; None: all together) and bucket."""
        group = {
            "key": None if by is None else {"$ifNull": [f"${self.key or by}", None]},
            "label": None if timeline is None else self._label(timeline),
        }
        for found in self.collection.aggregate(self._sums(group), allowDiskUse=True):
            sums.setdefault(_place(found), Totals()).add(found)
        if with_latency:
            bars = self._bars_of_records(group) if self.is_records else self._stored_bars(by, timeline)
            for place, counts in bars:
                sums.setdefault(place, Totals()).add_latencies(counts)

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

    def _bars_of_records(self, group: Document) -> Iterator[_Bars]:
        timed = {"outcome": {"$ne": str(Outcome.REJECTED)}, "latencyMs": {"$type": "number"}}
        pipeline: list[Document] = [
            {"$match": {"$and": [self.match, timed]}},
            {"$group": {"_id": {**group, "latencyMs": "$latencyMs"}, "number": {"$sum": 1}}},
        ]
        for found in self.collection.aggregate(pipeline, allowDiskUse=True):
            yield _place(found), {bucket_key(int(found["_id"]["latencyMs"])): int(found["number"])}

    def _stored_bars(self, by: str | None, timeline: Timeline | None) -> Iterator[_Bars]:
        # Added up here: the server takes five times as long to take maps apart.
        key = None if by is None else self.key or by
        wanted = {"latency": 1, self.time: 1, **({} if key is None else {key: 1})}
        for found in paced(self.collection.find(self.match, wanted, batch_size=_BATCH)):
            place = None if key is None else _at(found, key)
            label = None if timeline is None else timeline.label_of(timeline.start_of(_at(found, self.time)))
            yield (place, label), found.get("latency") or {}


def _place(found: Document) -> tuple[str | None, Label]:
    group = found["_id"]
    return group.get("key"), group.get("label")


def _at(document: Document, path: str) -> Any:
    for name in path.split("."):
        document = document.get(name, {})
    return document or None


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
