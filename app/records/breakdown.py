"""All that a filter selects, broken down: over time, by what its records say, and summed up.

Pure: from a filter's query to a pipeline, and from what the database answers to figures. How far back a
breakdown goes is bounded (`RequestLogStore.breakdown`); it always says from when on it is whole.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, Self

from app.accounts.credentials import shown_key_id
from app.records.log_filter import VIEWS
from app.records.records import Outcome

Document = dict[str, Any]

MOST_VALUES = 10
"""How many values of a facet are shown; the others are counted together."""

MOST_BARS = 62
"""How many bars a histogram has at most: two months of days."""

FACETS: Mapping[str, str] = {
    "outcome": "outcome",
    "status": "statusCode",
    "model": "model",
    "user": "userId",
    "key": "userKeyId",
    "factoryKey": "factoryKeyId",
    "endpoint": "endpoint",
    "client": "clientName",
}
"""By what a breakdown counts: the filter's parameter, and the record's field."""

OK, REFUSED, LEFT, FAILED = "ok", "refused", "left", "failed"
ENDINGS = (OK, REFUSED, LEFT, FAILED)
"""What a bar is made of: good answers, requests that the proxy refused, clients that left, all else."""

_ENDING_OF = {Outcome.OK: OK, Outcome.REJECTED: REFUSED, Outcome.CLIENT_ABORT: LEFT}

_SUMS = ("costNanoUsd", "inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens")

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_STEPS = tuple(
    timedelta(seconds=seconds)
    for seconds in (10, 30, 60, 300, 900, 1800, 3600, 2 * 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400)
)

# Latencies are counted in classes, each a tenth wider than the one before.
_CLASS_WIDTH = math.log(1.1)


@dataclass(frozen=True, slots=True)
class Grid:
    """The bars of a histogram: when each begins, and when the last one ends.

    Days begin at midnight in the zone they are counted in, hours with them, whatever clocks do.
    """

    starts: tuple[datetime, ...]
    end: datetime
    step: timedelta

    @classmethod
    def of(cls, start: datetime, end: datetime, tz: tzinfo) -> Self:
        """Cut a time into at most `MOST_BARS` bars of a length that people use; there is always one."""
        end = max(end, start + _STEPS[0])
        length = end - start
        step = next((step for step in _STEPS if length / step <= MOST_BARS - 2), None)
        if step is None:
            step = math.ceil(length / (MOST_BARS - 2) / _DAY) * _DAY
        starts = tuple(_bars(start, end, step, tz))
        return cls(starts, end, step)

    def ends(self) -> Iterator[tuple[datetime, datetime]]:
        """Yield when each bar begins and ends."""
        yield from zip(self.starts, (*self.starts[1:], self.end), strict=True)

    @property
    def grain_ms(self) -> int:
        """How finely the database counts: hours at most, of which days of any length are made."""
        return int(min(self.step, _HOUR) / timedelta(milliseconds=1))


def _bars(start: datetime, end: datetime, step: timedelta, tz: tzinfo) -> Iterator[datetime]:
    """Yield when bars begin: the one `start` is in, then on to `end`, exclusive."""
    day = start.astimezone(tz).date()
    while (begin := _midnight(day, tz)) < end:
        day += max(step, _DAY)
        following = _midnight(day, tz)
        while begin < min(following, end):
            if min(begin + step, following) > start:
                yield begin
            begin = following if step >= _DAY else begin + step


def _midnight(day: date, tz: tzinfo) -> datetime:
    return datetime.combine(day, time.min, tzinfo=tz).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Bar:
    """How many requests of each ending there were from `start` up to `end`."""

    start: datetime
    end: datetime
    counts: Mapping[str, int]

    @property
    def requests(self) -> int:
        """How many there were in all."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Facet:
    """How often each value of a field was met, most often first; `others` have another one, or none."""

    name: str
    values: Sequence[tuple[Any, int]]
    others: int


@dataclass(frozen=True, slots=True)
class Breakdown:
    """What a filter selects since `since` (None: all that it selects). Percentiles are within five per cent.

    `sums` are `requests`, `failed` (all but good answers), `costNanoUsd` and the kinds of tokens; `views`
    says how many requests each of `VIEWS` would leave.
    """

    sums: Mapping[str, int]
    p50_ms: int | None
    p95_ms: int | None
    bars: Sequence[Bar]
    facets: Sequence[Facet]
    views: Mapping[str, int]
    since: datetime | None = None

    @property
    def failure_share(self) -> float | None:
        """The part of requests that did not end well, in per cent; None where there are none."""
        requests = self.sums["requests"]
        return self.sums["failed"] * 100 / requests if requests else None


def pipeline(query: Document, grid: Grid, views: Mapping[str, Document]) -> list[Document]:
    """Build what counts and sums up all that a query selects, in one reading; `views` are queries, too."""
    requests = {"$sum": "$n"}
    at = {"$toLong": "$createdAt"}
    origin = _milliseconds(grid.starts[0])
    bar = {"$floor": {"$divide": [{"$subtract": [at, origin]}, grid.grain_ms]}}
    latency = {"$floor": {"$divide": [{"$ln": {"$max": [{"$ifNull": ["$latencyMs", 0]}, 1]}}, _CLASS_WIDTH]}}
    fields: Document = {name: 1 for name in (*FACETS.values(), *_SUMS) if name != "model"}
    fields["model"] = {"$ifNull": ["$model", "$requestedModel"]}
    fields |= dict.fromkeys(("latencyMs", "attempts"), 1)
    fields |= {"_id": 0, "n": {"$ifNull": ["$count", 1]}, "bar": bar, "latency": latency}
    facets: Document = {
        f"by_{name}": [
            {"$group": {"_id": f"${field}", "n": requests}},
            {"$sort": {"n": -1, "_id": 1}},
            {"$limit": MOST_VALUES},
        ]
        for name, field in FACETS.items()
    }
    facets |= {
        f"view_{name}": [{"$match": view}, {"$group": {"_id": None, "n": requests}}]
        for name, view in views.items()
    }
    sums = {"_id": None, "requests": requests, **{name: {"$sum": f"${name}"} for name in _SUMS}}
    facets["sums"] = [{"$group": sums}]
    facets["bars"] = [{"$group": {"_id": {"bar": "$bar", "outcome": "$outcome"}, "n": requests}}]
    facets["latency"] = [{"$group": {"_id": "$latency", "n": requests}}, {"$sort": {"_id": 1}}]
    return [{"$match": query}, {"$project": fields}, {"$facet": facets}]


def read(answer: Mapping[str, Any], grid: Grid, since: datetime | None) -> Breakdown:
    """Read what the database has made of `pipeline`."""
    found: Mapping[str, Any] = next(iter(answer["sums"]), {})
    sums = {name: int(found.get(name) or 0) for name in ("requests", *_SUMS)}
    counts: list[dict[str, int]] = [dict.fromkeys(ENDINGS, 0) for _ in grid.starts]
    for row in answer["bars"]:
        moment = grid.starts[0] + timedelta(milliseconds=row["_id"]["bar"] * grid.grain_ms)
        place = max(bisect_right(grid.starts, moment) - 1, 0)
        ending = _ENDING_OF.get(row["_id"].get("outcome"), FAILED)
        counts[place][ending] += row["n"]
    sums["failed"] = sum(sum(bar.values()) - bar[OK] for bar in counts)
    return Breakdown(
        sums,
        _percentile(answer["latency"], 50),
        _percentile(answer["latency"], 95),
        [Bar(start, end, bar) for (start, end), bar in zip(grid.ends(), counts, strict=True)],
        [_facet(name, answer[f"by_{name}"], sums["requests"]) for name in FACETS],
        {name: int(next(iter(answer[f"view_{name}"]), {"n": 0})["n"]) for name in VIEWS},
        since,
    )


def _facet(name: str, rows: Sequence[Mapping[str, Any]], requests: int) -> Facet:
    values = [(row["_id"], int(row["n"])) for row in rows]
    values = [(value, number) for value, number in values if value not in (None, "")]
    if name == "key":
        values = [(shown_key_id(str(value)), number) for value, number in values]
    return Facet(name, values, requests - sum(number for _, number in values))


def _percentile(rows: Sequence[Mapping[str, Any]], percent: int) -> int | None:
    """Return the duration that so many of 100 are within, by the middle of its class."""
    wanted = sum(row["n"] for row in rows) * percent / 100
    for row in rows:
        wanted -= row["n"]
        if wanted <= 0:
            return round(math.exp((row["_id"] + 0.5) * _CLASS_WIDTH))
    return None


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
