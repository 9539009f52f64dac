"""Where everything of a period is to be read from, each request in exactly one place.

The parts of hours at its start and its end come from the records; whole hours from summaries, as coarse as
fits; hours not summed up (the last one or two, and those with something late) from the hourly sums; and what
earlier software recorded (it has no `outcome`) from its records, since it is in no sums.

Where the records of such a part of an hour have expired, the hour counts in the period it begins in: so
periods that follow each other still add up to the time they fill.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from pymongo.database import Database

from app.statistics import rollups, summaries
from app.statistics.figures import Totals
from app.statistics.periods import Period
from app.statistics.spans import (
    BEGINNING,
    Interval,
    Level,
    Range,
    begin,
    between,
    cover,
    cut,
    first_from,
    following,
    without,
)
from app.statistics.sum_sources import Source, Sums, add_up
from app.statistics.timeseries import HOUR, MINUTES, Timeline
from app.store.connection import log_expiry_s

Document = dict[str, Any]


class Known:
    """What decides where sums are read from: which spans are summed up, and how long records are kept.

    Each is read when it is first needed, and then stays as it was.
    """

    def __init__(self, db: Database[Any]) -> None:
        self.db = db

    @cached_property
    def state(self) -> summaries.State:
        """Which spans are summed up; raises `PyMongoError`."""
        return summaries.State.read(self.db[summaries.COLLECTION])

    @cached_property
    def _kept_s(self) -> int | None:
        return log_expiry_s(self.db)

    def kept_since(self, now: datetime) -> datetime | None:
        """Return the moment before which records have expired, None: none ever does.

        Raises `PyMongoError`.
        """
        return None if self._kept_s is None else now - timedelta(seconds=self._kept_s)


@dataclass(frozen=True, slots=True)
class PeriodSources:
    """Everything from `start` (None: ever) to `end`, exclusive (None: no end).

    What is counted by the hour is taken from `first` on, and up to `last`, which may be before it.
    `by_pairs`: of summaries there are months only.
    """

    db: Database[Any]
    start: datetime | None
    end: datetime | None
    state: summaries.State
    first: datetime
    last: datetime | None
    by_pairs: bool = False

    @classmethod
    def of(cls, known: Known, period: Period, *, from_summaries: bool = True) -> "PeriodSources":
        """Note which spans are summed up, unless no summary is to be read; raises `PyMongoError`."""
        state = known.state if from_summaries else summaries.NOTHING
        start, end = (None if edge is None else edge.astimezone(UTC) for edge in (period.start, period.end))
        tz = period.tz
        first = BEGINNING if start is None else first_from(Level.HOUR, start, tz)
        last = end and begin(Level.HOUR, end, tz)
        if (start or first, end) != (first, last):
            expired = known.kept_since(period.now) or BEGINNING
            if start is not None and begin(Level.HOUR, start, tz) < expired:
                first = start
            if end is not None and begin(Level.HOUR, end, tz) < expired:
                last = end
        return cls(known.db, start, end, state, first, last)

    def ranges(self, timeline: Timeline | None = None) -> list[Range]:
        """Return the spans that are read from summaries; none of them crosses buckets."""
        if self._is_of_records_only(timeline):
            return []
        return cover(
            _at_buckets(self._summed_up(), timeline),
            self.state.tz,
            _coarsest(timeline),
            reached=self.state.pairs_reached if self.by_pairs else self.state.month_reached,
        )

    def month(self) -> Range | None:
        """Return the month, or part of one, that all is that is read from summaries; None: there is more."""
        ranges = self.ranges()
        if len(ranges) != 1 or ranges[0].level not in (Level.MONTH, Level.RUNNING):
            return None
        is_one = ranges[0].end <= following(Level.MONTH, ranges[0].start, self.state.tz)
        return ranges[0] if is_one else None

    def summed(
        self,
        by: str | None,
        *,
        keys: Sequence[str | None] | None = None,
        timeline: Timeline | None = None,
    ) -> list[Source]:
        """Select the summaries by a field, of all keys or some."""
        ranges = self.ranges(timeline)
        if not ranges:
            return []
        match = summaries.selection(ranges, by, keys=keys)
        collection = self.db[summaries.COLLECTION]
        return [Source(collection, match, "_id.start", key="_id.key")]

    def of_pairs(self) -> "PeriodSources":
        """Return the same for sums by two fields, one of `summaries.PAIRS`."""
        return replace(self, by_pairs=True)

    def summed_by_pair(
        self, pair: summaries.Pair, chosen: Mapping[str, Sequence[str | None]]
    ) -> list[Source]:
        """Select the summaries by two fields, of all their values or some."""
        ranges = self.ranges()
        if not ranges:
            return []
        paths = zip(("_id.key", "_id.second"), pair, strict=True)
        some = {path: {"$in": chosen[name]} for path, name in paths if name in chosen}
        match = {**some, **summaries.selection(ranges, summaries.named(pair))}
        return [Source(self.db[summaries.COLLECTION], match, "_id.start", key="_id.key", second=pair[1])]

    def sources(self, by: str | None = None, whose: str | None = None) -> list[Source]:
        """Select everything, or what is one value's of a field: all that it is read from."""
        selection, keys = ({}, None) if by is None or whose is None else ({by: whose}, [whose])
        return [*self.unsummed(selection), *self.summed(by if keys else None, keys=keys)]

    def total(self) -> Totals:
        """Sum up everything."""
        sums: Sums = {}
        add_up(sums, self.sources(), None, None)
        return sums.get((None, None), Totals())

    def unsummed(
        self, selection: Document, *, timeline: Timeline | None = None, is_summed_up: bool = True
    ) -> list[Source]:
        """Select what is in no summary; `selection` restricts it to some values of the fields of sums.

        `is_summed_up` False: where there are no summaries of what is asked for, everything.
        """
        first, last = self.first, self.last
        if self._is_of_records_only(timeline) or (last is not None and first > last):
            return [self._records(selection, self.start, self.end)]
        sources = [
            self._hours(selection, is_summed_up),
            self._records({**selection, "outcome": None}, first, last),
        ]
        if self.start is not None and self.start < first:
            sources.append(self._records(selection, self.start, first))
        if last is not None and self.end is not None and last < self.end:
            sources.append(self._records(selection, last, self.end))
        return sources

    def _summed_up(self) -> list[Interval]:
        """List which time is to be read from summaries."""
        up_to = self.state.up_to
        if up_to is None:
            return []
        found = without(self.first, up_to if self.last is None else min(up_to, self.last), self.state.late)
        return [*self._whole_months(found)] if self.by_pairs else [*found]

    def _whole_months(self, intervals: Iterable[Interval]) -> Iterator[Interval]:
        """Yield the whole months in these times, and the part of the running one that is summed up."""
        tz, reached = self.state.tz, self.state.pairs_reached
        for start, end in intervals:
            first, last = first_from(Level.MONTH, start, tz), begin(Level.MONTH, end, tz)
            if reached is not None and last < reached <= end and begin(Level.MONTH, reached, tz) == last:
                last = reached
            if first < last:
                yield first, last

    def _records(self, selection: Document, start: datetime | None, end: datetime | None) -> Source:
        times: Document = {}
        if start is not None and start > BEGINNING:
            times["$gte"] = start
        if end is not None:
            times["$lt"] = end
        match = {**selection, "createdAt": times} if times else selection
        return Source(self.db["request_logs"], match, "createdAt", is_records=True)

    def _is_of_records_only(self, timeline: Timeline | None) -> bool:
        """Return whether the whole period is counted from records: no sum is of less than an hour."""
        return self.start is not None and timeline is not None and timeline.size == MINUTES

    def _hours(self, selection: Document, is_summed_up: bool) -> Source:
        summed_up = self._summed_up() if is_summed_up else []
        newest = summed_up[-1][1] if summed_up else self.first
        times = [
            {"hour": {"$gte": start, "$lt": end}} for start, end in between(self.first, newest, summed_up)
        ]
        after: Document = {"$gte": newest} if self.last is None else {"$gte": newest, "$lt": self.last}
        match = {**selection, "$or": [*times, {"hour": after}]} if times else {**selection, "hour": after}
        return Source(self.db[rollups.COLLECTION], match, "hour")


def _coarsest(timeline: Timeline | None) -> Level:
    return Level.HOUR if timeline is not None and timeline.size == HOUR else Level.MONTH


def _at_buckets(intervals: list[Interval], timeline: Timeline | None) -> list[Interval]:
    if timeline is None or timeline.size == HOUR:
        return intervals
    return list(cut(intervals, timeline.starts()))
