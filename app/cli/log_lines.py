"""Request records as lines for people."""

from collections.abc import Mapping
from typing import Any

import click

from app.cli.output import shown, usd
from app.common.money import NANO
from app.records.records import Outcome

Document = Mapping[str, Any]

_COLOURS: dict[str, str] = {Outcome.OK: "green", Outcome.REJECTED: "yellow", Outcome.CLIENT_ABORT: "cyan"}


def person_line(record: Document) -> str:
    """Say on one line what happened."""
    outcome = str(record.get("outcome") or ("ok" if record.get("isSuccess") else "error"))
    colour = _COLOURS.get(outcome, "red")
    parts = [
        shown(record.get("createdAt")),
        click.style(f"{shown(record.get('statusCode'))} {shown(outcome)}{_times(record)}", fg=colour),
        shown(record.get("userId")),
        shown(record.get("model") or record.get("requestedModel")),
        "stream" if record.get("stream") else "plain",
        f"in {shown(record.get('inputTokens'))} out {shown(record.get('outputTokens'))}",
        usd(cost_nano_usd(record)),
        f"{shown(record.get('latencyMs'))} ms",
        f"via {shown(record.get('factoryKeyId'))}",
    ]
    if record.get("errorType"):
        message = record.get("errorMessage")
        parts.append(shown(record["errorType"]) + (f": {shown(message)}" if message else ""))
    parts.append(click.style(shown(record.get("_id")), dim=True))
    return "  ".join(parts)


def _times(record: Document) -> str:
    return f" ×{shown(record['count'])}" if record.get("count") else ""


def cost_nano_usd(record: Document) -> int:
    """Return the exact cost; older records have only the double."""
    exact = record.get("costNanoUsd")
    return int(exact) if exact is not None else round(float(record.get("creditsCost") or 0) * NANO)
