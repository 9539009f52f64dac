"""`/api/admin/alerts`: what operators were told."""

from flask import Blueprint, Response, jsonify
from typing_extensions import TypedDict

from app.alerts.alert_store import AlertStore
from app.api.operation import ApiSection, Query
from app.api.parameters import Limit
from app.management.views.alerts import AlertView, alert_view


class AlertsQuery(Query):
    """How many."""

    limit: Limit = 50


class AlertsView(TypedDict):
    """The newest alerts first."""

    alerts: list[AlertView]


def add_alert_routes(routes: Blueprint, alerts: AlertStore) -> None:
    """Add the route."""

    @routes.get("/alerts")
    @ApiSection("Alerts")("What operators were told", answers=AlertsView)
    def list_alerts(query: AlertsQuery) -> Response:
        """List alerts, whether they were sent, and what kept them from it; they are kept for 400 days."""
        return jsonify(alerts=[alert_view(stored) for stored in alerts.newest(query.limit)])
