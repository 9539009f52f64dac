"""`GET /api/admin/verify`: the report of `flask verify`, as JSON."""

from datetime import datetime
from typing import Any, Protocol

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.answers import error_answer
from app.api.operation import Query, Section
from app.core.log_filter import parse_moment
from app.core.ports import Clock


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


class Verifier(Protocol):
    """Compares everything that is stored; raises `StoreUnavailable`."""

    def report(self, now: datetime, since: datetime | None = None) -> dict[str, Any]:
        """The outcome of every check; `consistent` says whether nothing differs."""


def add_verify_route(routes: Blueprint, verifier: Verifier, clock: Clock) -> None:
    """Add the route. One verification runs at a time, since each reads through the whole database."""
    running: set[str] = set()

    @routes.get("/verify")
    @Section("Operations")(
        "Compare everything that is stored",
        answers=VerifyView,
        errors={409: "A verification is running already."},
    )
    def verify(query: VerifyQuery) -> Response:
        """Journal = records = hourly sums = credits and counters, as `flask verify` prints it."""
        now = clock.utcnow()
        since = parse_moment("since", query.since, now) if query.since else None
        if running:
            return error_answer(409, "a verification is running already", hint="try again in a minute")
        running.add("one")
        try:
            return jsonify(verifier.report(now, since))
        finally:
            running.clear()
