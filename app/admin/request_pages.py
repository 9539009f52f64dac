"""Requests: those that the question asks for, counted and one by one, and one page per record."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, tzinfo
from typing import Any
from urllib.parse import urlencode

from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    jsonify,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from werkzeug.wrappers import Response as AnyResponse

from app.admin.asking import ask, asked_question, is_redrawn
from app.admin.charts import endings_chart
from app.admin.live import live
from app.admin.question import NAMES
from app.admin.reasons import ENDINGS, reason_of
from app.admin.record_view import booked_nano, cost_view, position, timeline, whole
from app.admin.request_views import (
    COLUMNS,
    FIGURES,
    SORTED_BY,
    VIEW_ORDERS,
    VIEW_TITLES,
    chosen_columns,
)
from app.common.cursor import FilterError, PageCursor
from app.exchange.ports import Clock
from app.management.price_history import PriceHistory
from app.management.reading import RequestLogStore
from app.management.users import UserAdmin
from app.management.views.price_history import ExplanationView, explanation_view
from app.pricing.model_table import ModelTable
from app.records.breakdown import Breakdown
from app.records.log_export import FORMATS
from app.records.log_filter import FAILED, LogFilter, parse_limit
from app.records.shown_record import shown_record
from app.statistics.periods import ALL, UnknownPeriodError

PAGE_SIZE = 50
COLUMNS_COOKIE = "weir_columns"
NEWEST_FIRST = "-createdAt"

CHOICES: Mapping[str, Mapping[str, str]] = {
    "view": VIEW_TITLES,
    "outcome": {FAILED: "anything but ok"} | dict(ENDINGS),
    "apiFormat": {"openai": "openai", "anthropic": "anthropic"},
}
"""Filters that take one of a few values, and what these are called."""

_API_NAMES = {"api": "endpoint"}
_FACET_NAMES = {name: own for own, name in _API_NAMES.items()}

_A_YEAR_S = 365 * 86_400
_NAMES_SHOWN = 20
_SUGGESTED = ("user", "key", "model", "factoryKey", "endpoint", "client")

Document = dict[str, Any]


Download = Callable[[Iterator[Document], str], Response]
"""Records as a file in one of `FORMATS`, made while it is sent."""


def request_pages(
    logs: RequestLogStore,
    models: ModelTable,
    download: Download,
    clock: Clock,
    tz: tzinfo,
    prices: PriceHistory | None = None,
    users: UserAdmin | None = None,
) -> Blueprint:
    """Make `/requests` and what is below it.

    `prices` explains what a record cost, `users` are whom the filter suggests.
    """
    routes = Blueprint("requests", __name__)
    reading = _Reading(logs, clock, tz)
    _add_table(routes, reading, models)
    _add_record(routes, reading, models, prices)

    @routes.get("/requests/export")
    def export() -> Response:
        chosen = request.args.get("format", "")
        if chosen not in FORMATS:
            abort(404)
        try:
            selection = reading.wanted()
        except FilterError:
            abort(400)
        return download(logs.export(selection), chosen)

    @routes.get("/requests/columns")
    def columns() -> AnyResponse:
        """Keep which columns are shown, in a cookie: it changes nothing but that."""
        chosen = "" if "default" in request.args else ",".join(chosen_columns(request.args.getlist("column")))
        target = url_for(
            "requests.table",
            columns=chosen or None,
            sort=request.args.get("sort"),
            limit=request.args.get("limit"),
        )
        response = redirect(target, code=303)
        response.set_cookie(
            COLUMNS_COOKIE, chosen, max_age=_A_YEAR_S if chosen else 0, path="/admin",
            secure=request.is_secure, httponly=True, samesite="Lax",
        )  # fmt: skip
        return response

    @routes.get("/requests/users")
    def suggested_users() -> Response:
        """Name users for what is being typed."""
        text = request.args.get("text", "").strip()[:64]
        found = None
        if users is not None and text:
            found = ask(lambda: users.page(search=text, order="name", limit=_NAMES_SHOWN))
        return jsonify([str(row["_id"]) for row in (found or ([], None))[0]])

    return routes


class _Reading:
    """What both kinds of pages read: records of what the address asks for, in the order it asks for."""

    def __init__(self, logs: RequestLogStore, clock: Clock, tz: tzinfo) -> None:
        self.logs, self.clock, self.tz = logs, clock, tz

    def wanted(self, *left_out: str) -> LogFilter:
        """Read what is asked for, but for parameters that are left out; raises `FilterError`."""
        now, question = self.clock.utcnow(), asked_question()
        given = {
            _API_NAMES.get(name, name): value
            for name, value in question.given.items()
            if name not in left_out
        }
        found = LogFilter.parse(given, now, self.tz)
        if "period" in question.given:
            try:
                period = question.period(now, self.tz, ALL)
            except UnknownPeriodError as error:
                raise FilterError("period", str(error)) from None
            found = replace(found, start=period.start, end=period.end)
        return ask(lambda: self.logs.with_known_keys(found)) or found

    @property
    def sort(self) -> str:
        """The order asked for; the newest first where it is none."""
        asked = request.args.get("sort", "")
        return asked if asked in SORTED_BY.values() else NEWEST_FIRST

    def page(self, wanted: LogFilter, since: datetime | None) -> tuple[list[Document], str | None]:
        """Return a page of records, and the cursor of the next one; raises `FilterError`.

        The largest are looked for within the time asked for, else since `since`.
        """
        limit = parse_limit(request.args.get("limit"), PAGE_SIZE)
        if self.sort != NEWEST_FIRST:
            within = wanted if wanted.start else replace(wanted, start=since)
            begin = PageCursor.parse(request.args.get("cursor"), self.sort)
            return ask(lambda: self.logs.largest(within, self.sort, limit, begin)) or ([], None)
        begin = PageCursor.parse(request.args.get("cursor"))
        return ask(lambda: self.logs.find(wanted, limit, begin)) or ([], None)


def _add_table(routes: Blueprint, reading: _Reading, models: ModelTable) -> None:
    logs, tz = reading.logs, reading.tz

    @routes.get("/requests")
    @live
    def table() -> AnyResponse:
        if request.cookies.get(COLUMNS_COOKIE) and "columns" not in request.args:
            # In the address, so that whoever draws the page anew, or is sent it, has the same columns.
            given = [*request.args.items(multi=True), ("columns", request.cookies[COLUMNS_COOKIE])]
            return redirect(f"{request.script_root}{request.path}?{urlencode(given)}", code=303)
        problem: FilterError | None = None
        breakdown = without_view = kept_since = None
        records: list[Document] = []
        following: str | None = None
        now, question = reading.clock.utcnow(), asked_question()
        selection = LogFilter()
        counts = not request.args.get("cursor") and not is_redrawn()
        try:
            selection = reading.wanted()
            if counts:
                breakdown = ask(lambda: logs.breakdown(selection, now, tz))
            records, following = reading.page(selection, breakdown.since if breakdown else None)
            kept_since = ask(lambda: logs.kept_since(now))
            if counts and "view" in question.given and breakdown is not None:
                base = reading.wanted("view")
                without_view = ask(lambda: logs.breakdown(base, now, tz))
        except FilterError as error:
            problem = error
        facets = breakdown.facets if breakdown else ()
        seen = {str(record.get("userKeyId")) for record in records}
        seen.update(str(value) for facet in facets if facet.name == "key" for value, _ in facet.values)
        key_names = ask(lambda: logs.key_names(seen)) or {}
        page = make_response(
            render_template(
                "requests.html",
                rows=[_row(record, key_names) for record in records],
                following=following,
                problem=problem,
                cursor=request.args.get("cursor", ""),
                expired=kept_since if selection.reaches_before(kept_since) else None,
                kept_days=(now - kept_since).days if kept_since else None,
                usage_page=_first_page("usage.table", "usage.usage", "home.home"),
                choices={**CHOICES, **_suggestions(breakdown, models, key_names)},
                export_formats=FORMATS,
                breakdown=breakdown,
                counts=counts,
                chart=endings_chart(breakdown.bars, now, tz) if breakdown else None,
                views=_views(question.given.get("view"), breakdown, without_view),
                columns=chosen_columns(request.args.get("columns", "").split(",")),
                all_columns=COLUMNS,
                figures=FIGURES,
                sorts=SORTED_BY,
                sort=reading.sort,
                key_names=key_names,
                facet_names=_FACET_NAMES,
            )
        )
        page.status_code = 200 if problem is None else 400
        return page


def _add_record(
    routes: Blueprint, reading: _Reading, models: ModelTable, prices: PriceHistory | None
) -> None:
    logs = reading.logs

    @routes.get("/requests/<path:request_id>")
    def record(request_id: str) -> Response:
        document = logs.get(request_id)
        if document is None:
            page = make_response(render_template("no_record.html", request_id=request_id))
            page.status_code = 404
            return page
        shown = shown_record(document)
        stored_key = str(document.get("userKeyId"))
        before, after = _neighbours(reading, document)
        return make_response(
            render_template(
                "record.html",
                record=shown,
                key_name=(ask(lambda: logs.key_names({stored_key})) or {}).get(stored_key),
                before=before,
                after=after,
                sort=request.args.get("sort"),
                reason=reason_of(shown),
                spans=timeline(shown),
                first_token_x=position(shown, whole(shown, "ttftMs")) if shown.get("ttftMs") else None,
                cost=cost_view(shown, models.resolve),
                explained=_explained(prices, document),
                alike=_alike(shown),
                pages=list(_pages_about(shown)),
            )
        )


def _neighbours(reading: _Reading, document: Document) -> tuple[str | None, str | None]:
    """Return the ids of the records beside this one in the list it was opened from."""
    try:
        wanted = reading.wanted()
    except FilterError:
        return None, None
    return ask(lambda: reading.logs.neighbours(wanted, document, reading.sort)) or (None, None)


def _explained(prices: PriceHistory | None, document: Document) -> ExplanationView | None:
    """Return how the cost comes about, where the record says by which table."""
    if prices is None or not isinstance(document.get("priceVersion"), str):
        return None
    return explanation_view(prices.explain(document))


def _row(document: Document, key_names: Mapping[str, str]) -> Document:
    """Return a record as the table shows it. Any field of it may be missing or of another type."""
    shown = shown_record(document)
    attempts = shown.get("attempts")
    shown["attempts"] = len(attempts) if isinstance(attempts, list) else None
    shown["nano"] = booked_nano(shown)
    shown["keyName"] = key_names.get(str(document.get("userKeyId")))
    return shown


def _views(
    chosen: str | None, breakdown: Breakdown | None, without_view: Breakdown | None
) -> Iterator[tuple[str | None, str, int | None, str | None]]:
    """Yield the views: name, title, how many requests each has, and the order it is shown in."""
    whole_log = without_view if chosen else breakdown
    yield None, "All", whole_log.sums["requests"] if whole_log else None, None
    for name, title in VIEW_TITLES.items():
        number = whole_log.views[name] if whole_log else None
        if name == chosen and breakdown is not None:
            number = breakdown.sums["requests"]
        yield name, title, number, VIEW_ORDERS.get(name)


def _suggestions(
    breakdown: Breakdown | None, models: ModelTable, key_names: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return what fields of the filter suggest: what there is, most often met first."""
    facets = breakdown.facets if breakdown else ()
    found = {
        _FACET_NAMES.get(facet.name, facet.name): [
            key_names.get(str(value), str(value)) for value, _ in facet.values
        ]
        for facet in facets
        if facet.name in _SUGGESTED
    }
    known = [*found.get("model", ()), *(model.id for model in models)]
    return {**found, "model": list(dict.fromkeys(known))}


def _first_page(*endpoints: str) -> str | None:
    """Return the first of these pages that there is."""
    return next((name for name in endpoints if name in current_app.view_functions), None)


def _pages_about(shown: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield links to the pages about what a record names, with their titles."""
    user, key = shown.get("userId"), shown.get("userKeyId")
    if isinstance(user, str) and user and "users.one_user" in current_app.view_functions:
        yield f"User {user}", url_for("users.one_user", name=user)
    if isinstance(key, str) and key.startswith("wk_") and "client_keys.one_key" in current_app.view_functions:
        yield "Client key", url_for("client_keys.one_key", key_id=key)


def _alike(shown: Mapping[str, Any]) -> Iterable[tuple[str, dict[str, str | None]]]:
    """Yield links to all records that share something with this one, whatever else was asked."""
    for text, name, field in (
        ("of this user", "user", "userId"),
        ("with this client key", "key", "userKeyId"),
        ("for this model", "model", "model" if shown.get("model") else "requestedModel"),
        ("served by this upstream key", "factoryKey", "factoryKeyId"),
        ("that ended like this", "outcome", "outcome"),
        ("of this session", "session", "sessionId"),
        ("for this end user", "endUser", "endUser"),
        ("by this client program", "client", "clientName"),
    ):
        value = shown.get(field)
        if isinstance(value, str) and value:
            yield text, {**dict.fromkeys(NAMES), name: value}
