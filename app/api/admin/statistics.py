"""`/api/admin/metrics`, `model-stats`, `user-stats`, `usage` and `timeseries`: sums of any period."""

from datetime import datetime, tzinfo
from typing import Annotated, Any, Literal, Protocol

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.answers import error_answer
from app.api.operation import Query, Section
from app.api.parameters import AdminPeriod
from app.core.display import shown_key_id
from app.core.periods import ALL
from app.core.ports import Clock
from app.core.timeseries import AUTO, Series, UnknownChoiceError, Usage

Document = dict[str, Any]

_statistics = Section("Statistics")
_MOST_KEYS = 20


class StatsReader(Protocol):
    """Where statistics are made; raises `StoreUnavailable`."""

    def model_stats(self, period: str, now: datetime, tz: tzinfo) -> list[Document]:
        """The rows of the model table."""

    def metrics(self, period: str, now: datetime, tz: tzinfo) -> Document:
        """The figures of all requests together."""

    def rate_limited(self, period: str, now: datetime, tz: tzinfo) -> Document:
        """How many requests were answered with 429."""

    def user_stats(self, period: str, now: datetime, tz: tzinfo) -> Document:
        """The figures of all users together."""

    def usage(self, by: str, period: str, now: datetime, tz: tzinfo, *, limit: int = 100) -> Usage:
        """Who used how much."""

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
        """The period cut into buckets."""


class PeriodQuery(Query):
    """Which period."""

    period: AdminPeriod = ALL


class UsageQuery(PeriodQuery):
    """Whose use, and how many of them."""

    by: Literal["user", "key", "model", "factoryKey"] = Field(description="`key`: client keys.")
    limit: Annotated[int, Field(ge=1, le=1000, description="So many apart, by cost; the rest as one.")] = 100


class TimeseriesQuery(PeriodQuery):
    """Which figure, and how it is cut up."""

    metric: Literal["requests", "tokens", "cost", "latency", "errors"] = "requests"
    by: Literal["none", "model", "user", "factoryKey"] = "none"
    bucket: Literal["auto", "5m", "hour", "day", "month"] = Field(
        "auto",
        description="`5m` goes with periods up to 4h, `hour` with all but `all`, `day` with all beyond 4h, "
        "`month` with `all`.",
    )
    top: Annotated[int, Field(ge=1, le=_MOST_KEYS, description="So many apart; the rest is `other`.")] = 5


class ModelRow(TypedDict):
    """A model's sums. Costs are in USD, times in milliseconds; percentiles are within five per cent."""

    model: str
    inputTokens: int
    outputTokens: int
    cacheWriteTokens: int
    cacheHitTokens: int
    totalTokens: int
    creditsBurned: float
    requestCount: int
    successCount: int
    errorCount: int
    rejectedCount: int
    avgLatencyMs: float
    p50LatencyMs: int | None
    p95LatencyMs: int | None
    p99LatencyMs: int | None
    avgTtftMs: float | None


class ModelStatsView(TypedDict):
    """The model table."""

    models: list[ModelRow]
    period: str


class MetricsView(TypedDict):
    """All requests together; `success_rate` in per cent."""

    total_requests: int
    tokens_used: int
    avg_latency_ms: float
    success_rate: float
    period: str
    timestamp: str


class RateLimitView(TypedDict):
    """Requests answered with 429, counted in the records that are still there."""

    total_429: int
    user_key_429: int
    friend_key_429: int
    period: str
    timestamp: str


class UserStatsView(TypedDict):
    """All users together, in USD and tokens: what they have now, and what they used within the period."""

    total_users: int
    active_users: int
    users_with_requests: int
    total_credits_used: float
    total_credits: float
    total_ref_credits: float
    total_creditsNew: float
    total_creditsNewUsed: float
    total_input_tokens: int
    total_output_tokens: int
    period: str


class UsageRow(TypedDict):
    """One user's (key's, model's) sums; `key` null: requests that have none."""

    key: str | None
    requestCount: int
    successCount: int
    errorCount: int
    rejectedCount: int
    inputTokens: int
    outputTokens: int
    cacheWriteTokens: int
    cacheHitTokens: int
    reasoningTokens: int
    totalTokens: int
    creditsBurned: float
    avgLatencyMs: float | None
    avgTtftMs: float | None


class UsageView(TypedDict):
    """The largest by cost, what the others (`otherCount` of them) come to, and all together."""

    by: str
    period: str
    rows: list[UsageRow]
    otherCount: int
    other: UsageRow | None
    total: UsageRow


class TimeseriesView(TypedDict):
    """Buckets, oldest first: `{start, total, series: {key: value}, other}`, the last two where `by` is given.

    A value is a number, for `tokens` an object of the four kinds, for `latency` one of `p50`, `p95`, `p99`,
    `avg` and `avgTtft`.
    """

    metric: str
    period: str
    by: str
    bucket: str
    timezone: str
    keys: list[str]
    buckets: list[dict[str, Any]]


def add_statistics_routes(routes: Blueprint, stats: StatsReader, clock: Clock, tz: tzinfo) -> None:
    """Add the routes; `tz` is where days start."""

    @routes.errorhandler(UnknownChoiceError)
    def unknown_choice(error: UnknownChoiceError) -> Response:
        return error_answer(400, str(error), parameter=error.field)

    @routes.get("/model-stats")
    @_statistics("The model table", answers=ModelStatsView)
    def model_stats(query: PeriodQuery) -> Response:
        """Most tokens first. `all` stays right after records have expired."""
        return jsonify(models=stats.model_stats(query.period, clock.utcnow(), tz), period=query.period)

    @routes.get("/metrics")
    @_statistics("All requests together", answers=MetricsView)
    def all_requests(query: PeriodQuery) -> Response:
        """Requests that never reached a model included."""
        return jsonify(stats.metrics(query.period, clock.utcnow(), tz))

    @routes.get("/metrics/rate-limit")
    @_statistics("Requests answered with 429", answers=RateLimitView)
    def rate_limited(query: PeriodQuery) -> Response:
        """Refused here, or passed on from the upstream; as far back as records are kept."""
        return jsonify(stats.rate_limited(query.period, clock.utcnow(), tz))

    @routes.get("/user-stats")
    @_statistics("All users together", answers=UserStatsView)
    def user_stats(query: PeriodQuery) -> Response:
        """Balances are those of now."""
        return jsonify(stats.user_stats(query.period, clock.utcnow(), tz))

    @routes.get("/usage")
    @_statistics("Who used how much", answers=UsageView)
    def usage(query: UsageQuery) -> Response:
        """Ranked by cost."""
        found = stats.usage(query.by, query.period, clock.utcnow(), tz, limit=query.limit)
        shown = shown_key_id if query.by == "key" else str
        return jsonify({"by": query.by, "period": query.period, **found.to_json(shown)})

    @routes.get("/timeseries")
    @_statistics("A figure over time", answers=TimeseriesView)
    def timeseries(query: TimeseriesQuery) -> Response:
        """No bucket is left out, and they add up to the period's sums: the first holds only what came after
        the period's start. Days and months begin at midnight in `STATS_TIMEZONE`."""
        series = stats.series(
            query.period,
            clock.utcnow(),
            tz,
            by=query.by,
            bucket=query.bucket,
            rank_by=query.metric,
            top=query.top,
            with_latency=query.metric == "latency",
        )
        return jsonify(
            metric=query.metric,
            period=query.period,
            by=query.by,
            bucket=series.size,
            timezone=str(tz),
            keys=series.keys,
            buckets=series.to_json(query.metric),
        )
