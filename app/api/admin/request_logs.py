"""`/api/admin/request-logs…`: pages of records, one record, and all of them as a file."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, tzinfo
from typing import Annotated, Any, Literal, NotRequired

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.answers import EXPIRED_HEADER, ExpiredView, error_answer, expired_note
from app.api.downloads import JSON_LINES, csv_download, download
from app.api.operation import ApiSection, Content, Query
from app.api.parameters import LIMIT_DEFAULT, AdminPeriod, Cursor, Limit
from app.common.cursor import FilterError, PageCursor
from app.common.display import iso_utc
from app.exchange.ports import Clock
from app.management.price_history import PriceHistory
from app.management.reading import RequestLogStore
from app.management.views.price_history import explanation_view
from app.management.views.records import RecordView
from app.records.breakdown import Breakdown
from app.records.log_export import csv_lines, jsonl_lines
from app.records.log_filter import VIEWS, LogFilter
from app.records.records import Outcome
from app.records.shown_record import shown_record
from app.statistics.figures import usd
from app.statistics.periods import Period

Document = dict[str, Any]

_logs = ApiSection("Request log")
_MOMENT = (
    "A date or time (in `STATS_TIMEZONE` unless it says otherwise) such as `2026-11-23`, `23.11.2026` or "
    "`2026-11-23T10:00:00Z`; `today`, `yesterday`; or how long ago: `90s`, `15m`, `24h`, `7d`, `1w`."
)


class FilterQuery(Query):
    """Which records. All conditions have to be met."""

    model: str | None = Field(None, description="The canonical id, or the name it was asked for by.")
    user: str | None = None
    key: str | None = Field(
        None, description="A client key's id, its name (or a part of it), or what is shown of it."
    )
    factoryKey: str | None = Field(None, description="The id of an upstream key.")
    outcome: str | None = Field(
        None,
        description=f"One or several, with commas between: {', '.join(Outcome)}; or `failed`: all but `ok`.",
    )
    status: str | None = Field(None, description="A status such as `429`, or a class such as `4xx`.")
    apiFormat: Annotated[str | None, Field(json_schema_extra={"enum": ["openai", "anthropic"]})] = None
    endpoint: str | None = Field(None, description="`chat`, `messages`, `responses` and so on.")
    endUser: str | None = Field(None, description="Whom the client named as its user.")
    session: str | None = Field(None, description="What the client calls its session.")
    client: str | None = Field(None, description="The client program: `OpenAI/Python 1.50.0`.")
    tag: str | None = Field(None, description="One of the tags of `X-Weir-Tags`.")
    user_part: str | None = Field(None, alias="user~", description="A part of the user's name, in any case.")
    model_part: str | None = Field(None, alias="model~", description="A part of the model's name.")
    minCostUsd: str | None = Field(None, description="Records that cost at least so much.")
    minLatencyMs: str | None = Field(None, description="Records that took at least so long.")
    minAttempts: str | None = Field(None, description="Records of at least so many attempts.")
    view: Annotated[
        str | None,
        Field(
            description="Conditions that have a name: "
            + "; ".join(
                f"`{name}` is `{'&'.join(f'{key}={value}' for key, value in view.items())}`"
                for name, view in VIEWS.items()
            )
            + ". What is given itself counts instead.",
            json_schema_extra={"enum": list(VIEWS)},
        ),
    ] = None
    period: AdminPeriod | None = Field(
        None, description="In place of `from` and `to`: as statistics take it."
    )
    from_: str | None = Field(None, alias="from", description=f"Not before. {_MOMENT}")
    to: str | None = Field(None, description=f"Before. {_MOMENT}")
    q: str | None = Field(
        None,
        description="A request id, or a part of the request id, user, model, error (type or message) or the "
        "upstream's request id, in any case.",
    )

    def filter(self, now: datetime, tz: tzinfo) -> LogFilter:
        """Return the conditions asked for; raises `FilterError`."""
        given = self.model_dump(by_alias=True, exclude_none=True)
        wanted = LogFilter.parse({name: str(value) for name, value in given.items()}, now, tz)
        if self.period is None:
            return wanted
        period = Period.asked_for(self.period, self.from_, self.to, now, tz)
        return replace(wanted, start=period.start, end=period.end)


class PageQuery(FilterQuery):
    """Which records, and which page of them."""

    limit: Limit = LIMIT_DEFAULT
    cursor: Cursor = None
    sort: Literal["-createdAt", "-cost", "-latency"] = Field(
        "-createdAt",
        description="`-cost` and `-latency`: the largest first. They need `from`: each page looks through "
        "that time, for ten seconds at most (then 503: narrow it).",
    )
    totals: bool = Field(False, description="Also count and sum up all that the filter selects.")


class ExportQuery(FilterQuery):
    """Which records, and in which form."""

    format: Literal["csv", "jsonl"] = "jsonl"


class TotalsView(TypedDict):
    """What the filter selects, summed up over all pages, as far back as records are kept."""

    requests: int
    creditsCost: float
    costNanoUsd: int
    inputTokens: int
    outputTokens: int
    cacheWriteTokens: int
    cacheHitTokens: int


class PageView(ExpiredView):
    """A page, newest first unless it was sorted. `nextCursor` null: there are no more.

    A page with fewer records than `limit` and a `nextCursor` is one for which many records had to be looked
    through: those accepted after `searchedTo` are done, the next page goes on from there.
    """

    requests: list[RecordView]
    nextCursor: str | None
    searchedTo: str | None
    totals: NotRequired[TotalsView]


class BarView(TypedDict):
    """The requests from `start` on, up to the start of the next bar, by how they ended.

    `refused` by the proxy, `left` by the client; `failed` is whatever else was no good answer.
    """

    start: str
    ok: int
    refused: int
    left: int
    failed: int


class FacetValueView(TypedDict):
    """How many requests there were of a value."""

    value: str | int
    requests: int


class FacetView(TypedDict):
    """The values met most often of what `by` names; `others` are requests with another one, or none."""

    by: str
    values: list[FacetValueView]
    others: int


class BreakdownView(ExpiredView):
    """What a filter selects from `since` on (null: all of it). Latencies are within five per cent."""

    since: str | None
    requests: int
    failed: int
    creditsCost: float
    costNanoUsd: int
    inputTokens: int
    outputTokens: int
    cacheWriteTokens: int
    cacheHitTokens: int
    p50LatencyMs: int | None
    p95LatencyMs: int | None
    bars: list[BarView]
    facets: list[FacetView]
    views: dict[str, int]


def _with_usd(sums: Mapping[str, int]) -> Document:
    return {**sums, "creditsCost": usd(sums["costNanoUsd"])}


def _breakdown_view(found: Breakdown) -> Document:
    facets = [
        {
            "by": facet.name,
            "values": [{"value": value, "requests": number} for value, number in facet.values],
            "others": facet.others,
        }
        for facet in found.facets
    ]
    return {
        "since": None if found.since is None else iso_utc(found.since),
        **_with_usd(found.sums),
        "p50LatencyMs": found.p50_ms,
        "p95LatencyMs": found.p95_ms,
        "bars": [{"start": iso_utc(bar.start), **bar.counts} for bar in found.bars],
        "facets": facets,
        "views": dict(found.views),
    }


def add_request_log_routes(
    routes: Blueprint, logs: RequestLogStore, clock: Clock, tz: tzinfo, prices: PriceHistory | None = None
) -> None:
    """Add the routes; `tz` is the zone of times that name none, and `prices` explains what a record cost."""

    @routes.get("/request-logs")
    @_logs("A page of records", answers=PageView)
    def request_logs(query: PageQuery) -> Response:
        """List records, newest first. If no index meets all conditions, pages may be short (`searchedTo`)."""
        now = clock.utcnow()
        wanted = logs.with_known_keys(query.filter(now, tz))
        if query.sort == "-createdAt":
            found, following = logs.find(wanted, query.limit, PageCursor.parse(query.cursor))
        elif wanted.start is None:
            raise FilterError("sort", f"{query.sort} needs `from`")
        else:
            cursor = PageCursor.parse(query.cursor, query.sort)
            found, following = logs.largest(wanted, query.sort, query.limit, cursor)
        answer: Document = {
            "requests": [shown_record(document) for document in found],
            "nextCursor": following,
            "searchedTo": None if following is None or query.sort != "-createdAt" else _moment_of(following),
        }
        if query.totals:
            answer["totals"] = _with_usd(logs.totals(wanted))
        return jsonify(answer | expired_note(logs.expired_before(wanted, now)))

    @routes.get("/request-logs/breakdown")
    @_logs(
        "What a filter selects, counted",
        answers=BreakdownView,
        errors={503: "Even a small part of it took too long."},
    )
    def breakdown(query: FilterQuery) -> Response:
        """Count and sum up what a filter selects: over time, by outcome, status, model, user, key and so on.

        The newest requests are looked through, so many as can be done within seconds. `since` not null: older
        ones are not counted, and every figure is of the time from then on.
        """
        now = clock.utcnow()
        wanted = logs.with_known_keys(query.filter(now, tz))
        found = logs.breakdown(wanted, now, tz)
        if found is None:
            return error_answer(503, "it takes too long to count that", hint="narrow the time")
        return jsonify({**_breakdown_view(found), **expired_note(logs.expired_before(wanted, now))})

    @routes.get("/request-logs/export")
    @_logs(
        "Records as a file",
        answers={
            200: Content("application/x-ndjson", "A record a line, oldest first; as CSV with `format=csv`.")
        },
    )
    def export(query: ExportQuery) -> Response:
        """Stream records, however many there are. A file that ends early ends with a broken connection.

        Where records of the time asked for have expired, `X-Weir-Expired-Before` says up to when.
        """
        now = clock.utcnow()
        wanted = logs.with_known_keys(query.filter(now, tz))
        response = export_response(logs.export(wanted), query.format)
        if (expired_before := logs.expired_before(wanted, now)) is not None:
            response.headers[EXPIRED_HEADER] = iso_utc(expired_before)
        return response

    @routes.get("/request-logs/<request_id>")
    @_logs("One record", answers=RecordView, errors={404: "There is no such record (any more)."})
    def request_log(request_id: str) -> Response:
        """Show a record by its request id, and how its cost comes about (`explanation`).

        The cost is worked out anew, line by line, by the prices it was charged by.
        """
        document = logs.get(request_id)
        if document is None:
            since = logs.kept_since(clock.utcnow())
            hint = {} if since is None else {"hint": f"records from before {iso_utc(since)} have expired"}
            return error_answer(404, f"there is no record of a request {request_id[:80]}", **hint)
        shown = shown_record(document)
        if prices is not None:
            shown["explanation"] = explanation_view(prices.explain(document))
        return jsonify(shown)


def export_response(records: Iterator[Document], form: str) -> Response:
    """Return the records as a file that is made while it is sent."""
    if form == "csv":
        return csv_download(csv_lines(records), "request-logs", records)
    return download(jsonl_lines(records), "request-logs.jsonl", JSON_LINES, "\n", records)


def _moment_of(cursor: str) -> str:
    return iso_utc(PageCursor.decode(cursor).moment)
