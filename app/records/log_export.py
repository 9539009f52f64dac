"""Records as text for other programs: JSON lines, and CSV that a spreadsheet can be trusted with."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.accounts.credentials import shown_key_id
from app.common import csv_text
from app.common.display import json_ready
from app.records.shown_record import shown_record

Document = Mapping[str, Any]

FORMATS = ("csv", "jsonl")

CSV_COLUMNS = (
    *("requestId", "createdAt", "userId", "userKeyId", "factoryKeyId", "model", "upstreamModel", "apiFormat"),
    *("endpoint", "stream", "inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens"),
    *("reasoningTokens", "usageSource", "tokensUsed", "creditsCost", "costNanoUsd", "creditType"),
    *("statusCode", "isSuccess", "outcome", "errorType", "upstreamStatusCode", "latencyMs", "ttftMs"),
    *("overheadMs", "attempts", "bytesOut", "requestedModel", "errorMessage", "toldMessage", "count"),
    *("endUser", "sessionId", "clientName", "tags"),
    "upstreamCostNanoUsd",
    *("priceVersion", "serviceTier", "unpriced", "costItems"),
)
"""`attempts` is their number; `count` is 1 for a record of a single request; `tags` and `unpriced` have
commas in between; `costItems` is JSON. New ones come last: there are readers that go by their places."""


def jsonl_lines(records: Iterable[Document]) -> Iterator[str]:
    """Write one JSON object per record."""
    for record in records:
        yield _json(shown_record(record))


def csv_lines(records: Iterable[Document]) -> Iterator[str]:
    """Write a heading, then one line per record (the caller ends the lines)."""
    return csv_text.csv_lines(
        CSV_COLUMNS, ([_cell(name, record) for name in CSV_COLUMNS] for record in records)
    )


def _cell(name: str, record: Document) -> object:
    value = record.get(name)
    match name:
        case "requestId":
            return str(value or record.get("_id", ""))
        case "count":
            return 1 if value is None else value
        case "attempts":
            return len(value) if isinstance(value, list) else ""
        case "tags" | "unpriced":
            return ",".join(map(str, value)) if isinstance(value, list) else ""
        case "costItems":
            return _json(value) if isinstance(value, list) else ""
        case "userKeyId" if isinstance(value, str):
            return shown_key_id(value)
        case "createdAt" | "stream" | "isSuccess":
            return "" if value is None else _json(value).strip('"')
    return value


def _json(value: Any) -> str:
    return json.dumps(json_ready(value), ensure_ascii=False, separators=(",", ":"))
