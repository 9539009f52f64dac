"""The part of the admin API that changes things: users, keys, proxies; and the log of who did."""

from datetime import tzinfo

from flask import Blueprint

from app.accounts.login_tries import LoginGuard
from app.alerts.alert_store import AlertStore
from app.api.admin.alerts import add_alert_routes
from app.api.admin.audit import add_audit_routes
from app.api.admin.auth import identify_requests, require_admin
from app.api.admin.backup_keys import add_backup_key_routes
from app.api.admin.bindings import add_binding_routes
from app.api.admin.client_keys import add_client_key_routes
from app.api.admin.proxies import add_proxy_routes
from app.api.admin.upstream_keys import add_upstream_key_routes
from app.api.admin.users import add_user_routes
from app.api.answers import handle_errors
from app.exchange.ports import Clock
from app.management.administration import Administration


def resources_blueprint(
    administration: Administration,
    alerts: AlertStore,
    *,
    guard: LoginGuard,
    clock: Clock,
    tz: tzinfo,
) -> Blueprint:
    """Make `/api/admin/users…`, `keys…`, `ohmygpt/…`, `proxies…`, `audit` and `alerts`.

    `tz` is where days start.
    """
    routes = Blueprint("admin_resources", __name__, url_prefix="/api/admin")
    identify_requests(routes, clock.new_request_id)
    require_admin(routes, guard)
    handle_errors(routes)
    add_user_routes(routes, administration.users)
    add_client_key_routes(routes, administration.client_keys)
    add_upstream_key_routes(routes, administration.keys, administration.books)
    add_backup_key_routes(routes, administration.backup_keys)
    add_proxy_routes(routes, administration.proxies)
    add_binding_routes(routes, administration)
    add_audit_routes(routes, administration.audit, clock, tz)
    add_alert_routes(routes, alerts)
    return routes
