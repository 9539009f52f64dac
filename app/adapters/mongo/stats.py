"""Statistics over any period, exact to the record.

Where the sums come from: every full hour from the hourly sums, which are kept for ever, so that they stay
right after records have expired; the part of an hour at the start of a period from the records themselves.
Records of earlier software (recognised by having no `outcome`) are in no hourly sums and are therefore always
read directly. Percentiles come from histograms and are within five per cent.
"""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from pymongo.database import Database

from app.adapters.mongo import rollups
from app.adapters.mongo.request_logs import make_indexes, store_errors
from app.adapters.mongo.sum_sources import Source, Sums
from app.core.display import iso_utc
from app.core.periods import ALL, period_start
from app.core.stats import Totals, model_table, usd
from app.core.timeseries import (
    AUTO,
    GROUPS,
    MINUTES,
    Bucket,
    Series,
    Timeline,
    Usage,
    bucket_size,
    largest,
)

Document = dict[str, Any]

_HOUR = timedelta(hours=1)

GROUPINGS = frozenset(GROUPS.values())
"""What sums can be made by."""


class StatsStore:
    """Sums, model tables and figures of users. Every method raises `StoreUnavailable`."""

    def __init__(self, db: Database[Any]) -> None:
        self._rollups = db[rollups.COLLECTION]
        self._logs = db["request_logs"]
        self._users = db["usersNew"]

    def ensure_indexes(self) -> None:
        """What the sums are selected by."""
        with store_errors():
            make_indexes(self._rollups, rollups.INDEXES)

    def model_stats(self, period: str, now: datetime, tz: tzinfo) -> list[Document]:
        """The rows of the model table, most tokens first."""
        start = period_start(period, now, tz)
        return model_table(self.sums(start, by="model", with_latency=True))

    def metrics(self, period: str, now: datetime, tz: tzinfo) -> Document:
        """The figures of all requests together, those that never reached a model included."""
        totals = self.total(period_start(period, now, tz))
        return {
            "total_requests": totals.requests,
            "tokens_used": totals.input_tokens + totals.output_tokens,
            "avg_latency_ms": totals.avg_latency_ms,
            "success_rate": totals.success_rate,
            "period": period,
            "timestamp": iso_utc(now),
        }

    def user_stats(self, period: str, now: datetime, tz: tzinfo) -> Document:
        """Balances as they are now; use of credits and tokens within the period.

        For `all` the use is what the users' documents say, which includes the time before this product.
        """
        start = period_start(period, now, tz)
        by_user = self.sums(start, by="userId")
        with store_errors():
            balances: Document = next(iter(self._users.aggregate([{"$group": _USER_BALANCES}])), {})
        if period == ALL:
            used = float(balances.get("creditsUsed", 0))
            tokens = int(balances.get("inputTokens", 0)), int(balances.get("outputTokens", 0))
        else:
            used = usd(sum(sums.cost_nano_usd for sums in by_user.values()))
            tokens = (
                sum(sums.input_tokens for sums in by_user.values()),
                sum(sums.output_tokens for sums in by_user.values()),
            )
        return {
            "total_users": balances.get("total", 0),
            "active_users": balances.get("active", 0),
            "users_with_requests": sum(user is not None for user in by_user),
            "total_credits_used": used,
            "total_credits": balances.get("credits", 0),
            "total_ref_credits": balances.get("refCredits", 0),
            "total_creditsNew": balances.get("creditsNew", 0),
            "total_creditsNewUsed": balances.get("creditsNewUsed", 0),
            "total_input_tokens": tokens[0],
            "total_output_tokens": tokens[1],
            "period": period,
        }

    def usage(self, by: str, period: str, now: datetime, tz: tzinfo, *, limit: int = 100) -> Usage:
        """Who used how much, the largest `limit` of them apart; `by` is a word of `GROUPS`.

        `.rows` are pairs of a key (None: requests that have none) and its `Totals`, by cost, without
        histograms; `.other` sums up the `.other_count` left out, `.total` everything.
        """
        return Usage.of(self.sums(period_start(period, now, tz), by=GROUPS[by]), limit)

    def series(
        self,
        period: str,
        now: datetime,
        tz: tzinfo,
        *,
        by: str = "none",
        bucket: str = AUTO,
        rank_by: str = "requests",
        top: int = 5,
        with_latency: bool = False,
    ) -> Series:
        """The period over time, no bucket left out; `by` is one of `SERIES_GROUPS`, `bucket` of `BUCKETS`.

        `.size` is the buckets' size; `.keys` the `top` models (users, …) with most of `rank_by` (one of
        `METRICS`); every bucket has `.start`, and `Totals` as `.total`, `.parts[key]` (absent: nothing) and
        `.other`. `with_latency` fills the histograms, which percentiles are made of. The first bucket holds
        only what came after the period's start, so that the buckets add up to the period's sums. Raises
        `UnknownChoiceError` for buckets that do not go with the period.
        """
        start = period_start(period, now, tz)
        first = self._first_moment(now) if start is None else start
        timeline = Timeline(bucket_size(bucket, period, first, now), first, now, tz)
        sums: Sums = {}
        with store_errors():
            for source in self._sources(start, {}, from_records=timeline.size == MINUTES):
                source.add_to(sums, GROUPS.get(by), timeline, with_latency=with_latency)
        by_key: dict[str | None, Totals] = {}
        for (key, _), totals in sums.items():
            by_key.setdefault(key, Totals()).merge(totals)
        keys = largest(by_key, rank_by, top)
        buckets = {timeline.label_of(begin): Bucket(begin) for begin in timeline.starts()}
        for (key, label), totals in sums.items():
            # What is dated after now, by another machine's clock, has no bucket.
            found = buckets.get(label)
            if found is not None:
                found.total.merge(totals)
                if key in keys:
                    found.parts[str(key)] = totals
        return Series(timeline.size, keys, list(buckets.values()))

    def total(self, start: datetime | None, selection: Document | None = None) -> Totals:
        """The sums of everything since `start` (None: ever)."""
        return self.sums(start, by=None, selection=selection).get(None, Totals())

    def sums(
        self,
        start: datetime | None,
        *,
        by: str | None,
        selection: Document | None = None,
        with_latency: bool = False,
    ) -> dict[str | None, Totals]:
        """Sums per value of the field `by` (one of `GROUPINGS`; None: all together, under None).

        `selection` restricts them to some values of those fields, such as `{"userId": "ann"}`;
        `with_latency` fills the histograms, which percentiles are made of.
        """
        if by is not None and by not in GROUPINGS:
            raise ValueError(f"cannot sum by {by}")
        sums: Sums = {}
        with store_errors():
            for source in self._sources(start, selection or {}):
                source.add_to(sums, by, None, with_latency=with_latency)
        return {key: totals for (key, _), totals in sums.items()}

    def _sources(
        self, start: datetime | None, selection: Document, *, from_records: bool = False
    ) -> list[Source]:
        """Hourly sums and records that make up everything since `start`, each request exactly once."""
        if from_records:
            since = {**selection, "createdAt": {"$gte": start}}
            return [Source(self._logs, since, "createdAt", is_records=True)]
        if start is None:
            earlier = {**selection, "outcome": None}
            return [
                Source(self._rollups, selection, "hour"),
                Source(self._logs, earlier, "createdAt", is_records=True),
            ]
        start = start.astimezone(UTC)
        hour = rollups.hour_of(start)
        first_full_hour = hour if hour == start else hour + _HOUR
        edge = {**selection, "createdAt": {"$gte": start, "$lt": first_full_hour}}
        earlier = {**selection, "createdAt": {"$gte": first_full_hour}, "outcome": None}
        return [
            Source(self._rollups, {**selection, "hour": {"$gte": first_full_hour}}, "hour"),
            Source(self._logs, edge, "createdAt", is_records=True),
            Source(self._logs, earlier, "createdAt", is_records=True),
        ]

    def _first_moment(self, now: datetime) -> datetime:
        """When the first request was that anything is known of; `now` when there was none."""
        with store_errors():
            hour = self._rollups.find_one({}, {"hour": 1}, sort=[("hour", 1)])
            earlier = self._logs.find_one({"outcome": None}, {"createdAt": 1}, sort=[("createdAt", 1)])
        moments = (hour and hour["hour"], earlier and earlier.get("createdAt"))
        return min((moment for moment in moments if isinstance(moment, datetime)), default=now)


_USER_BALANCES: Document = {
    "_id": None,
    "total": {"$sum": 1},
    "active": {"$sum": {"$cond": [{"$ne": ["$isActive", False]}, 1, 0]}},
    "creditsUsed": {"$sum": "$creditsUsed"},
    "credits": {"$sum": "$credits"},
    "refCredits": {"$sum": "$refCredits"},
    "creditsNew": {"$sum": "$creditsNew"},
    "creditsNewUsed": {"$sum": "$creditsNewUsed"},
    "inputTokens": {"$sum": "$totalInputTokens"},
    "outputTokens": {"$sum": "$totalOutputTokens"},
}
