"""`/api/admin/prices/versions|preview`: what the model table was, and what another would have charged."""

from collections import Counter
from datetime import datetime, timedelta, tzinfo
from typing import Annotated

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.admin.health import HealthReader
from app.api.operation import ApiSection, BadRequest, Query
from app.api.parameters import Text
from app.exchange.ports import Clock
from app.management.price_history import PREVIEW_END_S, PREVIEW_S, PriceHistory
from app.management.views.price_history import PreviewView, VersionView, preview_view, version_view
from app.pricing.model_file import MAX_TEXT
from app.records.log_filter import parse_moment

_LONGEST = timedelta(days=3700)

_prices = ApiSection("Prices")


class VersionsView(TypedDict):
    """The newest versions, the newest first, at most 500. `current` is that of the answering worker."""

    current: str
    versions: list[VersionView]


class PreviewQuery(Query):
    """Of which period."""

    since: Annotated[Text, Field(alias="from", description="A date, a time, or how long ago: `7d`.")]
    until: Annotated[Text | None, Field(alias="to", description="Exclusive; left out: now.")] = None


def add_price_history_routes(
    routes: Blueprint, prices: PriceHistory, clock: Clock, tz: tzinfo, health: HealthReader | None
) -> None:
    """Add the routes; `health` knows by which version each worker of this host charges.

    `tz` is the zone of times that name none.
    """

    @routes.get("/prices/versions")
    @_prices("Every text that the model table has had", answers=VersionsView)
    def price_versions() -> Response:
        """List the versions: when and by whom each came into force, and where it is the table now."""
        states = health().get("workers", ()) if health is not None else ()
        workers = Counter(str(state.get("priceVersion")) for state in states)
        return jsonify(
            current=prices.in_force().version,
            versions=[version_view(version, workers) for version in prices.versions()],
        )

    @routes.post("/prices/preview")
    @_prices("What another model table would have charged", answers=PreviewView)
    def preview_prices(query: PreviewQuery, body: str) -> Response:
        """Compare the table in the body, a `models.toml` as text, with what was charged in a past period.

        Nothing is changed. Whole hours are compared. Records are read for 20 seconds at most, from the oldest
        on; what is left, and what has no records any more, comes from the hourly sums. Where these take more
        than 20 seconds more, that is an error; `weir prices preview` takes the time it needs.
        """
        if len(body) > MAX_TEXT:
            raise BadRequest.of("", f"takes a table of at most {MAX_TEXT} characters")
        since, until = _period(query, clock.utcnow(), tz)
        began = clock.monotonic()
        found = prices.preview(
            body,
            since,
            until,
            is_late=lambda: clock.monotonic() > began + PREVIEW_S,
            is_over=lambda: clock.monotonic() > began + PREVIEW_END_S,
        )
        return jsonify(preview_view(found))


def _period(query: PreviewQuery, now: datetime, tz: tzinfo) -> tuple[datetime, datetime]:
    since = parse_moment("from", query.since, now, tz)
    until = parse_moment("to", query.until, now, tz) if query.until else now
    if not since < until:
        raise BadRequest.of("from", "takes a time before `to`")
    if until - since > _LONGEST:
        raise BadRequest.of("from", "takes a time at most ten years before `to`")
    return since, until
