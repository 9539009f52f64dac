"""Finding anything by what is known of it, and saying what is to be done: the palette, and its page.

Every search is of a few rows that an index finds. A result is a link, and never does anything by itself: what
is to be done leads to a form, filled in, for somebody to send.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flask import Blueprint, Response, jsonify, make_response, render_template, request, url_for

from app.admin import palette
from app.admin.asking import ask
from app.admin.key_history import key_state
from app.admin.reasons import ending
from app.management.client_keys import ClientKeyAdmin
from app.management.reading import KeyView, RequestLogStore
from app.management.users import UserAdmin
from app.pricing.model_table import ModelTable

FOUND = 5
"""How many of a kind are found, at most."""
MOST_CHARACTERS = 200

Place = tuple[str, str]
"""A page: what it is called, and its endpoint."""

_LEAST_OF_ID = 6
_ID = re.compile(r"[0-9A-Za-z-]{6,64}")


@dataclass(frozen=True, slots=True)
class Hit:
    """Something found: what kind of thing, its name, what is to be said of it, and where it is."""

    kind: str
    title: str
    detail: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What is looked through."""

    users: UserAdmin
    client_keys: ClientKeyAdmin
    logs: RequestLogStore
    models: ModelTable
    upstream_keys: Callable[[], Sequence[KeyView]]

    def find(self, text: str) -> list[Hit]:
        """Return what a text may mean, the likeliest first; what the store cannot answer is left out."""
        wish = palette.wish_of(text)
        found = list(self._doings(wish)) if wish is not None else []
        if len(text.split()) == 1:
            for part in (self._requests, self._keys, self._upstream_keys, self._users, self._models):
                found += ask(lambda part=part: list(part(text))) or []  # type: ignore[misc]
        return found

    def _doings(self, wish: palette.Wish) -> Iterator[Hit]:
        if wish.action == palette.NEW_USER:
            title = f"New user {wish.name}".strip()
            url = url_for("users.all_users", username=wish.name or None, _anchor="new-user")
            yield Hit("action", title, "opens the form, filled in", url)
        elif wish.action == palette.MONTH:
            url = url_for("billing.one_month", month=wish.name)
            yield Hit("action", f"Close {wish.name}", "shows the month, to be closed there", url)
        elif wish.action in (palette.GIVE, palette.TAKE, palette.NEW_KEY, palette.REQUESTS):
            for name in ask(lambda: self.users.beginning(wish.name, FOUND)) or []:
                yield self._doing(wish, name)

    def _doing(self, wish: palette.Wish, name: str) -> Hit:
        if wish.action == palette.REQUESTS:
            return Hit("action", f"Requests of {name}", "", url_for("requests.table", user=name))
        if wish.action == palette.NEW_KEY:
            url = url_for("users.one_user", name=name, _anchor="new-key")
            return Hit("action", f"New key for {name}", "opens the form", url)
        amount, reason = f"{wish.amount:f}", wish.reason or None
        is_debit = wish.action == palette.TAKE
        anchor = "debit" if is_debit else "credit"
        filled: dict[str, Any] = {"amount": amount, "reason": reason, "debit": "1" if is_debit else None}
        url = url_for("users.one_user", name=name, _anchor=anchor, **filled)
        doing = f"Take {amount} USD from" if is_debit else f"Give {amount} USD to"
        return Hit("action", f"{doing} {name}", "opens the form, filled in", url)

    def _requests(self, text: str) -> Iterator[Hit]:
        if not _ID.fullmatch(text) or len(text) < _LEAST_OF_ID:
            return
        exact = self.logs.get(text)
        for record in [exact] if exact is not None else self.logs.beginning(text.lower(), FOUND):
            request_id = str(record["_id"])
            said = (ending(record.get("outcome")), record.get("userId"), record.get("model"))
            detail = ", ".join(str(part)[:60] for part in said if part)
            yield Hit("request", request_id, detail, url_for("requests.record", request_id=request_id))

    def _keys(self, text: str) -> Iterator[Hit]:
        for key in self.client_keys.beginning(text, FOUND):
            state = "" if key.is_active else ", revoked" if key.revoked_at else ", paused"
            title = f"{key.key_name} ({key.hint})" if key.key_name else key.hint
            url = url_for("client_keys.one_key", key_id=key.key_id)
            yield Hit("client key", title, f"of {key.username}{state}", url)

    def _upstream_keys(self, text: str) -> Iterator[Hit]:
        wanted = text.lower()
        for key in self.upstream_keys():
            if key.key_id.lower().startswith(wanted) or key.masked == text:
                url = url_for("upstream.one_key", key_id=key.key_id)
                yield Hit("upstream key", key.key_id, f"{key.masked}, {key_state(key.status)}", url)

    def _users(self, text: str) -> Iterator[Hit]:
        for name in self.users.beginning(text, FOUND):
            yield Hit("user", name, "", url_for("users.one_user", name=name))

    def _models(self, text: str) -> Iterator[Hit]:
        wanted = text.lower()
        matching = [model for model in self.models if wanted in model.id.lower()]
        # What is meant exactly, then what begins so.
        matching.sort(key=lambda model: (model.id.lower() != wanted, not model.id.lower().startswith(wanted)))
        for model in matching[:FOUND]:
            yield Hit("model", model.id, "its requests", url_for("requests.table", model=model.id))


def pages_called(text: str, places: Sequence[Place]) -> Iterator[Hit]:
    """Yield the pages whose title has this text in it."""
    wish = palette.wish_of(text)
    wanted = (wish.name if wish is not None and wish.action == palette.GO else text).lower()
    for title, endpoint in places:
        if wanted in title.lower():
            yield Hit("page", title, "", url_for(endpoint))


def search_pages(searched: Searched, places: Sequence[Place]) -> Blueprint:
    """Make the page `/search`, which answers the palette in JSON."""
    routes = Blueprint("search", __name__)

    @routes.get("/search")
    def search() -> Response:
        text = request.args.get("find", "").strip()[:MOST_CHARACTERS]
        text = text if text.isprintable() else ""
        hits = [*(searched.find(text) if text else ()), *pages_called(text, places)]
        if request.accept_mimetypes.best == "application/json":
            found: list[dict[str, Any]] = [asdict(hit) for hit in hits]
            return jsonify(text=text, hits=found, examples=palette.EXAMPLES)
        return make_response(render_template("search.html", text=text, hits=hits, examples=palette.EXAMPLES))

    return routes
