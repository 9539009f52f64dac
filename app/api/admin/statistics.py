"""`/api/admin/metrics`, `model-stats`, `user-stats`, `usage` and `timeseries`: sums of any period."""

from collections.abc import Callable
from datetime import datetime, tzinfo
from typing import Annotated, Any, Literal, NotRequired

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.answers import ExpiredView, error_answer, expired_note
from app.api.downloads import csv_download
from app.api.operation import ApiSection
from app.api.parameters import ComparedQuery, Cursor, PeriodQuery, PeriodView
from app.exchange.ports import Clock
from app.management.reading import StatsStore
from app.statistics.figures import model_csv
from app.statistics.periods import Period, with_previous
from app.statistics.timeseries import RECORD_GROUPS, Series, UnknownChoiceError
from app.statistics.usage import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    Grouping,
    UsageCursor,
    usage_csv,
)

Document = dict[str, Any]

_statistics = ApiSection("Statistics")
_MOST_KEYS = 20

CountedFrom = Annotated[
    Literal["sums", "records"],
    Field(description="`records`: as far back as they are kept; by `tag` each counts once by each tag."),
]


class ModelQuery(ComparedQuery):
    """Which period, and in which form."""

    format: Literal["json", "csv"] = "json"


class UsageQuery(ComparedQuery):
    """Whose use, and which page of it."""

    by: str = Field(
        description="One or two of `user`, `key` (client keys), `model`, `factoryKey` (upstream keys), "
        "`endpoint`, `endUser`, `session`, `client`, `tag`, `day` and `month`, separated by a comma; one "
        "of them at most a time.",
        max_length=100,
    )
    limit: Annotated[
        int, Field(ge=1, le=MAX_LIMIT, description="So many rows at once; all others as one.")
    ] = DEFAULT_LIMIT
    cursor: Cursor = None
    format: Literal["json", "csv"] = Field("json", description="`csv` has every row, whatever `limit` says.")


class TimeseriesQuery(ComparedQuery):
    """Which figure, and how it is cut up."""

    metric: Literal["requests", "tokens", "cost", "latency", "errors"] = "requests"
    by: Literal[
        "none", "model", "user", "key", "factoryKey", "endpoint", "endUser", "session", "client", "tag"
    ] = Field(
        "none",
        description="The last four are counted from records, as far back as those are kept. What has several "
        "tags counts by each of them; `other` has none of those shown.",
    )
    bucket: Literal["auto", "5m", "hour", "day", "month"] = Field(
        "auto",
        description="`5m` goes with up to 4 hours, `hour` with up to a month, `day` with up to 1,000 days, "
        "`month` with more than a month and with `all`.",
    )
    top: Annotated[int, Field(ge=1, le=_MOST_KEYS, description="So many apart; the rest is `other`.")] = 5
    format: Literal["json", "csv"] = Field("json", description="`csv` has a line per bucket and key.")


class LedgerView(TypedDict):
    """Both sides of the ledger: what the upstream says it charged (null: it never said), and for how many
    requests; what those cost here, what is left of that, and how much more it is than by the model table's
    prices (before `multiplier` and price factors), in per cent of the larger.
    """

    upstreamCostNanoUsd: int | None
    toldRequestCount: int
    toldCostNanoUsd: int
    marginNanoUsd: int | None
    upstreamDriftPercent: float | None


class ModelRow(LedgerView):
    """A model's sums. Costs are in USD, times in milliseconds; percentiles are within five per cent.

    `cacheHitShare` is the part of the input that was read from a cache, from 0 to 1.
    """

    model: Annotated[str | None, Field(description="null: requests that have none.")]
    inputTokens: int
    outputTokens: int
    cacheWriteTokens: int
    cacheHitTokens: int
    cacheHitShare: float | None
    totalTokens: int
    creditsBurned: float
    costNanoUsd: int
    requestCount: int
    successCount: int
    errorCount: int
    rejectedCount: int
    avgLatencyMs: float
    p50LatencyMs: int | None
    p95LatencyMs: int | None
    p99LatencyMs: int | None
    avgTtftMs: float | None


class ModelStatsView(PeriodView):
    """The model table. All rows together are all requests."""

    models: list[ModelRow]
    previous: NotRequired["ModelStatsView | None"]


class MetricsView(PeriodView):
    """All requests together; `success_rate` in per cent, `creditsBurned` in USD."""

    total_requests: int
    tokens_used: int
    avg_latency_ms: float
    success_rate: float
    creditsBurned: float
    costNanoUsd: int
    timestamp: str
    previous: NotRequired["MetricsView | None"]


class RateLimitView(PeriodView):
    """Requests answered with 429, counted in the records that are still there."""

    total_429: int
    user_key_429: int
    friend_key_429: int
    timestamp: str


class UserStatsView(LedgerView, PeriodView):
    """All users together, in USD and tokens: what they have now, and what they used within the period."""

    total_users: int
    active_users: int
    users_with_requests: int
    total_credits_used: float
    total_credits: float
    total_ref_credits: float
    total_creditsNew: float
    total_creditsNewUsed: float
    creditsNewNanoUsd: int
    creditsNewUsedNanoUsd: int
    total_input_tokens: int
    total_output_tokens: int
    creditsUsedNanoUsd: Annotated[int, Field(description="`total_credits_used`, exactly.")]
    creditsNanoUsd: int
    refCreditsNanoUsd: int
    previous: NotRequired["UserStatsView | None"]


class UsageFigures(LedgerView):
    """Sums. `creditsBurned` is in USD, `costNanoUsd` the same exactly; times are in milliseconds."""

    requestCount: int
    successCount: int
    errorCount: int
    rejectedCount: int
    inputTokens: int
    outputTokens: int
    cacheWriteTokens: int
    cacheHitTokens: int
    cacheHitShare: float | None
    reasoningTokens: int
    totalTokens: int
    creditsBurned: float
    costNanoUsd: int
    avgLatencyMs: float | None
    avgTtftMs: float | None


class UsageRow(UsageFigures):
    """One user's (key's, model's) sums, under each word of `by` its value; null: requests that have none.

    By one word, its value is `key` as well. `previous` is there with `compare`.
    """

    key: str | None
    user: NotRequired[str | None]
    model: NotRequired[str | None]
    factoryKey: NotRequired[str | None]
    endpoint: NotRequired[str | None]
    endUser: NotRequired[str | None]
    session: NotRequired[str | None]
    client: NotRequired[str | None]
    tag: NotRequired[str | None]
    day: NotRequired[str]
    month: NotRequired[str]
    previous: NotRequired[UsageFigures]


class PreviousUsageView(PeriodView):
    """The period before, everything together."""

    total: UsageRow


class UsageView(PeriodView, ExpiredView):
    """A page of rows, what all others (`otherCount` of them) come to, and everything together."""

    by: str
    countedFrom: CountedFrom
    rows: list[UsageRow]
    otherCount: int
    other: UsageRow | None
    total: UsageRow
    nextCursor: str | None
    previous: NotRequired[PreviousUsageView | None]


class TimeseriesView(PeriodView, ExpiredView):
    """Buckets, oldest first: `{start, total, series: {key: value}, other}`, the last two where `by` is given.

    For `cost` there are exact `totalNanoUsd`, `seriesNanoUsd` and `otherNanoUsd` beside them.

    A value is a number, for `tokens` an object of the four kinds, for `latency` one of `p50`, `p95`, `p99`,
    `avg` and `avgTtft`.
    """

    metric: str
    by: str
    bucket: str
    countedFrom: CountedFrom
    keys: list[str]
    buckets: list[dict[str, Any]]
    previous: NotRequired["TimeseriesView | None"]


def add_statistics_routes(routes: Blueprint, stats: StatsStore, clock: Clock, tz: tzinfo) -> None:
    """Add the routes; `tz` is where days start."""

    @routes.errorhandler(UnknownChoiceError)
    def unknown_choice(error: UnknownChoiceError) -> Response:
        return error_answer(400, str(error), parameter=error.field)

    def asked(query: PeriodQuery) -> Period:
        return query.at(clock.utcnow(), tz)

    def compared(query: ComparedQuery, period: Period, figures: Callable[[Period], Document]) -> Response:
        return jsonify(with_previous(figures, period) if query.is_compared else figures(period))

    @routes.get("/model-stats")
    @_statistics("The model table", answers=ModelStatsView)
    def model_stats(query: ModelQuery) -> Response:
        """List models, most tokens first. `all` stays right after records have expired.

        Requests that have no model, such as those of no known one, have a row of their own.
        """
        period = asked(query)
        if query.format == "csv":
            before = period.previous() if query.is_compared else None
            rows = [] if before is None else stats.model_stats(before)
            lines = model_csv(stats.model_stats(period), before=rows if query.is_compared else None)
            return csv_download(lines, file_name("model-stats", period))
        return compared(query, period, stats.model_table)

    @routes.get("/metrics")
    @_statistics("All requests together", answers=MetricsView)
    def all_requests(query: ComparedQuery) -> Response:
        """Sum up all requests, those that never reached a model included."""
        return compared(query, asked(query), stats.metrics)

    @routes.get("/metrics/rate-limit")
    @_statistics("Requests answered with 429", answers=RateLimitView)
    def rate_limited(query: PeriodQuery) -> Response:
        """Count refusals here and those passed on from the upstream, as far back as records are kept."""
        period = asked(query)
        return jsonify(stats.rate_limited(period) | expired_note(stats.expired_before(None, period)))

    @routes.get("/user-stats")
    @_statistics("All users together", answers=UserStatsView)
    def user_stats(query: ComparedQuery) -> Response:
        """Sum up all users; their balances are those of now, in `previous` too."""
        return compared(query, asked(query), stats.user_stats)

    @routes.get("/usage")
    @_statistics("Who used how much", answers=UsageView)
    def usage(query: UsageQuery) -> Response:
        """Rank users, models or keys by cost, days and months by time; `nextCursor` leads to the very last.

        All pages are of the same requests: those that had been when the first one was asked for.
        """
        return _usage(stats, query, clock.utcnow(), tz)

    @routes.get("/timeseries")
    @_statistics("A figure over time", answers=TimeseriesView)
    def timeseries(query: TimeseriesQuery) -> Response:
        """Return every bucket, empty ones included: they add up to the period's sums.

        The first bucket holds only what came after the period's start. Days and months begin at midnight in
        `STATS_TIMEZONE`.
        """
        return _timeseries(stats, query, asked(query))


def _timeseries(stats: StatsStore, query: TimeseriesQuery, period: Period) -> Response:
    series = stats.series(
        period,
        by=query.by,
        bucket=query.bucket,
        rank_by=query.metric,
        top=query.top,
        with_latency=query.metric == "latency",
    )
    previous = period.previous() if query.is_compared else None
    before = Series(series.size, series.keys, [])
    if previous is not None:
        before = stats.series(previous, by=query.by, like=series, with_latency=query.metric == "latency")
    if query.format == "csv":
        lines = series.to_csv(query.metric, query.by, before if query.is_compared else None)
        return csv_download(lines, file_name("timeseries", period))
    told = series.view(query.metric, query.by, period)
    if query.is_compared:
        told["previous"] = previous and before.view(query.metric, query.by, previous)
    if query.by in RECORD_GROUPS:
        told |= expired_note(stats.expired_before(None, period))
    return jsonify(told)


def _usage(stats: StatsStore, query: UsageQuery, now: datetime, tz: tzinfo) -> Response:
    cursor = UsageCursor.parse(query.cursor) if query.cursor else UsageCursor.first(now)
    by, asked = Grouping.parse(query.by), query.at(cursor.now, tz)
    period = asked.frozen()
    if query.format == "csv":
        rows = stats.usage_rows(by, period)
        lines = usage_csv(by, rows, stats.used_before(by, asked) if query.is_compared else None)
        return csv_download(lines, file_name("usage", asked), rows)
    page = stats.usage(by, period, limit=query.limit, shown=cursor.shown)
    before = stats.usage_before(page, asked) if query.is_compared else None
    following = UsageCursor(cursor.now, cursor.shown + len(page.rows)).encode() if page.has_more else None
    note = expired_note(stats.expired_before(by, period))
    return jsonify(asked.to_json() | page.to_json(before) | {"nextCursor": following} | note)


def file_name(of: str, period: Period) -> str:
    """Name a file after what is in it."""
    if period.name is not None:
        return f"{of}-{period.name}"
    first = "" if period.start is None else f"{period.start.astimezone(period.tz):%Y-%m-%d}-"
    return f"{of}-{first}to-{period.until.astimezone(period.tz):%Y-%m-%d}"
