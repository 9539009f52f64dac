"""What statistics and pages cost with 1,000,000 records and 200,000 hourly sums: `make volume`.

Takes some minutes, most of them for making the records and their indexes, so it is no part of the tests:
those assert that the work does not grow with the number of records.
"""

import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from bson.int64 import Int64
from pymongo.database import Database

from app.adapters.embedded_mongo import temporary_mongo
from app.adapters.mongo.connection import connect, ensure_indexes
from app.adapters.mongo.request_logs import RequestLogStore
from app.adapters.mongo.stats import StatsStore
from app.adapters.mongo.summaries import SummaryMaker
from app.core.histogram import count
from app.core.log_filter import LogFilter
from app.core.periods import ADMIN_PERIODS

RECORDS, KINDS, HOURS, PER_HOUR = 1_000_000, 2000, 720, 280
NOW = datetime(2026, 11, 23, 12, 20, 30, tzinfo=UTC)
ZONE = ZoneInfo("Asia/Ho_Chi_Minh")
PAGE_MS, SERIES_MS = 100, 150

Ask = Callable[[], object]


def make_records(db: Database[Any], random: Random) -> None:
    """Of 100 users and 20 models over 30 days, multiplied by the server; one of a kind far back."""
    db["kinds"].insert_many(_kind(number, random) for number in range(KINDS))
    step_ms = 30 * 86_400_000 // RECORDS
    place = {"$add": [{"$multiply": ["$n", KINDS]}, "$kind"]}
    db["kinds"].aggregate(
        [
            {"$addFields": {"n": {"$range": [0, RECORDS // KINDS]}}},
            {"$unwind": "$n"},
            {"$addFields": {"createdAt": {"$subtract": [NOW, {"$multiply": [place, step_ms]}]}}},
            {"$addFields": {"_id": {"$concat": [{"$toString": "$createdAt"}, "-", {"$toString": "$kind"}]}}},
            {"$addFields": {"requestId": "$_id"}},
            {"$out": "request_logs"},
        ],
        allowDiskUse=True,
    )
    rare = {"userId": "rare", "model": "rare", "statusCode": 418, "outcome": "internal_error"}
    db["request_logs"].update_one({"createdAt": {"$lt": NOW - timedelta(days=29)}}, {"$set": rare})


def _kind(number: int, random: Random) -> dict[str, Any]:
    user, is_ok = random.randrange(100), random.random() < 0.97
    return {
        "kind": number,
        "userId": f"user-{user}",
        "userKeyId": f"wk_{user:040x}",
        "factoryKeyId": f"pool-{random.randrange(5)}",
        "model": f"model-{random.randrange(20)}",
        "apiFormat": "openai" if number % 500 else "anthropic",
        "inputTokens": random.randrange(9000),
        "outputTokens": random.randrange(900),
        "tokensUsed": 1000,
        "costNanoUsd": random.randrange(10**9),
        "statusCode": 200 if is_ok else random.choice((402, 429, 500, 502)),
        "isSuccess": is_ok,
        "outcome": "ok" if is_ok else random.choice(("rejected", "upstream_error")),
        "errorType": None if is_ok else "rate_limit_error",
        "latencyMs": random.randrange(9000),
        "attempts": [{"factoryKeyId": "pool-1", "statusCode": 200, "latencyMs": 55}],
        "usageRaw": {"prompt_tokens": 812, "completion_tokens": 97, "total_tokens": 909},
    }


def make_hourly_sums(db: Database[Any], random: Random) -> None:
    """As many combinations of user, model and upstream key in each hour."""
    histograms = [count(int(random.lognormvariate(8, 1)) for _ in range(5)) for _ in range(3000)]
    newest = NOW.replace(minute=0, second=0)
    for hour in range(HOURS):
        db["request_rollups"].insert_many(
            {
                "hour": newest - timedelta(hours=hour),
                "model": f"model-{random.randrange(20)}",
                "userId": f"user-{(user := random.randrange(100))}",
                "userKeyId": f"wk_{user:040x}",
                "factoryKeyId": f"pool-{random.randrange(5)}",
                "requests": 5,
                "success": 5,
                "inputTokens": 5000,
                "outputTokens": 700,
                "costNanoUsd": Int64(12_345_678),
                "latencyCount": 5,
                "latencySumMs": 20_000,
                "latency": random.choice(histograms),
            }
            for _ in range(PER_HOUR)
        )


def statistics(db: Database[Any]) -> Iterator[tuple[str, int, Ask]]:
    """Name, limit in milliseconds, and what to measure."""
    stats = StatsStore(db)
    for period in ADMIN_PERIODS:
        yield f"model-stats {period}", PAGE_MS, lambda period=period: stats.model_stats(period, NOW, ZONE)
    for period in ("24h", "30d", "all"):
        yield f"metrics {period}", PAGE_MS, lambda period=period: stats.metrics(period, NOW, ZONE)
        yield f"user-stats {period}", PAGE_MS, lambda period=period: stats.user_stats(period, NOW, ZONE)
        for by in ("user", "key", "model", "factoryKey"):
            ask = lambda by=by, period=period: stats.usage(by, period, NOW, ZONE)  # noqa: E731
            yield f"usage by {by} {period}", PAGE_MS, ask
    for by in ("none", "model", "user", "factoryKey"):
        ask = lambda by=by: stats.series("24h", NOW, ZONE, by=by, with_latency=True)  # noqa: E731
        yield f"timeseries 24h by {by}, with latency", SERIES_MS, ask


def pages(db: Database[Any]) -> Iterator[tuple[str, int, Ask]]:
    """First pages under filters common, rare and together."""
    logs = RequestLogStore(db)
    filters: dict[str, dict[str, Any]] = {
        "no filter": {},
        "a user": {"user": "user-7"},
        "a rare user": {"user": "rare"},
        "a model": {"model": "model-3"},
        "a rare model": {"model": "rare"},
        "a client key": {"key": f"wk_{7:040x}"},
        "a key as shown": {"key": "wk_00000...0007"},
        "an upstream key": {"factory_key": "pool-1"},
        "outcome rejected": {"outcome": "rejected"},
        "a rare outcome": {"outcome": "internal_error"},
        "status 200": {"status": (200, 200)},
        "status 201 (none)": {"status": (201, 201)},
        "status 4xx": {"status": (400, 499)},
        "status 418 (one)": {"status": (418, 418)},
        "anthropic": {"api_format": "anthropic"},
        "20 days ago": {"end": NOW - timedelta(days=20)},
        "user and model": {"user": "user-7", "model": "model-3"},
        "model, format, status": {"model": "model-3", "api_format": "anthropic", "status": (429, 429)},
        "user and rare model": {"user": "user-7", "model": "rare"},
        "q, a part": {"text": "model-1"},
        "q, nowhere": {"text": "zzzz"},
        "q and user": {"text": "zzzz", "user": "user-7"},
    }
    for name, fields in filters.items():
        yield f"page: {name}", PAGE_MS, lambda fields=fields: logs.find(LogFilter(**fields), 50)


def main() -> int:
    """Make, measure, print; 1 if anything took longer than it may."""
    random, slow = Random(1), 0
    with temporary_mongo() as uri:
        db = connect(uri, "million")
        started = time.monotonic()
        make_records(db, random)
        make_hourly_sums(db, random)
        ensure_indexes(db, 0)
        RequestLogStore(db).ensure_indexes()
        StatsStore(db).ensure_indexes()
        print(f"made in {time.monotonic() - started:.0f} s", flush=True)
        started, maker = time.monotonic(), SummaryMaker(db)
        while maker.step(NOW):
            pass
        print(f"summed up in {time.monotonic() - started:.0f} s\n{'':44}  first median  worst of 5, ms")
        for name, limit, ask in (*statistics(db), *pages(db)):
            times = [_milliseconds(ask) for _ in range(5)]
            first, median, worst = times[0], sorted(times)[2], max(times)
            slow += median > limit
            print(f"{name:44} {first:6.1f} {median:6.1f} {worst:6.1f}{'  TOO SLOW' * (median > limit)}")
        db.client.close()
    return 1 if slow else 0


def _milliseconds(ask: Ask) -> float:
    started = time.perf_counter()
    ask()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    sys.exit(main())
