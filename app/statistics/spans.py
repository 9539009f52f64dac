"""Hours, days and months, and how a time is covered by as few of them as possible.

Days and months begin at midnight in a zone. Hours are those of UTC, but one that such a midnight falls into
(in India, in Nepal) is two, so that each is of one day.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from functools import lru_cache

from app.statistics.periods import midnight

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Before anything there can be sums of."""

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_INSTANT = timedelta.resolution


class Level(StrEnum):
    """How long a span is. Each is made of whole ones of the level before it; `RUNNING` of days and hours.

    It is that part of a month whose hours are over. Earlier versions had days and months of UTC, under the
    names `day` and `month`.
    """

    HOUR = "hour"
    DAY = "local_day"
    MONTH = "local_month"
    RUNNING = "running_month"


FINER = {Level.DAY: Level.HOUR, Level.MONTH: Level.DAY, Level.RUNNING: Level.DAY}
"""What a span is made of, as far as it goes."""


def begin(level: Level, moment: datetime, tz: tzinfo) -> datetime:
    """Return when the span of this moment begins."""
    if level is Level.HOUR:
        hour = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        broken = _midnight_within(hour, tz)
        return hour if broken is None or moment < broken else broken
    day = moment.astimezone(tz).date()
    return midnight(day if level is Level.DAY else day.replace(day=1), tz)


def following(level: Level, start: datetime, tz: tzinfo) -> datetime:
    """Return when the span after the one that begins at `start` begins (not of `RUNNING`: it varies)."""
    if level is Level.HOUR:
        hour = begin(level, start, UTC)
        broken = _midnight_within(hour, tz)
        return hour + _HOUR if broken is None or broken <= start else broken
    day = start.astimezone(tz).date()
    return midnight(day + _DAY if level is Level.DAY else (day.replace(day=1) + 32 * _DAY).replace(day=1), tz)


def first_from(level: Level, moment: datetime, tz: tzinfo) -> datetime:
    """Return when the first span begins that does so at this moment or later."""
    start = begin(level, moment, tz)
    return start if start == moment else following(level, start, tz)


@lru_cache(maxsize=1000)
def _midnight_within(hour: datetime, tz: tzinfo) -> datetime | None:
    """Return the midnight that this hour of UTC does not begin with, but has in it; None: there is none."""
    found = midnight((hour + _HOUR - _INSTANT).astimezone(tz).date(), tz)
    return found if hour < found else None


@dataclass(frozen=True, slots=True)
class Range:
    """All spans of a level that begin from `start` (inclusive) to `end` (exclusive).

    Of `RUNNING`, the one that begins at `start` and ends at `end`.
    """

    level: Level
    start: datetime
    end: datetime


Interval = tuple[datetime, datetime]


def without(start: datetime, end: datetime, hours: Iterable[datetime]) -> Iterator[Interval]:
    """Yield what is left of a time when these hours are taken out."""
    for hour in sorted(hours):
        if start < hour + _HOUR and hour < end:
            if start < hour:
                yield start, hour
            start = hour + _HOUR
    if start < end:
        yield start, end


def between(start: datetime, end: datetime, intervals: Iterable[Interval]) -> Iterator[Interval]:
    """Yield what these intervals, which are in order, leave of a time."""
    for begins, ends in intervals:
        if start < begins:
            yield start, begins
        start = ends
    if start < end:
        yield start, end


def cut(intervals: Iterable[Interval], at: Iterable[datetime]) -> Iterator[Interval]:
    """Yield the same time in pieces that do not reach over any of these moments."""
    moments = sorted(set(at))
    for start, end in intervals:
        for moment in moments:
            if start < moment < end:
                yield start, moment
                start = moment
        yield start, end


def cover(
    intervals: Iterable[Interval],
    tz: tzinfo,
    coarsest: Level = Level.MONTH,
    *,
    reached: datetime | None = None,
) -> list[Range]:
    """Return ranges of spans that fill these intervals, in order.

    `reached` is up to where the month that is still running may be taken in one.
    """
    found: list[Range] = []
    for start, end in intervals:
        for piece in _cover(coarsest, start, end, tz, reached):
            last = found[-1] if found else None
            if last is not None and (last.level, last.end) == (piece.level, piece.start):
                found[-1] = Range(last.level, last.start, piece.end)
            else:
                found.append(piece)
    return found


def _cover(
    level: Level, start: datetime, end: datetime, tz: tzinfo, reached: datetime | None
) -> Iterator[Range]:
    if start >= end:
        return
    finer = FINER.get(level)
    if finer is None:
        yield Range(level, start, end)
        return
    first, last = first_from(level, start, tz), begin(level, end, tz)
    if first > last:
        yield from _cover(finer, start, end, tz, reached)
        return
    yield from _cover(finer, start, first, tz, reached)
    if first < last:
        yield Range(level, first, last)
    is_reached = level is Level.MONTH and reached is not None and last < reached <= end
    if is_reached and reached and begin(level, reached, tz) == last:
        yield Range(Level.RUNNING, last, reached)
        last = reached
    yield from _cover(finer, last, end, tz, reached)
