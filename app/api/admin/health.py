"""`GET /api/admin/health`: what is recorded and not booked yet, and whether anything was lost."""

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, jsonify

from app.api.operation import ApiSection

HealthReader = Callable[[], dict[str, Any]]
"""The figures of all workers and of each; `lostRecords` must be 0."""


def add_health_route(routes: Blueprint, health: HealthReader) -> None:
    """Add the route. It reads nothing from the store, so it answers while that is away."""

    @routes.get("/health")
    @ApiSection("Operations")("What is recorded and not booked yet", answers=dict[str, Any])
    def admin_health() -> Response:
        """Show journal and queue depth, the age of the oldest unsent record, lost records (must be 0)."""
        return jsonify(health())
