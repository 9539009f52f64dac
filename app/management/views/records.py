"""Records of requests, and of what administrators did."""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from app.common.display import json_ready
from app.management.views.price_history import ExplanationView


class RecordView(TypedDict):
    """A record, as in docs/records.md; `id` is its request id. Client keys are not shown.

    `explanation` is there where one record was asked for, and `count` where a record stands for that many
    refusals, instead of one request.
    """

    id: str
    requestId: NotRequired[str]
    userId: NotRequired[str | None]
    model: NotRequired[str | None]
    outcome: NotRequired[str]
    statusCode: NotRequired[int]
    errorMessage: NotRequired[str]
    toldMessage: NotRequired[str]
    endUser: NotRequired[str]
    sessionId: NotRequired[str]
    clientName: NotRequired[str]
    tags: NotRequired[list[str]]
    count: NotRequired[int]
    createdAt: NotRequired[str]
    explanation: NotRequired[ExplanationView]


class AuditEntryView(TypedDict):
    """One action. `unknown`: database or process failed before it could be said what came of it."""

    id: str
    at: str
    actor: Annotated[str, Field(description="An admin user, `admin-token`, or a user of the shell.")]
    role: Annotated[str | None, Field(description="What let them do it; null: a shell, or nobody noted it.")]
    via: Annotated[
        str,
        Field(
            description="`api`, `cli` or `dashboard`; `alerts` where operators were told something; "
            "`start`, `sighup` or `reload` where a host took another model table."
        ),
    ]
    action: str
    target: str
    details: dict[str, Any]
    outcome: str
    reason: str | None
    address: str | None
    requestId: str | None


def audit_view(entry: dict[str, Any]) -> AuditEntryView:
    """Show an entry."""
    return AuditEntryView(
        id=str(entry["_id"]),
        at=json_ready(entry["at"]),
        actor=str(entry.get("actor")),
        role=entry.get("role"),
        via=str(entry.get("via")),
        action=str(entry.get("action")),
        target=str(entry.get("target")),
        details=json_ready(entry.get("details") or {}),
        outcome=str(entry.get("outcome")),
        reason=entry.get("reason"),
        address=entry.get("address"),
        requestId=entry.get("requestId"),
    )


_OWN = (
    *("inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens", "creditsCost", "latencyMs"),
    *("isSuccess", "createdAt"),
)
_OWN_TOO = (
    "apiFormat",
    "stream",
    "statusCode",
    "outcome",
    "ttftMs",
    "reasoningTokens",
    "costNanoUsd",
    "count",
    "endUser",
    "sessionId",
    "clientName",
    "tags",
)


def own_record(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a user may see of a record: these fields alone, as some are the operator's affair."""
    shown = {"id": str(document.get("_id")), "model": document.get("model"), "upstream": None}
    shown.update({name: document.get(name) for name in _OWN})
    shown.update({name: document[name] for name in _OWN_TOO if name in document})
    if (told := document.get("toldMessage", document.get("errorMessage"))) is not None:
        shown["errorMessage"] = told
    return {name: json_ready(value) for name, value in shown.items()}
