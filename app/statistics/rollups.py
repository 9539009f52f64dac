"""Hourly sums of the records, kept for ever, one document per writer so that writers never contend.

An hour that a midnight in `STATS_TIMEZONE` falls into is two (see `spans`), so that days and months are made
of whole ones. What was booked in another zone, or by an earlier version, is by whole hours of UTC.

A document holds the sums of one combination of hour, writer, model, user, client key, upstream key and wire
format (and endpoint, where that is not the usual one of the format), and `seq`, the highest record number
that is in them. Readers add up over writers.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, tzinfo
from functools import lru_cache
from typing import Any

from bson.int64 import Int64
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.database import Database

from app.statistics.figures import Figures
from app.statistics.histogram import count_times
from app.statistics.spans import Level, begin

COLLECTION = "request_rollups"

INDEXES = (
    IndexModel([("hour", DESCENDING)]),
    IndexModel([("userId", ASCENDING), ("hour", DESCENDING)]),
)
"""What statistics and sums of one user are selected by."""

COMMON_ENDPOINTS = {"openai": "chat", "anthropic": "messages"}
"""The endpoint of a document that names none, by its wire format: before there were others, nothing did."""

MARKER = "seq"
"""The field that says how far the writer's sequence is contained in a document's sums."""


def highest_marks(db: Database[Any]) -> dict[str, int]:
    """Return, for each writer, the highest record number that is in any hourly sum."""
    pipeline: list[dict[str, Any]] = [
        {"$match": {MARKER: {"$type": "number"}, "writerId": {"$type": "string"}}},
        {"$group": {"_id": "$writerId", "highest": {"$max": f"${MARKER}"}}},
    ]
    return {found["_id"]: int(found["highest"]) for found in db[COLLECTION].aggregate(pipeline)}


def hour_of(moment: datetime) -> datetime:
    """Return the start of the moment's UTC hour."""
    return moment.replace(minute=0, second=0, microsecond=0)


def rollup_id(writer_id: str, row: Figures, tz: tzinfo) -> str:
    """Return the `_id` of the document that counts this record; it sorts by hour. Days begin in `tz`."""
    parts = (row.model, row.user_id, row.user_key_id, row.factory_key_id, row.api_format)
    endpoint = _uncommon_endpoint(row)
    digest = _digest(*parts) if endpoint is None else _digest(*parts, endpoint)
    hour = begin(Level.HOUR, row.created_at, tz)
    return f"{hour:{'%Y%m%d%H%M' if hour.minute else '%Y%m%d%H'}}:{writer_id}:{digest}"


@lru_cache(maxsize=10_000)  # most records are of a combination that had one a moment ago
def _digest(*parts: str | None) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def rollup_update(writer_id: str, rows: Sequence[Figures], tz: tzinfo) -> dict[str, Any]:
    """Return the update that adds these records, all of one document, to its sums. Days begin in `tz`."""
    first = rows[0]
    return {
        "$setOnInsert": {
            "hour": begin(Level.HOUR, first.created_at, tz),
            "writerId": writer_id,
            "model": first.model,
            "userId": first.user_id,
            "userKeyId": first.user_key_id,
            "factoryKeyId": first.factory_key_id,
            "apiFormat": first.api_format,
            **({} if (endpoint := _uncommon_endpoint(first)) is None else {"endpoint": endpoint}),
        },
        # Absent counts as 0 for every reader, and most of these are 0 most of the time.
        "$inc": {name: amount for name, amount in _sums(rows).items() if amount},
        "$set": {MARKER: Int64(max(row.seq for row in rows))},
    }


def _uncommon_endpoint(row: Figures) -> str | None:
    return None if row.endpoint == COMMON_ENDPOINTS.get(row.api_format) else row.endpoint


def _sums(rows: Sequence[Figures]) -> dict[str, int]:
    # A record may stand for several requests (`Figures.requests`), which have neither tokens nor a cost then.
    timed = [row for row in rows if not row.is_rejected]
    told = [row for row in rows if row.upstream_cost_nano is not None]
    first_bytes = [(row.ttft_ms, row.requests) for row in timed if row.ttft_ms is not None]
    sums = {
        "requests": sum(row.requests for row in rows),
        "success": sum(row.requests for row in rows if row.is_success),
        "errors": sum(row.requests for row in rows if not row.is_success and not row.is_rejected),
        "rejected": sum(row.requests for row in rows if row.is_rejected),
        "inputTokens": sum(row.input_tokens for row in rows),
        "outputTokens": sum(row.output_tokens for row in rows),
        "cacheWriteTokens": sum(row.cache_write_tokens for row in rows),
        "cacheWrite1hTokens": sum(row.cache_write_1h_tokens for row in rows),
        "cacheHitTokens": sum(row.cache_hit_tokens for row in rows),
        "reasoningTokens": sum(row.reasoning_tokens for row in rows),
        "costNanoUsd": Int64(sum(row.cost_nano_usd for row in rows)),
        "upstreamCostNanoUsd": Int64(sum(row.upstream_cost_nano or 0 for row in told)),
        "toldRequests": sum(row.requests for row in told),
        "toldCostNanoUsd": Int64(sum(row.cost_nano_usd for row in told)),
        "markupNanoUsd": Int64(sum(row.markup_nano for row in rows)),
        "toldMarkupNanoUsd": Int64(sum(row.markup_nano for row in told)),
        # A refused request was never forwarded, so it has no duration to speak of.
        "latencyCount": sum(row.requests for row in timed),
        "latencySumMs": Int64(sum(row.latency_ms * row.requests for row in timed)),
        "ttftCount": sum(times for _, times in first_bytes),
        "ttftSumMs": Int64(sum(ttft_ms * times for ttft_ms, times in first_bytes)),
    }
    sums.update(_prefixed("latency", count_times((row.latency_ms, row.requests) for row in timed)))
    sums.update(_prefixed("ttft", count_times(first_bytes)))
    sums.update(_prefixed("statusClasses", _by(rows, lambda row: row.status_class)))
    sums.update(_prefixed("outcomes", _by(rows, lambda row: _segment(row.outcome))))
    return sums


def _by(rows: Sequence[Figures], value_of: Callable[[Figures], str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts[value_of(row)] += row.requests
    return counts


def _prefixed(field: str, counts: dict[str, int]) -> dict[str, int]:
    return {f"{field}.{key}": number for key, number in counts.items()}


def _segment(text: str) -> str:
    """Write a text as one segment of a field path: no dots, no dollar, not empty."""
    return "".join(char if char.isalnum() or char == "_" else "_" for char in text)
