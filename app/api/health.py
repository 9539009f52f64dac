"""Operations endpoints that need no credential."""

from datetime import UTC

from flask import Blueprint, Response, jsonify

from app.core.ports import Clock


def health_blueprint(clock: Clock) -> Blueprint:
    """`GET /health`: the process is alive. It depends on nothing else."""
    routes = Blueprint("health", __name__)
    started = clock.monotonic()

    @routes.get("/health")
    def health() -> Response:
        now = clock.utcnow().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return jsonify(status="ok", timestamp=now, uptime=round(clock.monotonic() - started, 3))

    return routes
