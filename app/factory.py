"""The composition root: settings become services, services routes."""

from collections.abc import Callable, Mapping
from functools import partial
from secrets import token_urlsafe
from typing import Any

import gevent
from flask import Blueprint, Flask, Response, request
from pydantic import SecretStr
from pymongo.errors import PyMongoError
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from app.accounts.credentials import derived_secret
from app.accounts.dashboard_access import DashboardAccounts, EndedSessions
from app.accounts.login_guard import AdminLoginGuard
from app.accounts.login_tries import LoginGuard
from app.accounts.shown_once import ShownOnce
from app.accounts.users import UserStore
from app.admin import AuthConfig, Page, dashboard_app
from app.admin.billing import BillingSources, billing_pages
from app.admin.customers import CustomerSources
from app.admin.home import DashboardSources, home_pages
from app.admin.live import LiveFeed
from app.admin.new_keys import NewKeys
from app.admin.own_pages import OwnSources, own_pages
from app.admin.prices import price_pages
from app.admin.request_pages import request_pages
from app.admin.resources import resource_pages
from app.admin.search import Searched
from app.admin.upstream import UpstreamSources
from app.admin.usage_pages import usage_pages
from app.alerts.alert_store import AlertStore
from app.api.admin import admin_blueprint
from app.api.admin.request_logs import export_response
from app.api.admin.resources import resources_blueprint
from app.api.admin.statements import statements_blueprint
from app.api.answers import http_error
from app.api.application import Application
from app.api.client import ClientApi
from app.api.docs import docs_blueprint
from app.api.downloads import csv_download
from app.api.forwarded import with_client_addresses
from app.api.front import front_blueprint, listed_endpoints
from app.api.health import health_blueprint
from app.api.model_list import ModelList
from app.api.openapi import openapi_document
from app.api.operations import operations_blueprint
from app.api.own_keys import add_own_keys
from app.api.own_limits import add_own_limits
from app.api.own_statements import add_own_statements
from app.api.own_usage import OwnUsage
from app.api.statement_files import statement_file
from app.api.user import user_blueprint
from app.billing.statements import Statements
from app.cli import register_commands
from app.common.clock import SystemClock
from app.logs.current_request import request_id
from app.management.first_steps import FirstStepsStore
from app.management.statements import StatementAdmin
from app.metrics.gauges import key_states
from app.pricing.model_file import load_models
from app.records.request_logs import RequestLogStore
from app.server.client_watch import SocketWatch
from app.server.cross_origin import CrossOrigin
from app.services import Services, build_services
from app.settings import Settings, generated_secret
from app.statistics.stats_store import StatsStore
from app.verify.reconciliation import Reconciliation

EXTENSION = "weir"
DASHBOARD = "weir.dashboard"
"""Under which the dashboard, an application of its own, is found in `extensions`."""


def create_app(settings: Settings | None = None) -> Flask:
    """Build the Flask application. Waits for neither network nor database; raises `SettingsError`."""
    settings = settings or Settings.from_env()
    clock = SystemClock()
    services = build_services(settings, lambda: load_models(settings.models_file), clock)
    app = Application("weir", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.extensions[EXTENSION] = services
    client = ClientApi(
        services.gateway,
        ModelList(services.models),
        OwnUsage(
            StatsStore(services.database),
            services.directory,
            services.rate_limiter,
            clock,
            settings.tz,
        ),
        clock,
        SocketWatch,
        CrossOrigin(settings.cors_origins),
    )
    app.register_blueprint(client.blueprint())
    app.register_blueprint(front_blueprint(lambda: listed_endpoints(app)))
    app.register_blueprint(health_blueprint(clock, services.metrics))
    admin_token = generated_secret(settings.data_dir, "admin-token", settings.admin_token)
    guard = _login_guard(services, admin_token, clock)
    app.register_blueprint(_admin(settings, services, guard))
    app.register_blueprint(_statements(settings, services, guard))
    app.register_blueprint(
        resources_blueprint(
            services.administration,
            AlertStore(services.database),
            guard=guard,
            clock=clock,
            tz=settings.tz,
        )
    )
    app.register_blueprint(_user(settings, services, guard))
    app.register_blueprint(_operations(services, guard))
    app.register_blueprint(docs_blueprint(lambda: openapi_document(app)))
    dashboard = _dashboard(settings, services, admin_token, guard)
    app.extensions[DASHBOARD] = dashboard
    for part in (app, dashboard):
        # A connection that is kept is served by one greenlet: the last request's id must not stay.
        part.before_request(lambda: request_id.set(None) and None)
    everything = DispatcherMiddleware(app.wsgi_app, {"/admin": dashboard})
    served = with_client_addresses(everything, settings.trusted_proxies)
    app.wsgi_app = served  # type: ignore[assignment,method-assign]
    app.register_error_handler(HTTPException, partial(_http_error, client))
    register_commands(app, settings)
    return app


def create_app_to_show(settings: Settings) -> Flask:
    """Build the application to look at its routes, not to serve: nothing is made in DATA_DIR for it."""
    made_up = dict.fromkeys(("secret_key", "admin_token"), SecretStr(token_urlsafe()))
    return create_app(settings.model_copy(update=made_up))


def _login_guard(services: Services, admin_token: str, clock: SystemClock) -> LoginGuard:
    return AdminLoginGuard(
        admin_token,
        UserStore(services.database),
        services.login_limiter,
        services.password_threads,
        monotonic=clock.monotonic,
        sleep=gevent.sleep,
    )


def _operations(services: Services, guard: LoginGuard) -> Blueprint:
    return operations_blueprint(
        keys=services.key_pool.snapshot,
        key_states=lambda keys: key_states(key.status for key in keys),
        backup_keys=_spare_keys(services),
        reload=services.reloader.reload_everywhere,
        guard=guard,
    )


def _spare_keys(services: Services) -> Callable[[], int | None]:
    """Return what counts the backup keys; None while the store cannot say."""

    def spare() -> int | None:
        try:
            return services.backup_keys.count_available()
        except PyMongoError:
            return None

    return spare


def _admin(settings: Settings, services: Services, guard: LoginGuard) -> Blueprint:
    return admin_blueprint(
        logs=RequestLogStore(services.database),
        stats=StatsStore(services.database),
        models=services.models,
        clock=SystemClock(),
        tz=settings.tz,
        guard=guard,
        verifier=_reconciliation(settings, services),
        health=services.metrics.health,
        prices=services.prices,
    )


def _statements(settings: Settings, services: Services, guard: LoginGuard) -> Blueprint:
    admin = _statement_admin(settings, services)
    return statements_blueprint(admin, _verify(settings, services), SystemClock(), guard)


def _statement_admin(settings: Settings, services: Services) -> StatementAdmin:
    return StatementAdmin(Statements(services.database, settings.tz), services.administration.audit)


def _verify(settings: Settings, services: Services) -> Callable[[], Mapping[str, Any]]:
    """Return what says whether everything stored agrees, at the time it is asked."""
    return lambda: _reconciliation(settings, services).report(SystemClock().utcnow())


def _reconciliation(settings: Settings, services: Services) -> Reconciliation:
    return Reconciliation(
        services.database,
        retention_s=settings.log_retention_s,
        journal_root=str(settings.data_dir / "journal"),
        tz=settings.tz,
        lost=lambda: services.queue.lost,
    )


def _user(settings: Settings, services: Services, guard: LoginGuard) -> Blueprint:
    users, tz = services.administration.users, settings.tz
    routes = user_blueprint(
        directory=services.directory,
        accounts=users,
        stats=StatsStore(services.database),
        logs=RequestLogStore(services.database),
        clock=SystemClock(),
        tz=tz,
        guard=guard,
        limiter=services.rate_limiter,
    )
    add_own_keys(routes, services.administration.client_keys)
    add_own_limits(routes, users, services.administration.client_keys, tz)
    add_own_statements(routes, Statements(services.database, tz), SystemClock())
    return routes


def _dashboard(settings: Settings, services: Services, admin_token: str, guard: LoginGuard) -> Flask:
    clock, tz = SystemClock(), settings.tz
    secret = generated_secret(settings.data_dir, "secret-key", settings.secret_key)
    auth = AuthConfig(
        admin_token=admin_token,
        session_key=derived_secret(secret, "weir dashboard sessions v1"),
        guard=guard,
        accounts=DashboardAccounts(services.database),
        ended=EndedSessions(services.database),
        first_owner=services.administration.first_owner,
    )
    sources = DashboardSources(
        health=services.metrics.health,
        keys=services.key_pool.snapshot,
        spare_keys=_spare_keys(services),
        ledger=services.administration.ledger.findings,
        proxies=services.administration.proxies.list,
        first_steps=FirstStepsStore(services.database).found,
        models=lambda: len(services.models.in_force.models),
    )
    stats = StatsStore(services.database)
    home = home_pages(stats, sources, clock, tz)
    billing = BillingSources(
        admin=_statement_admin(settings, services),
        stats=stats,
        verify=_verify(settings, services),
        csv=csv_download,
        statement_file=statement_file,
    )
    logs = RequestLogStore(services.database)
    users = services.administration.users
    requests = request_pages(logs, services.models, export_response, clock, tz, services.prices, users)
    administration, statements = services.administration, Statements(services.database, tz)
    new_keys = NewKeys(ShownOnce(services.database), services.models, clock)
    own = OwnSources(
        users=administration.users,
        keys=administration.client_keys,
        statements=statements,
        logs=logs,
        clock=clock,
        tz=tz,
        new_keys=new_keys,
    )
    upstream = UpstreamSources(
        stats=stats, health=services.metrics.health, hosts=settings.ohmygpt_base_url, clock=clock, tz=tz
    )
    customers = CustomerSources(
        administration=administration,
        stats=stats,
        logs=logs,
        new_keys=new_keys,
        download=csv_download,
        clock=clock,
        tz=tz,
    )
    pages = [
        Page("Home", "Home", "home.home", home),
        Page("Usage", "Usage", "usage.usage", usage_pages(stats, csv_download, clock, tz)),
        Page("Requests", "Requests", "requests.table", requests),
        Page("Billing", "Months", "billing.months", billing_pages(billing, clock)),
        Page("Billing", "Prices", "prices.versions", price_pages(services.prices, stats, clock, tz)),
        *resource_pages(administration, customers, upstream),
        Page("You", "You", "own.usage", own_pages(own)),
    ]
    searched = Searched(
        users=services.administration.users,
        client_keys=services.administration.client_keys,
        logs=logs,
        models=services.models,
        upstream_keys=services.key_pool.snapshot,
    )
    feed = LiveFeed(traffic=services.metrics.traffic, is_stopping=lambda: bool(services.gauges.is_draining()))
    return dashboard_app(auth, pages, clock, tz, [new_keys.pages()], searched=searched, feed=feed)


def _http_error(client: ClientApi, error: HTTPException) -> Response:
    """Refuse what has no route and the like: clients in their format, all others with the reason in JSON."""
    request.routing_exception = None  # it knows the frames it was raised in, and they the request: a cycle
    if isinstance(error, NotFound | MethodNotAllowed) and client.is_asked(error):
        return client.refuse_unrouted(error)
    return http_error(error)
