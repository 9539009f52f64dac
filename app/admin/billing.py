"""Months: what they come to so far, the statements of their users, and closing them."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from flask import Blueprint, Response, abort, redirect, render_template, request, url_for
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response as AnyResponse
from wtforms import BooleanField

from app.admin.acting import actor
from app.admin.asking import ask
from app.common.cursor import FilterError
from app.exchange.ports import Clock
from app.management.errors import Conflict
from app.management.reading import Month, Statement, StatsStore, by_model, rows_csv
from app.management.statements import StatementAdmin

USERS_AT_ONCE = 100

Document = dict[str, Any]


class StatementFile(Protocol):
    """Answers with one user's statement in another form: `csv`, or `html`, which prints."""

    def __call__(
        self, month: Month, statement: Statement, form: str, *, status: str, at: datetime
    ) -> Response:
        """`status` is that of the month, as of `at`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingSources:
    """What the pages read and make; `verify` says whether everything stored agrees."""

    admin: StatementAdmin
    stats: StatsStore
    verify: Callable[[], Mapping[str, Any]]
    csv: Callable[[Iterator[str], str, Iterator[Any] | None], Response]
    statement_file: StatementFile


class CloseForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """How to close a month."""

    anyway = BooleanField(
        "Close it even if the check finds differences",
        description="Before it is closed, records, sums and balances are compared, as `weir verify` does.",
    )


def billing_pages(sources: BillingSources, clock: Clock) -> Blueprint:
    """Make the pages below `/billing`; a month is open, or closed for good."""
    routes = Blueprint("billing", __name__)
    statements = sources.admin.statements

    def asked(name: str) -> Month:
        try:
            return statements.month(name)
        except FilterError:
            abort(404)

    @routes.get("/billing")
    def months() -> str:
        now = clock.utcnow()
        found = ask(lambda: statements.months(now))
        rows = [_with_charges(head, sources.stats, asked(head["month"]), now) for head in found or ()]
        return render_template("billing.html", months=rows)

    @routes.get("/billing/<month>")
    def one_month(month: str) -> str:
        return show_month(asked(month), CloseForm())

    def show_month(month: Month, form: CloseForm) -> str:
        now = clock.utcnow()
        search, cursor = (request.args.get(name, "").strip()[:128] for name in ("search", "cursor"))
        users = ask(lambda: statements.users(month, now)) or []
        wanted = [user for user in users if search in user] if search else users
        begin = bisect_right(wanted, cursor) if cursor else 0
        some = wanted[begin : begin + USERS_AT_ONCE]
        head = ask(lambda: statements.head(month, now))
        rows = ask(lambda: statements.rows(month, some, now)) or []
        return render_template(
            "billing_month.html",
            month=month,
            head=None if head is None else _with_charges(head, sources.stats, month, now),
            rows=rows,
            users=len(users),
            found=len(wanted),
            search=search,
            next_cursor=some[-1] if begin + len(some) < len(wanted) else None,
            form=form,
        )

    @routes.get("/billing/<month>/users.csv")
    def month_csv(month: str) -> Response:
        now, wanted = clock.utcnow(), asked(month)
        found = statements.statements(wanted, statements.users(wanted, now), now)
        return sources.csv(rows_csv(wanted, found), f"statements-{wanted.name}", found)

    @routes.post("/billing/<month>/close")
    def close(month: str) -> AnyResponse | str:
        wanted, form = asked(month), CloseForm()
        if not form.validate():
            return show_month(wanted, form)
        try:
            sources.admin.close(actor(), wanted.name, sources.verify, anyway=bool(form.anyway.data))
        except Conflict as refusal:
            form.form_errors.append(f"{wanted.name} was not closed: {refusal}.")
            return show_month(wanted, form)
        return redirect(url_for("billing.one_month", month=wanted.name), code=303)

    @routes.get("/billing/<month>/of/<path:name>")
    def statement(month: str, name: str) -> AnyResponse | str:
        now, wanted = clock.utcnow(), asked(month)
        found = statements.statement(wanted, name, now)
        if found is None:
            abort(404)
        head = statements.head(wanted, now)
        form = request.args.get("as", "")
        if form in ("csv", "html"):
            return sources.statement_file(wanted, found, form, status=head["state"], at=now)
        users = statements.users(wanted, now)
        at = bisect_left(users, name)
        return render_template(
            "statement.html",
            month=wanted,
            head=head,
            statement=found,
            models=by_model(found.charges),
            late=statements.late(wanted, name, now) if head["state"] != "closed" else [],
            before=users[at - 1] if at else None,
            after=users[at + 1] if at + 1 < len(users) else None,
        )

    return routes


def _with_charges(head: Document, stats: StatsStore, month: Month, now: datetime) -> Document:
    """Return a month with what was charged in it: as closed, else as the sums say now."""
    if "sums" in head:
        return {**head, "chargesNano": head["sums"]["chargesNanoUsd"]}
    total = ask(lambda: stats.total(month.period(now)))
    if total is None:
        return {**head, "chargesNano": None}
    return {**head, "chargesNano": total.cost_nano_usd, "requests": total.requests}
