"""A client key just made: shown once, on a page of its own that no reload and no way back shows again."""

import json
from urllib.parse import urlsplit

from flask import Blueprint, make_response, redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.admin.login import home, safe_target
from app.admin.snippets import examples, snippets
from app.exchange.ports import Clock
from app.management.reading import ShownOnce
from app.management.users import NewClientKey
from app.pricing.model_table import ModelTable

_GONE = 410


class NewKeys:
    """Leads from the form that made a key to the page that shows it."""

    def __init__(self, once: ShownOnce, models: ModelTable, clock: Clock) -> None:
        self._once = once
        self._models = models
        self._clock = clock

    def show(self, key: NewClientKey, back: str) -> AnyResponse:
        """Lead to the key's page, and from there to `back`, a page of the dashboard."""
        text = json.dumps({"username": key.username, "keyId": key.key_id, "secret": key.secret, "back": back})
        place = self._once.keep(text, session["sid"], self._clock.utcnow())
        return redirect(url_for("new_keys.new_key", place=place), code=303)

    def pages(self) -> Blueprint:
        """Make the page `/new-key/<place>`."""
        routes = Blueprint("new_keys", __name__)

        @routes.get("/new-key/<place>")
        def new_key(place: str) -> AnyResponse:
            text = self._once.take(place, session["sid"], self._clock.utcnow())
            if text is None:
                return make_response(render_template("new_key.html", key=None, back=home()), _GONE)
            key = json.loads(text)
            base_url = request.host_url.rstrip("/")
            shown = list(snippets(base_url, key["secret"], examples(self._models)))
            page = render_template(
                "new_key.html",
                key=key,
                base_url=base_url,
                snippets=shown,
                back=safe_target(urlsplit(key["back"]).path),
            )
            return make_response(page)

        return routes
