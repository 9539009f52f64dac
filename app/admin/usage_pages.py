"""Usage: a metric by one or two groups over any range, as a chart and as a table, and both as CSV."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from flask import Blueprint, Response, abort, make_response, render_template, request

from app.accounts.credentials import shown_key_id
from app.admin.asking import ask, asked_question
from app.admin.charts import METRICS, Chart, Metric, metric_chart
from app.common.csv_text import csv_lines
from app.common.cursor import FilterError
from app.exchange.ports import Clock
from app.management.reading import StatsStore
from app.statistics.figures import Totals, mean
from app.statistics.periods import Period, UnknownPeriodError
from app.statistics.timeseries import (
    AUTO,
    DAY,
    GROUPS,
    HOUR,
    MINUTES,
    MONTH,
    RECORD_GROUPS,
    TAGS,
    Series,
    UnknownChoiceError,
)
from app.statistics.usage import Grouping, Key, UsageCursor, UsagePage

DEFAULT_PERIOD = "7d"
TOP = 9
ROWS = 50
MOST_LINES = 10_000
"""How many lines the table has as a file, at most; the admin API has all of them."""

WORDS: Mapping[str, str] = {
    "model": "model",
    "user": "user",
    "key": "client key",
    "factoryKey": "upstream key",
    "endpoint": "endpoint",
    "endUser": "end user",
    "session": "session",
    "client": "client program",
    "tag": "tag",
}
"""What use is grouped by, and what that is called."""

ASKED: Mapping[str, str] = {word: "api" if word == "endpoint" else word for word in WORDS}
"""What each is filtered by in the address."""

BUCKETS: Mapping[str, str] = {
    AUTO: "automatic", MINUTES: "5 minutes", HOUR: "hour", DAY: "day", MONTH: "month",
}  # fmt: skip
_NO_NAME: Mapping[str, str] = {
    "model": "no known model",
    "factoryKey": "not sent upstream",
    "endpoint": "chat completions or messages",
    "endUser": "no end user",
    "session": "no session",
    "client": "not told",
    "tag": "no tag",
}
_RANKED_BY = {"requests": "requests", "tokens": "tokens", "output": "tokens", "failures": "errors"}

Download = Callable[[Iterator[str], str], Response]
"""Lines of CSV as a file of a name."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is shown of the sums: chosen in the address, beside the question."""

    metric: Metric
    by: str
    then: str | None
    bucket: str
    compares: bool

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> "Choice":
        """Read the parameters; what is not known counts as not given."""
        by = parameters.get("by", "")
        by = by if by in WORDS else "model"
        then = parameters.get("then", "")
        bucket = parameters.get("bucket", AUTO)
        return cls(
            METRICS.get(parameters.get("metric", ""), METRICS["cost"]),
            by,
            then if then in WORDS and then != by else None,
            bucket if bucket in BUCKETS else AUTO,
            parameters.get("compare") == "yes",
        )

    @property
    def parameters(self) -> dict[str, str | None]:
        """What asks for the same, in the address."""
        return {
            "metric": self.metric.name,
            "by": self.by,
            "then": self.then,
            "bucket": None if self.bucket == AUTO else self.bucket,
            "compare": "yes" if self.compares else None,
        }

    @property
    def grouping(self) -> Grouping:
        """What the table has rows for."""
        return Grouping((self.by,) if self.then is None else (self.by, self.then))

    def selected(self, filters: Mapping[str, str]) -> dict[str, str]:
        """Return the filters that restrict what is counted, as the fields they are about."""
        return {self._fields[name]: value for name, value in filters.items() if name in self._fields}

    def left_out(self, filters: Mapping[str, str]) -> list[str]:
        """Return the filters that what is counted here says nothing of."""
        return [name for name in filters if name not in self._fields]

    @property
    def _fields(self) -> dict[str, str]:
        return {**GROUPS, **(RECORD_GROUPS if self.grouping.is_of_records else {})}


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: its names with what they are asked by, its sums, and those of the period before.

    `share` of the cost is in per cent, `change` of the metric too; `trend` is the metric over time.
    """

    names: Sequence[tuple[str, str | None]]
    totals: Totals
    share: float
    before: Totals | None
    change: float | None
    trend: Sequence[float]

    @property
    def asks(self) -> dict[str, str | None]:
        """What asks for its requests."""
        return {ASKED[word]: value for word, value in self.names if value}

    @property
    def latency_ms(self) -> float | None:
        """The mean."""
        return mean(self.totals.latency_sum_ms, self.totals.latency_count)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store says."""

    series: Series
    page: UsagePage
    before: Mapping[Key, Totals] | None
    before_total: Totals | None


def usage_pages(stats: StatsStore, download: Download, clock: Clock, tz: tzinfo) -> Blueprint:
    """Make the pages `/usage` and `/usage/export`."""
    routes = Blueprint("usage", __name__)

    def answer(choice: Choice, period: Period, limit: int, shown: int = 0) -> Answer:
        """Ask the store for lines after the first `shown` ones.

        Raises `UnknownChoiceError` for buckets that do not go with the period.
        """
        selection, asked = choice.selected(asked_question().filters), stats.for_one_answer()
        series = asked.series(
            period,
            by=choice.by,
            bucket=choice.bucket,
            rank_by=_RANKED_BY.get(choice.metric.name, "cost"),
            top=TOP,
            with_latency=choice.metric.name == "latency",
            selection=selection,
        )
        page = asked.usage(choice.grouping, period.frozen(), limit=limit, shown=shown, selection=selection)
        previous = period.previous() if choice.compares else None
        if previous is None:
            return Answer(series, page, None, None)
        keys = [key for key, _ in page.rows]
        before = asked.usage_of(choice.grouping, previous, keys, selection=selection)
        whole = asked.usage_total(choice.grouping, previous, selection)
        return Answer(series, page, before, whole)

    @routes.get("/usage")
    def usage() -> Response:
        choice, problem = Choice.parse(request.args), None
        place = UsageCursor.first(clock.utcnow())
        question = asked_question(DEFAULT_PERIOD)
        found: Answer | None = None
        period = Period.of(DEFAULT_PERIOD, place.now, tz)
        try:
            place = UsageCursor.parse(given) if (given := request.args.get("cursor")) else place
            period = question.period(place.now, tz, DEFAULT_PERIOD)
            found = ask(lambda: answer(choice, period, ROWS, place.shown))
        except (UnknownPeriodError, UnknownChoiceError, FilterError) as error:
            problem = error
        page = render_template(
            "usage.html",
            default_period=DEFAULT_PERIOD,
            problem=problem,
            choice=choice,
            shown=choice.parameters,
            titles={metric.name: metric.title for metric in METRICS.values()},
            words=WORDS,
            buckets=BUCKETS,
            chart=None if found is None else chart_of(choice, found, period, tz),
            rows=[] if found is None else rows_of(choice, found),
            total=None if found is None else total_of(choice, found),
            shown_before=place.shown,
            count=0 if found is None else found.page.other_count + len(found.page.rows),
            following=None if found is None else _following(found.page, place),
            is_of_records=choice.grouping.is_of_records,
            has_tags=TAGS in choice.grouping.fields,
            asked_by=ASKED,
            previous=period.previous() if choice.compares else None,
            left_out=choice.left_out(question.filters),
            no_name=_NO_NAME,
        )
        return make_response(page, 200 if problem is None else 400)

    @routes.get("/usage/export")
    def export() -> Response:
        choice = Choice.parse(request.args)
        try:
            now = clock.utcnow()
            period = asked_question(DEFAULT_PERIOD).period(now, tz, DEFAULT_PERIOD)
            found = answer(choice, period, MOST_LINES)
        except (UnknownPeriodError, UnknownChoiceError, FilterError):
            abort(400)
        of_chart = request.args.get("of") == "chart"
        lines = (
            chart_csv(choice, found, period, tz) if of_chart else table_csv(choice, rows_of(choice, found))
        )
        return download(lines, _file_name(choice.metric.name if of_chart else choice.by, period, tz))

    return routes


def chart_of(choice: Choice, found: Answer, period: Period, tz: tzinfo) -> Chart:
    """Return the chart; of client keys it names what may be seen of them."""
    name_of = shown_key_id if choice.by == "key" else str
    return metric_chart(choice.metric, found.series, period, tz, name_of)


def _following(page: UsagePage, place: UsageCursor) -> str | None:
    return UsageCursor(place.now, place.shown + len(page.rows)).encode() if page.has_more else None


def rows_of(choice: Choice, found: Answer) -> list[Row]:
    """Return the lines of the table, those that cost most first."""
    return [_row(choice, found, key, totals) for key, totals in found.page.rows]


def total_of(choice: Choice, found: Answer) -> Row:
    """Return the line of everything together."""
    return _made(choice, found, [], found.page.total, found.before_total, ())


def _row(choice: Choice, found: Answer, key: Key, totals: Totals) -> Row:
    before = None if found.before is None else found.before.get(key, Totals())
    trend: list[float] = []
    if choice.then is None and key[0] in found.series.keys:
        nothing = Totals()
        values = (
            choice.metric.value(bucket.parts.get(str(key[0]), nothing)) for bucket in found.series.buckets
        )
        trend = [value or 0 for value in values]
    return _made(choice, found, list(choice.grouping.shown(key).items()), totals, before, trend)


def _made(
    choice: Choice,
    found: Answer,
    names: Sequence[tuple[str, str | None]],
    totals: Totals,
    before: Totals | None,
    trend: Sequence[float],
) -> Row:
    whole = found.page.total.cost_nano_usd
    share = 100 * totals.cost_nano_usd / whole if whole else 0.0
    return Row(names, totals, share, before, _change(choice.metric, totals, before), trend)


def _change(metric: Metric, now: Totals, before: Totals | None) -> float | None:
    """Return by how many per cent a metric has changed; None where that cannot be said."""
    if before is None or not metric.adds_up:
        return None
    was, is_now = metric.value(before), metric.value(now)
    return 100 * (is_now or 0) / was - 100 if was else None


def table_csv(choice: Choice, rows: Sequence[Row]) -> Iterator[str]:
    """Write the table as it is shown, with money to the nano-dollar (the caller ends the lines)."""
    compared = any(row.before is not None for row in rows)
    heads = [*choice.grouping.words, "costNanoUsd", "costSharePercent", "requests", "failed", "refused"]
    heads += ["inputTokens", "outputTokens", "cacheHitTokens", "meanLatencyMs"]
    heads += [f"{choice.metric.name}Before", "changePercent"] if compared else []

    def cells(row: Row) -> list[Any]:
        sums = row.totals
        found: list[Any] = [value for _, value in row.names]
        found += [sums.cost_nano_usd, round(row.share, 4), sums.requests, sums.errors - sums.rejected]
        found += [sums.rejected, sums.input_tokens, sums.output_tokens, sums.cache_hit_tokens, row.latency_ms]
        if compared:
            change = None if row.change is None else round(row.change, 4)
            found += [None if row.before is None else choice.metric.value(row.before), change]
        return found

    return csv_lines(heads, map(cells, rows))


def chart_csv(choice: Choice, found: Answer, period: Period, tz: tzinfo) -> Iterator[str]:
    """Write the chart: a line for each bucket, oldest first; money is in nano-dollars, times are in UTC."""
    chart = chart_of(choice, found, period, tz)
    values = zip(*(line.values for line in chart.lines), strict=True)
    starts: Sequence[datetime] = chart.starts
    heads = ("start", *(line.name for line in chart.lines))
    return csv_lines(heads, ((start.isoformat(), *row) for start, row in zip(starts, values, strict=True)))


def _file_name(what: str, period: Period, tz: tzinfo) -> str:
    days = [moment.astimezone(tz).strftime("%Y%m%d") for moment in (period.start, period.until) if moment]
    return "-".join(("usage", what, *days))
