"""The dashboard as an application of its own, mounted under `/admin`.

It is not part of the application that serves clients, because sessions, forms and their hooks would cost
every proxied request something. What a route takes, `app.management.permissions` says; one that is not
listed there takes an owner: a page that is added later is protected without doing anything for it.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any
from urllib.parse import urlencode, urlsplit

from flask import (
    Blueprint,
    Flask,
    Response,
    current_app,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.sessions import SecureCookieSessionInterface
from flask_login import LoginManager, current_user
from flask_wtf import CSRFProtect
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import Forbidden, HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import RequestRedirect, Rule
from werkzeug.wrappers import Response as AnyResponse

from app import __version__
from app.accounts.roles import Permission, role_name
from app.admin import formats
from app.admin.access import SESSION_HOURS, SESSIONS, Sessions, session_settings
from app.admin.asking import LIVE_HEADER, asked_question, store_problem
from app.admin.forms import attributes
from app.admin.key_history import key_reason, key_state
from app.admin.live import LiveFeed, add_live
from app.admin.login import HOME, THEME_COOKIE, THEMES, home, login_pages
from app.admin.moved import moved_pages
from app.admin.ports import AuthConfig
from app.admin.question import FILTERS, NAMES, last_months, presets
from app.admin.reasons import ending
from app.admin.search import Searched, search_pages
from app.admin.setup import setup_pages
from app.common.display import iso_utc
from app.common.errors import StoreUnavailable
from app.exchange.ports import Clock
from app.management.permissions import needed

DASHBOARD = "/admin"
"""Where it is mounted."""

_UNASKED = frozenset({"login.login", "login.theme", "login.logout", "static"})
"""What no question is carried to."""

_OPEN_FORMS = frozenset({"login.login", "login.theme", "setup.setup"})
"""Forms that are for strangers."""
_TOO_LARGE = 413

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_SECTIONS = ("Home", "Usage", "Requests", "Customers", "Billing", "Upstream", "Settings", "You")
"""The places of the navigation, in its order."""

_PLACES = ("cursor", "page", "ledger", "events", "amount", "reason", "debit", "username")
"""How far a page was turned, and what fills a form in: means nothing when it is asked something else."""

_MAX_FORM_BYTES = 2 * 1024 * 1024
# Before anybody has logged in: a name, a password, where to go then.
_MAX_OPEN_FORM_BYTES = 8 * 1024

_WORDS = {
    400: ("That request makes no sense", "Go back and try again."),
    403: ("Your role does not allow this", "Ask an owner, or log in as somebody who may do it."),
    404: ("There is nothing here", "The link is wrong, or what it led to is gone."),
    405: ("This page does not take that", "Go back and use its buttons."),
    413: ("That is too much", "Send less at once."),
    500: ("Something went wrong", "It is in the log. Try again; if it stays, report it with the time."),
    503: ("The database cannot answer", "The proxy keeps serving and records go to the journal. Try again."),
}

log = logging.getLogger("weir.admin")


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the dashboard: its routes, what they are called, what leads to them, and in which place."""

    section: str
    title: str
    endpoint: str
    routes: Blueprint


@dataclass(frozen=True, slots=True)
class Section:
    """A place of the navigation, with its pages; the first of them is what it leads to."""

    title: str
    pages: Sequence[Page]

    @property
    def endpoint(self) -> str:
        """Where the navigation leads."""
        return self.pages[0].endpoint

    def holds(self, blueprint: str | None) -> bool:
        """Return whether what is shown belongs here."""
        return any(page.routes.name == blueprint for page in self.pages)

    @classmethod
    def of(cls, pages: Sequence[Page]) -> "list[Section]":
        """Put pages into their places, in the order given."""
        titles = sorted({page.section for page in pages}, key=_SECTIONS.index)
        return [cls(title, [page for page in pages if page.section == title]) for title in titles]


def dashboard_app(
    auth: AuthConfig,
    pages: Sequence[Page],
    clock: Clock,
    tz: tzinfo,
    more: Sequence[Blueprint] = (),
    *,
    searched: Searched,
    feed: LiveFeed,
) -> Flask:
    """Build the application. `tz` is the zone times are shown in; the first page is Home.

    `more` are pages that no navigation leads to.
    """
    app = Flask("app.admin")
    app.secret_key = auth.session_key
    app.config.update(
        session_settings(),
        MAX_CONTENT_LENGTH=_MAX_FORM_BYTES,
        WTF_CSRF_TIME_LIMIT=SESSION_HOURS * 3600,
        WTF_CSRF_SSL_STRICT=False,  # the cookie's SameSite and the token do; proxies drop the referrer
        TEMPLATES_AUTO_RELOAD=False,
    )
    app.session_interface = _Cookies()
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.before_request(_read_little_of_strangers)  # before the token is looked for in the form
    CSRFProtect(app)
    sessions = app.extensions[SESSIONS] = Sessions(auth, clock)
    _require_permission(app, sessions)
    _carry_the_question(app)
    _register_filters(app, pages, clock, tz)
    _handle_errors(app)
    app.after_request(_harden)
    app.register_blueprint(login_pages(auth, sessions, clock))
    app.register_blueprint(setup_pages(auth.first_owner, sessions, clock))
    app.register_blueprint(moved_pages())
    for routes in (*more, *(page.routes for page in pages)):
        app.register_blueprint(routes)
    places = [(title, page.endpoint) for page in pages for title in dict.fromkeys((page.title, page.section))]
    app.register_blueprint(search_pages(searched, places))
    add_live(app, feed)
    return app


class _Cookies(SecureCookieSessionInterface):
    """Sessions whose cookie is `Secure` when the browser came by HTTPS.

    gunicorn believes `X-Forwarded-Proto` from the addresses in FORWARDED_ALLOW_IPS only.
    """

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure


def _read_little_of_strangers() -> None:
    if request.content_length != 0 and not current_user.is_authenticated:
        request.max_content_length = _MAX_OPEN_FORM_BYTES


def _require_permission(app: Flask, sessions: Sessions) -> None:
    manager = LoginManager(app)
    # The address may change on the way (phones do); the mark in the session is what counts.
    manager.session_protection = None
    manager.user_loader(sessions.resume)

    @app.before_request
    def check() -> AnyResponse | None:
        # Of what does not exist, strangers are told nothing.
        wanted = _needed(request.method, request.url_rule.rule) if request.url_rule else Permission.ENTER
        if wanted is Permission.OPEN:
            return None
        if current_user.is_authenticated:
            if current_user.may(wanted):
                return None
            if request.endpoint == HOME:
                return redirect(home())
            raise Forbidden
        if request.headers.get(LIVE_HEADER):
            return Response("log in again\n", 401, mimetype="text/plain")
        return _to_login()


def _to_login() -> AnyResponse:
    """Lead to the login and then back: to the page asked for, or to the one with the form that was sent.

    What was typed into that form stays in the window (`static/js/unsent.js`); nothing is sent by itself.
    """
    is_form = request.method == "POST"
    target = request.full_path.rstrip("?") if request.method == "GET" else ""
    target = request.script_root + target if target.strip("/") else ""
    if is_form:
        target = _page_of_form()
    return redirect(url_for("login.login", next=target or None, unsent="yes" if is_form else None), code=303)


def _is_after_the_session() -> bool:
    """Return whether this is a form of somebody who is not logged in any more."""
    is_stranger = not current_user.is_authenticated
    return is_stranger and request.method == "POST" and request.endpoint not in _OPEN_FORMS


def _page_of_form() -> str:
    """Return the page that the form which was sent is on, as far as the browser says so; else nothing.

    What was drawn as the answer to a form has no page of its own: then it is the nearest above it.
    """
    try:
        sent_from = urlsplit(request.referrer or "")
    except ValueError:
        return ""
    path, query = sent_from.path, sent_from.query
    while path.startswith(f"{request.script_root}/"):
        rule = _rule(path.removeprefix(request.script_root), "GET")
        if rule is not None and rule.endpoint not in _UNASKED:
            return f"{path}?{query}" if query else path
        path, query = path.rpartition("/")[0], ""
    return ""


def _rule(path: str, method: str) -> Rule | None:
    """Return what answers this path; None for nothing."""
    try:
        found: Rule = current_app.url_map.bind("").match(path, method=method, return_rule=True)[0]
    except (NotFound, MethodNotAllowed, RequestRedirect):
        return None
    return found


def _carry_the_question(app: Flask) -> None:
    """Have every link and form of a page ask what the page was asked."""

    @app.url_defaults
    def carry(endpoint: str, values: dict[str, Any]) -> None:
        if endpoint not in _UNASKED:
            for name, value in asked_question().given.items():
                values.setdefault(name, value)

    @app.before_request
    def leave_out_what_is_empty() -> AnyResponse | None:
        # A form sends its empty fields as well; the address is to have what is asked.
        if request.method != "GET" or not any(request.args.get(name) == "" for name in NAMES):
            return None
        given = [(name, value) for name, value in request.args.items(multi=True) if value]
        return redirect(f"{request.script_root}{request.path}{'?' * bool(given)}{urlencode(given)}", code=303)


def _asked(**changes: str | None) -> str:
    """Return the address of this page with another question; where it was turned to is forgotten."""
    others = {name: value for name, value in request.args.items() if name not in (*NAMES, *_PLACES)}
    link = asked_question().link(**changes)
    return url_for(request.endpoint or "home.home", **{**others, **link, **(request.view_args or {})})


def _kept_parameters(changed: Iterable[str]) -> list[tuple[str, str]]:
    """Return the parameters that a form of the page sends along, since it does not change them."""
    left_out = {*changed, *_PLACES}
    return [(name, value) for name, value in request.args.items(multi=True) if name not in left_out]


def _needed(method: str, rule: str) -> Permission:
    return needed(method, DASHBOARD + rule)


def _is_allowed(url: str, method: str = "POST") -> bool:
    """Return whether whoever asks may do this: a form or link that would be refused is not drawn."""
    rule = _rule(urlsplit(url).path.removeprefix(request.script_root), method)
    if rule is None:
        return False
    permission = _needed(method, rule.rule)
    return permission is Permission.OPEN or (
        current_user.is_authenticated and bool(current_user.may(permission))
    )


def _register_filters(app: Flask, pages: Sequence[Page], clock: Clock, tz: tzinfo) -> None:
    filters: dict[str, Any] = {
        "role": role_name,
        "ending": ending,
        "number": formats.number,
        "percent": formats.percent,
        "share": formats.share,
        "decimal": lambda value: f"{value.normalize():f}",
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
        "usd": formats.usd,
        "usd_fixed": formats.usd_fixed,
        "digits": formats.money_digits,
        "spark": formats.spark_path,
        "usd_exact": formats.usd_exact,
        "ms": formats.milliseconds,
        "seconds": formats.seconds,
        "short": formats.short,
        "key_reason": key_reason,
        "key_state": key_state,
        "bytes": formats.byte_count,
        "moment": lambda value: formats.moment(value, tz),
        "distance": lambda value: formats.distance(value, clock.utcnow()),
        "iso": lambda value: iso_utc(found) if (found := formats.as_moment(value)) else "",
    }
    app.jinja_env.filters.update(filters)
    app.jinja_env.globals["attributes"] = attributes
    app.jinja_env.globals["allowed"] = _is_allowed

    @app.context_processor
    def frame() -> dict[str, Any]:
        theme = request.cookies.get(THEME_COOKIE, "")
        return {
            "sections": Section.of([page for page in pages if _is_allowed(url_for(page.endpoint), "GET")]),
            "question": asked_question(),
            "asked": _asked,
            "kept_parameters": _kept_parameters,
            "filter_titles": FILTERS,
            "no_filters": dict.fromkeys(FILTERS),
            "presets": presets(),
            "months": last_months(clock.utcnow(), tz),
            "home": home(),
            "now": clock.utcnow(),
            "zone": str(tz),
            "theme": theme if theme in THEMES else "auto",
            "themes": THEMES,
            "store_problem": store_problem,
            "version": __version__,
            "here": request.script_root + request.full_path.rstrip("?"),
        }


def _handle_errors(app: Flask) -> None:
    @app.errorhandler(CSRFError)
    def too_old(error: CSRFError) -> AnyResponse:
        if _is_after_the_session():
            return _to_login()
        page = make_response(render_template("old_form.html", form_page=_page_of_form()))
        page.status_code = 400
        return page

    @app.errorhandler(StoreUnavailable)
    def store_away(error: StoreUnavailable) -> AnyResponse:
        return _error_page(503, *_WORDS[503], str(error))

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> AnyResponse:
        status = error.code or 500
        if status == _TOO_LARGE and _is_after_the_session():
            return _to_login()
        title, advice = _WORDS.get(status, (error.name, "Go back and try again."))
        page = _error_page(status, title, advice, "")
        if isinstance(error, MethodNotAllowed):
            page.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        return page

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
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    return response
