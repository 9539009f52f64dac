"""`GET /api/admin/verify`: the report of `flask verify`, as JSON."""

from datetime import datetime
from typing import Any, Protocol

from flask import Blueprint, Response, jsonify, request

from app.core.log_filter import parse_moment
from app.core.ports import Clock


class Verifier(Protocol):
    """Compares everything that is stored; raises `StoreUnavailable`."""

    def report(self, now: datetime, since: datetime | None = None) -> dict[str, Any]:
        """The outcome of every check; `consistent` says whether nothing differs."""


def add_verify_route(routes: Blueprint, verifier: Verifier, clock: Clock) -> None:
    """Add the route. One verification runs at a time, since each reads through the whole database."""
    running: set[str] = set()

    @routes.get("/verify")
    def verify() -> Response:
        now, text = clock.utcnow(), request.args.get("since")
        since = parse_moment("since", text, now) if text else None
        if running:
            busy = jsonify(error="a verification is running already", hint="try again in a minute")
            busy.status_code = 409
            return busy
        running.add("one")
        try:
            return jsonify(verifier.report(now, since))
        finally:
            running.clear()
