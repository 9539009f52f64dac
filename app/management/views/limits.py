"""Limits of users and keys, and what is left of budgets."""

from collections.abc import Iterable
from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from app.accounts.limits import NO_LIMITS, Budget, Limits
from app.common.display import json_ready
from app.common.money import NANO
from app.management.limits import BudgetLeft


class BudgetView(TypedDict):
    """A budget, and what of it is booked in its period of now."""

    usd: Annotated[str, Field(description="Exactly, in USD.")]
    per: Annotated[str, Field(description="`5h`, `day`, `week`, `month` or `total`.")]
    models: NotRequired[Annotated[str, Field(description="Patterns of the models that are paid from it.")]]
    spentUsd: NotRequired[float]
    spentNanoUsd: NotRequired[int]
    leftUsd: NotRequired[float]
    leftNanoUsd: NotRequired[int]
    beginsAnew: NotRequired[
        Annotated[str | None, Field(description="When it, or its first part, is there again; null: never.")]
    ]


class LimitsView(TypedDict):
    """Limits; null: none."""

    rpm: int | None
    tpm: int | None
    maxParallel: int | None
    models: list[str] | None
    allowedIps: list[str] | None
    budgets: list[BudgetView]


def limits_view(rpm: int | None, limits: Limits | None, left: Iterable[BudgetLeft] = ()) -> LimitsView:
    """Show the limits of a key or of a user: budgets with what is left, where that was read."""
    limits = limits or NO_LIMITS
    return LimitsView(
        rpm=rpm,
        tpm=limits.tpm,
        maxParallel=limits.max_parallel,
        models=None if limits.models is None else list(limits.models),
        allowedIps=None if limits.allowed_ips is None else [str(found) for found in limits.allowed_ips],
        budgets=[_left_view(item) for item in left] or [_budget_view(budget) for budget in limits.budgets],
    )


def _budget_view(budget: Budget) -> BudgetView:
    shown = BudgetView(usd=budget.usd, per=budget.per)
    if budget.models is not None:
        shown["models"] = budget.models
    return shown


def _left_view(item: BudgetLeft) -> BudgetView:
    return {
        **_budget_view(item.budget),
        "spentUsd": item.spent_nano / NANO,
        "spentNanoUsd": item.spent_nano,
        "leftUsd": item.left_nano / NANO,
        "leftNanoUsd": item.left_nano,
        "beginsAnew": json_ready(item.begins_anew),
    }
