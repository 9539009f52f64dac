"""Users: all of them, one of them with keys and ledger, and what can be done with them."""

from decimal import Decimal
from typing import Any, Protocol

from flask import Blueprint, current_app, make_response, redirect, render_template, request, url_for
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from app.admin.acting import actor, attempt, is_filled, text_of
from app.admin.asking import ask
from app.admin.formats import usd_exact
from app.admin.user_forms import CreditForm, KeyForm, NewUserForm, PasswordForm, SettingsForm
from app.core.display import shown_record
from app.core.log_filter import FilterError, LogFilter, PageCursor
from app.management.administration import Administration
from app.management.client_keys import ClientKeyAdmin
from app.management.errors import Missing
from app.management.users import CreditChange, NewClientKey, NewUser, User, UserAdmin

PAGE = 50
LEDGER_PAGE = 20
RECENT = 10
ORDERS = {
    "name": "name",
    "spend": "spent",
    "credits": "credit",
    "activity": "last activity",
    "created": "made",
}


class RecentRequests(Protocol):
    """Where a user's latest requests are read; raises `StoreUnavailable`."""

    def find(
        self, wanted: LogFilter, limit: int, cursor: PageCursor | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """The newest first."""


def user_pages(administration: Administration, logs: RecentRequests) -> Blueprint:
    """`/users` and `/users/<name>`."""
    routes = Blueprint("users", __name__)
    _add_list(routes, administration.users)
    _add_user(routes, administration, logs)
    _add_credit(routes, administration.users)
    _add_changes(routes, administration.users)
    _add_keys(routes, administration.client_keys)
    return routes


def _add_list(routes: Blueprint, users: UserAdmin) -> None:
    @routes.get("/users")
    def all_users() -> AnyResponse:
        search = request.args.get("search", "").strip()[:64]
        order = request.args.get("sort", "name")
        order = order if order in ORDERS else "name"
        cursor = request.args.get("cursor") or None
        try:
            found = ask(lambda: users.page(search=search, order=order, limit=PAGE, cursor=cursor))
        except FilterError:
            return redirect(url_for("users.all_users", search=search or None, sort=order))
        rows, next_cursor = found or ([], None)
        page = render_template(
            "users.html",
            users=[(User.from_document(row), row.get("lastUsedAt")) for row in rows],
            counts=ask(users.counts),
            next_cursor=next_cursor,
            search=search,
            order=order,
            orders=ORDERS,
            form=NewUserForm(formdata=None),
        )
        return make_response(page)

    @routes.post("/users")
    def add_user() -> AnyResponse:
        form, made = NewUserForm(), []

        def add() -> str:
            new = NewUser(
                text_of(form.username) or "",
                form.credits.data or Decimal(0),
                form.role.data,
                form.rpm.data,
                form.password.data or None,
            )
            user, key = users.add(actor(), new)
            made.append((user.username, key))
            return f"User {user.username} is made."

        if not (is_filled(form) and attempt(add)):
            return redirect(url_for("users.all_users"), code=303)
        return key_page(*made[0])


def _add_user(routes: Blueprint, administration: Administration, logs: RecentRequests) -> None:
    users, keys = administration.users, administration.client_keys

    @routes.get("/users/<name>")
    def one_user(name: str) -> AnyResponse:
        try:
            document = users.get(name)
            cursor = PageCursor.decode(text) if (text := request.args.get("ledger")) else None
            found = ask(lambda: users.ledger(name, LEDGER_PAGE, cursor))
        except Missing:
            raise NotFound from None
        except FilterError:
            return redirect(url_for("users.one_user", name=name))
        user = User.from_document(document)
        lines, older = found or ([], None)
        recent, _ = ask(lambda: logs.find(LogFilter(user=name), RECENT)) or ([], None)
        page = render_template(
            "user.html",
            user=user,
            last_used_at=document.get("lastUsedAt"),
            has_password=document.get("hasPassword"),
            keys=ask(lambda: keys.list(name)) or [],
            lines=lines,
            older_lines=older,
            has_log="log.log" in current_app.view_functions,
            recent=[shown_record(record) for record in recent],
            credit_form=CreditForm(formdata=None),
            settings_form=SettingsForm(formdata=None, role=user.role, rpm=user.rpm),
            password_form=PasswordForm(formdata=None),
            key_form=KeyForm(formdata=None, prefix="key"),
        )
        return make_response(page)


def _add_credit(routes: Blueprint, users: UserAdmin) -> None:
    @routes.post("/users/<name>/credit")
    def credit(name: str) -> AnyResponse:
        form = CreditForm()

        def change() -> str:
            sign = -1 if request.form.get("direction") == "debit" else 1
            wanted = CreditChange(
                sign * form.amount.data, renews=form.renews.data, reason=text_of(form.reason)
            )
            done = users.credit(actor(), name, wanted)
            return f"{name} has {usd_exact(done.after_nano)} now, had {usd_exact(done.before_nano)}."

        if is_filled(form):
            attempt(change)
        return _back(name)


def _add_changes(routes: Blueprint, users: UserAdmin) -> None:
    @routes.post("/users/<name>/active")
    def set_active(name: str) -> AnyResponse:
        is_active = request.form.get("active") == "yes"

        def change() -> str:
            users.set_active(actor(), name, is_active)
            return f"{name} is {'enabled' if is_active else 'disabled'}; workers follow within seconds."

        attempt(change)
        return _back(name)

    @routes.post("/users/<name>/settings")
    def change_settings(name: str) -> AnyResponse:
        form = SettingsForm()

        def change() -> str:
            users.change(actor(), name, {"role": form.role.data, "rpm": form.rpm.data})
            return f"{name} is changed."

        if is_filled(form):
            attempt(change)
        return _back(name)

    @routes.post("/users/<name>/password")
    def set_password(name: str) -> AnyResponse:
        form = PasswordForm()

        def change() -> str:
            users.set_password(actor(), name, form.password.data)
            return f"{name} has a new password."

        if is_filled(form):
            attempt(change)
        return _back(name)


def _add_keys(routes: Blueprint, keys: ClientKeyAdmin) -> None:
    @routes.post("/users/<name>/keys")
    def add_key(name: str) -> AnyResponse:
        form, made = KeyForm(prefix="key"), []

        def add() -> str:
            made.append(keys.add(actor(), name, rpm=form.rpm.data, notes=text_of(form.notes)))
            return f"A key for {name} is made."

        if not (is_filled(form) and attempt(add)):
            return _back(name)
        return key_page(name, made[0])


def _back(name: str) -> AnyResponse:
    return redirect(url_for("users.one_user", name=name), code=303)


def key_page(username: str, key: NewClientKey) -> AnyResponse:
    """The one page that shows a client key. It answers the form itself, so that nothing leads back to it."""
    return make_response(render_template("new_key.html", username=username, key=key))
