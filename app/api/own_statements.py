"""`/api/user/statements/YYYY-MM`: what the caller's user had, was given, used and has left in a month."""

from typing import Annotated, Any, Literal, NotRequired

from flask import Blueprint, Response, g, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.accounts.principal import Principal
from app.api.answers import error_answer
from app.api.operation import USER, ApiSection
from app.api.statement_files import StatementQuery, statement_file
from app.exchange.ports import Clock
from app.management.reading import Statements

_own = ApiSection("User", access=USER)

_SHOWN = ("month", "from", "to", "timezone", "state", "hasBegun", "isOver", "closedAt")
# Who of the operators gave it is not the user's affair; why, they were told.
_OPERATORS = frozenset(("by",))


_From = TypedDict("_From", {"from": str})


class OwnStatementView(_From):
    """A month in `timezone`: opening + credits - debits - charges - late = closing, in nano-dollars."""

    month: str
    to: str
    timezone: str
    state: Annotated[
        Literal["open", "closing", "closed"], Field(description="A closed month never changes again.")
    ]
    hasBegun: bool
    isOver: bool
    closedAt: NotRequired[str]
    statement: dict[str, Any]


def add_own_statements(routes: Blueprint, statements: Statements, clock: Clock) -> None:
    """Add them to the routes of `/api/user`, which know the caller."""

    @routes.get("/statements/<month>")
    @_own(
        "Your statement of a month",
        answers=OwnStatementView,
        errors={400: "This is no month: `YYYY-MM`.", 404: "There is nothing of you in this month."},
    )
    def own_statement(month: str, query: StatementQuery) -> Response:
        """Show your charges by day, model and key, and what you were given; also as CSV, or to print."""
        principal: Principal = g.principal
        now, asked = clock.utcnow(), statements.month(month)
        found = statements.statement(asked, principal.user_id, now)
        if found is None:
            return error_answer(404, f"there is nothing of you in {asked.name}")
        head = statements.head(asked, now)
        if query.format != "json":
            return statement_file(asked, found, query.format, status=head["state"], at=now)
        shown = found.to_json()
        shown["ledger"] = [
            {name: value for name, value in line.items() if name not in _OPERATORS}
            for line in shown["ledger"]
        ]
        return jsonify({name: head[name] for name in _SHOWN if name in head} | {"statement": shown})
