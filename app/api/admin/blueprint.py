"""The routes of the admin API, each a few lines: parse, ask a store, render."""

from datetime import datetime, tzinfo
from typing import Any, Protocol

from flask import Blueprint, Response, jsonify, request

from app.api.admin.auth import VerifyAdmin, require_admin
from app.api.admin.health import HealthReader, add_health_route
from app.api.admin.verify import Verifier, add_verify_route
from app.api.answers import error_answer, handle_errors
from app.core.display import shown_record
from app.core.log_filter import LogFilter, PageCursor, parse_limit
from app.core.periods import parse_period
from app.core.ports import Clock

Document = dict[str, Any]


class LogReader(Protocol):
    """Where records are read; raises `StoreUnavailable`."""

    def find(
        self, wanted: LogFilter, limit: int, cursor: PageCursor | None = None
    ) -> tuple[list[Document], str | None]:
        """One page, newest first, and the cursor of the next."""

    def get(self, request_id: str) -> Document | None:
        """One record."""


class StatsReader(Protocol):
    """Where statistics are made; raises `StoreUnavailable`."""

    def model_stats(self, period: str, now: datetime, tz: tzinfo) -> list[Document]:
        """The rows of the model table."""

    def metrics(self, period: str, now: datetime, tz: tzinfo) -> Document:
        """The figures of all requests together."""

    def user_stats(self, period: str, now: datetime, tz: tzinfo) -> Document:
        """The figures of all users together."""


def admin_blueprint(
    *,
    logs: LogReader,
    stats: StatsReader,
    clock: Clock,
    tz: tzinfo,
    admin_token: str,
    verify_admin: VerifyAdmin,
    verifier: Verifier | None = None,
    health: HealthReader | None = None,
) -> Blueprint:
    """`/api/admin/…` over these stores; `tz` is where days start in statistics."""
    routes = Blueprint("admin_api", __name__, url_prefix="/api/admin")
    require_admin(routes, admin_token, verify_admin)
    handle_errors(routes)

    @routes.get("/model-stats")
    def model_stats() -> Response:
        period = parse_period(request.args.get("period"))
        return jsonify(models=stats.model_stats(period, clock.utcnow(), tz), period=period)

    @routes.get("/metrics")
    def metrics() -> Response:
        return jsonify(stats.metrics(parse_period(request.args.get("period")), clock.utcnow(), tz))

    @routes.get("/user-stats")
    def user_stats() -> Response:
        return jsonify(stats.user_stats(parse_period(request.args.get("period")), clock.utcnow(), tz))

    @routes.get("/request-logs")
    def request_logs() -> Response:
        values = request.args.to_dict()
        wanted = LogFilter.parse(values, clock.utcnow())
        cursor = PageCursor.decode(values["cursor"]) if values.get("cursor") else None
        found, next_cursor = logs.find(wanted, parse_limit(values.get("limit")), cursor)
        return jsonify(requests=[shown_record(document) for document in found], nextCursor=next_cursor)

    @routes.get("/request-logs/<request_id>")
    def request_log(request_id: str) -> Response:
        document = logs.get(request_id)
        if document is None:
            return error_answer(404, f"there is no record of a request {request_id[:80]}")
        return jsonify(shown_record(document))

    if verifier is not None:
        add_verify_route(routes, verifier, clock)
    if health is not None:
        add_health_route(routes, health)
    return routes
