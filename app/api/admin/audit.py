"""`/api/admin/audit`: what administrators did."""

from datetime import tzinfo
from typing import Literal

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.operation import ApiSection
from app.api.parameters import Cursor, Limit, PeriodQuery, Text
from app.common.cursor import PageCursor
from app.exchange.ports import Clock
from app.management.audit import AuditLog
from app.management.views.records import AuditEntryView, audit_view


class AuditQuery(PeriodQuery):
    """Which actions, and of which time."""

    actor: Text | None = Field(None, description="Only this admin's.")
    action: Text | None = Field(None, description="Only this action, such as `users.credits.add`.")
    target: Text | None = Field(None, description="Only what was done to this, such as `user:alice`.")
    outcome: Literal["begun", "done", "refused", "failed", "unknown"] | None = None
    limit: Limit = 50
    cursor: Cursor = None


class AuditView(TypedDict):
    """A page of actions, newest first."""

    entries: list[AuditEntryView]
    nextCursor: str | None


def add_audit_routes(routes: Blueprint, audit: AuditLog, clock: Clock, tz: tzinfo) -> None:
    """Add the route; `tz` is where days start."""

    @routes.get("/audit")
    @ApiSection("Audit log")("What administrators did", answers=AuditView)
    def list_audit_entries(query: AuditQuery) -> Response:
        """List what was done by API, command and dashboard alike; entries are kept for ever."""
        cursor = PageCursor.parse(query.cursor)
        wanted = query.model_dump(include={"actor", "action", "target", "outcome"})
        period = query.at(clock.utcnow(), tz)
        found, next_cursor = audit.page(wanted, query.limit, cursor, start=period.start, end=period.end)
        return jsonify(entries=[audit_view(entry) for entry in found], nextCursor=next_cursor)
