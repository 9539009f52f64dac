"""`/me`: what users see of themselves, and do with their own keys. Nothing of anybody else is in here.

The same as `/api/user`, with its rules: what a user may see of a record, that another's key is none, and that
who came with a key that has limits of its own does not manage keys.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from flask import (
    Blueprint,
    Response,
    current_app,
    flash,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from flask_login import current_user
from werkzeug.exceptions import Forbidden, NotFound
from werkzeug.wrappers import Response as AnyResponse

from app.accounts.limits import NO_LIMITS
from app.admin.access import SESSIONS, Sessions
from app.admin.acting import actor, attempt, is_filled, show_refusal
from app.admin.asking import ask
from app.admin.new_keys import NewKeys
from app.admin.user_forms import KeyLimitsForm, RotateForm
from app.common.errors import StoreUnavailable
from app.exchange.ports import Clock
from app.management.client_keys import ClientKey, ClientKeyAdmin
from app.management.errors import ManagementError, Missing
from app.management.reading import (
    Month,
    RequestLogStore,
    Statement,
    Statements,
    statement_csv,
    statement_html,
)
from app.management.users import UserAdmin
from app.management.views.records import own_record
from app.records.log_filter import LogFilter

_PAGE = 50
_REACH = 10_000
_REFUSED = 400
_MONTHS = 24


@dataclass(frozen=True, slots=True)
class OwnSources:
    """What the pages read and change."""

    users: UserAdmin
    keys: ClientKeyAdmin
    statements: Statements
    logs: RequestLogStore
    clock: Clock
    tz: tzinfo
    new_keys: NewKeys


@dataclass(slots=True)
class Used:
    """Sums of charges."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    nano: int = 0


def own_pages(sources: OwnSources) -> Blueprint:
    """Make the pages below `/me`."""
    routes = Blueprint("own", __name__)
    _add_usage(routes, sources)
    _add_keys(routes, sources)
    _add_statements(routes, sources)
    _add_requests(routes, sources)
    routes.app_context_processor(lambda: {"manages_keys": lambda: _manages_keys(sources.keys)})
    return routes


def _me() -> str:
    name: str | None = current_user.username
    if name is None:
        raise NotFound
    return name


def _add_usage(routes: Blueprint, sources: OwnSources) -> None:
    @routes.get("/me")
    def usage() -> AnyResponse:
        now = sources.clock.utcnow()
        month = _month(sources, request.args.get("month"))
        user = sources.users.find(_me())
        if user is None:
            raise NotFound
        found = ask(lambda: sources.statements.statement(month, user.username, now))
        charges = found.charges if found is not None else ()
        names = {key.key_id: key.key_name or key.hint for key in ask(lambda: sources.keys.list(_me())) or []}
        page = render_template(
            "own_usage.html",
            user=user,
            budgets=ask(lambda: sources.users.budgets_left(user)) or [],
            limits=user.limits or NO_LIMITS,
            month=month.name,
            months=[head["month"] for head in _months(sources)],
            total=_summed(charges, lambda _: "").get("", Used()),
            days=sorted(_summed(charges, lambda charge: charge.day).items()),
            models=_dearest(_summed(charges, lambda charge: charge.model or "no known model")),
            keys=_dearest(_summed(charges, lambda charge: names.get(charge.key, charge.key))),
        )
        return make_response(page)


def _summed(charges: Iterable[Any], by: Callable[[Any], str]) -> dict[str, Used]:
    sums: defaultdict[str, Used] = defaultdict(Used)
    for charge in charges:
        used = sums[by(charge)]
        used.requests += charge.requests
        used.input_tokens += charge.input_tokens
        used.output_tokens += charge.output_tokens
        used.cached_tokens += charge.cache_hit_tokens
        used.nano += charge.nano
    return dict(sums)


def _dearest(sums: dict[str, Used]) -> list[tuple[str, Used]]:
    return sorted(sums.items(), key=lambda item: (-item[1].nano, item[0]))


def _add_keys(routes: Blueprint, sources: OwnSources) -> None:
    keys = sources.keys

    @routes.get("/me/keys")
    def own_keys() -> AnyResponse:
        _check_key_of_session(keys)
        return make_response(render_template("own_keys.html", keys=keys.list(_me())))

    @routes.get("/me/keys/<key_id>")
    def own_key(key_id: str) -> AnyResponse:
        key = _own_key(keys, key_id)
        page = render_template(
            "own_key.html",
            key=key,
            limits=key.limits or NO_LIMITS,
            budgets=ask(lambda: keys.budgets_left(key)) or [],
            rotate_form=RotateForm(formdata=None),
        )
        return make_response(page)

    @routes.route("/me/keys/new", methods=["GET", "POST"])
    def add_own_key() -> AnyResponse:
        _check_key_of_session(keys)
        form = KeyLimitsForm()
        if request.method == "GET":
            return _key_form(form, None)
        if form.validate():
            try:
                made = keys.add_own(actor(), _me(), form.changes())
            except ManagementError as refusal:
                show_refusal(form, refusal)
            else:
                return sources.new_keys.show(made, url_for("own.own_keys"))
        return _key_form(form, None, _REFUSED)

    _add_key_changes(routes, sources)


def _add_key_changes(routes: Blueprint, sources: OwnSources) -> None:
    keys = sources.keys

    @routes.route("/me/keys/<key_id>/edit", methods=["GET", "POST"])
    def edit_own_key(key_id: str) -> AnyResponse:
        key = _own_key(keys, key_id)
        if request.method == "GET":
            return _key_form(KeyLimitsForm.of(key, sources.tz), key)
        form = KeyLimitsForm()
        if form.validate():
            try:
                keys.change(actor(), key.key_id, form.changes())
            except ManagementError as refusal:
                show_refusal(form, refusal)
            else:
                flash("The key is changed; workers follow within seconds.", "success")
                return redirect(url_for("own.own_key", key_id=key_id), code=303)
        return _key_form(form, key, _REFUSED)

    @routes.post("/me/keys/<key_id>/rotate")
    def rotate_own_key(key_id: str) -> AnyResponse:
        key, form, made = _own_key(keys, key_id), RotateForm(), []

        def action() -> str:
            made.append(keys.rotate(actor(), key.key_id, float(form.hours.data)))
            return f"The key has another secret; the one before is accepted for {form.hours.data} hours more."

        if not (is_filled(form) and attempt(action)):
            return redirect(url_for("own.own_key", key_id=key_id), code=303)
        if current_user.key_id == key.key_id:
            sessions: Sessions = current_app.extensions[SESSIONS]
            sessions.renew()
        return sources.new_keys.show(made[0], url_for("own.own_key", key_id=key_id))

    @routes.post("/me/keys/<key_id>/revoke")
    def revoke_own_key(key_id: str) -> AnyResponse:
        key = _own_key(keys, key_id)

        def action() -> str:
            keys.revoke(actor(), key.key_id)
            return f"{key.key_name or key.hint} is revoked; workers follow within seconds."

        attempt(action)
        return redirect(url_for("own.own_keys"), code=303)


def _key_form(form: KeyLimitsForm, key: ClientKey | None, status: int = 200) -> AnyResponse:
    return make_response(render_template("own_key_form.html", form=form, key=key), status)


def _own_key(keys: ClientKeyAdmin, key_id: str) -> ClientKey:
    """Return a key of the user's; another's is none."""
    _check_key_of_session(keys)
    try:
        return keys.get_own(_me(), key_id)
    except Missing:
        raise NotFound from None


def _check_key_of_session(keys: ClientKeyAdmin) -> None:
    if not _manages_keys(keys):
        raise Forbidden


def _manages_keys(keys: ClientKeyAdmin) -> bool:
    """Return whether the user manages keys here: not with one that has limits of its own.

    Whoever was given it could make one without them.
    """
    if not current_user.is_authenticated or current_user.username is None:
        return False
    if current_user.key_id is None:
        return True
    try:
        key = keys.find(current_user.key_id)
    except StoreUnavailable:
        return False
    return key is None or not key.is_limited


def _add_statements(routes: Blueprint, sources: OwnSources) -> None:
    def found(name: str) -> tuple[Month, Statement, str]:
        month, now = _month(sources, name), sources.clock.utcnow()
        statement = sources.statements.statement(month, _me(), now)
        if statement is None:
            raise NotFound
        return month, statement, sources.statements.head(month, now)["state"]

    @routes.get("/me/statements")
    def own_statements() -> AnyResponse:
        return make_response(render_template("own_statements.html", months=_months(sources)))

    @routes.get("/me/statements/<month>")
    def own_statement(month: str) -> AnyResponse:
        asked, statement, state = found(month)
        page = statement_html(asked, statement, status=state, at=sources.clock.utcnow())
        answer = Response(page, content_type="text/html; charset=utf-8")
        answer.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
        return answer

    @routes.get("/me/statements/<month>.csv")
    def own_statement_csv(month: str) -> AnyResponse:
        asked, statement, _ = found(month)
        text = "".join(f"{line}\r\n" for line in statement_csv(asked, statement))
        answer = Response(text, content_type="text/csv; charset=utf-8")
        answer.headers["Content-Disposition"] = f'attachment; filename="statement-{asked.name}.csv"'
        return answer


def _add_requests(routes: Blueprint, sources: OwnSources) -> None:
    @routes.get("/me/requests")
    def own_requests() -> AnyResponse:
        number = request.args.get("page", default=1, type=int)
        number = min(max(number, 1), _REACH // _PAGE)
        wanted = LogFilter(user=_me())
        found, total = sources.logs.numbered_page(wanted, number, _PAGE, _REACH + 1)
        has_more = number * _PAGE < min(total, _REACH)
        page = render_template(
            "own_requests.html",
            rows=[own_record(record) for record in found],
            number=number,
            has_more=has_more,
            # Where the list ends, it says why.
            expired=None if has_more else sources.logs.kept_since(sources.clock.utcnow()),
        )
        return make_response(page)

    @routes.get("/me/requests/<request_id>")
    def own_request(request_id: str) -> AnyResponse:
        record = sources.logs.get(request_id)
        if record is None or record.get("userId") != _me():
            raise NotFound
        return make_response(render_template("own_request.html", record=own_record(record)))


def _month(sources: OwnSources, name: str | None) -> Month:
    now = sources.clock.utcnow()
    current = f"{now.astimezone(sources.tz):%Y-%m}"
    try:
        month: Month = sources.statements.month(name or current)
    except ValueError:
        raise NotFound from None
    return month


def _months(sources: OwnSources) -> list[dict[str, Any]]:
    """Return the last months since the user was made, newest first."""
    heads = ask(lambda: sources.statements.months(sources.clock.utcnow())) or []
    user = ask(lambda: sources.users.find(_me()))
    made = user.created_at if user is not None else None
    first = f"{made.astimezone(sources.tz):%Y-%m}" if made is not None else ""
    return [head for head in heads if head["month"] >= first][:_MONTHS]
