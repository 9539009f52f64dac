"""The request log: filtered by a form whose state is the address, and one page per record."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, tzinfo
from typing import Any, Protocol

from flask import Blueprint, Response, abort, make_response, render_template, request

from app.admin.asking import ask
from app.admin.reasons import reason_of
from app.admin.record_view import booked_nano, cost_view, position, timeline, whole
from app.core.display import shown_record
from app.core.log_export import FORMATS
from app.core.log_filter import FilterError, LogFilter, PageCursor, parse_limit
from app.core.ports import Clock
from app.core.pricing import Model
from app.core.records import Outcome

PAGE_SIZE = 50
REFRESH_S = 2

FIELDS = ("model", "user", "key", "factoryKey", "outcome", "status", "apiFormat", "from", "to", "q")

Document = dict[str, Any]


class LogReader(Protocol):
    """Where records are read; raises `StoreUnavailable`."""

    def find(
        self, wanted: LogFilter, limit: int, cursor: PageCursor | None = None
    ) -> tuple[list[Document], str | None]:
        """One page, newest first, and the cursor of the next."""

    def get(self, request_id: str) -> Document | None:
        """One record."""

    def export(self, wanted: LogFilter) -> Iterator[Document]:
        """All of them, oldest first."""


class Models(Protocol):
    """The model table, for prices and for suggestions."""

    def resolve(self, name: str) -> Model | None:
        """The model of this id or alias."""

    def __iter__(self) -> Any:
        """All models."""


Download = Callable[[Iterator[Document], str], Response]
"""Records as a file in one of `FORMATS`, made while it is sent."""


def log_pages(logs: LogReader, models: Models, download: Download, clock: Clock, tz: tzinfo) -> Blueprint:
    """`/log`, `/log/export` and `/log/<id>`."""
    routes = Blueprint("log", __name__)

    def wanted() -> tuple[dict[str, str], LogFilter]:
        given = {name: value for name in FIELDS if (value := request.args.get(name, "").strip())}
        return given, LogFilter.parse(_in_zone(given, tz), clock.utcnow())

    @routes.get("/log")
    def log() -> Response:
        problem: FilterError | None = None
        given = {name: request.args.get(name, "") for name in FIELDS if request.args.get(name, "").strip()}
        found: tuple[list[Document], str | None] | None = ([], None)
        cursor = request.args.get("cursor", "")
        try:
            given, selection = wanted()
            limit = parse_limit(request.args.get("limit"), PAGE_SIZE)
            begin = PageCursor.decode(cursor) if cursor else None
            found = ask(lambda: logs.find(selection, limit, begin))
        except FilterError as error:
            problem = error
        records, following = found or ([], None)
        page = make_response(
            render_template(
                "log.html",
                rows=[_row(record) for record in records],
                following=following,
                given=given,
                problem=problem,
                cursor=cursor,
                outcomes=tuple(Outcome),
                model_ids=[model.id for model in models],
                export_formats=FORMATS,
                refresh_s=REFRESH_S,
            )
        )
        page.status_code = 200 if problem is None else 400
        return page

    @routes.get("/log/export")
    def export() -> Response:
        chosen = request.args.get("format", "")
        if chosen not in FORMATS:
            abort(404)
        try:
            _, selection = wanted()
        except FilterError:
            abort(400)
        return download(logs.export(selection), chosen)

    @routes.get("/log/<path:request_id>")
    def record(request_id: str) -> Response:
        document = logs.get(request_id)
        if document is None:
            page = make_response(render_template("no_record.html", request_id=request_id))
            page.status_code = 404
            return page
        shown = shown_record(document)
        return make_response(
            render_template(
                "record.html",
                record=shown,
                reason=reason_of(shown),
                spans=timeline(shown),
                first_token_x=position(shown, whole(shown, "ttftMs")) if shown.get("ttftMs") else None,
                cost=cost_view(shown, models.resolve),
                alike=_alike(shown),
            )
        )

    return routes


def _in_zone(given: Mapping[str, str], tz: tzinfo) -> dict[str, str]:
    """Times without a zone are meant as they are shown on the page."""
    values = dict(given)
    for name in ("from", "to"):
        text = values.get(name, "")
        try:
            moment = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", text) if "T" in text else text)
        except ValueError:
            continue
        if moment.tzinfo is None:
            values[name] = moment.replace(tzinfo=tz).isoformat()
    return values


def _row(document: Document) -> Document:
    """A record as the table shows it. Any field of it may be missing or of another type."""
    shown = shown_record(document)
    attempts = shown.get("attempts")
    shown["attempts"] = len(attempts) if isinstance(attempts, list) else None
    shown["nano"] = booked_nano(shown)
    return shown


def _alike(shown: Mapping[str, Any]) -> Iterable[tuple[str, dict[str, str]]]:
    """Links to records that share something with this one."""
    for text, name, field in (
        ("of this user", "user", "userId"),
        ("with this client key", "key", "userKeyId"),
        ("for this model", "model", "model"),
        ("served by this upstream key", "factoryKey", "factoryKeyId"),
        ("that ended like this", "outcome", "outcome"),
    ):
        value = shown.get(field)
        if isinstance(value, str) and value:
            yield text, {name: value}
