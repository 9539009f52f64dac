"""Client keys: all of them with what they spend, one of them with its limits, another secret, and its end."""

from collections.abc import Sequence

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from flask_wtf import FlaskForm
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from app.accounts.client_keys import SORTS, STATES
from app.accounts.limits import NO_LIMITS
from app.admin.acting import actor, attempt, sent
from app.admin.asking import ask
from app.admin.customer_view import Pages, Trend, budget_words
from app.admin.customers import (
    DEFAULT_PERIOD,
    PAGE,
    Asked,
    CustomerSources,
    Wanted,
    address,
    costs_by,
    deeds_about,
    months_of,
    numbered_page,
    page_asked,
    spending,
)
from app.admin.login import safe_target
from app.admin.user_forms import KeyLimitsForm, RotateForm
from app.management.client_keys import ClientKey
from app.management.errors import Missing
from app.statistics.figures import Totals

_REFUSED = 400
SPEND = "spend"
STATE_TITLES = {"": "All", "active": "Active", "paused": "Paused", "revoked": "Revoked"}


def client_key_pages(sources: CustomerSources) -> Blueprint:
    """Make the pages `/keys` and `/keys/<id>`; keys are made on their user's page."""
    routes = Blueprint("client_keys", __name__)
    _add_list(routes, sources)
    _add_one_key(routes, sources)
    _add_states(routes, sources)
    return routes


def _add_list(routes: Blueprint, sources: CustomerSources) -> None:
    @routes.get("/keys")
    def all_keys() -> AnyResponse:
        wanted = Wanted.now(sources, STATES, (*SORTS, SPEND), "user")
        keys, pages = ask(lambda: _page(sources, wanted)) or ((), Pages(1, PAGE, 0))
        page = render_template(
            "client_keys.html",
            keys=keys,
            keys_spent=spending(sources, "key", [key.stored_id for key in keys], wanted.asked.period),
            pages=pages,
            states=STATE_TITLES,
            **wanted.shown,
        )
        return make_response(page, 200 if wanted.asked.problem is None else _REFUSED)


def _page(sources: CustomerSources, wanted: Wanted) -> tuple[Sequence[ClientKey], Pages]:
    keys = sources.administration.client_keys
    if wanted.sort.name == SPEND:
        costs = costs_by(sources, "key", wanted.asked.period)
        ids = keys.stored_ids(search=wanted.search, state=wanted.state)
        ids = sorted(ids, key=lambda key_id: costs.get(key_id, 0), reverse=wanted.sort.is_falling)
        pages = page_asked().of(len(ids))
        some = ids[pages.skip : pages.skip + PAGE]
        known = keys.some(some)
        return [known[key_id] for key_id in some if key_id in known], pages
    return numbered_page(
        lambda skip: keys.numbered(
            search=wanted.search, state=wanted.state, sort=str(wanted.sort), skip=skip, limit=PAGE
        )
    )


def _add_one_key(routes: Blueprint, sources: CustomerSources) -> None:
    keys, tz = sources.administration.client_keys, sources.tz

    def draw(key_id: str, status: int = 200, **forms: FlaskForm) -> AnyResponse:
        try:
            key = keys.get(key_id)
        except Missing:
            raise NotFound from None
        asked = Asked.now(sources)
        spent = spending(sources, "key", [key.stored_id], asked.period)
        totals, trend, month = (Totals(), Trend((), ()), 0) if spent is None else spent.of(key.stored_id)
        fresh = {"form": KeyLimitsForm.of(key, tz), "rotate_form": RotateForm(formdata=None)}
        page = render_template(
            "client_key.html",
            key=key,
            limits=key.limits or NO_LIMITS,
            budgets=ask(lambda: keys.budgets_left(key)) or [],
            budget_words=budget_words,
            totals=totals,
            trend=trend,
            month_nano=month,
            by_month=months_of(sources, "key", key.stored_id),
            deeds=deeds_about(sources, f"client-key:{key.key_id}"),
            asked_for=asked,
            problem=asked.problem,
            default_period=DEFAULT_PERIOD,
            address=address,
            **(fresh | forms),
        )
        return make_response(page, status if asked.problem is None else _REFUSED)

    @routes.get("/keys/<key_id>")
    def one_key(key_id: str) -> AnyResponse:
        return draw(key_id)

    @routes.post("/keys/<key_id>/limits")
    def limit(key_id: str) -> AnyResponse:
        form = KeyLimitsForm()

        def action() -> str:
            key = keys.change(actor(), key_id, form.changes())
            return f"{key.key_name or key.hint} of {key.username} is changed; workers follow within seconds."

        return _to(key_id) if sent(form, action) else draw(key_id, _REFUSED, form=form)

    @routes.post("/keys/<key_id>/rotate")
    def rotate(key_id: str) -> AnyResponse:
        form, made = RotateForm(), []

        def action() -> str:
            made.append(keys.rotate(actor(), key_id, float(form.hours.data)))
            return f"The key has another secret; the one before is accepted for {form.hours.data} hours more."

        if not sent(form, action):
            return draw(key_id, _REFUSED, rotate_form=form)
        return sources.new_keys.show(made[0], url_for("client_keys.one_key", key_id=key_id))


def _add_states(routes: Blueprint, sources: CustomerSources) -> None:
    keys = sources.administration.client_keys

    @routes.post("/keys/<key_id>/revoke")
    def revoke(key_id: str) -> AnyResponse:
        def action() -> str:
            key = keys.revoke(actor(), key_id)
            return f"{key.key_name or key.hint} of {key.username} is revoked; workers follow within seconds."

        attempt(action)
        return _to(key_id)

    @routes.post("/keys/<key_id>/active")
    def set_active(key_id: str) -> AnyResponse:
        is_active = request.form.get("active") == "yes"

        def action() -> str:
            key = keys.change(actor(), key_id, {"isActive": is_active})
            state = "accepted again" if is_active else "paused"
            return f"{key.key_name or key.hint} of {key.username} is {state}."

        attempt(action)
        return _to(key_id)

    @routes.post("/keys/<key_id>/delete")
    def delete(key_id: str) -> AnyResponse:
        found: list[ClientKey] = []

        def action() -> str:
            found.append(keys.get(key_id))
            keys.delete(actor(), key_id)
            return f"{found[0].key_name or found[0].hint} of {found[0].username} is deleted."

        if not attempt(action):
            return _to(key_id)
        return redirect(url_for("users.one_user", name=found[0].username), code=303)


def _to(key_id: str) -> AnyResponse:
    """Lead back to where the form was, else to the key."""
    return redirect(
        safe_target(request.form.get("next") or url_for("client_keys.one_key", key_id=key_id)), code=303
    )
