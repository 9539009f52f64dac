"""The composition root: settings become services, services routes."""

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary
from zoneinfo import ZoneInfo

from flask import Blueprint, Flask, Response, jsonify
from gevent.lock import BoundedSemaphore
from gevent.threadpool import ThreadPool
from pymongo.errors import PyMongoError
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from app.adapters.client_watch import SocketWatch
from app.adapters.clock import SystemClock
from app.adapters.metrics.vitals import key_states
from app.adapters.model_file import load_models
from app.adapters.mongo.connection import store_problem
from app.adapters.mongo.dashboard_access import AdminAccounts, EndedSessions
from app.adapters.mongo.reconciliation import Reconciliation
from app.adapters.mongo.request_logs import RequestLogStore, store_errors
from app.adapters.mongo.stats import StatsStore
from app.adapters.mongo.users import UserStore
from app.admin import Entrance, Page, dashboard_app
from app.admin.log import log_pages
from app.admin.overview import Instruments, overview_pages
from app.admin.resources import resource_pages
from app.api.admin import admin_blueprint
from app.api.admin.auth import VerifyAdmin
from app.api.admin.request_logs import export_response
from app.api.admin.resources import resources_blueprint
from app.api.client import client_blueprint, shortcut
from app.api.cross_origin import share_with_origins
from app.api.docs import docs_blueprint
from app.api.health import health_blueprint
from app.api.model_list import ModelList
from app.api.openapi import openapi_document
from app.api.operations import operations_blueprint
from app.api.user import user_blueprint
from app.cli import register_commands
from app.core.credentials import derived_secret, name_digest
from app.core.current_request import request_id
from app.core.ports import RateLimiter, StoreUnavailable, TooManyTries
from app.core.stats import usd
from app.services import Services, build_services
from app.settings import Settings, generated_secret

EXTENSION = "weir"

_MAX_WAITING_LOGINS = 64
_WRONG_PASSWORDS = 5
"""In a minute and for one name; beyond it none is checked."""


def create_app(settings: Settings | None = None) -> Flask:
    """The Flask application. Waits for neither network nor database; raises `SettingsError`."""
    settings = settings or Settings.from_env()
    clock = SystemClock()
    services = build_services(settings, lambda: load_models(settings.models_file), clock)
    app = Flask("weir", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.extensions[EXTENSION] = services
    client = client_blueprint(services.gateway, ModelList(services.models), clock, SocketWatch)
    if settings.cors_origins:
        share_with_origins(client, frozenset(settings.cors_origins))
    app.register_blueprint(client)
    app.register_blueprint(health_blueprint(clock, services.metrics))
    admin_token = generated_secret(settings.data_dir, "admin-token", settings.admin_token)
    verify_admin = _admin_check(
        UserStore(services.database), services.password_threads, services.rate_limiter
    )
    app.register_blueprint(_admin(settings, services, admin_token, verify_admin))
    app.register_blueprint(
        resources_blueprint(
            services.administration,
            admin_token=admin_token,
            verify_admin=verify_admin,
            new_request_id=clock.new_request_id,
        )
    )
    app.register_blueprint(_user(settings, services))
    app.register_blueprint(_operations(services, admin_token, verify_admin))
    app.register_blueprint(docs_blueprint(lambda: openapi_document(app)))
    dashboard = _dashboard(settings, services, admin_token, verify_admin)
    for part in (app, dashboard):
        # A connection that is kept is served by one greenlet: the last request's id must not stay.
        part.before_request(lambda: request_id.set(None) and None)
    rest = DispatcherMiddleware(app.wsgi_app, {"/admin": dashboard})
    # What the shortcut answers has none of the headers that pages of other origins need.
    served = rest if settings.cors_origins else shortcut(rest, services.gateway, clock, SocketWatch)
    app.wsgi_app = served  # type: ignore[assignment,method-assign]
    app.register_error_handler(HTTPException, _http_error)
    register_commands(app, settings)
    return app


def _admin_check(users: UserStore, threads: ThreadPool, limiter: RateLimiter) -> VerifyAdmin:
    # One password at a time for each name: those that come together must not all find tries left.
    turns: WeakValueDictionary[str, BoundedSemaphore] = WeakValueDictionary()

    def verify(name: str, password: str) -> bool | None:
        key = f"wrong-password:{name_digest(name)}"
        with turns.setdefault(key, BoundedSemaphore()):
            tries = limiter.hit(key, _WRONG_PASSWORDS, cost=0)
            if not tries.allowed:
                raise TooManyTries(tries.retry_after_s)
            is_admin = matches(name, password)
            if is_admin is None:
                limiter.hit(key, _WRONG_PASSWORDS)
            return is_admin

    def matches(name: str, password: str) -> bool | None:
        if len(threads) >= _MAX_WAITING_LOGINS:
            raise StoreUnavailable("too many logins at once")
        try:
            stored, user = users.password_of(name), users.get(name)
        except PyMongoError as error:
            raise StoreUnavailable(store_problem(error)) from error
        if not threads.apply(stored.matches, (password,)):
            return None
        return user is not None and user.role == "admin"

    return verify


def _operations(services: Services, admin_token: str, verify_admin: VerifyAdmin) -> Blueprint:
    return operations_blueprint(
        keys=services.key_pool.snapshot,
        key_states=lambda keys: key_states(key.status for key in keys),
        backup_keys=_spare_keys(services),
        reload=services.reloader.reload_everywhere,
        admin_token=admin_token,
        verify_admin=verify_admin,
    )


def _spare_keys(services: Services) -> Callable[[], int | None]:
    """How many backup keys there are; None while the store cannot say."""

    def spare() -> int | None:
        try:
            return services.backup_keys.count_available()
        except PyMongoError:
            return None

    return spare


def _admin(settings: Settings, services: Services, admin_token: str, verify_admin: VerifyAdmin) -> Blueprint:
    return admin_blueprint(
        logs=RequestLogStore(services.database),
        stats=StatsStore(services.database),
        clock=SystemClock(),
        tz=ZoneInfo(settings.stats_timezone),
        admin_token=admin_token,
        verify_admin=verify_admin,
        verifier=Reconciliation(
            services.database,
            retention_s=settings.log_retention_s,
            journal_root=str(settings.data_dir / "journal"),
            lost=lambda: services.queue.lost,
        ),
        health=services.metrics.health,
    )


class _Accounts:
    """Users as they are stored now, not as some cache has them: their own credit is what they look for."""

    def __init__(self, users: UserStore) -> None:
        self._users = users

    def profile(self, username: str) -> dict[str, Any] | None:
        with store_errors():
            user = self._users.get(username)
        if user is None:
            return None
        return {
            "username": user.username,
            "role": user.role,
            "credits": usd(user.credits_nano),
            "refCredits": usd(user.ref_credits_nano),
            "creditsUsed": usd(user.credits_used_nano),
            "totalInputTokens": user.input_tokens,
            "totalOutputTokens": user.output_tokens,
            "createdAt": user.created_at,
            "expiresAt": user.expires_at,
        }


def _user(settings: Settings, services: Services) -> Blueprint:
    return user_blueprint(
        directory=services.directory,
        accounts=_Accounts(UserStore(services.database)),
        stats=StatsStore(services.database),
        logs=RequestLogStore(services.database),
        clock=SystemClock(),
        tz=ZoneInfo(settings.stats_timezone),
    )


def _dashboard(settings: Settings, services: Services, admin_token: str, verify_admin: VerifyAdmin) -> Flask:
    clock, tz = SystemClock(), ZoneInfo(settings.stats_timezone)
    secret = generated_secret(settings.data_dir, "secret-key", settings.secret_key)
    entrance = Entrance(
        admin_token=admin_token,
        session_key=derived_secret(secret, "weir dashboard sessions v1"),
        verify_admin=verify_admin,
        accounts=AdminAccounts(services.database),
        ended=EndedSessions(services.database),
        limiter=services.rate_limiter,
    )
    instruments = Instruments(
        health=services.metrics.health,
        keys=services.key_pool.snapshot,
        spare_keys=_spare_keys(services),
        # Drawing takes tens of milliseconds of CPU, which no stream is to wait for.
        offload=ThreadPool(1).apply,
    )
    overview = overview_pages(StatsStore(services.database), instruments, clock, tz)
    logs = RequestLogStore(services.database)
    pages = [
        Page("Overview", "overview.overview", overview),
        Page("Log", "log.log", log_pages(logs, services.models, export_response, clock, tz)),
        *resource_pages(services.administration, logs),
    ]
    return dashboard_app(entrance, pages, clock, tz)


def _http_error(error: HTTPException) -> Response:
    """Errors outside the client API: JSON with the reason, for people and programs alike."""
    response = jsonify(error=error.description or error.name)
    response.status_code = error.code or 500
    return response
