"""What administrators did."""

from datetime import tzinfo
from typing import Any

from flask import Blueprint, current_app, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.admin.asking import ask, asked_question
from app.common.cursor import FilterError, PageCursor
from app.exchange.ports import Clock
from app.management.audit import AuditLog
from app.statistics.periods import ALL, Period, UnknownPeriodError

PAGE = 50
FILTERS = {"actor": "actor", "action": "action", "target": "target", "outcome": "result"}
"""What entries are filtered by, and its name in the address, where `outcome` is one of requests."""
_PAGES = {
    "user": ("users.one_user", "name"),
    "client-key": ("client_keys.one_key", "key_id"),
    "key": ("upstream.one_key", "key_id"),
    "proxy": ("proxies.one_proxy", "proxy_id"),
    "month": ("billing.one_month", "month"),
}
"""The page of what an entry is about, and what it is asked for, by the kind of it."""


def page_of(target: str) -> str | None:
    """Return the address of the page about an entry's target; None where there is none."""
    kind, _, name = target.partition(":")
    endpoint, argument = _PAGES.get(kind, ("", ""))
    if not name or endpoint not in current_app.view_functions:
        return None
    values: dict[str, Any] = {argument: name}
    return url_for(endpoint, **values)


def audit_pages(audit: AuditLog, clock: Clock, tz: tzinfo) -> Blueprint:
    """Make the page `/settings/audit`; its range and its filters are the address."""
    routes = Blueprint("audit", __name__)

    @routes.get("/settings/audit")
    def entries() -> AnyResponse:
        wanted: dict[str, Any] = {
            name: request.args.get(given, "").strip()[:120] or None for name, given in FILTERS.items()
        }
        question, now, problem = asked_question(), clock.utcnow(), None
        period = Period.of(ALL, now, tz)
        try:
            period = question.period(now, tz, ALL)
        except (UnknownPeriodError, FilterError) as error:
            problem = error
        try:
            cursor = PageCursor.parse(request.args.get("cursor"))
            found = ask(lambda: audit.page(wanted, PAGE, cursor, start=period.start, end=period.end))
        except FilterError:
            same = {FILTERS[name]: value for name, value in wanted.items()}
            return redirect(url_for("audit.entries", **same))
        rows, next_cursor = found or ([], None)
        page = render_template(
            "audit.html",
            entries=rows,
            next_cursor=next_cursor,
            wanted=wanted,
            is_first=cursor is None,
            page_of=page_of,
            problem=problem,
            is_everything=not question.has_range and not any(wanted.values()),
        )
        return make_response(page, 200 if problem is None else 400)

    return routes
