"""`GET /api/admin/verify`: the report of `weir verify`, as JSON."""

from datetime import tzinfo

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.answers import error_answer
from app.api.operation import ApiSection, Query
from app.exchange.ports import Clock
from app.management.reading import Reconciliation
from app.records.log_filter import parse_moment


class VerifyQuery(Query):
    """What to verify."""

    since: str | None = Field(
        None, description="Only records from then on: an ISO 8601 time, or how long ago, such as `24h`."
    )


class DifferenceView(TypedDict):
    """One thing that is not as it should be."""

    what: str
    where: str
    expected: float | str
    found: float | str
    hint: str


class CheckView(TypedDict):
    """One check. `state` is `ok`, `differs`, `pending` or `not_checked`."""

    name: str
    state: str
    compared: int
    unit: str
    differenceCount: int
    differences: list[DifferenceView]
    pendingCount: int
    pending: list[DifferenceView]
    notes: list[str]


class VerifyView(TypedDict):
    """The report; `consistent` is false exactly if something differs."""

    checkedAt: str
    consistent: bool
    differenceCount: int
    pendingCount: int
    checks: list[CheckView]


def add_verify_route(routes: Blueprint, verifier: Reconciliation, clock: Clock, tz: tzinfo) -> None:
    """Add the route; `tz` is the zone of a time that names none.

    One verification runs at a time, since each reads through the whole database.
    """
    running: set[str] = set()

    @routes.get("/verify")
    @ApiSection("Operations")(
        "Compare everything that is stored",
        answers=VerifyView,
        errors={409: "A verification is running already."},
    )
    def verify(query: VerifyQuery) -> Response:
        """Compare journal = records = hourly sums = credits and counters, as `weir verify` does."""
        now = clock.utcnow()
        since = parse_moment("since", query.since, now, tz) if query.since else None
        if running:
            return error_answer(409, "a verification is running already", hint="try again in a minute")
        running.add("one")
        try:
            return jsonify(verifier.report(now, since))
        finally:
            running.clear()
