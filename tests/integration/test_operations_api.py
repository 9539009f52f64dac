"""The operations endpoints through Flask: shapes, statuses, and who may ask."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import __version__
from app.api.health import health_blueprint
from app.api.operations import operations_blueprint
from app.metrics.gauges import key_states
from tests.support.logins import PlainGuard

TOKEN = "admin-token"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Key:
    key_id: str
    status: str
    available: bool
    last_error: str | None = None
    cooldown_until: datetime | None = None


@dataclass
class Reloaded:
    success: bool
    message: str = "why"
    models: int = 3
    upstream_keys: int = 2
    is_temporary: bool = False

    @property
    def problems(self) -> dict[str, str]:
        return {} if self.success else {"models": "why"}

    @property
    def keys_read(self) -> bool:
        return self.success


KEYS = [
    Key("env-1", "healthy", True),
    Key("pool-1", "rate_limited", False, "rate_limited", datetime(2026, 11, 23, 12, tzinfo=UTC)),
]


class Clock:
    def monotonic(self) -> float:
        return 5.0

    def utcnow(self) -> datetime:
        return datetime(2026, 11, 23, tzinfo=UTC)

    def new_request_id(self) -> str:
        return "x"


class Monitor:
    is_ready = True

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        return self.is_ready, {"journal": "ok" if self.is_ready else "full", "store": "degraded"}

    def exposition(self, accept: str) -> tuple[bytes, str]:
        return b"page", f"text/plain; accept={accept}"


def client_of(
    *, spare: int | None = 4, reloaded: Reloaded | None = None, monitor: Monitor | None = None
) -> FlaskClient:
    app = Flask("test")
    app.register_blueprint(
        operations_blueprint(
            keys=lambda: KEYS,
            key_states=lambda keys: key_states(key.status for key in keys),
            backup_keys=lambda: spare,
            reload=lambda _admin: reloaded or Reloaded(True),
            guard=PlainGuard(TOKEN),
        )
    )
    app.register_blueprint(health_blueprint(Clock(), monitor or Monitor()))
    return app.test_client()


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/keys/status"), ("GET", "/reload"), ("POST", "/reload")]
)
def test_without_the_admin_token_nothing_happens(method: str, path: str) -> None:
    assert client_of().open(path, method=method).status_code == 401
    wrong = {"Authorization": "Bearer wrong"}
    assert client_of().open(path, method=method, headers=wrong).status_code == 401


@pytest.mark.parametrize("spare", [4, None])
def test_key_status(spare: int | None) -> None:
    answer = client_of(spare=spare).get("/keys/status", headers=ADMIN)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json == {
        "stats": {"total": 2, "healthy": 1, "rate_limited": 1, "exhausted": 0, "error": 0},
        "backup_keys_available": spare,
        "keys": [
            {"id": "env-1", "status": "healthy", "available": True},
            {
                "id": "pool-1",
                "status": "rate_limited",
                "available": False,
                "last_error": "rate_limited",
                "cooldown_until": "2026-11-23T12:00:00Z",
            },
        ],
    }


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_page_of_another_site_has_nothing_read_anew(method: str) -> None:
    def asked(path: str, **headers: str) -> int:
        return client_of().open(path, method=method, headers=ADMIN | headers).status_code

    assert asked("/reload", **{"Sec-Fetch-Site": "cross-site"}) == 403
    assert asked("/reload", Origin="https://evil.example") == 403
    assert asked("/reload", **{"Sec-Fetch-Site": "same-origin"}) == asked("/reload") == 200


@pytest.mark.parametrize(
    ("reloaded", "status"),
    [(Reloaded(True), 200), (Reloaded(False), 500), (Reloaded(False, is_temporary=True), 503)],
)
def test_reload(reloaded: Reloaded, status: int) -> None:
    answer = client_of(reloaded=reloaded).post("/reload", headers=ADMIN)
    assert answer.status_code == status
    success = reloaded.success
    assert answer.json == {
        "success": success,
        "message": "why",
        "failed": [] if success else ["models"],
        "models": 3,
        "ohmygpt_reloaded": success,
        "ohmygpt_keys": 2,
    }


def test_health_tells_the_version() -> None:
    assert client_of().get("/health").json == {
        "status": "ok",
        "timestamp": "2026-11-23T00:00:00.000Z",
        "uptime": 0.0,
        "version": __version__,
    }


def test_readiness() -> None:
    monitor = Monitor()
    client = client_of(monitor=monitor)
    answer = client.get("/ready")
    assert (answer.status_code, answer.json) == (
        200,
        {"status": "ready", "journal": "ok", "store": "degraded"},
    )
    monitor.is_ready = False
    answer = client.get("/ready")
    assert (answer.status_code, answer.json["status"]) == (503, "not ready")


def test_the_metrics_page_is_what_the_scraper_prefers() -> None:
    answer = client_of().get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert (answer.data, answer.status_code) == (b"page", 200)
    assert answer.content_type == "text/plain; accept=application/openmetrics-text"
