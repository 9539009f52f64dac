"""What administrators did."""

from typing import Any

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.admin.asking import ask
from app.common.cursor import FilterError, PageCursor
from app.management.audit import AuditLog

PAGE = 50
FILTERS = {"actor": "actor", "action": "action", "target": "target", "outcome": "result"}
"""What entries are filtered by, and its name in the address, where `outcome` is one of requests."""


def audit_pages(audit: AuditLog) -> Blueprint:
    """Make the page `/settings/audit`; its filters are the address."""
    routes = Blueprint("audit", __name__)

    @routes.get("/settings/audit")
    def entries() -> AnyResponse:
        wanted: dict[str, Any] = {
            name: request.args.get(given, "").strip()[:120] or None for name, given in FILTERS.items()
        }
        try:
            cursor = PageCursor.parse(request.args.get("cursor"))
            found = ask(lambda: audit.page(wanted, PAGE, cursor))
        except FilterError:
            same = {FILTERS[name]: value for name, value in wanted.items()}
            return redirect(url_for("audit.entries", **same))
        rows, next_cursor = found or ([], None)
        page = render_template(
            "audit.html", entries=rows, next_cursor=next_cursor, wanted=wanted, is_first=cursor is None
        )
        return make_response(page)

    return routes
