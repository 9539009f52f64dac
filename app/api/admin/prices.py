"""`/api/admin/prices…`: what models cost, and what the model table lacks."""

from datetime import tzinfo
from typing import Annotated

from flask import Blueprint, Response, jsonify
from pydantic import Field

from app.api.operation import ApiSection, Query
from app.api.parameters import PeriodQuery
from app.exchange.ports import Clock
from app.management.reading import StatsStore
from app.management.views.models import MissingModelsView, missing_models_view
from app.management.views.prices import PricesView, prices_view
from app.pricing.model_names import LONGEST
from app.pricing.model_table import ModelTable

_prices = ApiSection("Prices")


class MissingQuery(PeriodQuery):
    """Of which period, and how many."""

    limit: Annotated[int, Field(ge=1, le=500)] = 100


class PricesQuery(Query):
    """Of which models."""

    model: Annotated[
        str, Field(max_length=LONGEST, description="Like this are an id, a name or an alias: `gpt-5*`.")
    ] = ""


def add_price_routes(
    routes: Blueprint, stats: StatsStore, models: ModelTable, clock: Clock, tz: tzinfo
) -> None:
    """Add the routes; `tz` is where days start."""

    @routes.get("/prices")
    @_prices("What models cost", answers=PricesView)
    def prices(query: PricesQuery) -> Response:
        """List the models of the table with today's prices, and those to come.

        USD as exact decimals in text, `multiplier` included.
        """
        return jsonify(prices_view(models.in_force, query.model, clock.utcnow()))

    @routes.get("/prices/missing")
    @_prices("Models that clients asked for in vain", answers=MissingModelsView)
    def missing_models(query: MissingQuery) -> Response:
        """List the names, most often asked for first, as far back as records are kept.

        The newest 50,000 refused requests are looked through.
        """
        period = query.at(clock.utcnow(), tz)
        rows, searched_to = stats.missing_models(period, query.limit)
        return jsonify(missing_models_view(rows, searched_to, models, period.name))
