"""`/api/admin/statements…`: what each user had, was given, used and has left in a month; closing months."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NotRequired

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.accounts.login_tries import LoginGuard
from app.api.admin.auth import current_actor, require_admin
from app.api.answers import error_answer, handle_errors
from app.api.downloads import csv_download
from app.api.operation import ApiSection, Query
from app.api.statement_files import StatementQuery, statement_file
from app.exchange.ports import Clock
from app.management.reading import rows_csv
from app.management.statements import StatementAdmin

_section = ApiSection("Statements")
_MAX_ROWS = 1000


class MonthQuery(Query):
    """Which page of users, and in which form."""

    limit: Annotated[int, Field(ge=1, le=_MAX_ROWS)] = _MAX_ROWS
    cursor: Annotated[
        str | None, Field(max_length=400, description="`nextCursor` of the page before: the name of a user.")
    ] = None
    format: Literal["json", "csv"] = Field("json", description="`csv` has every user.")


class CloseQuery(Query):
    """How to close."""

    anyway: bool = Field(False, description="Also if `verify` finds differences.")


_From = TypedDict("_From", {"from": str})


class MonthView(_From):
    """A month in `timezone`, and if it is closed what it was closed with; `sums` are those of all users.

    `sha256` is over the statements of all users in order. `records` were in the log then.
    """

    month: str
    to: str
    timezone: str
    state: Literal["open", "closing", "closed"]
    hasBegun: bool
    isOver: bool
    closedAt: NotRequired[str]
    closedBy: NotRequired[str]
    users: NotRequired[int]
    sums: NotRequired[dict[str, int]]
    sha256: NotRequired[str]
    requests: NotRequired[int]
    records: NotRequired[int]
    priceVersions: NotRequired[list[dict[str, Any]]]
    verify: NotRequired[dict[str, Any]]


class MonthsView(TypedDict):
    """Months, newest first."""

    months: list[MonthView]


class StatementRow(TypedDict):
    """One user: opening + credits - debits - charges - late = closing, in nano-dollars.

    Balances are null where there is none, as of the fixed client key. `lateNanoUsd` was booked into closed
    months after they were closed. `unexplainedNanoUsd` is what the balance of now differs by from the books.
    """

    user: str
    openingNanoUsd: int | None
    creditsNanoUsd: int
    debitsNanoUsd: int
    chargesNanoUsd: int
    lateNanoUsd: int
    closingNanoUsd: int | None
    unexplainedNanoUsd: int
    spentNanoUsd: Annotated[int, Field(description="All charges up to the end of the month.")]
    requestCount: int
    inputTokens: int
    outputTokens: int
    cacheWriteTokens: int
    cacheHitTokens: int


class MonthPageView(MonthView):
    """A month with a page of its users, by name."""

    rows: list[StatementRow]
    nextCursor: str | None


class StatementView(MonthView):
    """A user's statement. `late` says which closed months something was booked into since."""

    statement: dict[str, Any]
    late: list[dict[str, Any]]


_NO_MONTH = {400: "This is no month: `YYYY-MM`."}


def statements_blueprint(
    admin: StatementAdmin, verify: Callable[[], Mapping[str, Any]], clock: Clock, guard: LoginGuard
) -> Blueprint:
    """Make the routes; `verify` says whether everything stored agrees, before a month is closed."""
    routes = Blueprint("statements_api", __name__, url_prefix="/api/admin")
    require_admin(routes, guard)
    handle_errors(routes)
    statements = admin.statements

    @routes.get("/statements")
    @_section("The months there are", answers=MonthsView)
    def months() -> Response:
        """List the months there is anything of, and whether they are closed."""
        return jsonify(months=statements.months(clock.utcnow()))

    @routes.get("/statements/<month>")
    @_section("A month, user by user", answers=MonthPageView, errors=_NO_MONTH)
    def month_page(month: str, query: MonthQuery) -> Response:
        """List users by name: as they were closed, else as the books say now."""
        now, asked = clock.utcnow(), statements.month(month)
        users = statements.users(asked, now)
        if query.format == "csv":
            found = statements.statements(asked, users, now)
            return csv_download(rows_csv(asked, found), f"statements-{asked.name}", found)
        begin = bisect_right(users, query.cursor) if query.cursor else 0
        some = users[begin : begin + query.limit]
        rows = statements.rows(asked, some, now)
        has_more = begin + query.limit < len(users)
        return jsonify(
            statements.head(asked, now) | {"rows": rows, "nextCursor": some[-1] if has_more else None}
        )

    @routes.get("/statements/<month>/<user>")
    @_section(
        "A user's statement",
        answers=StatementView,
        errors=_NO_MONTH | {404: "There is no such user."},
    )
    def statement(month: str, user: str, query: StatementQuery) -> Response:
        """Show every charge by day, model and client key, and the ledger's lines; `html` prints well."""
        now, asked = clock.utcnow(), statements.month(month)
        found = statements.statement(asked, user, now)
        if found is None:
            return error_answer(404, f"there is no user {user[:80]}")
        head = statements.head(asked, now)
        if query.format != "json":
            return statement_file(asked, found, query.format, status=head["state"], at=now)
        late = statements.late(asked, user, now) if head["state"] != "closed" else []
        return jsonify(head | {"statement": found.to_json(), "late": late})

    @routes.post("/statements/<month>/close")
    @_section(
        "Close a month",
        answers=MonthView,
        errors=_NO_MONTH | {409: "It is not over, closed already, or `verify` finds differences."},
    )
    def close(month: str, query: CloseQuery) -> Response:
        """Freeze all statements of a month for good: what is booked into it later appears in the next one."""
        return jsonify(admin.close(current_actor(), month, verify, anyway=query.anyway))

    return routes
