"""Models of the table, and those that it lacks."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from app.common.display import json_ready
from app.pricing.model_table import ModelTable


class MissingModelView(TypedDict):
    """A model that clients asked for in vain; `model` null: several, of refusals that were summed up."""

    model: str | None
    requests: int
    users: int
    firstAt: str
    lastAt: str
    isKnownNow: Annotated[bool, Field(description="The table has got it since.")]
    near: Annotated[list[str], Field(description="Names in the table that look like it.")]


class MissingModelsView(TypedDict):
    """What was asked for in vain within a period, most often first."""

    models: list[MissingModelView]
    period: str | None
    searchedTo: Annotated[
        str | None, Field(description="There were refused requests before this, and they were not looked at.")
    ]


def missing_models_view(
    rows: Iterable[Mapping[str, Any]], searched_to: datetime | None, table: ModelTable, period: str | None
) -> MissingModelsView:
    """Show the rows of `StatsStore.missing_models`, and what the table says of each now."""
    return MissingModelsView(
        models=[_missing(row, table) for row in rows], period=period, searchedTo=json_ready(searched_to)
    )


def _missing(row: Mapping[str, Any], table: ModelTable) -> MissingModelView:
    name = row["model"]
    is_known = name is not None and table.resolve(name) is not None
    return MissingModelView(
        model=name,
        requests=int(row["requests"]),
        users=int(row["users"]),
        firstAt=json_ready(row["firstAt"]),
        lastAt=json_ready(row["lastAt"]),
        isKnownNow=is_known,
        near=[] if name is None or is_known else table.near(name),
    )
