"""`/api/admin/request-logs…`: pages of records, one record, and all of them as a file."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NotRequired, Protocol

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.answers import error_answer
from app.api.operation import Content, Query, Section
from app.api.parameters import LIMIT_DEFAULT, Cursor, Limit
from app.core.display import iso_utc, shown_record
from app.core.log_export import csv_lines, jsonl_lines
from app.core.log_filter import LogFilter, PageCursor
from app.core.ports import Clock
from app.core.records import Outcome

Document = dict[str, Any]

_logs = Section("Request log")
_MOMENT = "An ISO 8601 time (UTC unless it says otherwise), or how long ago: `90s`, `15m`, `24h`, `7d`."
_CHUNK_LINES = 50
"""So many records are sent at once."""


class LogReader(Protocol):
    """Where records are read; raises `StoreUnavailable`."""

    def find(
        self, wanted: LogFilter, limit: int, cursor: PageCursor | None = None
    ) -> tuple[list[Document], str | None]:
        """One page, newest first, and the cursor of the next."""

    def get(self, request_id: str) -> Document | None:
        """One record."""

    def export(self, wanted: LogFilter) -> Iterator[Document]:
        """Every record, oldest first; gives way to other requests in between."""


class FilterQuery(Query):
    """Which records. All conditions have to be met."""

    model: str | None = Field(None, description="The canonical id.")
    user: str | None = None
    key: str | None = Field(None, description="A client key's id, or what is shown of it.")
    factoryKey: str | None = Field(None, description="The id of an upstream key.")
    outcome: Annotated[
        str | None, Field(json_schema_extra={"enum": [str(outcome) for outcome in Outcome]})
    ] = None
    status: str | None = Field(None, description="A status such as `429`, or a class such as `4xx`.")
    apiFormat: Annotated[str | None, Field(json_schema_extra={"enum": ["openai", "anthropic"]})] = None
    from_: str | None = Field(None, alias="from", description=f"Not before. {_MOMENT}")
    to: str | None = Field(None, description=f"Before. {_MOMENT}")
    q: str | None = Field(
        None,
        description="A request id, or a part of the request id, user, model, error type or the upstream's "
        "request id, in any case.",
    )

    def filter(self, now: datetime) -> LogFilter:
        """What is asked for; raises `FilterError`."""
        given = self.model_dump(by_alias=True, exclude_none=True)
        return LogFilter.parse({name: str(value) for name, value in given.items()}, now)


class PageQuery(FilterQuery):
    """Which records, and which page of them."""

    limit: Limit = LIMIT_DEFAULT
    cursor: Cursor = None


class ExportQuery(FilterQuery):
    """Which records, and in which form."""

    format: Literal["csv", "jsonl"] = "jsonl"


class RecordView(TypedDict):
    """A record, as in docs/records.md; `id` is its request id. Client keys are not shown."""

    id: str
    requestId: NotRequired[str]
    userId: NotRequired[str | None]
    model: NotRequired[str | None]
    outcome: NotRequired[str]
    statusCode: NotRequired[int]
    createdAt: NotRequired[str]


class PageView(TypedDict):
    """A page, newest first. `nextCursor` null: there are no more.

    A page with fewer records than `limit` and a `nextCursor` is one for which many records had to be looked
    through: those accepted after `searchedTo` are done, the next page goes on from there.
    """

    requests: list[RecordView]
    nextCursor: str | None
    searchedTo: str | None


def add_request_log_routes(routes: Blueprint, logs: LogReader, clock: Clock) -> None:
    """Add the routes."""

    @routes.get("/request-logs")
    @_logs("A page of records", answers=PageView)
    def request_logs(query: PageQuery) -> Response:
        """Newest first. With conditions that no index meets together, a page may be short (`searchedTo`)."""
        cursor = PageCursor.decode(query.cursor) if query.cursor else None
        found, following = logs.find(query.filter(clock.utcnow()), query.limit, cursor)
        return jsonify(
            requests=[shown_record(document) for document in found],
            nextCursor=following,
            searchedTo=None if following is None else _moment_of(following),
        )

    @routes.get("/request-logs/export")
    @_logs(
        "Records as a file",
        answers={
            200: Content("application/x-ndjson", "A record a line, oldest first; as CSV with `format=csv`.")
        },
    )
    def export(query: ExportQuery) -> Response:
        """Streamed, however many there are. A file that ends early ends with a broken connection."""
        records = logs.export(query.filter(clock.utcnow()))
        return export_response(records, query.format)

    @routes.get("/request-logs/<request_id>")
    @_logs("One record", answers=RecordView, errors={404: "There is no such record (any more)."})
    def request_log(request_id: str) -> Response:
        """By its request id."""
        document = logs.get(request_id)
        if document is None:
            return error_answer(404, f"there is no record of a request {request_id[:80]}")
        return jsonify(shown_record(document))


def export_response(records: Iterator[Document], form: str) -> Response:
    """The records as a file that is made while it is sent."""
    # The first record is read now: what fails here is still an answer with a status.
    chunks = ExportChunks(records, form)
    media_type = "text/csv; charset=utf-8" if form == "csv" else "application/x-ndjson"
    response = Response(chunks, content_type=media_type, direct_passthrough=True)
    response.headers["Content-Disposition"] = f'attachment; filename="request-logs.{form}"'
    response.headers["X-Accel-Buffering"] = "no"
    return response


class ExportChunks:
    """The lines of an export in pieces. `close()`, also of one that was never begun, ends the reading."""

    def __init__(self, records: Iterator[Document], form: str) -> None:
        self._records = records
        first = next(records, None)
        self._lines = (csv_lines if form == "csv" else jsonl_lines)(self._all(first))
        self._end = "\r\n" if form == "csv" else "\n"

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        lines = [line for _, line in zip(range(_CHUNK_LINES), self._lines, strict=False)]
        if not lines:
            raise StopIteration
        return "".join(f"{line}{self._end}" for line in lines).encode()

    def close(self) -> None:
        """End the reading."""
        close = getattr(self._records, "close", None)
        if close is not None:
            close()

    def _all(self, first: Document | None) -> Iterable[Document]:
        if first is not None:
            yield first
            yield from self._records


def _moment_of(cursor: str) -> str:
    return iso_utc(datetime.fromtimestamp(PageCursor.decode(cursor).created_ms / 1000, UTC))
