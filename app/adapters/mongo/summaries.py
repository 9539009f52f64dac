"""Sums of hours, days and months by one field each (`request_summaries`), made from the hourly sums.

The hourly sums (`request_rollups`) are the account: one document per writer and combination of everything.
Statistics over long periods would have to add up very many of them. Summaries hold the same sums once per
model, per user, per client key, per upstream key, and of all requests together, of each UTC hour, day and
month. They are made in the background from hours that have ended, cost the writer nothing, and can be
dropped at any time: what is not summed up is read from the hourly sums.

One document, the state, says what they can be used for: every span that ended before `upTo`, except those
with an hour in `late`, an hour into which something was booked after it had ended. Whoever books such a
record marks the hour right after writing the hourly sums, as part of the same repeatable settlement.
Whatever is made of the hourly sums is published by an update that requires the state to be still the one
(`version`) that was read before them: a mark set meanwhile wins, and the work is done again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import ASCENDING, IndexModel, ReplaceOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError

from app.adapters.mongo import rollups
from app.adapters.mongo.record_writes import DUPLICATE_KEY, paced
from app.core.spans import FINER, Level, Range, begin, following

Document = dict[str, Any]

COLLECTION = "request_summaries"

ALL_TOGETHER = "all"
FIELDS = (None, "model", "userId", "userKeyId", "factoryKeyId")
"""What is summed by; None: all requests together."""

INDEXES = (
    IndexModel([("_id.by", ASCENDING), ("_id.level", ASCENDING), ("_id.start", ASCENDING)]),
    IndexModel(
        [("_id.by", ASCENDING), ("_id.key", ASCENDING), ("_id.level", ASCENDING), ("_id.start", ASCENDING)]
    ),
)
"""What statistics read them by, of all keys and of some."""

GRACE = timedelta(minutes=10)
"""So long after its end an hour is summed up. Clocks of hosts may differ by as much."""

_STATE = "state"
_HOUR_FORM = "%Y%m%d%H"
_HOUR = timedelta(hours=1)

COUNTS = (
    *("requests", "success", "errors", "rejected", "inputTokens", "outputTokens", "cacheWriteTokens"),
    *("cacheWrite1hTokens", "cacheHitTokens", "reasoningTokens", "costNanoUsd"),
    *("latencyCount", "latencySumMs", "ttftCount", "ttftSumMs"),
)
"""The numbers that are summed up; beside them, maps of counts."""

_MAPS = ("latency", "ttft", "statusClasses", "outcomes")
_READ = dict.fromkeys((*filter(None, FIELDS), "hour", *COUNTS, *_MAPS), 1)

_BATCH = 200
"""Documents read or written at once: some milliseconds, then requests go first."""

_Place = tuple[str, datetime, str | None]
"""Field, start of the span, key."""


@dataclass(frozen=True, slots=True)
class State:
    """What has been summed up. `up_to` None: nothing yet. `version` changes with every change."""

    up_to: datetime | None
    late: frozenset[datetime]
    version: int

    @classmethod
    def read(cls, collection: Collection[Any]) -> "State":
        """As it is now."""
        document = collection.find_one({"_id": _STATE}) or {}
        late = (datetime.strptime(text, _HOUR_FORM).replace(tzinfo=UTC) for text in document.get("late", {}))
        return cls(document.get("upTo"), frozenset(late), int(document.get("version", 0)))


def mark_late(db: Database[Any], created: Iterable[datetime], now: datetime) -> None:
    """Say that something was booked into the hours of these moments, those that had ended before `now`.

    To be called after the hourly sums are written and before the batch counts as booked. Repeatable.
    """
    hours = {hour for moment in created if (hour := rollups.hour_of(moment)) + _HOUR <= now}
    if hours:
        marks = {f"late.{hour:{_HOUR_FORM}}": True for hour in hours}
        db[COLLECTION].update_one({"_id": _STATE}, {"$set": marks, "$inc": {"version": 1}}, upsert=True)


def discard(db: Database[Any]) -> None:
    """Throw all summaries away, to be made anew: what the hourly sums are kept by was changed. Repeatable."""
    state: Document = {"_id": _STATE}
    db[COLLECTION].update_one(state, {"$unset": {"upTo": "", "late": ""}, "$inc": {"version": 1}})
    db[COLLECTION].delete_many({"_id": {"$ne": _STATE}})


def selection(ranges: Sequence[Range], *fields: str | None, keys: Sequence[str] | None = None) -> Document:
    """The query for the summaries of these spans by some of `FIELDS`; `keys` None: of all keys."""
    spans = [
        {"_id.level": str(part.level), "_id.start": {"$gte": part.start, "$lt": part.end}} for part in ranges
    ]
    names = [by or ALL_TOGETHER for by in fields]
    chosen: Document = {"_id.by": names[0] if len(names) == 1 else {"$in": names}}
    if keys is not None:
        chosen["_id.key"] = {"$in": list(keys)}
    return {"$or": [{**chosen, **span} for span in spans]}


class SummaryMaker:
    """Keeps the summaries up to date. Any number of them may work at once; each raises `PyMongoError`."""

    def __init__(self, db: Database[Any]) -> None:
        self._summaries = db[COLLECTION]
        self._rollups = db[rollups.COLLECTION]

    def step(self, now: datetime) -> bool:
        """Do a piece of what there is to do (a day's hours, or one late hour); False when that was all.

        Also False when somebody else was at it: then there is another time.
        """
        state = State.read(self._summaries)
        end = begin(Level.HOUR, now - GRACE)
        if state.up_to is None:
            return self._set_out(end)
        late = [hour for hour in state.late if hour < state.up_to]
        if late:
            hour = min(late)
            self._make(hour, hour + _HOUR, state.up_to)
            return self._publish(state, state.up_to, [hour])
        if state.up_to >= end:
            return False
        reached = min(end, following(Level.DAY, begin(Level.DAY, state.up_to)))
        self._make(state.up_to, reached, reached)
        return self._publish(state, reached, [hour for hour in state.late if hour < reached])

    def _set_out(self, end: datetime) -> bool:
        """Begin with the first hour there is anything of."""
        first = self._rollups.find_one({}, {"hour": 1}, sort=[("hour", 1)])
        if first is None or first["hour"] >= end:
            return False
        start = begin(Level.DAY, first["hour"])
        nowhere = {"_id": _STATE, "upTo": {"$exists": False}}
        try:
            self._summaries.update_one(
                nowhere, {"$set": {"upTo": start}, "$inc": {"version": 1}}, upsert=True
            )
        except DuplicateKeyError:
            return False
        return True

    def _make(self, start: datetime, end: datetime, up_to: datetime) -> None:
        """Sum up these hours (of one day), and the day and the month they are in if they are over by then."""
        hours = self._rollups.find({"hour": {"$gte": start, "$lt": end}}, _READ, batch_size=_BATCH)
        self._sum(Level.HOUR, hours.sort("hour", 1), lambda document: document["hour"])
        for level in (Level.DAY, Level.MONTH):
            span = begin(level, start)
            if following(level, span) <= up_to:
                parts = Range(FINER[level], span, following(level, span))
                found = self._summaries.find(selection([parts], *FIELDS), batch_size=_BATCH)
                self._sum(level, found, lambda _: span)  # noqa: B023 -- used before it changes

    def _sum(
        self, level: Level, documents: Iterable[Document], start_of: Callable[[Document], datetime]
    ) -> None:
        """Add up documents, which come in the order of the spans they are in, and store the sums."""
        sums: dict[_Place, Document] = {}
        reached: datetime | None = None
        for document in paced(documents):
            start = start_of(document)
            if start != reached:
                self._store(level, sums)
                sums, reached = {}, start
            for by, key in _places(document):
                _add(sums.setdefault((by, start, key), {}), document)
        self._store(level, sums)

    def _store(self, level: Level, sums: dict[_Place, Document]) -> None:
        updates = []
        for (by, start, key), document in paced(sums.items()):
            place = {"by": by, "level": str(level), "start": start, "key": key}
            # Hourly sums only grow: of two summaries of a span, the one with more requests was made later.
            # So one that was made earlier does not take its place by being written later.
            earlier = {"_id": place, "requests": {"$not": {"$gt": document.get("requests", 0)}}}
            updates.append(ReplaceOne(earlier, document, upsert=True))
        for first in range(0, len(updates), _BATCH):
            try:
                self._summaries.bulk_write(updates[first : first + _BATCH], ordered=False)
            except BulkWriteError as error:
                # A duplicate: there is one with more requests.
                if any(problem["code"] != DUPLICATE_KEY for problem in error.details["writeErrors"]):
                    raise

    def _publish(self, state: State, up_to: datetime, done: Iterable[datetime]) -> bool:
        unmarked = {f"late.{hour:{_HOUR_FORM}}": "" for hour in done}
        update: Document = {"$set": {"upTo": up_to}, "$inc": {"version": 1}}
        if unmarked:
            update["$unset"] = unmarked
        result = self._summaries.update_one({"_id": _STATE, "version": state.version}, update)
        return result.matched_count == 1


def _places(document: Document) -> Iterator[tuple[str, str | None]]:
    """What a document is summed up by: one combination by each field, a summary by its own."""
    own = document["_id"]
    if isinstance(own, Mapping):
        yield own["by"], own["key"]
    else:
        for by in FIELDS:
            yield by or ALL_TOGETHER, None if by is None else document.get(by)


def _add(sums: Document, document: Document) -> None:
    for name in COUNTS:
        if name in document:
            sums[name] = sums.get(name, 0) + _number(document[name])
    for name in _MAPS:
        counts = document.get(name)
        if isinstance(counts, Mapping):
            added = sums.setdefault(name, {})
            for key, number in counts.items():
                added[key] = added.get(key, 0) + _number(number)


def _number(value: Any) -> float:
    """What is no number adds nothing, as with MongoDB's `$sum`."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0
