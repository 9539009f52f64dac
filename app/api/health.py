"""Operations endpoints that need no credential: alive, ready, metrics."""

from datetime import UTC

from flask import Blueprint, Response, jsonify, request
from typing_extensions import TypedDict

from app import __version__
from app.api.operation import OPEN, ApiSection, Content
from app.exchange.ports import Clock
from app.management.reading import WorkerMetrics

NOT_READY = 503


class AliveView(TypedDict):
    """The process is alive; `uptime` is in seconds, `version` is Weir's."""

    status: str
    timestamp: str
    uptime: float
    version: str


class ReadyView(TypedDict):
    """Whether requests should be sent here, and beside it the state of each check."""

    status: str


def health_blueprint(clock: Clock, monitor: WorkerMetrics) -> Blueprint:
    """Make `GET /health` (depends on nothing), `/ready` and `/metrics`."""
    routes = Blueprint("health", __name__)
    describe = ApiSection("Operations", OPEN)
    started = clock.monotonic()

    @routes.get("/health")
    @describe("Whether the process is alive", answers=AliveView)
    def health() -> Response:
        now = clock.utcnow().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        uptime = round(clock.monotonic() - started, 3)
        return jsonify(status="ok", timestamp=now, uptime=uptime, version=__version__)

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
