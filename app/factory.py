"""The composition root: settings become services, services routes."""

from pathlib import Path
from zoneinfo import ZoneInfo

import gevent
from flask import Blueprint, Flask, Response, jsonify
from werkzeug.exceptions import HTTPException

from app.adapters.client_watch import SocketWatch
from app.adapters.clock import SystemClock
from app.adapters.mongo.reconciliation import Reconciliation
from app.adapters.mongo.request_logs import RequestLogStore
from app.adapters.mongo.stats import StatsStore
from app.adapters.mongo.users import UserStore
from app.api.admin import admin_blueprint
from app.api.client import client_blueprint
from app.api.health import health_blueprint
from app.api.model_list import ModelList
from app.cli import register_commands
from app.core.pricing import ModelTable, ModelTableError
from app.services import Services, build_services
from app.settings import Settings, SettingsError, generated_secret

EXTENSION = "weir"


def create_app(settings: Settings | None = None) -> Flask:
    """The Flask application. Waits for neither network nor database; raises `SettingsError`."""
    settings = settings or Settings.from_env()
    clock = SystemClock()
    models = load_models(settings.models_file)
    services = build_services(settings, models, clock)
    app = Flask("weir", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.extensions[EXTENSION] = services
    app.register_blueprint(client_blueprint(services.gateway, ModelList(models), clock, SocketWatch))
    app.register_blueprint(health_blueprint(clock))
    app.register_blueprint(_admin(settings, services))
    app.register_error_handler(HTTPException, _http_error)
    register_commands(app, settings)
    return app


def _admin(settings: Settings, services: Services) -> Blueprint:
    users = UserStore(services.database)

    def verify(name: str, password: str) -> bool | None:
        # Deriving a password takes tenths of a second of CPU: in a thread it holds up no stream.
        if not gevent.get_hub().threadpool.apply(users.verify_password, (name, password)):
            return None
        user = users.get(name)
        return user is not None and user.role == "admin"

    return admin_blueprint(
        logs=RequestLogStore(services.database),
        stats=StatsStore(services.database),
        clock=SystemClock(),
        tz=ZoneInfo(settings.stats_timezone),
        admin_token=generated_secret(settings.data_dir, "admin-token", settings.admin_token),
        verify_admin=verify,
        verifier=Reconciliation(
            services.database,
            retention_s=settings.log_retention_s,
            journal_root=str(settings.data_dir / "journal"),
            lost=lambda: services.queue.lost,
        ),
    )


def load_models(path: Path) -> ModelTable:
    """The model table of a file; raises `SettingsError` naming `MODELS_FILE`."""
    try:
        return ModelTable.from_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"MODELS_FILE: cannot read {path}: {error}") from None
    except ModelTableError as error:
        raise SettingsError(f"MODELS_FILE: {path}: {error}") from None


def _http_error(error: HTTPException) -> Response:
    """Errors outside the client API: JSON with the reason, for people and programs alike."""
    response = jsonify(error=error.description or error.name)
    response.status_code = error.code or 500
    return response
