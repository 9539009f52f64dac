"""The named periods of statistics and when they start."""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta, tzinfo

ALL = "all"
TODAY = "today"

ADMIN_PERIODS = ("1h", "2h", "3h", "4h", "8h", "24h", "3d", "7d", "30d", ALL, TODAY)
USER_PERIODS = ("1h", "24h", "7d", "30d")

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1)}


class UnknownPeriodError(ValueError):
    """A period that does not exist where it was asked for; `valid_periods` are those that do."""

    def __init__(self, period: str, valid_periods: Sequence[str]) -> None:
        super().__init__(f"unknown period {period[:40]!r}: use one of {', '.join(valid_periods)}")
        self.valid_periods = tuple(valid_periods)


def parse_period(text: str | None, valid: Sequence[str] = ADMIN_PERIODS, default: str = ALL) -> str:
    """The period asked for, `default` when none is; raises `UnknownPeriodError`."""
    if text is None or text == "":
        return default
    if text not in valid:
        raise UnknownPeriodError(text, valid)
    return text


def period_start(period: str, now: datetime, tz: tzinfo) -> datetime | None:
    """When the period began, in UTC; None for `all`.

    `24h` and the like are rolling; `today` began at midnight in `tz`, which is not always a whole number of
    hours ago, and where clocks skip midnight it is the moment they skipped it.
    """
    if period == ALL:
        return None
    if period == TODAY:
        return datetime.combine(now.astimezone(tz).date(), time.min, tzinfo=tz).astimezone(UTC)
    return now.astimezone(UTC) - int(period[:-1]) * _UNITS[period[-1]]
