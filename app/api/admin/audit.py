"""`/api/admin/audit`: what administrators did."""

from typing import Annotated, Any, Literal

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.operation import Query, Section
from app.api.parameters import Cursor, Limit, Text
from app.core.display import json_ready
from app.core.log_filter import PageCursor
from app.management.audit import AuditLog


class AuditQuery(Query):
    """Which actions."""

    actor: Text | None = Field(None, description="Only this admin's.")
    action: Text | None = Field(None, description="Only this action, such as `users.credits.add`.")
    target: Text | None = Field(None, description="Only what was done to this, such as `user:alice`.")
    outcome: Literal["begun", "done", "refused", "failed"] | None = None
    limit: Limit = 50
    cursor: Cursor = None


class AuditEntryView(TypedDict):
    """One action. An outcome that stays `begun`: its process died before it could say what came of it."""

    id: str
    at: str
    actor: Annotated[str, Field(description="An admin user, `admin-token`, or a user of the shell.")]
    via: Annotated[str, Field(description="`api`, `cli` or `dashboard`.")]
    action: str
    target: str
    details: dict[str, Any]
    outcome: str
    reason: str | None
    address: str | None
    requestId: str | None


class AuditView(TypedDict):
    """A page of actions, newest first."""

    entries: list[AuditEntryView]
    nextCursor: str | None


def add_audit_routes(routes: Blueprint, audit: AuditLog) -> None:
    """Add the route."""

    @routes.get("/audit")
    @Section("Audit log")("What administrators did", answers=AuditView)
    def list_audit_entries(query: AuditQuery) -> Response:
        """By API, command and dashboard alike; entries are kept for ever."""
        cursor = PageCursor.decode(query.cursor) if query.cursor else None
        wanted = query.model_dump(include={"actor", "action", "target", "outcome"})
        found, next_cursor = audit.page(wanted, query.limit, cursor)
        return jsonify(entries=[audit_view(entry) for entry in found], nextCursor=next_cursor)


def audit_view(entry: dict[str, Any]) -> AuditEntryView:
    """An entry as shown."""
    return AuditEntryView(
        id=str(entry["_id"]),
        at=json_ready(entry["at"]),
        actor=str(entry.get("actor")),
        via=str(entry.get("via")),
        action=str(entry.get("action")),
        target=str(entry.get("target")),
        details=json_ready(entry.get("details") or {}),
        outcome=str(entry.get("outcome")),
        reason=entry.get("reason"),
        address=entry.get("address"),
        requestId=entry.get("requestId"),
    )
