"""Statistics over any period, exact to the record.

All sums but the newest are kept for ever, so that they stay right after records have expired. Where they are
read from is in `period_sources`. Percentiles come from histograms and are within five per cent.
"""

from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from pymongo.database import Database

from app.adapters.mongo import rollups, summaries
from app.adapters.mongo.period_sources import PeriodSources
from app.adapters.mongo.request_logs import make_indexes, store_errors
from app.adapters.mongo.sum_sources import Sums
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

GROUPINGS = frozenset(GROUPS.values())
"""What sums can be made by."""


class StatsStore:
    """Sums, model tables and figures of users. Every method raises `StoreUnavailable`."""

    def __init__(self, db: Database[Any]) -> None:
        self._db = db
        self._rollups = db[rollups.COLLECTION]
        self._logs = db["request_logs"]
        self._users = db["usersNew"]

    def ensure_indexes(self) -> None:
        """What the sums are selected by."""
        with store_errors():
            make_indexes(self._rollups, rollups.INDEXES)
            make_indexes(self._db[summaries.COLLECTION], summaries.INDEXES)

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

    def rate_limited(self, period: str, now: datetime, tz: tzinfo) -> Document:
        """Requests answered with 429, as far back as records are kept.

        Friend keys are earlier software's: their requests name one, all others came with a user's key.
        """
        start = period_start(period, now, tz)
        limited: Document = {"statusCode": 429}
        if start is not None:
            limited["createdAt"] = {"$gte": start}
        with store_errors():
            total = self._logs.count_documents(limited)
            friends = self._logs.count_documents({**limited, "friendKeyId": {"$gt": ""}}) if total else 0
        return {
            "total_429": total,
            "user_key_429": total - friends,
            "friend_key_429": friends,
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
        with store_errors():
            parts = PeriodSources.since(self._db, start)
            sums, whole, keys = _Cutting(parts, timeline, with_latency).sums(GROUPS.get(by), rank_by, top)
        # What is dated after now, by another machine's clock, has no bucket.
        buckets = {timeline.label_of(begin): Bucket(begin) for begin in timeline.starts()}
        for (_, label), totals in whole.items():
            if label in buckets:
                buckets[label].total = totals
        for (key, label), totals in sums.items():
            if key in keys and label in buckets:
                buckets[label].parts[str(key)] = totals
        return Series(timeline.size, keys, list(buckets.values()))

    def total(self, start: datetime | None, *, user: str | None = None) -> Totals:
        """The sums of everything since `start` (None: ever), or of everything of a user."""
        sums: Sums = {}
        with store_errors():
            parts = PeriodSources.since(self._db, start)
            selection = {} if user is None else {"userId": user}
            summed = parts.summed(None) if user is None else parts.summed("userId", keys=[user])
            for source in (*parts.unsummed(selection), *summed):
                source.add_to(sums, None, None)
        return sums.get((None, None), Totals())

    def sums(
        self, start: datetime | None, *, by: str | None, with_latency: bool = False
    ) -> dict[str | None, Totals]:
        """Sums of everything since `start` (None: ever) per value of the field `by`, one of `GROUPINGS`.

        `by` None: all together, under None. `with_latency` fills the histograms, which percentiles are made
        of.
        """
        if by is not None and by not in GROUPINGS:
            raise ValueError(f"cannot sum by {by}")
        sums: Sums = {}
        with store_errors():
            parts = PeriodSources.since(self._db, start)
            for source in (*parts.unsummed({}), *parts.summed(by)):
                source.add_to(sums, by, None, with_latency=with_latency)
        return {key: totals for (key, _), totals in sums.items()}

    def _first_moment(self, now: datetime) -> datetime:
        """When the first request was that anything is known of; `now` when there was none."""
        with store_errors():
            hour = self._rollups.find_one({}, {"hour": 1}, sort=[("hour", 1)])
            earlier = self._logs.find_one({"outcome": None}, {"createdAt": 1}, sort=[("createdAt", 1)])
        moments = (hour and hour["hour"], earlier and earlier.get("createdAt"))
        return min((moment for moment in moments if isinstance(moment, datetime)), default=now)


@dataclass(frozen=True, slots=True)
class _Cutting:
    """Cuts a period into buckets."""

    parts: PeriodSources
    timeline: Timeline
    with_latency: bool

    def sums(self, field: str | None, rank_by: str, top: int) -> tuple[Sums, Sums, list[str]]:
        """The largest keys' sums by bucket, those of all requests, and which keys are the largest.

        What is in summaries is looked at three times (all requests, every key over the whole period, and the
        largest keys by bucket), since all keys by bucket would be far more.
        """
        sums: Sums = {}
        for source in self.parts.unsummed({}, timeline=self.timeline):
            source.add_to(sums, field, self.timeline, with_latency=self.with_latency)
        whole: Sums = {}
        by_key: dict[str | None, Totals] = {}
        for (key, label), totals in sums.items():
            whole.setdefault((None, label), Totals()).merge(totals)
            by_key.setdefault(key, Totals()).merge(totals)
        self._add(whole, None, None)
        if field is None:
            return sums, whole, []
        ranked: Sums = {}
        for source in self.parts.summed(field, timeline=self.timeline if self._is_short else None):
            source.add_to(ranked, field, None)
        for (key, _), totals in ranked.items():
            by_key.setdefault(key, Totals()).merge(totals)
        keys = largest(by_key, rank_by, top)
        if keys:
            self._add(sums, field, keys)
        return sums, whole, keys

    @property
    def _is_short(self) -> bool:
        """Whether all of it is counted from records."""
        return self.timeline.size == MINUTES

    def _add(self, sums: Sums, field: str | None, keys: list[str] | None) -> None:
        for source in self.parts.summed(field, keys=keys, timeline=self.timeline):
            source.add_to(sums, field, self.timeline, with_latency=self.with_latency)


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
