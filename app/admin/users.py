"""Users: all of them, one of them with keys and ledger, and what can be done with them."""

from collections.abc import Callable
from datetime import tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any

from flask import Blueprint, current_app, make_response, redirect, render_template, request, url_for
from flask_login import current_user
from flask_wtf import FlaskForm
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from app.accounts.roles import role_name
from app.admin.acting import actor, attempt, sent, text_of
from app.admin.asking import ask
from app.admin.formats import usd_exact
from app.admin.new_keys import NewKeys
from app.admin.user_forms import CreditForm, KeyLimitsForm, NewUserForm, PasswordForm, SettingsForm
from app.common.cursor import FilterError, PageCursor
from app.management.administration import Administration
from app.management.client_keys import ClientKeyAdmin
from app.management.errors import Missing
from app.management.reading import RequestLogStore
from app.management.users import CreditChange, NewUser, User, UserAdmin
from app.records.log_filter import LogFilter
from app.records.shown_record import shown_record

_REFUSED = 400
DrawUser = Callable[..., AnyResponse]

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


def user_pages(
    administration: Administration, logs: RequestLogStore, new_keys: NewKeys, tz: tzinfo
) -> Blueprint:
    """Make the pages `/customers` and `/customers/<name>`."""
    routes = Blueprint("users", __name__)
    _add_list(routes, administration.users, new_keys)
    draw = _drawing(administration, logs)
    routes.get("/customers/<name>", endpoint="one_user")(lambda name: draw(name))
    _add_credit(routes, administration.users, draw)
    _add_changes(routes, administration.users, draw)
    _add_keys(routes, administration.client_keys, new_keys, draw, tz)
    return routes


def _add_list(routes: Blueprint, users: UserAdmin, new_keys: NewKeys) -> None:
    def table(form: NewUserForm, status: int = 200) -> AnyResponse:
        search = request.args.get("search", "").strip()[:64]
        order = request.args.get("sort", "name")
        order = order if order in ORDERS else "name"
        try:
            cursor = PageCursor.parse(request.args.get("cursor"), order)
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
            form=form,
        )
        return make_response(page, status)

    @routes.get("/customers")
    def all_users() -> AnyResponse:
        return table(NewUserForm(formdata=None, **_given("username")))

    @routes.post("/customers")
    def add_user() -> AnyResponse:
        form, made = NewUserForm(), []

        def add() -> str:
            new = NewUser(
                text_of(form.username) or "",
                form.credits.data or Decimal(0),
                form.role.data,
                form.rpm.data,
                form.password.data or None,
                limits=form.given(),
            )
            user, key = users.add(actor(), new)
            made.append((user.username, key))
            return f"User {user.username} is made."

        if not sent(form, add):
            return table(form, _REFUSED)
        name, key = made[0]
        return new_keys.show(key, url_for("users.one_user", name=name))


def _drawing(administration: Administration, logs: RequestLogStore) -> DrawUser:
    """Return what draws a user's page, with the forms given instead of fresh ones."""
    users, keys = administration.users, administration.client_keys

    def draw(name: str, status: int = 200, **forms: FlaskForm) -> AnyResponse:
        try:
            document = users.get(name)
            cursor = PageCursor.parse(request.args.get("ledger"))
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
            has_log="requests.table" in current_app.view_functions,
            recent=[shown_record(record) for record in recent],
            budgets=ask(lambda: users.budgets_left(user)) or [],
            is_oneself=user.username == current_user.username,
            **(_fresh_forms(user) | forms),
        )
        return make_response(page, status)

    return draw


def _fresh_forms(user: User) -> dict[str, FlaskForm]:
    given, is_debit = _given("amount", "reason"), "debit" in request.args
    return {
        "credit_form": CreditForm(formdata=None, prefix="credit", **({} if is_debit else given)),
        "debit_form": CreditForm(formdata=None, prefix="debit", **(given if is_debit else {})),
        "settings_form": SettingsForm(
            formdata=None,
            role=role_name(user.role),
            price_factor=user.price_factor,
            group=user.group,
            **SettingsForm.shown(user.rpm, user.limits),
        ),
        "password_form": PasswordForm(formdata=None),
        "key_form": KeyLimitsForm(formdata=None, prefix="key"),
    }


def _add_credit(routes: Blueprint, users: UserAdmin, draw: DrawUser) -> None:
    def change(name: str, form: CreditForm, sign: int) -> str:
        wanted = CreditChange(sign * form.amount.data, renews=form.renews.data, reason=text_of(form.reason))
        done = users.credit(actor(), name, wanted)
        return f"{name} has {usd_exact(done.after_nano)} now, had {usd_exact(done.before_nano)}."

    @routes.post("/customers/<name>/credit")
    def credit(name: str) -> AnyResponse:
        form = CreditForm(prefix="credit")
        if sent(form, lambda: change(name, form, 1)):
            return _back(name)
        return draw(name, _REFUSED, credit_form=form)

    @routes.post("/customers/<name>/debit")
    def debit(name: str) -> AnyResponse:
        form = CreditForm(prefix="debit")
        if sent(form, lambda: change(name, form, -1)):
            return _back(name)
        return draw(name, _REFUSED, debit_form=form)


def _add_changes(routes: Blueprint, users: UserAdmin, draw: DrawUser) -> None:
    @routes.post("/customers/<name>/active")
    def set_active(name: str) -> AnyResponse:
        is_active = request.form.get("active") == "yes"

        def change() -> str:
            users.set_active(actor(), name, is_active)
            return f"{name} is {'enabled' if is_active else 'disabled'}; workers follow within seconds."

        attempt(change)
        return _back(name)

    @routes.post("/customers/<name>/settings")
    def change_settings(name: str) -> AnyResponse:
        form = SettingsForm()

        def change() -> str:
            users.change(actor(), name, _changes(users, name, form))
            return f"{name} is changed."

        return _back(name) if sent(form, change) else draw(name, _REFUSED, settings_form=form)

    @routes.post("/customers/<name>/password")
    def set_password(name: str) -> AnyResponse:
        form = PasswordForm()

        def change() -> str:
            users.set_password(actor(), name, form.password.data)
            return f"{name} has a new password."

        return _back(name) if sent(form, change) else draw(name, _REFUSED, password_form=form)


def _changes(users: UserAdmin, name: str, form: SettingsForm) -> dict[str, Any]:
    """Return what is to be changed: not the role, where it is the one they have under its other name."""
    given = form.given()
    user = users.find(name)
    if user is not None and role_name(user.role) == given["role"]:
        del given["role"]
    return given


def _add_keys(routes: Blueprint, keys: ClientKeyAdmin, new_keys: NewKeys, draw: DrawUser, tz: tzinfo) -> None:
    @routes.post("/customers/<name>/keys")
    def add_key(name: str) -> AnyResponse:
        form, made = KeyLimitsForm(prefix="key"), []

        def add() -> str:
            made.append(keys.add(actor(), name, more=form.changes(tz)))
            return f"A key for {name} is made."

        if not sent(form, add):
            return draw(name, _REFUSED, key_form=form)
        return new_keys.show(made[0], url_for("users.one_user", name=name))


def _given(*names: str) -> dict[str, Any]:
    """Return what the address fills into a form: nothing is done before somebody sends it."""
    found: dict[str, Any] = {name: request.args[name][:500] for name in names if request.args.get(name)}
    if "amount" in found:
        try:
            found["amount"] = Decimal(found["amount"])
        except InvalidOperation:
            del found["amount"]
    return found


def _back(name: str) -> AnyResponse:
    return redirect(url_for("users.one_user", name=name), code=303)
