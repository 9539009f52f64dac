"""Hours, days and months in UTC, and how a time is covered by as few of them as possible."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Before anything there can be sums of."""

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


class Level(StrEnum):
    """How long a span is. Each is made of whole ones of the level before it."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


FINER = {Level.DAY: Level.HOUR, Level.MONTH: Level.DAY}


def begin(level: Level, moment: datetime) -> datetime:
    """When the span of this moment begins."""
    hour = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if level is Level.HOUR:
        return hour
    return hour.replace(hour=0) if level is Level.DAY else hour.replace(hour=0, day=1)


def following(level: Level, start: datetime) -> datetime:
    """When the span after the one that begins at `start` begins."""
    if level is Level.MONTH:
        return (start + 32 * _DAY).replace(day=1)
    return start + (_HOUR if level is Level.HOUR else _DAY)


@dataclass(frozen=True, slots=True)
class Range:
    """All spans of a level that begin from `start` (inclusive) to `end` (exclusive)."""

    level: Level
    start: datetime
    end: datetime


Interval = tuple[datetime, datetime]


def without(start: datetime, end: datetime, hours: Iterable[datetime]) -> Iterator[Interval]:
    """What is left of a time when these hours are taken out."""
    for hour in sorted(hours):
        if start <= hour < end:
            if start < hour:
                yield start, hour
            start = hour + _HOUR
    if start < end:
        yield start, end


def cut(intervals: Iterable[Interval], at: Iterable[datetime]) -> Iterator[Interval]:
    """The same time in pieces that do not reach over any of these moments.

    A moment that is not on the hour cuts at the next full one: hours are not divided.
    """
    full = sorted({hour if (hour := begin(Level.HOUR, moment)) == moment else hour + _HOUR for moment in at})
    for start, end in intervals:
        for moment in full:
            if start < moment < end:
                yield start, moment
                start = moment
        yield start, end


def cover(intervals: Iterable[Interval], coarsest: Level = Level.MONTH) -> list[Range]:
    """Ranges of spans that fill these intervals, in their order; intervals begin and end on the hour."""
    found: list[Range] = []
    for start, end in intervals:
        for piece in _cover(coarsest, start, end):
            last = found[-1] if found else None
            if last is not None and (last.level, last.end) == (piece.level, piece.start):
                found[-1] = Range(last.level, last.start, piece.end)
            else:
                found.append(piece)
    return found


def _cover(level: Level, start: datetime, end: datetime) -> Iterator[Range]:
    if start >= end:
        return
    finer = FINER.get(level)
    if finer is None:
        yield Range(level, start, end)
        return
    first, last = begin(level, start), begin(level, end)
    if first < start:
        first = following(level, first)
    if first >= last:
        yield from _cover(finer, start, end)
        return
    yield from _cover(finer, start, first)
    yield Range(level, first, last)
    yield from _cover(finer, last, end)
