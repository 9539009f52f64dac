"""What models cost, as the API and the commands show it."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from app.common.display import json_ready
from app.pricing.model import Model
from app.pricing.model_table import ModelTable
from app.pricing.price_rows import REGION, Condition, PriceRow, price_rows


class ConditionView(TypedDict):
    """Under what prices hold."""

    effectiveFrom: Annotated[
        str | None, Field(description="For requests that begin then or later; null: now.")
    ]
    aboveInputTokens: Annotated[
        int | None, Field(description="Of requests whose whole input has more tokens; null: of all others.")
    ]
    serviceTier: Annotated[str | None, Field(description="Answered in this tier or at this speed.")]
    inferenceGeo: Annotated[str | None, Field(description="Answered in this region.")]


class PriceRowView(ConditionView):
    """Prices under one condition; the first row of a model is what a usual request costs now."""

    tokens: Annotated[dict[str, str], Field(description="USD per million tokens, by kind.")]
    units: Annotated[dict[str, str], Field(description="USD for one of each other unit.")]


class ModelPricesView(TypedDict):
    """A model of the table and its prices, which include its `multiplier`."""

    id: str
    name: str
    aliases: list[str]
    upstreamId: str
    contextWindow: Annotated[int | None, Field(description="Null: the table does not say.")]
    maxOutput: Annotated[int | None, Field(description="Null: the table does not say.")]
    multiplier: str
    prices: list[PriceRowView]


class PricesView(TypedDict):
    """The models of the table, in its order."""

    version: Annotated[str, Field(description="The version of the table, as records name it.")]
    models: list[ModelPricesView]
    groups: Annotated[dict[str, str], Field(description="The price factor of each group of users.")]


def prices_view(table: ModelTable, pattern: str, now: datetime) -> PricesView:
    """Show what models cost whose id, name or alias is like `pattern` (with `*` and `?`; empty: all)."""
    return PricesView(
        version=table.version,
        models=[model_prices_view(model, now) for model in table if is_like(model, pattern)],
        groups={name: str(_decimal(factor)) for name, factor in sorted(table.groups.items())},
    )


def is_like(model: Model, pattern: str) -> bool:
    """Return whether a model has an id, a name or an alias like that; without `*` or `?` a part is enough."""
    sought = pattern.lower()
    sought = sought if set(sought) & set("*?") else f"*{sought}*"
    return any(fnmatchcase(name.lower(), sought) for name in (model.id, model.name, *model.aliases))


def model_prices_view(model: Model, now: datetime) -> ModelPricesView:
    """Show one model of the table."""
    return ModelPricesView(
        id=model.id,
        name=model.name,
        aliases=list(model.aliases),
        upstreamId=model.upstream_id,
        contextWindow=model.context_window if model.says_window else None,
        maxOutput=model.max_output if model.says_output else None,
        multiplier=str(model.price.multiplier),
        prices=[_row(row) for row in price_rows(model.card, now)],
    )


def condition_view(condition: Condition) -> ConditionView:
    """Show under what prices hold."""
    is_region = condition.tier.startswith(REGION)
    return ConditionView(
        effectiveFrom=json_ready(condition.begins),
        aboveInputTokens=condition.above or None,
        serviceTier=None if is_region else condition.tier or None,
        inferenceGeo=condition.tier.removeprefix(REGION) if is_region else None,
    )


def _row(row: PriceRow) -> PriceRowView:
    return PriceRowView(**condition_view(row.condition), tokens=_texts(row.tokens), units=_texts(row.units))


def _texts(prices: Mapping[str, Decimal]) -> dict[str, str]:
    return {unit: format(price, "f") for unit, price in prices.items()}


def _decimal(factor: Fraction) -> Decimal:
    return Decimal(factor.numerator) / factor.denominator
