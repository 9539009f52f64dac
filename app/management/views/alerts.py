"""An alert as JSON, for API and commands."""

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from app.common.display import json_ready


class AlertView(TypedDict):
    """One alert."""

    id: str
    kind: str
    subject: str
    period: Annotated[str, Field(description="What it is told once in.")]
    title: str
    meaning: str
    advice: str
    raisedAt: str
    sentAt: Annotated[str | None, Field(description="When the last destination had it.")]
    givenUpAt: str | None
    tries: int
    destinationsLeft: Annotated[int, Field(description="How many destinations do not have it.")]
    problem: Annotated[str | None, Field(description="What went wrong with the last try.")]


def alert_view(stored: dict[str, Any]) -> AlertView:
    """Show a stored alert."""
    return AlertView(
        id=str(stored["_id"]),
        kind=stored["kind"],
        subject=stored["subject"],
        period=stored["period"],
        title=stored["title"],
        meaning=stored["meaning"],
        advice=stored["advice"],
        raisedAt=json_ready(stored["raisedAt"]),
        sentAt=json_ready(stored.get("sentAt")),
        givenUpAt=json_ready(stored.get("givenUpAt")),
        tries=stored["tries"],
        destinationsLeft=len(stored["left"]),
        problem=stored.get("problem"),
    )
