"""Limits as bodies of requests have them, for users and for client keys."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field

from app.accounts.limits import MAX_BUDGETS, MAX_NETWORKS, MAX_NUMBER, MAX_PATTERNS
from app.api.operation import Body

Usd = Annotated[
    Decimal,
    Field(description="USD, at most 9 decimals, up to 1,000,000; as a number or a string."),
]
Rpm = Annotated[int, Field(ge=0, le=10_000_000, description="Requests per minute; 0: no limit.")]
ZONE = "Without a zone it is in `STATS_TIMEZONE`."
_Pattern = Annotated[str, Field(min_length=1, max_length=128)]


class BudgetBody(Body):
    """So much for each period; several may hold at once."""

    usd: Usd
    per: Literal["5h", "day", "week", "month", "total"] = Field(
        description="Calendar periods in `STATS_TIMEZONE`, weeks from Monday on; `5h` is rolling."
    )
    models: str | None = Field(
        None, max_length=1000, description="Only of these models: patterns with commas between (`claude-*`)."
    )


class LimitsBody(Body):
    """Limits; what is left out stays as it is, null takes a limit away."""

    rpm: Rpm | None = None
    tpm: int | None = Field(None, ge=0, le=MAX_NUMBER, description="Tokens per minute; 0: no limit.")
    maxParallel: int | None = Field(None, ge=0, le=MAX_NUMBER, description="Requests at once; 0: no limit.")
    models: list[_Pattern] | None = Field(
        None, max_length=MAX_PATTERNS, description="The models that may be used: patterns such as `claude-*`."
    )
    budgets: list[BudgetBody] | None = Field(None, max_length=MAX_BUDGETS)

    def given(self) -> dict[str, Any]:
        """Return what was given, by name, as `app.management` takes it."""
        found = {name: getattr(self, name) for name in self.model_fields_set}
        if found.get("budgets") is not None:
            found["budgets"] = [budget.model_dump() for budget in found["budgets"]]
        return found


class KeyLimitsBody(LimitsBody):
    """Limits of a client key."""

    keyName: str | None = Field(None, max_length=100, description="What the key is called.")
    allowedIps: list[Annotated[str, Field(max_length=50)]] | None = Field(
        None,
        max_length=MAX_NETWORKS,
        description="From where it is accepted: addresses and networks. `TRUSTED_PROXIES` says whose "
        "`X-Forwarded-For` counts.",
    )
    isActive: bool | None = Field(None, description="false pauses the key; a revoked one stays revoked.")
    expiresAt: datetime | None = Field(None, description=f"Until when it is accepted; null: for good. {ZONE}")
