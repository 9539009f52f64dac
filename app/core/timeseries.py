"""Statistics over time: which buckets a period is cut into, and how they are shown.

A bucket is named by the moment it begins. Days and months begin at midnight in `STATS_TIMEZONE`. Sums are
kept per UTC hour, so where midnight is not on the hour (Kolkata, Kathmandu) an hour counts in the day it
begins in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any

from app.core.display import iso_utc
from app.core.histogram import percentile_ms
from app.core.periods import ALL, TODAY
from app.core.stats import Totals, mean, usd

GROUPS: Mapping[str, str] = {
    "model": "model",
    "user": "userId",
    "key": "userKeyId",
    "factoryKey": "factoryKeyId",
}
"""What `by` may say, and the field it stands for."""

SERIES_GROUPS = ("none", "model", "user", "factoryKey")
METRICS = ("requests", "tokens", "cost", "latency", "errors")

AUTO, MINUTES, HOUR, DAY, MONTH = "auto", "5m", "hour", "day", "month"
BUCKETS = (AUTO, MINUTES, HOUR, DAY, MONTH)

_SHORT = ("1h", "2h", "3h", "4h")
_DAYS_SHOWN = 92
_MINUTES_5 = timedelta(minutes=5)
_HOUR_LENGTH = timedelta(hours=1)


class UnknownChoiceError(ValueError):
    """A parameter that takes one of a few words was given another one; `field` names it."""

    def __init__(self, field: str, given: str, valid: Sequence[str]) -> None:
        super().__init__(f"{field}: takes one of {', '.join(valid)}, not {given[:40]!r}")
        self.field = field
        self.valid = tuple(valid)


def one_of(name: str, given: str | None, valid: Sequence[str], default: str) -> str:
    """The choice made, `default` when none was; raises `UnknownChoiceError`."""
    if given is None or given == "":
        return default
    if given not in valid:
        raise UnknownChoiceError(name, given, valid)
    return given


def bucket_size(asked: str, period: str, first: datetime, now: datetime) -> str:
    """The size of buckets for a period that begins at `first`, or is `all` and has something from then on.

    Raises `UnknownChoiceError` for sizes that do not go with the period: five minutes are counted from the
    records themselves, so only up to four hours of them; and hours are too many points beyond a month.
    """
    if period in _SHORT:
        valid = (AUTO, MINUTES, HOUR)
    elif period == ALL:
        valid = (AUTO, DAY, MONTH)
    else:
        valid = (AUTO, HOUR, DAY)
    size = one_of("bucket", asked, valid, AUTO)
    if size != AUTO:
        return size
    if period in _SHORT:
        return MINUTES
    if period == ALL:
        return DAY if now - first <= timedelta(days=_DAYS_SHOWN) else MONTH
    return HOUR if period in ("8h", "24h", "3d", TODAY) else DAY


@dataclass(frozen=True, slots=True)
class Timeline:
    """Buckets of one size from the one `first` is in up to the one `now` is in."""

    size: str
    first: datetime
    now: datetime
    tz: tzinfo

    def start_of(self, moment: datetime) -> datetime:
        """When the bucket of this moment begins, in UTC."""
        moment = moment.astimezone(UTC)
        if self.size == MINUTES:
            return moment.replace(minute=moment.minute // 5 * 5, second=0, microsecond=0)
        if self.size == HOUR:
            return moment.replace(minute=0, second=0, microsecond=0)
        day = moment.astimezone(self.tz).date()
        return self._midnight(day if self.size == DAY else day.replace(day=1))

    def next_after(self, start: datetime) -> datetime:
        """When the bucket after the one beginning at `start` begins."""
        if self.size == MINUTES:
            return start + _MINUTES_5
        if self.size == HOUR:
            return start + _HOUR_LENGTH
        day = start.astimezone(self.tz).date()
        if self.size == DAY:
            return self._midnight(day + timedelta(days=1))
        return self._midnight((day.replace(day=1) + timedelta(days=32)).replace(day=1))

    def starts(self) -> Iterator[datetime]:
        """The beginning of each bucket, oldest first."""
        start = self.start_of(self.first)
        while start <= self.now:
            yield start
            start = self.next_after(start)

    def label_of(self, start: datetime) -> datetime | str:
        """What names the bucket that begins then: a day or month by its date, as `2026-11-23`, `2026-11`."""
        if self.size in (MINUTES, HOUR):
            return start
        day = start.astimezone(self.tz).date().isoformat()
        return day if self.size == DAY else day[:7]

    def offsets(self) -> list[tuple[datetime, timedelta]]:
        """The zone's offsets from UTC within this time, each with the moment from which on it holds."""
        moment = self.start_of(self.first)
        found = [(moment, self._offset(moment))]
        while moment <= self.now:
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
    """All requests of a bucket together, those of each shown key, and what is left: `other`."""

    start: datetime
    total: Totals = field(default_factory=Totals)
    parts: dict[str, Totals] = field(default_factory=dict)

    @property
    def other(self) -> Totals:
        """What belongs to none of the shown keys."""
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

    def to_json(self, metric: str) -> list[dict[str, Any]]:
        """`{start, total, series: {key: value}, other}` per bucket, the last two where keys are told apart.

        Values are numbers, for tokens and latency objects (`_VALUES`).
        """
        value = _VALUES[metric]
        shown = []
        for bucket in self.buckets:
            row: dict[str, Any] = {"start": iso_utc(bucket.start), "total": value(bucket.total)}
            if self.keys:
                row["series"] = {key: value(bucket.parts.get(key, Totals())) for key in self.keys}
                row["other"] = value(bucket.other)
            shown.append(row)
        return shown


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
    """The keys with most of it, most first; requests without any (no model recognised) have no key."""
    rank = RANKINGS[metric]
    keys = [key for key, sums in totals.items() if key is not None and rank(sums) > 0]
    return sorted(keys, key=lambda key: (-rank(totals[key]), key))[:number]


def usage_row(key: str | None, totals: Totals) -> dict[str, Any]:
    """A row of the usage table; `key` None: requests that have none, such as those of no known model."""
    return {
        "key": key,
        "requestCount": totals.requests,
        "successCount": totals.success,
        "errorCount": totals.errors,
        "rejectedCount": totals.rejected,
        "inputTokens": totals.input_tokens,
        "outputTokens": totals.output_tokens,
        "cacheWriteTokens": totals.cache_write_tokens,
        "cacheHitTokens": totals.cache_hit_tokens,
        "reasoningTokens": totals.reasoning_tokens,
        "totalTokens": totals.input_tokens + totals.output_tokens,
        "creditsBurned": usd(totals.cost_nano_usd),
        "avgLatencyMs": mean(totals.latency_sum_ms, totals.latency_count),
        "avgTtftMs": mean(totals.ttft_sum_ms, totals.ttft_count),
    }


@dataclass(frozen=True, slots=True)
class Usage:
    """Who used how much: the largest (by cost, then requests), what the others come to, and all together."""

    rows: list[tuple[str | None, Totals]]
    other_count: int
    other: Totals
    total: Totals

    @classmethod
    def of(cls, totals: Mapping[str | None, Totals], number: int) -> "Usage":
        """Out of the sums by key."""
        ranked = sorted(
            totals.items(), key=lambda item: (-item[1].cost_nano_usd, -item[1].requests, item[0] or "")
        )
        other, total = Totals(), Totals()
        for place, (_, sums) in enumerate(ranked):
            total.merge(sums)
            if place >= number:
                other.merge(sums)
        return cls(ranked[:number], max(0, len(ranked) - number), other, total)

    def to_json(self, shown: Callable[[str], str] = str) -> dict[str, Any]:
        """`{rows, otherCount, other, total}`; `shown` is what may be seen of a key."""
        return {
            "rows": [usage_row(None if key is None else shown(key), sums) for key, sums in self.rows],
            "otherCount": self.other_count,
            "other": usage_row(None, self.other) if self.other_count else None,
            "total": usage_row(None, self.total),
        }
