"""`/api/admin/ohmygpt/keys…`: the pool of OhMyGPT keys, and what happened to it."""

from typing import Annotated

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.admin.auth import current_actor
from app.api.admin.users import DoneView
from app.api.operation import ApiSection, Body, Query
from app.api.parameters import AdminPeriod, Cursor, Limit, PeriodQuery, Text
from app.common.clock import now_ms
from app.common.cursor import PageCursor
from app.management.upstream_books import UpstreamBooks
from app.management.upstream_keys import LEAST, MAX_NUMBER, UpstreamKeyAdmin
from app.management.views.keys import (
    KeyEventView,
    UpstreamAccountView,
    UpstreamKeysView,
    UpstreamKeyView,
    key_event_view,
    upstream_account_view,
    upstream_key_view,
    upstream_keys_view,
)
from app.management.views.upstream_books import UpstreamBooksView, upstream_books_view
from app.statistics.periods import YESTERDAY

_NO_KEY = {404: "There is no such key in the pool."}
_TAKEN = {409: "There is such a key already."}

KeyId = Annotated[str, Field(min_length=1, max_length=50)]
Secret = Annotated[str, Field(min_length=8, max_length=512, description="The OhMyGPT key itself.")]


class EventsQuery(Query):
    """Which events."""

    key: Text | None = Field(None, description="Only this key's, by its id in the pool.")
    limit: Limit = 50
    cursor: Cursor = None


class BooksQuery(PeriodQuery):
    """Which period."""

    period: AdminPeriod = YESTERDAY


class NewUpstreamKeyBody(Body):
    """A key for the pool or for its spares."""

    id: KeyId
    apiKey: Secret


class UpstreamKeyLimitsBody(Body):
    """Limits to change; what is left out stays, null takes one away. 0 gives the key no requests."""

    weight: int | None = Field(None, ge=LEAST["weight"], le=MAX_NUMBER, description="Share of the load.")
    rpm: int | None = Field(None, ge=LEAST["rpm"], le=MAX_NUMBER, description="Requests in any 60 seconds.")
    maxInFlight: int | None = Field(
        None, ge=LEAST["maxInFlight"], le=MAX_NUMBER, description="Requests at a time."
    )


class PoolCountsView(TypedDict):
    """How many keys there are, and how many are healthy."""

    totalKeys: int
    healthyKeys: int


class ImportedView(TypedDict):
    """What was imported."""

    imported: int
    ids: list[str]


class KeyEventsView(TypedDict):
    """A page of events, newest first."""

    events: list[KeyEventView]
    nextCursor: str | None


def add_upstream_key_routes(routes: Blueprint, keys: UpstreamKeyAdmin, books: UpstreamBooks) -> None:
    """Add the routes."""
    describe = ApiSection("OhMyGPT keys")

    @routes.get("/ohmygpt/keys")
    @describe("List the pool", answers=UpstreamKeysView)
    def list_upstream_keys() -> Response:
        return jsonify(upstream_keys_view(keys.list()))

    @routes.get("/ohmygpt/account")
    @describe("Show the account behind the keys", answers=UpstreamAccountView)
    def show_upstream_account() -> Response:
        return jsonify(upstream_account_view(keys.account()))

    @routes.get("/ohmygpt/books")
    @describe("Compare OhMyGPT's books with the own ones", answers=UpstreamBooksView)
    def compare_books(query: BooksQuery) -> Response:
        """Compare, key by key, what OhMyGPT has charged with what was booked, as `weir verify --upstream`."""
        period = query.at(now_ms(), books.tz)
        return jsonify(upstream_books_view(books.fees(period), period))

    @routes.get("/ohmygpt/stats")
    @describe("Count the pool", answers=PoolCountsView)
    def count_upstream_keys() -> Response:
        found = upstream_keys_view(keys.list())
        return jsonify(PoolCountsView(totalKeys=found["totalKeys"], healthyKeys=found["healthyKeys"]))

    @routes.post("/ohmygpt/keys")
    @describe("Add a key to the pool", answers={201: UpstreamKeyView}, errors=_TAKEN)
    def add_upstream_key(body: NewUpstreamKeyBody) -> tuple[Response, int]:
        """Add a key, kept encrypted and never shown again; running workers use it within seconds."""
        return jsonify(upstream_key_view(keys.add(current_actor(), body.id, body.apiKey.strip()))), 201

    @routes.post("/ohmygpt/keys/import")
    @describe("Add many keys to the pool", answers={201: ImportedView}, errors=_TAKEN)
    def import_upstream_keys(body: str) -> tuple[Response, int]:
        """Take lines of `id|key`: all of them, or none. Bad lines are in `details`, by their numbers."""
        ids = keys.import_lines(current_actor(), body)
        return jsonify(ImportedView(imported=len(ids), ids=ids)), 201

    @routes.get("/ohmygpt/keys/<key_id>")
    @describe("One key of the pool", answers=UpstreamKeyView, errors=_NO_KEY)
    def get_upstream_key(key_id: str) -> Response:
        return jsonify(upstream_key_view(keys.get(key_id)))

    @routes.patch("/ohmygpt/keys/<key_id>")
    @describe("Change the limits of a key", answers=UpstreamKeyView, errors=_NO_KEY)
    def limit_upstream_key(key_id: str, body: UpstreamKeyLimitsBody) -> Response:
        """Change weight and limits; workers follow within seconds. Keys of OHMYGPT_API_KEYS have none."""
        changes = {name: getattr(body, name) for name in body.model_fields_set}
        return jsonify(upstream_key_view(keys.limit(current_actor(), key_id, changes)))

    @routes.delete("/ohmygpt/keys/<key_id>")
    @describe("Remove a key from the pool", answers=DoneView, errors=_NO_KEY)
    def delete_upstream_key(key_id: str) -> Response:
        keys.delete(current_actor(), key_id)
        return jsonify(DoneView(success=True, message=f"{key_id} is deleted"))

    @routes.post("/ohmygpt/keys/<key_id>/reset")
    @describe("Make a key healthy again", answers=DoneView, errors=_NO_KEY)
    def reset_upstream_key(key_id: str) -> Response:
        """Reset the key on all workers and hosts, whatever they know of it; counters stay as they are."""
        key = keys.reset(current_actor(), key_id)
        return jsonify(DoneView(success=True, message=f"{key_id} is {key.status}"))

    @routes.get("/ohmygpt/events")
    @describe("What happened to the pool", answers=KeyEventsView)
    def list_key_events(query: EventsQuery) -> Response:
        """List when which key went from which status to which, and why; kept for 90 days."""
        cursor = PageCursor.parse(query.cursor)
        found, next_cursor = keys.events(query.key, query.limit, cursor)
        return jsonify(events=[key_event_view(event) for event in found], nextCursor=next_cursor)
