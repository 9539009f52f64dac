"""Logging in and out, and the choice between light and dark."""

from urllib.parse import urlsplit

from flask import Blueprint, Response, flash, make_response, redirect, render_template, request, url_for
from flask_login import current_user
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response as AnyResponse
from wtforms import HiddenField, PasswordField, StringField
from wtforms.validators import Length

from app.accounts.login_tries import LoginGuard, TooManyTries
from app.accounts.roles import Permission
from app.admin.access import Sessions
from app.admin.asking import ask
from app.admin.ports import AuthConfig
from app.common.errors import StoreUnavailable
from app.exchange.ports import Clock

THEMES = ("auto", "light", "dark")
THEME_COOKIE = "weir_theme"
HOME = "home.home"

_A_YEAR_S = 365 * 86_400
_MAX_INPUT = 512


class LoginForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """The admin token or a client key alone, or a name and a password."""

    token = PasswordField(validators=[Length(max=_MAX_INPUT)])
    username = StringField(validators=[Length(max=_MAX_INPUT)])
    password = PasswordField(validators=[Length(max=_MAX_INPUT)])
    next = HiddenField()


class LoginRefused(Exception):
    """A login that did not work; the text says why, `status` is what the page is sent with."""

    def __init__(self, message: str, status: int = 401, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


def login_pages(auth: AuthConfig, sessions: Sessions, clock: Clock) -> Blueprint:
    """Make the pages `/login`, `/logout` and `/theme`."""
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
            _check(form, auth, sessions)
        except LoginRefused as refused:
            page = make_response(render_template("login.html", form=form, problem=str(refused)))
            page.status_code = refused.status
            if refused.retry_after_s is not None:
                page.headers["Retry-After"] = str(refused.retry_after_s)
            return page
        if current_user.may(Permission.MANAGE):
            ask(lambda: auth.first_owner.is_not_needed(clock.utcnow()))
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


def _check(form: LoginForm, auth: AuthConfig, sessions: Sessions) -> None:
    """Open a session for whom the form identifies; raises `LoginRefused`."""
    if not form.validate():
        raise LoginRefused("That is longer than any token, name or password.", 400)
    token, username = form.token.data or "", form.username.data or ""
    if not token and not username:
        raise LoginRefused("Give a client key or the admin token, or a user name and a password.", 400)
    guard, address = auth.guard, request.remote_addr
    try:
        if token:
            _check_secret(token.strip(), guard, sessions)
            return
        role = guard.check_password(username, form.password.data or "", address)
        if role is None or not sessions.open(username):
            raise LoginRefused("The user name or the password is wrong.")
    except TooManyTries as error:
        wait_s = error.retry_after_s
        raise LoginRefused(f"Too many tries. Wait {wait_s} s and try again.", 429, wait_s) from error
    except StoreUnavailable as error:
        raise LoginRefused(
            "The database cannot answer, so keys and passwords cannot be checked "
            f"({error}). The admin token works.",
            503,
        ) from error


def _check_secret(secret: str, guard: LoginGuard, sessions: Sessions) -> None:
    """Open a session for the admin token, or a client key; raises `LoginRefused`, and what the guard does.

    The token works while the database is away. Like it, a client key is not found by trying: a right one
    passes before anything is counted, and wrong ones are counted as wrong tokens.
    """
    given, away = secret.encode("utf-8", "surrogatepass"), None
    if guard.is_token(given):
        sessions.open(None)
        return
    try:
        if sessions.open_with_key(secret):
            return
    except StoreUnavailable as error:
        away = error
    guard.check_token(given, request.remote_addr)
    if away is not None:
        raise away
    raise LoginRefused("That is neither a client key that is accepted here nor the admin token.")


def home() -> str:
    """Return the page that whoever asks begins with."""
    is_user = current_user.is_authenticated and not current_user.may(Permission.READ)
    return url_for("own.usage" if is_user else HOME)


def safe_target(target: str | None) -> str:
    """Return where to go after a form: a page of the dashboard, and the first page for anything else."""
    if not target or not target.isprintable() or "\\" in target:
        return home()
    parts = urlsplit(target)
    own = parts.path == request.script_root or parts.path.startswith(f"{request.script_root}/")
    return target if own and not parts.scheme and not parts.netloc and not target.startswith("//") else home()
