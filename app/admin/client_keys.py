"""All client keys, and their end."""

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.admin.acting import actor, attempt
from app.admin.asking import ask
from app.admin.login import safe_target
from app.management.administration import Administration

SHOWN = 500


def client_key_pages(administration: Administration) -> Blueprint:
    """`/client-keys`; keys are made on their user's page."""
    routes = Blueprint("client_keys", __name__)
    keys = administration.client_keys

    @routes.get("/client-keys")
    def all_keys() -> str:
        search = request.args.get("search", "").strip()[:100]
        found = ask(keys.list) or []
        wanted = [key for key in found if _matches(search, key.username, key.key_id, key.notes or "")]
        return render_template(
            "client_keys.html", keys=wanted[:SHOWN], total=len(found), matching=len(wanted), search=search
        )

    def done() -> AnyResponse:
        return redirect(safe_target(request.form.get("next") or url_for("client_keys.all_keys")), code=303)

    @routes.post("/client-keys/<key_id>/revoke")
    def revoke(key_id: str) -> AnyResponse:
        def action() -> str:
            key = keys.revoke(actor(), key_id)
            return f"{key.hint} of {key.username} is revoked; workers follow within seconds."

        attempt(action)
        return done()

    @routes.post("/client-keys/<key_id>/active")
    def set_active(key_id: str) -> AnyResponse:
        is_active = request.form.get("active") == "yes"

        def action() -> str:
            key = keys.change(actor(), key_id, is_active=is_active)
            return f"{key.hint} of {key.username} is {'accepted again' if is_active else 'paused'}."

        attempt(action)
        return done()

    return routes


def _matches(search: str, *texts: str) -> bool:
    return any(search.lower() in text.lower() for text in texts)
