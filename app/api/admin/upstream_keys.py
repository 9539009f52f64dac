"""`/api/admin/ohmygpt/keys…`: the pool of OhMyGPT keys, and what happened to it."""

from typing import Annotated

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.admin.auth import current_actor
from app.api.admin.users import DoneView
from app.api.operation import Body, Query, Section
from app.api.parameters import Cursor, Limit, Text
from app.core.display import json_ready
from app.core.log_filter import PageCursor
from app.management.upstream_keys import StoredProviderKey, UpstreamKeyAdmin, is_configured

_NO_KEY = {404: "There is no such key in the pool."}
_TAKEN = {409: "There is such a key already."}
_HEALTHY = "healthy"

KeyId = Annotated[str, Field(min_length=1, max_length=50)]
Secret = Annotated[str, Field(min_length=8, max_length=512, description="The OhMyGPT key itself.")]


class EventsQuery(Query):
    """Which events."""

    key: Text | None = Field(None, description="Only this key's, by its id in the pool.")
    limit: Limit = 50
    cursor: Cursor = None


class NewUpstreamKeyBody(Body):
    """A key for the pool or for its spares."""

    id: KeyId
    apiKey: Secret


class UpstreamKeyView(TypedDict):
    """A key of the pool; `apiKey` is masked."""

    id: str
    _id: str
    apiKey: str
    source: Annotated[str, Field(description="`store`, or `env`: OHMYGPT_API_KEYS.")]
    status: Annotated[str, Field(description="`healthy`, `rate_limited`, `exhausted` or `error`.")]
    suspected: bool
    cooldownUntil: str | None
    lastError: str | None
    replacedBy: str | None
    tokensUsed: int
    requestsCount: int
    weight: int
    rpm: int | None
    maxInFlight: int | None
    createdAt: str | None
    updatedAt: str | None
    lastUsedAt: str | None


class UpstreamKeysView(TypedDict):
    """The pool, OHMYGPT_API_KEYS first."""

    keys: list[UpstreamKeyView]
    totalKeys: int
    healthyKeys: int


class PoolCountsView(TypedDict):
    """How many keys there are, and how many are healthy."""

    totalKeys: int
    healthyKeys: int


class ImportedView(TypedDict):
    """What was imported."""

    imported: int
    ids: list[str]


class KeyEventView(TypedDict):
    """A change of a key's state; `from` is null for a new key."""

    at: str
    keyId: str
    to: str
    why: str
    requestId: str | None


class KeyEventsView(TypedDict):
    """A page of events, newest first."""

    events: list[KeyEventView]
    nextCursor: str | None


def add_upstream_key_routes(routes: Blueprint, keys: UpstreamKeyAdmin) -> None:
    """Add the routes."""
    describe = Section("OhMyGPT keys")

    @routes.get("/ohmygpt/keys")
    @describe("List the pool", answers=UpstreamKeysView)
    def list_upstream_keys() -> Response:
        found = [upstream_key_view(key) for key in keys.list()]
        healthy = sum(key["status"] == _HEALTHY for key in found)
        return jsonify(keys=found, totalKeys=len(found), healthyKeys=healthy)

    @routes.get("/ohmygpt/stats")
    @describe("Count the pool", answers=PoolCountsView)
    def count_upstream_keys() -> Response:
        found = keys.list()
        healthy = sum(key.status == _HEALTHY for key in found)
        return jsonify(PoolCountsView(totalKeys=len(found), healthyKeys=healthy))

    @routes.post("/ohmygpt/keys")
    @describe("Add a key to the pool", answers={201: UpstreamKeyView}, errors=_TAKEN)
    def add_upstream_key(body: NewUpstreamKeyBody) -> tuple[Response, int]:
        """Running workers use it within seconds. It is kept encrypted and never shown again."""
        return jsonify(upstream_key_view(keys.add(current_actor(), body.id, body.apiKey.strip()))), 201

    @routes.post("/ohmygpt/keys/import")
    @describe("Add many keys to the pool", answers={201: ImportedView}, errors=_TAKEN)
    def import_upstream_keys(body: str) -> tuple[Response, int]:
        """Lines of `id|key`: all of them, or none. Bad lines are in `details`, by their numbers."""
        ids = keys.import_lines(current_actor(), body)
        return jsonify(ImportedView(imported=len(ids), ids=ids)), 201

    @routes.get("/ohmygpt/keys/<key_id>")
    @describe("One key of the pool", answers=UpstreamKeyView, errors=_NO_KEY)
    def get_upstream_key(key_id: str) -> Response:
        return jsonify(upstream_key_view(keys.get(key_id)))

    @routes.delete("/ohmygpt/keys/<key_id>")
    @describe("Remove a key from the pool", answers=DoneView, errors=_NO_KEY)
    def delete_upstream_key(key_id: str) -> Response:
        keys.delete(current_actor(), key_id)
        return jsonify(DoneView(success=True, message=f"{key_id} is deleted"))

    @routes.post("/ohmygpt/keys/<key_id>/reset")
    @describe("Make a key healthy again", answers=DoneView, errors=_NO_KEY)
    def reset_upstream_key(key_id: str) -> Response:
        """On all workers and hosts, whatever they know of it; counters stay as they are."""
        key = keys.reset(current_actor(), key_id)
        return jsonify(DoneView(success=True, message=f"{key_id} is {key.status}"))

    @routes.get("/ohmygpt/events")
    @describe("What happened to the pool", answers=KeyEventsView)
    def list_key_events(query: EventsQuery) -> Response:
        """When which key went from which status to which, and why; kept for 90 days."""
        cursor = PageCursor.decode(query.cursor) if query.cursor else None
        found, next_cursor = keys.events(query.key, query.limit, cursor)
        rows = [
            {
                "at": json_ready(event.at),
                "keyId": event.key_id,
                "from": event.from_status,
                "to": event.to_status,
                "why": event.why,
                "requestId": event.request_id,
            }
            for event in found
        ]
        return jsonify(events=rows, nextCursor=next_cursor)


def upstream_key_view(key: StoredProviderKey) -> UpstreamKeyView:
    """A key as shown."""
    return UpstreamKeyView(
        id=key.key_id,
        _id=key.key_id,
        apiKey=key.masked,
        source="env" if is_configured(key.key_id) else "store",
        status=key.status,
        suspected=bool(key.state.suspected_by),
        cooldownUntil=json_ready(key.cooldown_until),
        lastError=key.last_error,
        replacedBy=key.replaced_by,
        tokensUsed=key.tokens_used,
        requestsCount=key.requests_count,
        weight=key.limits.weight,
        rpm=key.limits.rpm,
        maxInFlight=key.limits.max_in_flight,
        createdAt=json_ready(key.created_at),
        updatedAt=json_ready(key.state.updated_at),
        lastUsedAt=json_ready(key.last_used_at),
    )
