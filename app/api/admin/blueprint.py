"""The routes of the admin API, each a few lines: parse, ask a store, render."""

from datetime import tzinfo

from flask import Blueprint

from app.api.admin.auth import VerifyAdmin, require_admin
from app.api.admin.health import HealthReader, add_health_route
from app.api.admin.request_logs import LogReader, add_request_log_routes
from app.api.admin.statistics import StatsReader, add_statistics_routes
from app.api.admin.verify import Verifier, add_verify_route
from app.api.answers import handle_errors
from app.core.ports import Clock


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

    add_statistics_routes(routes, stats, clock, tz)
    add_request_log_routes(routes, logs, clock)
    if verifier is not None:
        add_verify_route(routes, verifier, clock)
    if health is not None:
        add_health_route(routes, health)
    return routes
