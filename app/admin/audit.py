"""What administrators did."""

from typing import Any

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.admin.asking import ask
from app.core.log_filter import FilterError, PageCursor
from app.management.audit import AuditLog

PAGE = 50
FILTERS = ("actor", "action", "target", "outcome")


def audit_pages(audit: AuditLog) -> Blueprint:
    """`/audit`; its filters are the address."""
    routes = Blueprint("audit", __name__)

    @routes.get("/audit")
    def entries() -> AnyResponse:
        wanted: dict[str, Any] = {name: request.args.get(name, "").strip()[:120] or None for name in FILTERS}
        try:
            cursor = PageCursor.decode(text) if (text := request.args.get("cursor")) else None
            found = ask(lambda: audit.page(wanted, PAGE, cursor))
        except FilterError:
            return redirect(url_for("audit.entries", **wanted))
        rows, next_cursor = found or ([], None)
        page = render_template(
            "audit.html", entries=rows, next_cursor=next_cursor, wanted=wanted, is_first=cursor is None
        )
        return make_response(page)

    return routes
