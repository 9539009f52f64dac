"""Users: all of them with what they spend, one of them with all there is about them, and what can be done."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any

from flask import Blueprint, Response, abort, make_response, redirect, render_template, request, url_for
from flask_login import current_user
from flask_wtf import FlaskForm
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from app.accounts.limits import NO_LIMITS
from app.accounts.user_pages import SORTS, STATES
from app.admin.acting import actor, attempt, sent, text_of
from app.admin.asking import ask
from app.admin.charts import METRICS, Chart, metric_chart
from app.admin.customer_view import (
    RATE_DAYS,
    Pages,
    Trend,
    budget_words,
    days_left,
    days_text,
    ledger_words,
)
from app.admin.customers import (
    DEFAULT_PERIOD,
    PAGE,
    Asked,
    CustomerSources,
    Spending,
    Wanted,
    address,
    costs_by,
    deeds_about,
    months_of,
    numbered_page,
    page_asked,
    spending,
)
from app.admin.formats import usd_exact
from app.admin.user_forms import (
    CreditForm,
    KeyLimitsForm,
    LimitsForm,
    NewUserForm,
    PasswordForm,
    SettingsForm,
)
from app.common.csv_text import csv_lines
from app.common.cursor import FilterError, PageCursor
from app.common.display import iso_utc
from app.management.errors import Missing
from app.management.users import CreditChange, ListedUser, NewUser, User, UserAdmin
from app.records.log_filter import LogFilter
from app.records.shown_record import shown_record
from app.statistics.figures import Totals
from app.statistics.periods import MONTH, Period, midnight
from app.statistics.timeseries import GROUPS, UnknownChoiceError

_REFUSED = 400
DrawUser = Callable[..., AnyResponse]

LEDGER_PAGE = 20
RECENT = 10
_TOP = 9
_AT_ONCE = 500
_DAY = timedelta(days=1)

SPEND, THIS_MONTH, LEFT = "spend", "month", "left"
DERIVED = (SPEND, THIS_MONTH, LEFT)
"""What users are sorted by that is not in their documents: all of them are added up for it."""

STATE_TITLES = {"": "All", "active": "Active", "disabled": "Disabled", "empty": "Without credit"}


@dataclass(frozen=True, slots=True)
class Row:
    """A user of the list. `listed` None: requests name them, but there is no such user."""

    name: str
    listed: ListedUser | None
    totals: Totals
    trend: Trend
    month_nano: int
    days: float | None

    @property
    def days_text(self) -> str:
        """How long the balance lasts at the rate of the last days, in words."""
        return days_text(self.days)

    @property
    def group(self) -> str | None:
        """The user's group of the model table."""
        return self.listed.user.group if self.listed is not None else None

    @property
    def budget_share(self) -> float | None:
        """The share of the fullest budget that is spent; None: there is none."""
        budgets = self.listed.budgets if self.listed is not None else ()
        return max((left.share for left in budgets), default=None)


def user_pages(sources: CustomerSources) -> Blueprint:
    """Make the pages `/customers` and `/customers/<name>`."""
    routes = Blueprint("users", __name__)
    _add_list(routes, sources)
    draw = _drawing(sources)
    users = sources.administration.users
    routes.get("/customers/<name>", endpoint="one_user")(lambda name: draw(name))
    _add_credit(routes, users, draw)
    _add_changes(routes, users, draw, sources.tz)
    _add_keys(routes, sources, draw)
    return routes


def _wanted(sources: CustomerSources) -> Wanted:
    return Wanted.now(sources, STATES, (*SORTS, *DERIVED), "name")


def _add_list(routes: Blueprint, sources: CustomerSources) -> None:
    users = sources.administration.users

    def table(form: NewUserForm, status: int = 200) -> AnyResponse:
        wanted = _wanted(sources)
        rows, pages = _page(sources, wanted)
        page = render_template(
            "users.html",
            rows=rows,
            pages=pages,
            counts=ask(users.counts),
            states=STATE_TITLES,
            rate_days=RATE_DAYS,
            form=form,
            is_filled="username" in request.args,
            **wanted.shown,
        )
        return make_response(page, status if wanted.asked.problem is None else _REFUSED)

    @routes.get("/customers")
    def all_users() -> AnyResponse:
        return table(NewUserForm(formdata=None, **_given("username")))

    @routes.get("/customers.csv")
    def export() -> Response:
        wanted = _wanted(sources)
        if wanted.asked.problem is not None:
            abort(_REFUSED)
        return sources.download(_csv(sources, wanted), "users")

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
                expires_at=form.expires_at.data,
            )
            user, key = users.add(actor(), new)
            made.append((user.username, key))
            return f"User {user.username} is created."

        if not sent(form, add):
            return table(form, _REFUSED)
        name, key = made[0]
        return sources.new_keys.show(key, url_for("users.one_user", name=name))


def _page(sources: CustomerSources, wanted: Wanted) -> tuple[Sequence[Row], Pages]:
    """Read the page asked for; without rows while the store is away."""
    users, period = sources.administration.users, wanted.asked.period

    def read() -> tuple[Sequence[str], Mapping[str, ListedUser], Pages]:
        if wanted.sort.name in DERIVED:
            names = _in_order(sources, wanted)
            here = page_asked().of(len(names))
            some = names[here.skip : here.skip + PAGE]
            return some, users.some(some), here
        found, here = numbered_page(
            lambda skip: users.numbered(
                search=wanted.search, state=wanted.state, sort=str(wanted.sort), skip=skip, limit=PAGE
            )
        )
        listed = {row.user.username: row for row in found}
        return list(listed), listed, here

    names, listed, here = ask(read) or ((), {}, Pages(1, PAGE, 0))
    spent = spending(sources, "user", names, period)
    return [_row(name, listed.get(name), spent, period.now) for name in names], here


def _row(name: str, listed: ListedUser | None, spent: Spending | None, now: datetime) -> Row:
    totals, trend, month = (Totals(), Trend((), ()), 0) if spent is None else spent.of(name)
    days = None
    if listed is not None:
        user = listed.user
        days = days_left(user.spendable_nano, trend.rate(now, user.created_at))
    return Row(name, listed, totals, trend, month, days)


def _in_order(sources: CustomerSources, wanted: Wanted) -> Sequence[str]:
    """Return the names of all users in an order that has to be worked out; those who are gone are in it."""
    period, tz = wanted.asked.period, sources.tz
    balances = sources.administration.users.balances(search=wanted.search, state=wanted.state)
    by_name = sorted(balances)
    if wanted.sort.name == LEFT:
        since = midnight(period.now.astimezone(tz).date() - RATE_DAYS * _DAY, tz)
        week = Period(None, since, None, period.now, tz)
        costs = costs_by(sources, "user", week)
        lasts = {name: days_left(nano, costs.get(name, 0)) for name, nano in balances.items()}
        lasting = [name for name in by_name if lasts[name] is not None]
        lasting.sort(key=lambda name: lasts[name] or 0.0, reverse=wanted.sort.is_falling)
        return [*lasting, *(name for name in by_name if lasts[name] is None)]
    if wanted.sort.name == THIS_MONTH:
        period = Period.of(MONTH, period.now, tz)
    costs = costs_by(sources, "user", period)
    if not wanted.state:
        wanted_text = wanted.search.lower()
        gone = (name for name in costs if name not in balances)
        by_name = sorted([*by_name, *(name for name in gone if wanted_text in name.lower())])
    return sorted(by_name, key=lambda name: costs.get(name, 0), reverse=wanted.sort.is_falling)


def _csv(sources: CustomerSources, wanted: Wanted) -> Iterator[str]:
    """Write all users of the list, in its order; money is in nano-dollars, times are in UTC."""
    period = wanted.asked.period
    within = costs_by(sources, "user", period)
    month = costs_by(sources, "user", Period.of(MONTH, period.now, sources.tz))
    heads = ["user", "group", "role", "active", "balanceNanoUsd", "costNanoUsd", "costThisMonthNanoUsd"]
    heads += ["spentEverNanoUsd", "lastUsedAt", "creditValidUntil", "createdAt"]

    def cells(name: str, listed: ListedUser | None) -> list[Any]:
        spent = [within.get(name, 0), month.get(name, 0)]
        if listed is None:
            return [name, None, None, None, None, *spent, None, None, None, None]
        user = listed.user
        times = (listed.last_used_at, user.expires_at, user.created_at)
        shown = [None if time is None else iso_utc(time) for time in times]
        state = [user.group, user.role, "yes" if user.is_active else "no", user.spendable_nano]
        return [name, *state, *spent, user.credits_used_nano, *shown]

    return csv_lines(heads, (cells(name, listed) for name, listed in _everybody(sources, wanted)))


def _everybody(sources: CustomerSources, wanted: Wanted) -> Iterator[tuple[str, ListedUser | None]]:
    users = sources.administration.users
    if wanted.sort.name in DERIVED:
        names = _in_order(sources, wanted)
        for begin in range(0, len(names), _AT_ONCE):
            some = names[begin : begin + _AT_ONCE]
            found = users.some(some)
            yield from ((name, found.get(name)) for name in some)
        return
    skip, count = 0, 1
    while skip < count:
        rows, count = users.numbered(
            search=wanted.search, state=wanted.state, sort=str(wanted.sort), skip=skip, limit=_AT_ONCE
        )
        yield from ((row.user.username, row) for row in rows)
        skip += _AT_ONCE


def _drawing(sources: CustomerSources) -> DrawUser:
    """Return what draws a user's page, with the forms given instead of fresh ones."""
    users, keys = sources.administration.users, sources.administration.client_keys

    def draw(name: str, status: int = 200, **forms: FlaskForm) -> AnyResponse:
        try:
            document = users.get(name)
            cursor = PageCursor.parse(request.args.get("ledger"))
            found = ask(lambda: users.ledger(name, LEDGER_PAGE, cursor))
        except Missing:
            raise NotFound from None
        except FilterError:
            return redirect(url_for("users.one_user", name=name))
        user, asked = User.from_document(document), Asked.now(sources)
        budgets = ask(lambda: users.budgets_left(user)) or []
        listed = ListedUser(user, document.get("lastUsedAt"), budgets)
        own = ask(lambda: keys.list(name)) or []
        spent = spending(sources, "user", [name], asked.period)
        lines, older = found or ([], None)
        recent, _ = ask(lambda: sources.logs.find(LogFilter(user=name), RECENT)) or ([], None)
        page = render_template(
            "user.html",
            user=user,
            row=_row(name, listed, spent, asked.period.now),
            limits=user.limits or NO_LIMITS,
            budget_words=budget_words,
            has_password=document.get("hasPassword"),
            keys=own,
            keys_spent=spending(sources, "key", [key.stored_id for key in own], asked.period),
            chart=_chart(sources, name, asked.period),
            by_month=months_of(sources, "user", name),
            lines=[(line, ledger_words(line)) for line in lines],
            older_lines=older,
            recent=[shown_record(record) for record in recent],
            deeds=deeds_about(sources, f"user:{name}"),
            is_oneself=user.username == current_user.username,
            asked_for=asked,
            problem=asked.problem,
            default_period=DEFAULT_PERIOD,
            rate_days=RATE_DAYS,
            filled="" if "amount" not in request.args else "debit" if "debit" in request.args else "credit",
            address=address,
            **(_fresh_forms(user, sources.tz) | forms),
        )
        return make_response(page, status if asked.problem is None else _REFUSED)

    return draw


def _chart(sources: CustomerSources, name: str, period: Period) -> Chart | None:
    """Return what the user spent over time, by model."""
    try:
        series = ask(
            lambda: sources.stats.series(
                period, by="model", rank_by="cost", top=_TOP, selection={GROUPS["user"]: name}
            )
        )
    except UnknownChoiceError:
        return None
    return None if series is None else metric_chart(METRICS["cost"], series, period, sources.tz)


def _fresh_forms(user: User, tz: tzinfo) -> dict[str, FlaskForm]:
    given, is_debit = _given("amount", "reason"), "debit" in request.args
    return {
        "credit_form": CreditForm(formdata=None, prefix="credit", **({} if is_debit else given)),
        "debit_form": CreditForm(formdata=None, prefix="debit", **(given if is_debit else {})),
        "settings_form": SettingsForm.of(user, tz),
        "limits_form": LimitsForm(formdata=None, **LimitsForm.shown(user.rpm, user.limits)),
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


def _add_changes(routes: Blueprint, users: UserAdmin, draw: DrawUser, tz: tzinfo) -> None:
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
            user = users.find(name)
            if user is None:
                raise NotFound
            users.change(actor(), name, form.changes(user, tz))
            return f"{name} is changed; workers follow within seconds."

        return _back(name) if sent(form, change) else draw(name, _REFUSED, settings_form=form)

    @routes.post("/customers/<name>/limits")
    def change_limits(name: str) -> AnyResponse:
        form = LimitsForm()

        def change() -> str:
            users.change(actor(), name, form.given())
            return f"{name} has other limits; workers follow within seconds."

        return _back(name) if sent(form, change) else draw(name, _REFUSED, limits_form=form)

    @routes.post("/customers/<name>/password")
    def set_password(name: str) -> AnyResponse:
        form = PasswordForm()

        def change() -> str:
            users.set_password(actor(), name, form.password.data)
            return f"{name} has a new password."

        return _back(name) if sent(form, change) else draw(name, _REFUSED, password_form=form)


def _add_keys(routes: Blueprint, sources: CustomerSources, draw: DrawUser) -> None:
    @routes.post("/customers/<name>/keys")
    def add_key(name: str) -> AnyResponse:
        form, made = KeyLimitsForm(prefix="key"), []

        def add() -> str:
            keys = sources.administration.client_keys
            made.append(keys.add(actor(), name, more=form.changes()))
            return f"A key for {name} is created."

        if not sent(form, add):
            return draw(name, _REFUSED, key_form=form)
        return sources.new_keys.show(made[0], url_for("users.one_user", name=name))


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
