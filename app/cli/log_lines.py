"""Request records as lines for people."""

from collections.abc import Mapping
from typing import Any

import click

from app.cli.output import shown, usd
from app.core.records import NANO, Outcome

Document = Mapping[str, Any]

_COLOURS: dict[str, str] = {Outcome.OK: "green", Outcome.REJECTED: "yellow", Outcome.CLIENT_ABORT: "cyan"}


def person_line(record: Document) -> str:
    """What happened, on one line."""
    outcome = str(record.get("outcome") or ("ok" if record.get("isSuccess") else "error"))
    colour = _COLOURS.get(outcome, "red")
    parts = [
        shown(record.get("createdAt")),
        click.style(f"{shown(record.get('statusCode'))} {shown(outcome)}", fg=colour),
        shown(record.get("userId")),
        shown(record.get("model")),
        "stream" if record.get("stream") else "plain",
        f"in {shown(record.get('inputTokens'))} out {shown(record.get('outputTokens'))}",
        usd(cost_nano_usd(record)),
        f"{shown(record.get('latencyMs'))} ms",
        f"via {shown(record.get('factoryKeyId'))}",
    ]
    if record.get("errorType"):
        parts.append(shown(record["errorType"]))
    parts.append(click.style(shown(record.get("_id")), dim=True))
    return "  ".join(parts)


def cost_nano_usd(record: Document) -> int:
    """The exact cost; older records have only the double."""
    exact = record.get("costNanoUsd")
    return int(exact) if exact is not None else round(float(record.get("creditsCost") or 0) * NANO)
