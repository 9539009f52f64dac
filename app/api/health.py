"""Operations endpoints that need no credential: alive, ready, metrics."""

from datetime import UTC
from typing import Any, Protocol

from flask import Blueprint, Response, jsonify, request
from typing_extensions import TypedDict

from app.api.operation import OPEN, Content, Section
from app.core.ports import Clock

NOT_READY = 503


class AliveView(TypedDict):
    """The process is alive; `uptime` is in seconds."""

    status: str
    timestamp: str
    uptime: float


class ReadyView(TypedDict):
    """Whether requests should be sent here, and beside it the state of each check."""

    status: str


class Monitor(Protocol):
    """Who knows the state of the workers."""

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether requests should be sent to this worker, and each check's state."""

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all workers, in a format the `Accept` header names, and its content type."""


def health_blueprint(clock: Clock, monitor: Monitor) -> Blueprint:
    """`GET /health` (depends on nothing), `/ready` and `/metrics`."""
    routes = Blueprint("health", __name__)
    describe = Section("Operations", OPEN)
    started = clock.monotonic()

    @routes.get("/health")
    @describe("Whether the process is alive", answers=AliveView)
    def health() -> Response:
        now = clock.utcnow().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return jsonify(status="ok", timestamp=now, uptime=round(clock.monotonic() - started, 3))

    @routes.get("/ready")
    @describe("Whether it can take requests", answers={200: ReadyView, NOT_READY: ReadyView})
    def ready() -> Response:
        is_ready, checks = monitor.readiness()
        response = jsonify(status="ready" if is_ready else "not ready", **checks)
        response.headers["Cache-Control"] = "no-store"
        if not is_ready:
            response.status_code = NOT_READY
        return response

    @routes.get("/metrics")
    @describe("Metrics of all workers", answers={200: Content("text/plain", "Prometheus' text format.")})
    def metrics() -> Response:
        page, content_type = monitor.exposition(request.headers.get("Accept", ""))
        return Response(page, content_type=content_type)

    return routes
