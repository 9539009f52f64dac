"""Logging in and out, and the choice between light and dark."""

import hmac
import ipaddress
from urllib.parse import urlsplit

from flask import Blueprint, Response, flash, make_response, redirect, render_template, request, url_for
from flask_login import current_user
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response as AnyResponse
from wtforms import HiddenField, PasswordField, StringField
from wtforms.validators import Length

from app.admin.access import Sessions
from app.admin.ports import Entrance
from app.core.credentials import name_digest
from app.core.ports import RateDecision, StoreUnavailable, TooManyTries

TRIES_PER_ADDRESS = 20
TRIES_PER_NAME = 5
"""Logins in a minute; beyond it nothing is checked."""

THEMES = ("auto", "light", "dark")
THEME_COOKIE = "weir_theme"

_A_YEAR_S = 365 * 86_400
_MAX_INPUT = 512


class LoginForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """The admin token alone, or a name and a password."""

    token = PasswordField("Admin token", [Length(max=_MAX_INPUT)], render_kw={"autocomplete": "off"})
    username = StringField("User name", [Length(max=_MAX_INPUT)], render_kw={"autocomplete": "username"})
    password = PasswordField(
        "Password", [Length(max=_MAX_INPUT)], render_kw={"autocomplete": "current-password"}
    )
    next = HiddenField()


class Refused(Exception):
    """A login that did not work; the text says why, `status` is what the page is sent with."""

    def __init__(self, message: str, status: int = 401, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


def login_pages(entrance: Entrance, sessions: Sessions) -> Blueprint:
    """`/login`, `/logout` and `/theme`."""
    routes = Blueprint("login", __name__)

    @routes.route("/login", methods=["GET", "POST"])
    def login() -> AnyResponse:
        form = LoginForm()
        if request.method == "GET":
            form.next.data = request.args.get("next", "")
            if current_user.is_authenticated:
                return redirect(safe_target(form.next.data))
            return make_response(render_template("login.html", form=form))
        try:
            _check(form, entrance, sessions)
        except Refused as refused:
            page = make_response(render_template("login.html", form=form, problem=str(refused)))
            page.status_code = refused.status
            if refused.retry_after_s is not None:
                page.headers["Retry-After"] = str(refused.retry_after_s)
            return page
        return redirect(safe_target(form.next.data), code=303)

    @routes.post("/logout")
    def logout() -> AnyResponse:
        try:
            sessions.close()
            flash("You are logged out.", "success")
        except StoreUnavailable:
            flash(
                "You are logged out in this browser. The database is away, so a copy of the session's "
                "cookie, if there is one, stays good until the session ends.",
                "warning",
            )
        return redirect(url_for("login.login"), code=303)

    @routes.post("/theme")
    def theme() -> Response:
        response = Response(status=303, headers={"Location": safe_target(request.form.get("next"))})
        choice = request.form.get("theme", "")
        if choice in THEMES:
            response.set_cookie(
                THEME_COOKIE, choice, max_age=_A_YEAR_S, path="/admin", secure=request.is_secure,
                httponly=True, samesite="Lax",
            )  # fmt: skip
        return response

    return routes


def _check(form: LoginForm, entrance: Entrance, sessions: Sessions) -> None:
    """Open a session for whom the form identifies; raises `Refused`."""
    if not form.validate():
        raise Refused("That is longer than any token, name or password.", 400)
    _count(entrance, f"address:{_network(request.remote_addr)}", TRIES_PER_ADDRESS)
    token, username = form.token.data or "", form.username.data or ""
    if token:
        given, right = token.strip().encode("utf-8", "surrogatepass"), entrance.admin_token.encode()
        if not right or not hmac.compare_digest(given, right):
            raise Refused("That is not the admin token.")
        sessions.open(None)
        return
    if not username:
        raise Refused("Give the admin token, or a user name and a password.", 400)
    _count(entrance, f"name:{name_digest(username)}", TRIES_PER_NAME)
    try:
        is_admin = entrance.verify_admin(username, form.password.data or "")
        if is_admin is False:
            raise Refused(f"{username} is not an admin. Ask an admin for the role.", 403)
        if not is_admin or not sessions.open(username):
            raise Refused("The user name or the password is wrong.")
    except TooManyTries as error:
        raise _too_many(error.retry_after_s) from error
    except StoreUnavailable as error:
        raise Refused(
            f"The database cannot answer, so passwords cannot be checked ({error}). The admin token works.",
            503,
        ) from error


def _count(entrance: Entrance, key: str, limit: int) -> None:
    decision: RateDecision = entrance.limiter.hit(f"login:{key}", limit)
    if not decision.allowed:
        raise _too_many(decision.retry_after_s)


def _too_many(wait_s: int) -> Refused:
    return Refused(f"Too many tries. Wait {wait_s} s and try again.", 429, wait_s)


def _network(address: str | None) -> str:
    """An address as it is counted: of IPv6 the network, since whoever has one address has all of it."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return "unknown"
    return str(ipaddress.ip_network((found, 64), strict=False) if found.version == 6 else found)


def safe_target(target: str | None) -> str:
    """Where to go after a form: a page of the dashboard, and the overview for anything else."""
    home: str = url_for("overview.overview")
    if not target or not target.isprintable() or "\\" in target:
        return home
    parts = urlsplit(target)
    own = parts.path == request.script_root or parts.path.startswith(f"{request.script_root}/")
    return target if own and not parts.scheme and not parts.netloc and not target.startswith("//") else home
