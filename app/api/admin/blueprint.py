"""The routes of the admin API, each a few lines: parse, ask a store, render."""

from datetime import tzinfo

from flask import Blueprint

from app.accounts.login_tries import LoginGuard
from app.api.admin.auth import require_admin
from app.api.admin.health import HealthReader, add_health_route
from app.api.admin.price_history import add_price_history_routes
from app.api.admin.prices import add_price_routes
from app.api.admin.request_logs import add_request_log_routes
from app.api.admin.statistics import add_statistics_routes
from app.api.admin.verify import add_verify_route
from app.api.answers import handle_errors
from app.exchange.ports import Clock
from app.management.price_history import PriceHistory
from app.management.reading import Reconciliation, RequestLogStore, StatsStore
from app.pricing.model_table import ModelTable


def admin_blueprint(  # noqa: PLR0913  (each is a part of its own)
    *,
    logs: RequestLogStore,
    stats: StatsStore,
    models: ModelTable,
    clock: Clock,
    tz: tzinfo,
    guard: LoginGuard,
    verifier: Reconciliation | None = None,
    health: HealthReader | None = None,
    prices: PriceHistory | None = None,
) -> Blueprint:
    """Make `/api/admin/…` over these stores; `tz` is where days start in statistics."""
    routes = Blueprint("admin_api", __name__, url_prefix="/api/admin")
    require_admin(routes, guard)
    handle_errors(routes)

    add_statistics_routes(routes, stats, clock, tz)
    add_price_routes(routes, stats, models, clock, tz)
    add_request_log_routes(routes, logs, clock, tz, prices)
    if prices is not None:
        add_price_history_routes(routes, prices, clock, tz, health)
    if verifier is not None:
        add_verify_route(routes, verifier, clock, tz)
    if health is not None:
        add_health_route(routes, health)
    return routes
