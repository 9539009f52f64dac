"""`GET /api/admin/health`: what is recorded and not booked yet, and whether anything was lost."""

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, jsonify

HealthReader = Callable[[], dict[str, Any]]
"""The figures of all workers and of each; `lostRecords` must be 0."""


def add_health_route(routes: Blueprint, health: HealthReader) -> None:
    """Add the route. It reads nothing from the store, so it answers while that is away."""

    @routes.get("/health")
    def admin_health() -> Response:
        return jsonify(health())
