"""Where everything since some moment is to be read from, each request in exactly one place.

The part of an hour at the start comes from the records; whole hours from summaries, as coarse as fits; hours
not summed up (the last one or two, and those with something late) from the hourly sums; and what earlier
software recorded (it has no `outcome`) from its records, since it is in no sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.database import Database

from app.adapters.mongo import rollups, summaries
from app.adapters.mongo.sum_sources import Source
from app.core.spans import BEGINNING, Interval, Level, cover, cut, without
from app.core.timeseries import HOUR, MINUTES, Timeline

Document = dict[str, Any]

_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class PeriodSources:
    """Everything from `start` on (None: ever); `first_hour` is the first whole hour of it."""

    db: Database[Any]
    start: datetime | None
    first_hour: datetime
    state: summaries.State

    @classmethod
    def since(cls, db: Database[Any], start: datetime | None) -> "PeriodSources":
        """As things are now; raises `PyMongoError`."""
        state = summaries.State.read(db[summaries.COLLECTION])
        if start is None:
            return cls(db, None, BEGINNING, state)
        start = start.astimezone(UTC)
        hour = rollups.hour_of(start)
        return cls(db, start, hour if hour == start else hour + _HOUR, state)

    def summed(
        self, by: str | None, *, keys: Sequence[str] | None = None, timeline: Timeline | None = None
    ) -> list[Source]:
        """The summaries by a field, of all keys or some; no span of them reaches over a bucket's end."""
        up_to = self.state.up_to
        if up_to is None or up_to <= self.first_hour:
            return []
        intervals = list(without(self.first_hour, up_to, self.state.late))
        ranges = cover(_at_buckets(intervals, timeline), _coarsest(timeline))
        if not ranges:
            return []
        match = summaries.selection(ranges, by, keys=keys)
        collection = self.db[summaries.COLLECTION]
        return [Source(collection, match, "_id.start", key="_id.key")]

    def unsummed(self, selection: Document, *, timeline: Timeline | None = None) -> list[Source]:
        """The rest; `selection` restricts it to some values of the fields that sums are made by."""
        logs, earlier = self.db["request_logs"], {**selection, "outcome": None}
        if self.start is None:
            return [self._hours(selection), Source(logs, earlier, "createdAt", is_records=True)]
        if timeline and timeline.size == MINUTES:
            since = {**selection, "createdAt": {"$gte": self.start}}
            return [Source(logs, since, "createdAt", is_records=True)]
        edge = {**selection, "createdAt": {"$gte": self.start, "$lt": self.first_hour}}
        earlier["createdAt"] = {"$gte": self.first_hour}
        return [
            self._hours(selection),
            Source(logs, edge, "createdAt", is_records=True),
            Source(logs, earlier, "createdAt", is_records=True),
        ]

    def _hours(self, selection: Document) -> Source:
        up_to = self.state.up_to
        hours: Document = {"hour": {"$gte": max(self.first_hour, up_to or self.first_hour)}}
        late = [hour for hour in self.state.late if up_to is not None and self.first_hour <= hour < up_to]
        if late:
            hours = {"$or": [hours, {"hour": {"$in": late}}]}
        return Source(self.db[rollups.COLLECTION], {**selection, **hours}, "hour")


def _coarsest(timeline: Timeline | None) -> Level:
    return Level.HOUR if timeline is not None and timeline.size == HOUR else Level.MONTH


def _at_buckets(intervals: list[Interval], timeline: Timeline | None) -> list[Interval]:
    if timeline is None or timeline.size == HOUR:
        return intervals
    return list(cut(intervals, timeline.starts()))
