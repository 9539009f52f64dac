"""Periods of statistics: by name, by month or day, or from one time to another.

Every period is half-open: what happened at its start is in it, what happened at its end is in the next. Days,
weeks (from Monday on) and months begin at midnight in `STATS_TIMEZONE`; so does a date that is given without
a zone. They follow each other without gap or overlap, whatever clocks do.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, Final, Self

from app.common.cursor import FilterError
from app.common.display import iso_utc
from app.records.log_filter import parse_moment

ALL = "all"
TODAY = "today"
YESTERDAY = "yesterday"
WEEK = "week"
MONTH = "month"
LAST_MONTH = "last_month"

ROLLING_PERIODS = ("1h", "2h", "3h", "4h", "8h", "24h", "3d", "7d", "30d")
ADMIN_PERIODS = (*ROLLING_PERIODS, ALL, TODAY, YESTERDAY, WEEK, MONTH, LAST_MONTH)
"""The periods that have a name; beside them there is any month and any day."""
USER_PERIODS = ("1h", "24h", "7d", "30d")
"""Those that a user's cost is told of at once."""

FORMS = ("YYYY-MM", "YYYY-MM-DD")

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1)}
_DATED = re.compile(r"(\d{4})-(\d\d)(?:-(\d\d))?", re.ASCII)
_DAY = timedelta(days=1)
_INSTANT = timedelta(milliseconds=1)
_YEARS: Final = range(1970, 9999)


class UnknownPeriodError(ValueError):
    """A period that does not exist where it was asked for; `valid_periods` are those that have a name."""

    def __init__(self, period: str, valid_periods: Sequence[str] = ADMIN_PERIODS) -> None:
        names = ", ".join((*valid_periods, *FORMS))
        super().__init__(f"unknown period {period[:40]!r}: use one of {names}, or from and to")
        self.valid_periods = tuple(valid_periods)


def parse_period(text: str | None, default: str = ALL) -> str:
    """Return the period asked for, `default` when none is; raises `UnknownPeriodError`."""
    if text is None or text == "":
        return default
    if text not in ADMIN_PERIODS and _dated(text) is None:
        raise UnknownPeriodError(text)
    return text


@dataclass(frozen=True, slots=True)
class Period:
    """Everything from `start` (None: from the beginning) up to `end`, exclusive.

    `end` None: up to `now`, and what other clocks have dated later. `name` is what was asked for; None: two
    times.
    """

    name: str | None
    start: datetime | None
    end: datetime | None
    now: datetime
    tz: tzinfo

    @classmethod
    def of(cls, name: str, now: datetime, tz: tzinfo) -> Self:
        """Make the period of this name; raises `UnknownPeriodError`.

        `24h` and the like are rolling. `today`, `week` and `month` go on; the others of the calendar are
        whole. Where clocks skip midnight, a day begins at the moment they skipped it.
        """
        now = now.astimezone(UTC)
        if name == ALL:
            return cls(name, None, None, now, tz)
        if name in ROLLING_PERIODS:
            return cls(name, now - int(name[:-1]) * _UNITS[name[-1]], None, now, tz)
        today = now.astimezone(tz).date()
        if name == YESTERDAY:
            first, following = today - _DAY, today
        elif name == LAST_MONTH:
            following = today.replace(day=1)
            first = _first_of_month(following - _DAY)
        elif (dated := _dated(name)) is not None:
            first, following = dated
        else:
            starts = {TODAY: today, WEEK: today - today.weekday() * _DAY, MONTH: today.replace(day=1)}
            if name not in starts:
                raise UnknownPeriodError(name)
            return cls(name, midnight(starts[name], tz), None, now, tz)
        return cls(name, midnight(first, tz), midnight(following, tz), now, tz)

    @classmethod
    def asked_for(
        cls,
        name: str | None,
        start: str | None,
        end: str | None,
        now: datetime,
        tz: tzinfo,
        default: str = ALL,
    ) -> Self:
        """Read the parameters `period`, `from` and `to`; raises `UnknownPeriodError` or `FilterError`."""
        if not start and not end:
            return cls.of(parse_period(name, default), now, tz)
        if name:
            raise FilterError("period", "does not go with `from` and `to`: leave one or the other out")
        now = now.astimezone(UTC)
        first = _moment("from", start, now, tz) if start else None
        last = _moment("to", end, now, tz) if end else None
        if first is not None and first >= (last or now):
            raise FilterError("from", "has to be before `to`" if last else "has to be before now")
        return cls(None, first, last, now, tz)

    @property
    def until(self) -> datetime:
        """Up to when it goes, as it is told."""
        return self.now if self.end is None else self.end

    @property
    def is_over(self) -> bool:
        """Whether nothing new can happen in it."""
        return self.end is not None and self.end <= self.now

    @property
    def is_of_calendar(self) -> bool:
        """Whether it begins with a day."""
        return (
            self.start is not None and self.name not in ROLLING_PERIODS and _is_midnight(self.start, self.tz)
        )

    def frozen(self) -> "Period":
        """Return the same period up to and with this very moment: what comes later is not in it."""
        if self.end is not None:
            return self
        return Period(self.name, self.start, self.now + _INSTANT, self.now, self.tz)

    def previous(self) -> "Period | None":
        """Return the whole period before: the day, week or month before, else as long a time as this one.

        None where there is none.
        """
        if self.start is None:
            return None
        first = self.start.astimezone(self.tz).date()
        if self.name in (MONTH, LAST_MONTH) or (self.name or "").count("-") == 1:
            begin = midnight(_first_of_month(first - _DAY), self.tz)
        elif self.name == WEEK:
            begin = midnight(first - 7 * _DAY, self.tz)
        elif self.name == TODAY:
            begin = midnight(first - _DAY, self.tz)
        elif self.end is not None and self.is_of_calendar and _is_midnight(self.end, self.tz):
            days = self.end.astimezone(self.tz).date() - first
            begin = midnight(first - days, self.tz)
        else:
            begin = self.start - (self.until - self.start)
        return Period(None, begin, self.start, self.now, self.tz)

    def to_json(self) -> dict[str, Any]:
        """Return `{period, from, to, timezone}`, as every answer says it."""
        return {
            "period": self.name,
            "from": None if self.start is None else iso_utc(self.start),
            "to": iso_utc(self.until),
            "timezone": str(self.tz),
        }

    def __str__(self) -> str:
        """Say it in a few words."""
        if self.name is not None:
            return self.name
        begin = (
            "the beginning"
            if self.start is None
            else self.start.astimezone(self.tz).isoformat(" ", "minutes")
        )
        return f"{begin} to {self.until.astimezone(self.tz).isoformat(' ', 'minutes')}"


def with_previous(figures: Callable[[Period], dict[str, Any]], period: Period) -> dict[str, Any]:
    """Return figures of a period, and as `previous` those of the period before (None where there is none)."""
    before = period.previous()
    return {**figures(period), "previous": None if before is None else figures(before)}


def midnight(day: date, tz: tzinfo) -> datetime:
    """Return when a day begins, in UTC; where clocks skip midnight, the moment they skipped it."""
    return datetime.combine(day, time.min, tzinfo=tz).astimezone(UTC)


def month_days(text: str) -> tuple[date, date] | None:
    """Return the first day of the month `YYYY-MM` and of the one after it; None for anything else."""
    return _dated(text) if text.count("-") == 1 else None


def _dated(text: str) -> tuple[date, date] | None:
    """Return the first day of a month or day given as text, and the first one after it."""
    found = _DATED.fullmatch(text)
    if found is None or int(found[1]) not in _YEARS:
        return None
    try:
        first = date(int(found[1]), int(found[2]), int(found[3] or 1))
    except ValueError:
        return None
    return first, first + _DAY if found[3] else _first_of_month(first + 31 * _DAY)


def _first_of_month(day: date) -> date:
    return day.replace(day=1)


def _is_midnight(moment: datetime, tz: tzinfo) -> bool:
    return midnight(moment.astimezone(tz).date(), tz) == moment


def _moment(name: str, text: str, now: datetime, tz: tzinfo) -> datetime:
    moment = parse_moment(name, text, now, tz)
    if moment.year not in _YEARS:
        raise FilterError(name, f"takes a time from {_YEARS.start} to {_YEARS.stop - 1}")
    return moment
