"""Hourly sums of the records, kept for ever, one document per writer so that writers never contend.

An hour that a midnight in `STATS_TIMEZONE` falls into is two (see `spans`), so that days and months are made
of whole ones. What was booked in another zone, or by an earlier version, is by whole hours of UTC.

A document holds the sums of one combination of hour, writer, model, user, client key, upstream key and wire
format (and endpoint, where that is not the usual one of the format), and `seq`, the highest record number
that is in them. Readers add up over writers.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeVar

from bson.int64 import Int64
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.database import Database

from app.records.records import Outcome
from app.statistics.figures import Figures
from app.statistics.histogram import count_times
from app.statistics.spans import Level, begin

Value = TypeVar("Value")

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


_kind_of = attrgetter("model", "user_id", "user_key_id", "factory_key_id", "api_format", "endpoint")
_created_at = attrgetter("created_at")


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


def by_document(writer_id: str, rows: Iterable[Figures], tz: tzinfo) -> dict[str, list[Figures]]:
    """Divide records among the documents that count them, by their `_id`. Days begin in `tz`."""
    kinds: defaultdict[tuple[str | None, ...], list[Figures]] = defaultdict(list)
    for row in rows:
        kinds[_kind_of(row)].append(row)
    documents: defaultdict[str, list[Figures]] = defaultdict(list)
    for alike in kinds.values():
        first, last = min(alike, key=_created_at), max(alike, key=_created_at)
        if begin(Level.HOUR, first.created_at, tz) == begin(Level.HOUR, last.created_at, tz):
            documents[rollup_id(writer_id, first, tz)] += alike
            continue
        for row in alike:
            documents[rollup_id(writer_id, row, tz)].append(row)
    return documents


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
    all_of = _columns(rows)
    outcomes = _counted(all_of.outcome, all_of.requests)
    success, rejected = outcomes.get(Outcome.OK, 0), outcomes.get(Outcome.REJECTED, 0)
    told = [row for row in rows if row.upstream_cost_nano is not None]
    # A refused request was never forwarded, so it has no duration to speak of.
    timed = all_of if not rejected else _columns([row for row in rows if not row.is_rejected])
    latencies = _counted(timed.latency_ms, timed.requests)
    first_bytes = _counted(timed.ttft_ms, timed.requests)
    first_bytes.pop(None, None)
    statuses = _counted(all_of.status_code, all_of.requests)
    sums = {
        "requests": sum(all_of.requests),
        "success": success,
        "errors": sum(all_of.requests) - success - rejected,
        "rejected": rejected,
        "inputTokens": sum(all_of.input_tokens),
        "outputTokens": sum(all_of.output_tokens),
        "cacheWriteTokens": sum(all_of.cache_write_tokens),
        "cacheWrite1hTokens": sum(all_of.cache_write_1h_tokens),
        "cacheHitTokens": sum(all_of.cache_hit_tokens),
        "reasoningTokens": sum(all_of.reasoning_tokens),
        "costNanoUsd": Int64(sum(all_of.cost_nano_usd)),
        "upstreamCostNanoUsd": Int64(sum(row.upstream_cost_nano or 0 for row in told)),
        "toldRequests": sum(row.requests for row in told),
        "toldCostNanoUsd": Int64(sum(row.cost_nano_usd for row in told)),
        "markupNanoUsd": Int64(sum(all_of.markup_nano)),
        "toldMarkupNanoUsd": Int64(sum(row.markup_nano for row in told)),
        "latencyCount": sum(latencies.values()),
        "latencySumMs": Int64(sum(latency_ms * times for latency_ms, times in latencies.items())),
        "ttftCount": sum(first_bytes.values()),
        "ttftSumMs": Int64(sum(ttft_ms * times for ttft_ms, times in first_bytes.items())),
    }
    sums.update(_prefixed("latency", count_times(latencies.items())))
    sums.update(_prefixed("ttft", count_times(first_bytes.items())))
    sums.update(_prefixed("statusClasses", _by(statuses, _status_class)))
    sums.update(_prefixed("outcomes", _by(outcomes, _segment)))
    return sums


def _columns(rows: Sequence[Figures]) -> Any:
    """Return what is in each field of the records, under the name of the field."""
    return Figures._make(zip(*rows, strict=True)) if rows else Figures._make(() for _ in Figures._fields)


def _counted(values: Iterable[Value], requests: Iterable[int]) -> dict[Value, int]:
    """Count how many requests have each value; a record with one may stand for several."""
    counts: dict[Value, int] = {}
    for (value, times), records in Counter(zip(values, requests, strict=True)).items():
        counts[value] = counts.get(value, 0) + times * records
    return counts


def _by(counts: Mapping[Value, int], name_of: Callable[[Value], str]) -> dict[str, int]:
    """Add up what is counted under the same name."""
    named: Counter[str] = Counter()
    for value, number in counts.items():
        named[name_of(value)] += number
    return named


def _prefixed(field: str, counts: dict[str, int]) -> dict[str, int]:
    return {f"{field}.{key}": number for key, number in counts.items()}


def _status_class(code: int) -> str:
    """Return `2xx`, `4xx`, …"""
    return f"{code // 100}xx"


def _segment(text: str) -> str:
    """Write a text as one segment of a field path: no dots, no dollar, not empty."""
    return "".join(char if char.isalnum() or char == "_" else "_" for char in text)
