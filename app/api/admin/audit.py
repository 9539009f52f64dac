"""`/api/admin/audit`: what administrators did."""

from typing import Literal

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.operation import ApiSection, Query
from app.api.parameters import Cursor, Limit, Text
from app.common.cursor import PageCursor
from app.management.audit import AuditLog
from app.management.views.records import AuditEntryView, audit_view


class AuditQuery(Query):
    """Which actions."""

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


def add_audit_routes(routes: Blueprint, audit: AuditLog) -> None:
    """Add the route."""

    @routes.get("/audit")
    @ApiSection("Audit log")("What administrators did", answers=AuditView)
    def list_audit_entries(query: AuditQuery) -> Response:
        """List what was done by API, command and dashboard alike; entries are kept for ever."""
        cursor = PageCursor.parse(query.cursor)
        wanted = query.model_dump(include={"actor", "action", "target", "outcome"})
        found, next_cursor = audit.page(wanted, query.limit, cursor)
        return jsonify(entries=[audit_view(entry) for entry in found], nextCursor=next_cursor)
