"""Request records as lines: for people, as JSON lines, as CSV."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from app.cli.output import json_line, shown, usd
from app.core.display import shown_key_id, shown_record
from app.core.records import NANO, Outcome

Document = Mapping[str, Any]

CSV_COLUMNS = (
    *("requestId", "createdAt", "userId", "userKeyId", "factoryKeyId", "model", "upstreamModel", "apiFormat"),
    *("endpoint", "stream", "inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens"),
    *("reasoningTokens", "usageSource", "tokensUsed", "creditsCost", "costNanoUsd", "creditType"),
    *("statusCode", "isSuccess", "outcome", "errorType", "upstreamStatusCode", "latencyMs", "ttftMs"),
    *("overheadMs", "attempts", "bytesOut"),
)
# A spreadsheet would take text that begins so for a formula, and some of the text was sent by strangers.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
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


def jsonl_lines(records: Iterable[Document]) -> Iterator[str]:
    """One JSON object per record."""
    for record in records:
        yield json_line(shown_record(record))


def csv_lines(records: Iterable[Document]) -> Iterator[str]:
    """A heading, then one line per record (RFC 4180 quoting)."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="")
    writer.writerow(CSV_COLUMNS)
    yield _taken(buffer)
    for record in records:
        writer.writerow(_cell(name, record) for name in CSV_COLUMNS)
        yield _taken(buffer)


def _taken(buffer: io.StringIO) -> str:
    line = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return line


def _cell(name: str, record: Document) -> object:
    value = record.get(name)
    match name:
        case "requestId":
            return _text(str(value or record.get("_id", "")))
        case "attempts":
            return len(value) if isinstance(value, list) else ""
        case "userKeyId" if isinstance(value, str):
            return _text(shown_key_id(value))
        case "createdAt" | "stream" | "isSuccess":
            return "" if value is None else _plain(value)
    return _text(value) if isinstance(value, str) else value


def _plain(value: object) -> str:
    return json_line(value).strip('"')


def _text(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
