"""Statistics over time: which buckets a period is cut into, and how they are shown.

A bucket is named by the moment it begins. Days and months begin at midnight in `STATS_TIMEZONE`. Hours are
those of UTC, also where midnight is not on the hour (Kolkata, Kathmandu).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any

from app.accounts.credentials import shown_key_id
from app.common.csv_text import csv_lines, previous_columns
from app.common.display import iso_utc
from app.statistics.figures import Totals, mean, usd
from app.statistics.histogram import percentile_ms
from app.statistics.periods import Period

ENDPOINT = "endpoint"

GROUPS: Mapping[str, str] = {
    "model": "model",
    "user": "userId",
    "key": "userKeyId",
    "factoryKey": "factoryKeyId",
    "endpoint": ENDPOINT,
}
"""What `by` may say, and the field it stands for."""

TAGS = "tags"

RECORD_GROUPS: Mapping[str, str] = {
    "endUser": "endUser",
    "session": "sessionId",
    "client": "clientName",
    "tag": TAGS,
}
"""What only records say, too much of it to be summed up by: so it is counted as far back as they are kept."""

METRICS = ("requests", "tokens", "cost", "latency", "errors")

AUTO, MINUTES, HOUR, DAY, MONTH = "auto", "5m", "hour", "day", "month"

_SHORT = timedelta(hours=4)
_DAYS_SHOWN = 92
_MOST_DAYS = 1000
_DAY_LENGTH = timedelta(days=1)
_BY_HOUR = 3 * _DAY_LENGTH
_CLOCK_CHANGE = timedelta(hours=2)
_MINUTES_5 = timedelta(minutes=5)
_HOUR_LENGTH = timedelta(hours=1)
_INSTANT = timedelta(milliseconds=1)


class UnknownChoiceError(ValueError):
    """A parameter that takes one of a few words was given another one; `field` names it."""

    def __init__(self, field: str, given: str, valid: Sequence[str]) -> None:
        super().__init__(f"{field}: takes one of {', '.join(valid)}, not {given[:40]!r}")
        self.field = field
        self.valid = tuple(valid)


def one_of(name: str, given: str | None, valid: Sequence[str], default: str) -> str:
    """Return the choice made, `default` when none was; raises `UnknownChoiceError`."""
    if given is None or given == "":
        return default
    if given not in valid:
        raise UnknownChoiceError(name, given, valid)
    return given


def bucket_size(asked: str, period: Period, first: datetime) -> str:
    """Choose the size of buckets for a period that has data from `first` on.

    Raises `UnknownChoiceError` for sizes that do not go with the period: five minutes are counted from the
    records themselves, so only up to four hours of them; and hours are too many points beyond a month.
    """
    length = period.until - first
    if period.start is None:
        valid: tuple[str, ...] = (AUTO, DAY, MONTH)
        chosen = DAY if length <= _DAYS_SHOWN * _DAY_LENGTH else MONTH
    elif length <= _SHORT and not period.is_of_calendar:
        valid, chosen = (AUTO, MINUTES, HOUR), MINUTES
    elif length <= 31 * _DAY_LENGTH + _CLOCK_CHANGE:
        valid = (AUTO, HOUR, DAY)
        chosen = HOUR if length <= _BY_HOUR + _CLOCK_CHANGE else DAY
    elif length <= _DAYS_SHOWN * _DAY_LENGTH + _CLOCK_CHANGE:
        valid, chosen = (AUTO, DAY, MONTH), DAY
    else:
        days = (DAY,) if length <= _MOST_DAYS * _DAY_LENGTH else ()
        valid, chosen = (AUTO, *days, MONTH), MONTH
    size = one_of("bucket", asked, valid, AUTO)
    return chosen if size == AUTO else size


@dataclass(frozen=True, slots=True)
class Timeline:
    """Buckets of one size from the one `first` is in up to the one `last` is in."""

    size: str
    first: datetime
    last: datetime
    tz: tzinfo

    @classmethod
    def of(cls, period: Period, size: str, first: datetime) -> "Timeline":
        """Cut up a period that has data from `first` on, as far as it has come."""
        last = period.now if period.end is None else min(period.now, period.end - _INSTANT)
        return cls(size, first, last, period.tz)

    def start_of(self, moment: datetime) -> datetime:
        """Return when the bucket of this moment begins, in UTC."""
        moment = moment.astimezone(UTC)
        if self.size == MINUTES:
            return moment.replace(minute=moment.minute // 5 * 5, second=0, microsecond=0)
        if self.size == HOUR:
            return moment.replace(minute=0, second=0, microsecond=0)
        day = moment.astimezone(self.tz).date()
        return self._midnight(day if self.size == DAY else day.replace(day=1))

    def next_after(self, start: datetime) -> datetime:
        """Return when the bucket after the one beginning at `start` begins."""
        if self.size == MINUTES:
            return start + _MINUTES_5
        if self.size == HOUR:
            return start + _HOUR_LENGTH
        day = start.astimezone(self.tz).date()
        if self.size == DAY:
            return self._midnight(day + timedelta(days=1))
        return self._midnight((day.replace(day=1) + timedelta(days=32)).replace(day=1))

    def starts(self) -> Iterator[datetime]:
        """Yield the beginning of each bucket, oldest first."""
        start = self.start_of(self.first)
        while start <= self.last:
            yield start
            start = self.next_after(start)

    def label_of(self, start: datetime) -> datetime | str:
        """Name the bucket that begins then: a day or month by its date, as `2026-11-23`, `2026-11`."""
        if self.size in (MINUTES, HOUR):
            return start
        day = start.astimezone(self.tz).date().isoformat()
        return day if self.size == DAY else day[:7]

    def offsets(self) -> list[tuple[datetime, timedelta]]:
        """List the zone's offsets from UTC within this time, each with the moment from which on it holds."""
        moment = self.start_of(self.first)
        found = [(moment, self._offset(moment))]
        while moment <= self.last:
            following = moment + timedelta(days=1)
            if self._offset(following) != found[-1][1]:
                # Clocks are changed on a quarter of an hour everywhere.
                while self._offset(moment) == found[-1][1]:
                    moment += timedelta(minutes=15)
                found.append((moment, self._offset(moment)))
            moment = max(moment, following)
        return found

    def _offset(self, moment: datetime) -> timedelta:
        return moment.astimezone(self.tz).utcoffset() or timedelta()

    def _midnight(self, day: Any) -> datetime:
        # Where clocks skip midnight this is the moment they skipped it.
        return datetime.combine(day, time.min, tzinfo=self.tz).astimezone(UTC)


@dataclass(slots=True)
class Bucket:
    """All requests of a bucket together, those of each shown key, and what is left: `other`.

    `rest` is what is left where that is not the difference: one with several tags counts by each.
    """

    start: datetime
    total: Totals = field(default_factory=Totals)
    parts: dict[str, Totals] = field(default_factory=dict)
    rest: Totals | None = None

    @property
    def other(self) -> Totals:
        """What belongs to none of the shown keys."""
        if self.rest is not None:
            return self.rest
        left = self.total.copy()
        for part in self.parts.values():
            left.subtract(part)
        return left


@dataclass(slots=True)
class Series:
    """A period cut into buckets, none left out. `keys` are those shown apart, largest first."""

    size: str
    keys: list[str]
    buckets: list[Bucket]

    def view(self, metric: str, by: str, period: Period) -> dict[str, Any]:
        """Return what the API tells of it."""
        return {
            "metric": metric,
            "by": by,
            "bucket": self.size,
            "countedFrom": "records" if by in RECORD_GROUPS else "sums",
            "keys": [_shown(key, by) for key in self.keys],
            "buckets": self.to_json(metric, by),
            **period.to_json(),
        }

    def to_json(self, metric: str, by: str = "none") -> list[dict[str, Any]]:
        """Return `{start, total, series: {key: value}, other}` per bucket, the last two if keys are apart.

        Values are numbers, for tokens and latency objects (`_VALUES`).
        """
        value = _VALUES[metric]
        shown = []
        for bucket in self.buckets:
            row: dict[str, Any] = {"start": iso_utc(bucket.start), "total": value(bucket.total)}
            if self.keys:
                row["series"] = {_shown(key, by): value(bucket.parts.get(key, Totals())) for key in self.keys}
                row["other"] = value(bucket.other)
            if metric == "cost":
                row |= self._exact(bucket, by)
            shown.append(row)
        return shown

    def to_csv(self, metric: str, by: str, before: "Series | None" = None) -> Iterator[str]:
        """Write a line per bucket and key, empty for all others (the caller ends the lines).

        `before` is the period before, cut like this one: columns for its bucket in the same place.
        """
        value = _VALUES[metric]

        def cells(totals: Totals) -> dict[str, Any]:
            shown = value(totals)
            named: dict[str, Any] = shown if isinstance(shown, dict) else {metric: shown}
            return named | ({"costNanoUsd": totals.cost_nano_usd} if metric == "cost" else {})

        def told(bucket: Bucket, key: str | None) -> list[object]:
            if key is not None:
                return [*cells(bucket.parts.get(key, Totals())).values()]
            return [*cells(bucket.other if self.keys else bucket.total).values()]

        def lines() -> Iterator[list[object]]:
            for place, bucket in enumerate(self.buckets):
                for key in [*self.keys, None]:
                    line: list[object] = [
                        iso_utc(bucket.start),
                        *([key and _shown(key, by)] if self.keys else []),
                    ]
                    line += told(bucket, key)
                    if before is not None and place < len(before.buckets):
                        line += [iso_utc(before.buckets[place].start), *told(before.buckets[place], key)]
                    elif before is not None:
                        line += [None] * (1 + len(names))
                    yield line

        names = list(cells(Totals()))
        columns = ["start", *([by] if self.keys else []), *names]
        return csv_lines(
            columns if before is None else [*columns, *previous_columns(["start", *names])], lines()
        )

    def _exact(self, bucket: Bucket, by: str) -> dict[str, Any]:
        exact: dict[str, Any] = {"totalNanoUsd": bucket.total.cost_nano_usd}
        if self.keys:
            parts = {_shown(key, by): bucket.parts.get(key, Totals()).cost_nano_usd for key in self.keys}
            exact |= {"seriesNanoUsd": parts, "otherNanoUsd": bucket.other.cost_nano_usd}
        return exact


def _shown(key: str, by: str) -> str:
    """Return what may be seen of a key: some client keys are stored under what is secret."""
    return shown_key_id(key) if by == "key" else key


def _tokens(totals: Totals) -> dict[str, int]:
    return {
        "inputTokens": totals.input_tokens,
        "outputTokens": totals.output_tokens,
        "cacheWriteTokens": totals.cache_write_tokens,
        "cacheHitTokens": totals.cache_hit_tokens,
    }


def _latency(totals: Totals) -> dict[str, float | None]:
    return {
        "p50": percentile_ms(totals.latency, 50),
        "p95": percentile_ms(totals.latency, 95),
        "p99": percentile_ms(totals.latency, 99),
        "avg": mean(totals.latency_sum_ms, totals.latency_count),
        "avgTtft": mean(totals.ttft_sum_ms, totals.ttft_count),
    }


_VALUES: Mapping[str, Callable[[Totals], Any]] = {
    "requests": lambda totals: totals.requests,
    "tokens": _tokens,
    "cost": lambda totals: usd(totals.cost_nano_usd),
    "latency": _latency,
    "errors": lambda totals: totals.errors,
}
"""What is shown of a bucket: counts, tokens of the four kinds, USD, milliseconds."""


RANKINGS: Mapping[str, Callable[[Totals], int]] = {
    "requests": lambda totals: totals.requests,
    "tokens": lambda totals: totals.input_tokens + totals.output_tokens,
    "cost": lambda totals: totals.cost_nano_usd,
    "latency": lambda totals: totals.requests,
    "errors": lambda totals: totals.errors,
}
"""By what the keys shown apart are chosen."""


def largest(totals: Mapping[str | None, Totals], metric: str, number: int) -> list[str]:
    """Return the `number` keys with most of a metric, most first; requests of no known model have no key."""
    rank = RANKINGS[metric]
    keys = [key for key, sums in totals.items() if key is not None and rank(sums) > 0]
    return sorted(keys, key=lambda key: (-rank(totals[key]), key))[:number]
