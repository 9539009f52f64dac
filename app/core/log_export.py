"""Records as text for other programs: JSON lines, and CSV that a spreadsheet can be trusted with."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.core.display import json_ready, shown_key_id, shown_record

Document = Mapping[str, Any]

FORMATS = ("csv", "jsonl")

CSV_COLUMNS = (
    *("requestId", "createdAt", "userId", "userKeyId", "factoryKeyId", "model", "upstreamModel", "apiFormat"),
    *("endpoint", "stream", "inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens"),
    *("reasoningTokens", "usageSource", "tokensUsed", "creditsCost", "costNanoUsd", "creditType"),
    *("statusCode", "isSuccess", "outcome", "errorType", "upstreamStatusCode", "latencyMs", "ttftMs"),
    *("overheadMs", "attempts", "bytesOut"),
)
"""`attempts` is their number."""

_END = "\r\n"

# A spreadsheet would take text that begins so for a formula, and some of the text was sent by strangers. The
# apostrophe itself is among them, so that taking one away gives back any text.
_GUARDED = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def jsonl_lines(records: Iterable[Document]) -> Iterator[str]:
    """One JSON object per record."""
    for record in records:
        yield _json(shown_record(record))


def csv_lines(records: Iterable[Document]) -> Iterator[str]:
    """A heading, then one line per record (RFC 4180 quoting, ends of lines left to the caller)."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator=_END)  # of which it looks for the characters when quoting
    writer.writerow(CSV_COLUMNS)
    yield _taken(buffer)
    for record in records:
        writer.writerow(_cell(name, record) for name in CSV_COLUMNS)
        yield _taken(buffer)


def csv_text(cell: str) -> str:
    """The text a cell of these files stands for: without the apostrophe that keeps spreadsheets away."""
    return cell[1:] if cell.startswith("'") else cell


def _taken(buffer: io.StringIO) -> str:
    line = buffer.getvalue().removesuffix(_END)
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
            return "" if value is None else _json(value).strip('"')
    return _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    return f"'{value}" if value.startswith(_GUARDED) else value


def _json(value: Any) -> str:
    return json.dumps(json_ready(value), ensure_ascii=False, separators=(",", ":"))
