"""All client keys, and their end."""

from datetime import tzinfo

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from app.admin.acting import actor, attempt, is_filled, sent
from app.admin.asking import ask
from app.admin.login import safe_target
from app.admin.new_keys import NewKeys
from app.admin.user_forms import KeyLimitsForm, RotateForm
from app.management.administration import Administration
from app.management.client_keys import ClientKeyAdmin
from app.management.errors import Missing

_REFUSED = 400
SHOWN = 500


def client_key_pages(administration: Administration, tz: tzinfo, new_keys: NewKeys) -> Blueprint:
    """Make the pages `/keys` and `/keys/<id>`; keys are made on their user's page."""
    routes = Blueprint("client_keys", __name__)
    keys = administration.client_keys
    _add_one_key(routes, keys, tz, new_keys)

    @routes.get("/keys")
    def all_keys() -> str:
        search = request.args.get("search", "").strip()[:100]
        found = ask(keys.list) or []
        wanted = [key for key in found if _matches(search, key.username, key.key_id, key.notes or "")]
        return render_template(
            "client_keys.html", keys=wanted[:SHOWN], total=len(found), matching=len(wanted), search=search
        )

    def done() -> AnyResponse:
        return redirect(safe_target(request.form.get("next") or url_for("client_keys.all_keys")), code=303)

    @routes.post("/keys/<key_id>/revoke")
    def revoke(key_id: str) -> AnyResponse:
        def action() -> str:
            key = keys.revoke(actor(), key_id)
            return f"{key.hint} of {key.username} is revoked; workers follow within seconds."

        attempt(action)
        return done()

    @routes.post("/keys/<key_id>/active")
    def set_active(key_id: str) -> AnyResponse:
        is_active = request.form.get("active") == "yes"

        def action() -> str:
            key = keys.change(actor(), key_id, {"isActive": is_active})
            return f"{key.hint} of {key.username} is {'accepted again' if is_active else 'paused'}."

        attempt(action)
        return done()

    return routes


def _add_one_key(routes: Blueprint, keys: ClientKeyAdmin, tz: tzinfo, new_keys: NewKeys) -> None:
    def draw(key_id: str, form: KeyLimitsForm | None = None) -> str:
        try:
            key = keys.get(key_id)
        except Missing:
            raise NotFound from None
        form = form or KeyLimitsForm.of(key, tz)
        budgets = ask(lambda: keys.budgets_left(key)) or []
        return render_template(
            "client_key.html", key=key, form=form, rotate_form=RotateForm(formdata=None), budgets=budgets
        )

    @routes.get("/keys/<key_id>")
    def one_key(key_id: str) -> str:
        return draw(key_id)

    @routes.post("/keys/<key_id>/limits")
    def limit(key_id: str) -> AnyResponse:
        form = KeyLimitsForm()

        def action() -> str:
            key = keys.change(actor(), key_id, form.changes(tz))
            return f"{key.hint} of {key.username} is changed; workers follow within seconds."

        if not sent(form, action):
            return make_response(draw(key_id, form), _REFUSED)
        return redirect(url_for("client_keys.one_key", key_id=key_id), code=303)

    @routes.post("/keys/<key_id>/rotate")
    def rotate(key_id: str) -> AnyResponse:
        form, made = RotateForm(), []

        def action() -> str:
            made.append(keys.rotate(actor(), key_id, float(form.hours.data)))
            return f"The key has another secret; the one before is accepted for {form.hours.data} hours more."

        if not (is_filled(form) and attempt(action)):
            return redirect(url_for("client_keys.one_key", key_id=key_id), code=303)
        return new_keys.show(made[0], url_for("client_keys.one_key", key_id=key_id))


def _matches(search: str, *texts: str) -> bool:
    return any(search.lower() in text.lower() for text in texts)
