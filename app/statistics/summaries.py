"""Sums of hours, days and months by one field each (`request_summaries`), made from the hourly sums.

The hourly sums (`request_rollups`) are the account: one document per writer and combination of everything.
Statistics over long periods would have to add up very many of them. Summaries hold the same sums once per
model, per user, per client key, per upstream key, and of all requests together, of each UTC hour, day and
month. They are made in the background from hours that have ended, cost the writer nothing, and can be
dropped at any time: what is not summed up is read from the hourly sums.

Days and months are those of `STATS_TIMEZONE`, so that the periods people ask for are made of few spans. A
month that is running has its hours up to the newest one together, too: such a summary is named by its end
as well, and each hour makes others. So a month, over or not, is one document per user.

One document, the state, says what they can be used for: every span that ended before `reached`, except those
with an hour in `late`, an hour into which something was booked after it had ended. Whoever books such a
record marks the hour right after writing the hourly sums, as part of the same repeatable booking.
Whatever is made of the hourly sums is published by an update that requires the state to be still the one
(`version`) that was read before them: a mark set meanwhile wins, and the work is done again.

Months are summed up by some pairs of fields as well (`PAIRS`), a running one up to the last midnight. There
may be very many pairs, so the server makes these from the hourly sums, and no shorter spans have them.

Earlier versions, which may run on other hosts, know days and months of UTC, and `upTo` in place of `reached`.
Versions of the state end in a half since then: they read them as whole numbers, so nothing of theirs is ever
published, and no mark taken away by them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import chain
from typing import Any
from zoneinfo import ZoneInfo

import pymongo
from pymongo import ASCENDING, DESCENDING, IndexModel, ReplaceOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError

from app.statistics import rollups
from app.statistics.spans import Level, Range, begin, cover, following
from app.store.driver import DUPLICATE_KEY, yielding

Document = dict[str, Any]

COLLECTION = "request_summaries"

ALL_TOGETHER = "all"
FIELDS = (None, "model", "userId", "userKeyId", "factoryKeyId")
"""What is summed by; None: all requests together."""

Pair = tuple[str, str]

PAIRS: tuple[Pair, ...] = (
    ("userId", "model"),
    ("userKeyId", "model"),
    ("userId", "userKeyId"),
    ("model", "factoryKeyId"),
)
"""What months are summed up by besides."""

IN_ORDER = (
    ("costNanoUsd", DESCENDING),
    ("requests", DESCENDING),
    ("_id.key", ASCENDING),
    ("_id.second", ASCENDING),
)
"""Those that cost most first, then those with most requests."""

INDEXES = (
    IndexModel([*((f"_id.{name}", ASCENDING) for name in ("by", "level", "start", "end")), *IN_ORDER]),
    IndexModel(
        [("_id.by", ASCENDING), ("_id.key", ASCENDING), ("_id.level", ASCENDING), ("_id.start", ASCENDING)]
    ),
)
"""What statistics read them by, of all keys and of some; the first one also says what their order is by."""

# How long after its end an hour is summed up. Clocks of hosts may differ by as much.
GRACE = timedelta(minutes=10)

_STATE = "state"
_HOUR_FORM = "%Y%m%d%H"
_HOUR = timedelta(hours=1)

COUNTS = (
    *("requests", "success", "errors", "rejected", "inputTokens", "outputTokens", "cacheWriteTokens"),
    *("cacheWrite1hTokens", "cacheHitTokens", "reasoningTokens", "costNanoUsd"),
    *("upstreamCostNanoUsd", "toldRequests", "toldCostNanoUsd", "markupNanoUsd", "toldMarkupNanoUsd"),
    *("latencyCount", "latencySumMs", "ttftCount", "ttftSumMs"),
)
"""The numbers that are summed up; beside them, maps of counts."""

_MAPS = ("latency", "ttft", "statusClasses", "outcomes")
_READ = dict.fromkeys((*filter(None, FIELDS), "hour", *COUNTS, *_MAPS), 1)

# Documents read or written at once: some milliseconds, then requests go first.
_BATCH = 200

_PAIRS_S = 600
"""How long the server may take for all pairs of a month."""

_Place = tuple[str, str | None]
"""Field, key."""


@dataclass(frozen=True, slots=True)
class State:
    """What has been summed up, in days and months of `tz`. `up_to` None: nothing yet.

    `month_reached` is up to when the month that is running is summed up in one; None: it is not. `version`
    changes with every change. `pairs` are those that months are summed up by, `pairs_reached` is up to when
    the running one is.
    """

    up_to: datetime | None
    late: frozenset[datetime]
    version: float
    tz: tzinfo
    month_reached: datetime | None
    pairs: frozenset[Pair] = frozenset()
    pairs_reached: datetime | None = None

    @classmethod
    def read(cls, collection: Collection[Any]) -> "State":
        """Read the state as it is now."""
        document = collection.find_one({"_id": _STATE}) or {}
        late = (datetime.strptime(text, _HOUR_FORM).replace(tzinfo=UTC) for text in document.get("late", {}))
        zone = document.get("timezone", "UTC")
        tz = UTC if zone == "UTC" else ZoneInfo(zone)
        reached, version = document.get("reached"), document.get("version", 0)
        pairs = frozenset((first, second) for first, second in document.get("pairs", ()))
        month_reached, pairs_reached = document.get("monthReached"), document.get("pairsReached")
        return cls(reached, frozenset(late), version, tz, month_reached, pairs, pairs_reached)

    def of_month(self, start: datetime, *, by_pairs: bool = False) -> Range | None:
        """Return what is summed up together of the month that begins then; None: nothing."""
        end = following(Level.MONTH, start, self.tz)
        if self.up_to is not None and end <= self.up_to:
            return Range(Level.MONTH, start, end)
        reached = self.pairs_reached if by_pairs else self.month_reached
        is_running = reached is not None and start < reached < end
        return Range(Level.RUNNING, start, reached) if is_running and reached else None


NOTHING = State(None, frozenset(), 0, UTC, None)
"""The state where nothing has been summed up."""


def mark_late(db: Database[Any], created: Iterable[datetime], now: datetime) -> None:
    """Say that something was booked into the hours of these moments, those that had ended before `now`.

    To be called after the hourly sums are written and before the batch counts as booked. Repeatable.
    """
    running = rollups.hour_of(now)
    hours = {rollups.hour_of(moment) for moment in created if moment < running}
    if hours:
        marks = {f"late.{hour:{_HOUR_FORM}}": True for hour in hours}
        db[COLLECTION].update_one({"_id": _STATE}, {"$set": marks, "$inc": {"version": 1}}, upsert=True)


def discard(db: Database[Any]) -> None:
    """Throw all summaries away, to be made anew: what the hourly sums are kept by was changed. Repeatable."""
    state: Document = {"_id": _STATE}
    db[COLLECTION].update_one(
        state,
        {
            "$unset": dict.fromkeys(("reached", "monthReached", "pairsReached", "late"), ""),
            "$inc": {"version": 1},
        },
    )
    db[COLLECTION].delete_many({"_id": {"$ne": _STATE}})


def selection(
    ranges: Sequence[Range], *fields: str | None, keys: Sequence[str | None] | None = None
) -> Document:
    """Return the query for the summaries of these spans by some of `FIELDS`; `keys` None: of all keys."""
    names = [by or ALL_TOGETHER for by in fields]
    chosen: Document = {"_id.by": names[0] if len(names) == 1 else {"$in": names}}
    if keys is not None:
        chosen["_id.key"] = {"$in": list(keys)}
    return {"$or": [{**chosen, **_spans(part)} for part in ranges]}


def named(fields: Sequence[str]) -> str:
    """Return what summaries by a field, or a pair of them, are called."""
    return ",".join(fields)


def of_month(month: Range, fields: Sequence[str]) -> Document:
    """Return the query for the summaries of one month, or part of one, that are sorted by `IN_ORDER`."""
    end = month.end if month.level is Level.RUNNING else None
    place = {"_id.by": named(fields), "_id.level": str(month.level), "_id.start": month.start}
    return {**place, "_id.end": end}


def id_of(month: Range, fields: Sequence[str], keys: Sequence[str | None]) -> Document:
    """Return the `_id` of a summary of one month, or part of one."""
    place = {"by": named(fields), "level": str(month.level), "start": month.start, "key": keys[0]}
    if len(keys) > 1:
        place["second"] = keys[1]
    return place if month.level is Level.MONTH else {**place, "end": month.end}


def _spans(part: Range) -> Document:
    level: Document = {"_id.level": str(part.level)}
    if part.level is Level.RUNNING:
        return level | {"_id.start": part.start, "_id.end": part.end}
    return level | {"_id.start": {"$gte": part.start, "$lt": part.end}}


class SummaryMaker:
    """Keeps the summaries up to date, with days and months of `tz`.

    Any number of them may work at once; each raises `PyMongoError`.
    """

    def __init__(self, db: Database[Any], tz: tzinfo = UTC) -> None:
        self._db = db
        self._summaries = db[COLLECTION]
        self._rollups = db[rollups.COLLECTION]
        self._tz = tz
        self._is_begun = False

    def step(self, now: datetime) -> bool:
        """Do a piece of what there is to do (a day's hours, or a month's late ones); False: nothing is left.

        Also False when somebody else was at it: then there is another time.
        """
        state = State.read(self._summaries)
        end = begin(Level.HOUR, now - GRACE, UTC)
        if not self._is_begun:
            # Once: where hosts are told different zones, they would undo each other's work for ever.
            self._is_begun = True
            is_other = str(state.tz) != str(self._tz) or state.pairs != set(PAIRS)
            if is_other and state.up_to is not None:
                discard(self._db)
                return True
        if state.up_to is None:
            return self._set_out(end)
        late = sorted(hour for hour in state.late if hour < state.up_to)
        if late:
            return self._make_late(state, state.up_to, late)
        if state.up_to >= end:
            return False
        return self._go_on(state, state.up_to, end)

    def _make_late(self, state: State, up_to: datetime, late: Sequence[datetime]) -> bool:
        """Make everything anew that has one of these hours in it, of the first one's month."""
        month = following(Level.MONTH, begin(Level.MONTH, late[0], state.tz), state.tz)
        hours = [hour for hour in late if hour < month]
        for hour in hours:
            self._make_hours(hour, hour + _HOUR, up_to, state.tz)
        for start in _begun_in(Level.MONTH, hours[0], hours[-1] + _HOUR, state.tz):
            if (month_or_part := state.of_month(start)) is not None:
                self._make_month(month_or_part, state.tz)
            if (month_or_part := state.of_month(start, by_pairs=True)) is not None:
                self._make_pairs(month_or_part)
        return self._publish(state, up_to, state.month_reached, state.pairs_reached, hours)

    def _go_on(self, state: State, up_to: datetime, end: datetime) -> bool:
        """Make the hours up to `end` that are of the same day; where it is over, also that, and its month."""
        tz, before = state.tz, state.month_reached
        day = begin(Level.DAY, up_to, tz)
        midnight = following(Level.DAY, day, tz)
        reached = min(end, midnight)
        self._make_hours(up_to, reached, reached, tz)
        late = [hour for hour in state.late if hour < reached]
        month = begin(Level.MONTH, day, tz)
        month_end = following(Level.MONTH, month, tz)
        # A month that is running is summed up to the newest hour only, not to each on the way there.
        if reached < month_end and reached < end:
            return self._publish(state, reached, before, state.pairs_reached, late)
        is_over = month_end <= reached
        whole = Range(Level.MONTH, month, month_end)
        self._make_month(whole if is_over else Range(Level.RUNNING, month, reached), tz, before)
        pairs, last_midnight = state.pairs_reached, begin(Level.DAY, reached, tz)
        if is_over:
            self._make_pairs(whole, pairs)
        elif month < last_midnight != pairs:
            self._make_pairs(Range(Level.RUNNING, month, last_midnight), pairs)
            pairs = last_midnight
        if is_over:
            published = self._publish(state, reached, None, None, late)
        else:
            published = self._publish(state, reached, reached, pairs, late)
        if not published:
            return False
        # What is read by who saw the state before this one stays until the next hour.
        self._forget((*FIELDS, *PAIRS), begin(Level.MONTH, month - _HOUR, tz), month)
        if before is not None:
            self._forget(FIELDS, month, before)
        if state.pairs_reached is not None:
            self._forget(PAIRS, month, state.pairs_reached)
        return True

    def _set_out(self, end: datetime) -> bool:
        """Begin with the first hour there is anything of."""
        first = self._rollups.find_one({}, {"hour": 1}, sort=[("hour", 1)])
        if first is None or first["hour"] >= end:
            return False
        start = begin(Level.DAY, first["hour"], self._tz)
        nowhere = {"_id": _STATE, "reached": {"$exists": False}}
        state = {"reached": start, "timezone": str(self._tz), "pairs": [list(pair) for pair in PAIRS]}
        try:
            self._summaries.update_one(
                nowhere,
                [
                    {"$set": {**state, "version": {"$add": [{"$floor": {"$ifNull": ["$version", 0]}}, 1.5]}}},
                    {"$unset": "upTo"},
                ],
                upsert=True,
            )
        except DuplicateKeyError:
            return False
        # What earlier versions made has other names, and would stay for ever.
        names = [by or ALL_TOGETHER for by in FIELDS]
        self._summaries.delete_many({"_id.by": {"$in": names}, "_id.level": {"$in": ["day", "month"]}})
        return True

    def _make_hours(self, start: datetime, end: datetime, up_to: datetime, tz: tzinfo) -> None:
        """Sum up these hours, and the days they are in if these are over by then."""
        hours = self._rollups.find({"hour": {"$gte": start, "$lt": end}}, _READ, batch_size=_BATCH)
        self._sum(Level.HOUR, hours.sort("hour", 1), lambda document: document["hour"])
        for day in _begun_in(Level.DAY, start, end, tz):
            if (over := following(Level.DAY, day, tz)) <= up_to:
                found = self._found(Range(Level.HOUR, day, over))
                self._sum(Level.DAY, found, lambda _: day)  # noqa: B023 -- used before it changes

    def _make_month(self, month: Range, tz: tzinfo, before: datetime | None = None) -> None:
        """Sum up the days and hours of a month, or of the part of it that is over.

        `before`: up to there they are summed up together, and are still the same.
        """
        first, parts = month.start, []
        if before is not None and month.start < before < month.end:
            first, parts = before, [Range(Level.RUNNING, month.start, before)]
        parts += cover([(first, month.end)], tz, Level.DAY)
        end = month.end if month.level is Level.RUNNING else None
        found = chain.from_iterable(self._found(part) for part in parts)
        self._sum(month.level, found, lambda _: month.start, end)

    def _found(self, spans: Range) -> Iterable[Document]:
        found: Iterable[Document] = self._summaries.find(selection([spans], *FIELDS), batch_size=_BATCH)
        return found

    def _make_pairs(self, month: Range, before: datetime | None = None) -> None:
        """Sum up a month, or the part of it that is over, by pairs; `before` as in `_make_month`."""
        with pymongo.timeout(_PAIRS_S):
            for pair in PAIRS:
                self._rollups.aggregate(self._pairs_of(month, pair, before), allowDiskUse=True)

    def _pairs_of(self, month: Range, pair: Pair, before: datetime | None) -> list[Document]:
        """Return the pipeline that makes the summaries by a pair."""
        sums: Document = {name: {"$sum": f"${name}"} for name in COUNTS}
        group = {"key": {"$ifNull": [f"${pair[0]}", None]}, "second": {"$ifNull": [f"${pair[1]}", None]}}
        first, parts = month.start, []
        if before is not None and month.start < before < month.end:
            first = before
            earlier = [
                {"$match": of_month(Range(Level.RUNNING, month.start, before), pair)},
                {
                    "$replaceWith": {
                        "$mergeObjects": ["$$ROOT", {"_id": {"key": "$_id.key", "second": "$_id.second"}}]
                    }
                },
            ]
            parts = [
                {"$unionWith": {"coll": COLLECTION, "pipeline": earlier}},
                {"$group": {"_id": "$_id", **sums}},
            ]
        # None that is 0 is kept: absent is the same to everybody, and takes no room.
        kept = {name: {"$cond": [{"$eq": [f"${name}", 0]}, "$$REMOVE", f"${name}"]} for name in COUNTS}
        place = {
            name: value if name in ("key", "second") else {"$literal": value}
            for name, value in id_of(month, pair, ("$_id.key", "$_id.second")).items()
        }
        # As in `_store`: what was made earlier does not take the place of what was made later.
        newer = {"$cond": [{"$gt": ["$requests", "$$new.requests"]}, "$$ROOT", "$$new"]}
        into = {"into": COLLECTION, "whenMatched": [{"$replaceWith": newer}], "whenNotMatched": "insert"}
        return [
            {"$match": {"hour": {"$gte": first, "$lt": month.end}}},
            {"$group": {"_id": group, **sums}},
            *parts,
            {"$replaceWith": {"_id": place, **kept}},
            {"$merge": into},
        ]

    def _forget(self, fields: Iterable[str | Pair | None], month: datetime, end: datetime) -> None:
        """Delete what was made of a month when it was running, up to a moment before `end`."""
        names = [by if isinstance(by, str) else ALL_TOGETHER if by is None else named(by) for by in fields]
        place = {"_id.by": {"$in": names}, "_id.level": str(Level.RUNNING)}
        self._summaries.delete_many({**place, "_id.start": month, "_id.end": {"$lt": end}})

    def _sum(
        self,
        level: Level,
        documents: Iterable[Document],
        start_of: Callable[[Document], datetime],
        end: datetime | None = None,
    ) -> None:
        """Add up documents, which come in the order of the spans they are in, and store the sums."""
        sums: dict[_Place, Document] = {}
        reached: datetime | None = None
        for document in yielding(documents):
            start = start_of(document)
            if start != reached:
                self._store(level, reached, end, sums)
                sums, reached = {}, start
            for place in _places(document):
                _add(sums.setdefault(place, {}), document)
        self._store(level, reached, end, sums)

    def _store(
        self, level: Level, start: datetime | None, end: datetime | None, sums: dict[_Place, Document]
    ) -> None:
        updates = []
        until = {} if end is None else {"end": end}
        for (by, key), document in yielding(sums.items()):
            place = {"by": by, "level": str(level), "start": start, "key": key, **until}
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

    def _publish(
        self,
        state: State,
        up_to: datetime,
        month_reached: datetime | None,
        pairs_reached: datetime | None,
        done: Iterable[datetime],
    ) -> bool:
        unmarked = {f"late.{hour:{_HOUR_FORM}}": "" for hour in done}
        update: Document = {
            "$set": {"reached": up_to, "monthReached": month_reached, "pairsReached": pairs_reached},
            "$inc": {"version": 1},
        }
        if unmarked:
            update["$unset"] = unmarked
        result = self._summaries.update_one({"_id": _STATE, "version": state.version}, update)
        return result.matched_count == 1


def _begun_in(level: Level, start: datetime, end: datetime, tz: tzinfo) -> Iterator[datetime]:
    """Yield when each span begins that any of this time is in."""
    span = begin(level, start, tz)
    while span < end:
        yield span
        span = following(level, span, tz)


def _places(document: Document) -> Iterator[_Place]:
    """Yield what a document is summed up by: one combination by each field, a summary by its own."""
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
    """Return a value's number; what is no number adds nothing, as with MongoDB's `$sum`."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0
