"""The dashboard as an application of its own, mounted under `/admin`.

It is not part of the application that serves clients, because sessions, forms and their hooks would cost
every proxied request something. Whatever is not listed in `_OPEN` takes an admin: a page that is added later
is protected without doing anything for it.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from flask import Blueprint, Flask, Response, make_response, redirect, render_template, request, url_for
from flask.sessions import SecureCookieSessionInterface
from flask_bootstrap import Bootstrap5
from flask_login import LoginManager, current_user
from flask_wtf import CSRFProtect
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from app.admin import formats
from app.admin.access import SESSION_HOURS, Sessions, session_settings
from app.admin.asking import store_problem
from app.admin.login import THEME_COOKIE, THEMES, login_pages
from app.admin.ports import Entrance
from app.core.display import iso_utc
from app.core.ports import Clock, StoreUnavailable

LIVE_HEADER = "X-Weir-Live"
"""A page's own script sends it when it asks for the page again."""

_OPEN = frozenset({"login.login", "login.theme", "static", "bootstrap.static"})

_HEADERS = {
    # Bootstrap's style sheet has its icons as data: URLs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_MAX_FORM_BYTES = 2 * 1024 * 1024

_WORDS = {
    400: ("That request makes no sense", "Go back and try again."),
    403: ("This is not allowed", "Log in as somebody who may do it."),
    404: ("There is nothing here", "The link is wrong, or what it led to is gone."),
    405: ("This page does not take that", "Go back and use its buttons."),
    413: ("That is too much", "Send less at once."),
    500: ("Something went wrong", "It is in the log. Try again; if it stays, report it with the time."),
    503: ("The database cannot answer", "The proxy keeps serving and records go to the journal. Try again."),
}

log = logging.getLogger("weir.admin")


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the dashboard: its routes, and what the navigation calls them and leads to."""

    title: str
    endpoint: str
    routes: Blueprint


def dashboard_app(entrance: Entrance, pages: Sequence[Page], clock: Clock, tz: tzinfo) -> Flask:
    """The application. `tz` is the zone times are shown in; the first page is the overview."""
    app = Flask("app.admin")
    app.secret_key = entrance.session_key
    app.config.update(
        session_settings(),
        BOOTSTRAP_SERVE_LOCAL=True,
        MAX_CONTENT_LENGTH=_MAX_FORM_BYTES,
        WTF_CSRF_TIME_LIMIT=SESSION_HOURS * 3600,
        WTF_CSRF_SSL_STRICT=False,  # the cookie's SameSite and the token do; proxies drop the referrer
        TEMPLATES_AUTO_RELOAD=False,
    )
    app.session_interface = _Cookies()
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    Bootstrap5(app)
    CSRFProtect(app)
    sessions = Sessions(entrance, clock)
    _let_in_admins_only(app, sessions)
    _teach_templates(app, pages, clock, tz)
    _handle_errors(app)
    app.after_request(_harden)
    app.register_blueprint(login_pages(entrance, sessions))
    for page in pages:
        app.register_blueprint(page.routes)
    return app


class _Cookies(SecureCookieSessionInterface):
    """Sessions whose cookie is `Secure` when the browser came by HTTPS.

    gunicorn believes `X-Forwarded-Proto` from the addresses in FORWARDED_ALLOW_IPS only.
    """

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure


def _let_in_admins_only(app: Flask, sessions: Sessions) -> None:
    manager = LoginManager(app)
    # The address may change on the way (phones do); the mark in the session is what counts.
    manager.session_protection = None
    manager.user_loader(sessions.resume)

    @app.before_request
    def check() -> AnyResponse | None:
        if request.endpoint in _OPEN or current_user.is_authenticated:
            return None
        if request.headers.get(LIVE_HEADER):
            return Response("log in again\n", 401, mimetype="text/plain")
        target = request.full_path.rstrip("?") if request.method == "GET" else ""
        target = request.script_root + target if target.strip("/") else ""
        return redirect(url_for("login.login", next=target or None), code=303)


def _teach_templates(app: Flask, pages: Sequence[Page], clock: Clock, tz: tzinfo) -> None:
    filters: dict[str, Any] = {
        "number": formats.number,
        "percent": formats.percent,
        "share": formats.share,
        "decimal": lambda value: f"{value.normalize():f}",
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
        "usd": formats.usd,
        "usd_exact": formats.usd_exact,
        "ms": formats.milliseconds,
        "seconds": formats.seconds,
        "bytes": formats.byte_count,
        "moment": lambda value: formats.moment(value, tz),
        "distance": lambda value: formats.distance(value, clock.utcnow()),
        "iso": lambda value: iso_utc(found) if (found := formats.as_moment(value)) else "",
    }
    app.jinja_env.filters.update(filters)

    @app.context_processor
    def frame() -> dict[str, Any]:
        theme = request.cookies.get(THEME_COOKIE, "")
        return {
            "pages": pages,
            "now": clock.utcnow(),
            "zone": str(tz),
            "theme": theme if theme in THEMES else "auto",
            "themes": THEMES,
            "store_problem": store_problem,
            "here": request.script_root + request.full_path.rstrip("?"),
        }


def _handle_errors(app: Flask) -> None:
    @app.errorhandler(CSRFError)
    def too_old(error: CSRFError) -> AnyResponse:
        return _error_page(
            400, "This form is too old", "Go back, load the page again and send the form once more.", ""
        )

    @app.errorhandler(StoreUnavailable)
    def store_away(error: StoreUnavailable) -> AnyResponse:
        return _error_page(503, *_WORDS[503], str(error))

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> AnyResponse:
        status = error.code or 500
        title, advice = _WORDS.get(status, (error.name, "Go back and try again."))
        return _error_page(status, title, advice, "")

    @app.errorhandler(Exception)
    def failed(error: Exception) -> AnyResponse:
        log.error("a page of the dashboard failed: %s", request.path, exc_info=error)
        return _error_page(500, *_WORDS[500], "")


def _error_page(status: int, title: str, advice: str, detail: str) -> AnyResponse:
    page = make_response(render_template("error.html", title=title, advice=advice, detail=detail))
    page.status_code = status
    return page


def _harden(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if request.endpoint not in ("static", "bootstrap.static"):
        response.headers["Cache-Control"] = "no-store"
    return response
