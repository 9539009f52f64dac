"""Hourly sums of the records, kept for ever, one document per writer so that writers never contend.

A document holds the sums of one combination of hour, writer, model, user, client key, upstream key and wire
format, and `seq`, the highest record number that is in them. Readers add up over writers.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from bson.int64 import Int64
from pymongo import ASCENDING, DESCENDING, IndexModel

from app.core.histogram import count
from app.core.stats import Figures

COLLECTION = "request_rollups"

INDEXES = (
    IndexModel([("hour", DESCENDING)]),
    IndexModel([("userId", ASCENDING), ("hour", DESCENDING)]),
)
"""What statistics and sums of one user are selected by."""

MARKER = "seq"
"""The field that says how far the writer's sequence is contained in a document's sums."""


def hour_of(moment: datetime) -> datetime:
    """The start of the UTC hour."""
    return moment.replace(minute=0, second=0, microsecond=0)


def rollup_id(writer_id: str, row: Figures) -> str:
    """The `_id` of the document that counts this record; sorts by hour."""
    digest = _digest(row.model, row.user_id, row.user_key_id, row.factory_key_id, row.api_format)
    return f"{row.created_at:%Y%m%d%H}:{writer_id}:{digest}"


@lru_cache(maxsize=10_000)  # most records are of a combination that had one a moment ago
def _digest(*parts: str | None) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def rollup_update(writer_id: str, rows: Sequence[Figures]) -> dict[str, Any]:
    """The update that adds these records, all of one document, to its sums."""
    first = rows[0]
    return {
        "$setOnInsert": {
            "hour": hour_of(first.created_at),
            "writerId": writer_id,
            "model": first.model,
            "userId": first.user_id,
            "userKeyId": first.user_key_id,
            "factoryKeyId": first.factory_key_id,
            "apiFormat": first.api_format,
        },
        # Absent counts as 0 for every reader, and most of these are 0 most of the time.
        "$inc": {name: amount for name, amount in _sums(rows).items() if amount},
        "$set": {MARKER: Int64(max(row.seq for row in rows))},
    }


def _sums(rows: Sequence[Figures]) -> dict[str, int]:
    timed = [row for row in rows if not row.is_rejected]
    first_bytes = [row.ttft_ms for row in timed if row.ttft_ms is not None]
    sums = {
        "requests": len(rows),
        "success": sum(row.is_success for row in rows),
        "errors": sum(not row.is_success and not row.is_rejected for row in rows),
        "rejected": len(rows) - len(timed),
        "inputTokens": sum(row.input_tokens for row in rows),
        "outputTokens": sum(row.output_tokens for row in rows),
        "cacheWriteTokens": sum(row.cache_write_tokens for row in rows),
        "cacheWrite1hTokens": sum(row.cache_write_1h_tokens for row in rows),
        "cacheHitTokens": sum(row.cache_hit_tokens for row in rows),
        "reasoningTokens": sum(row.reasoning_tokens for row in rows),
        "costNanoUsd": Int64(sum(row.cost_nano_usd for row in rows)),
        # A refused request was never forwarded, so it has no duration to speak of.
        "latencyCount": len(timed),
        "latencySumMs": Int64(sum(row.latency_ms for row in timed)),
        "ttftCount": len(first_bytes),
        "ttftSumMs": Int64(sum(first_bytes)),
    }
    sums.update(_prefixed("latency", count(row.latency_ms for row in timed)))
    sums.update(_prefixed("ttft", count(first_bytes)))
    sums.update(_prefixed("statusClasses", Counter(row.status_class for row in rows)))
    sums.update(_prefixed("outcomes", Counter(_segment(row.outcome) for row in rows)))
    return sums


def _prefixed(field: str, counts: dict[str, int]) -> dict[str, int]:
    return {f"{field}.{key}": number for key, number in counts.items()}


def _segment(text: str) -> str:
    """A text as one segment of a field path: no dots, no dollar, not empty."""
    return "".join(char if char.isalnum() or char == "_" else "_" for char in text)
