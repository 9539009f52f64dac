"""What statistics and pages cost with 1,000,000 records and 200,000 hourly sums: `make volume`.

Takes some minutes, most of them for making the records and their indexes, so it is no part of the tests:
those assert that the work does not grow with the number of records.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pymongo
from pymongo.database import Database

from app.factory import DASHBOARD
from app.records.log_filter import LogFilter
from app.records.request_logs import RequestLogStore
from app.statistics.periods import ADMIN_PERIODS, Period
from app.statistics.stats_store import StatsStore
from app.statistics.summaries import SummaryMaker
from app.statistics.usage import Grouping
from app.store.connection import connect
from bench.crowd import HOURS, make_hourly_sums, make_indexes, make_records
from tests.support.admin_api import TOKEN, admin_app
from tests.support.dashboard import Browser
from tests.support.temporary_mongo import temporary_mongo

RECORDS, SUMS, USERS = 1_000_000, 280 * HOURS, 100
NOW = datetime(2026, 11, 23, 12, 20, 30, tzinfo=UTC)
ZONE = ZoneInfo("Asia/Ho_Chi_Minh")
PAGE_MS, SERIES_MS = 100, 150
DRAWN_MS = 50
"""What drawing a page of the dashboard may cost a worker."""

Ask = Callable[[], object]


def statistics(db: Database[Any]) -> Iterator[tuple[str, int, Ask]]:
    """Name, limit in milliseconds, and what to measure."""
    stats = StatsStore(db)
    for period in ADMIN_PERIODS:
        yield (
            f"model-stats {period}",
            PAGE_MS,
            lambda period=period: stats.model_stats(Period.of(period, NOW, ZONE)),
        )
    for period in ("24h", "30d", "all"):
        yield f"metrics {period}", PAGE_MS, lambda period=period: stats.metrics(Period.of(period, NOW, ZONE))
        yield (
            f"user-stats {period}",
            PAGE_MS,
            lambda period=period: stats.user_stats(Period.of(period, NOW, ZONE)),
        )
        for by in ("user", "key", "model", "factoryKey"):
            ask = lambda by=by, period=period: stats.usage(Grouping.parse(by), Period.of(period, NOW, ZONE))  # noqa: E731
            yield f"usage by {by} {period}", PAGE_MS, ask
    for by in ("none", "model", "user", "factoryKey"):
        ask = lambda by=by: stats.series(Period.of("24h", NOW, ZONE), by=by, with_latency=True)  # noqa: E731
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


def dashboard(uri: str, name: str) -> int:
    """Print what drawing pages costs this process; return how many cost more than they may.

    CPU time, since a worker serves others while the database works; the times beside it are the clock's.
    """
    day, month = (f"from={NOW - timedelta(days=days):%FT%TZ}&to={NOW:%FT%TZ}" for days in (1, 30))
    slow = 0
    print(f"{'':44}  CPU: median  worst of 5, ms   in all: median")
    with (
        TemporaryDirectory() as directory,
        admin_app(uri, name, Path(directory) / "var", stats_timezone=str(ZONE)) as app,
    ):
        browser = Browser(app.extensions[DASHBOARD].test_client())
        browser.log_in(token=TOKEN)
        for path in (
            f"/?{day}", f"/?{month}", f"/usage?{day}", f"/usage?{month}&by=user&then=model",
            f"/usage?{day}&by=session", "/requests", f"/requests?{day}&user=user-7", "/billing",
            "/billing/2026-11", "/customers",
        ):  # fmt: skip
            busy, whole = [], []
            for _ in range(6):
                started, since = time.process_time(), time.perf_counter()
                answer = browser.get(path)
                busy.append((time.process_time() - started) * 1000)
                whole.append((time.perf_counter() - since) * 1000)
                assert answer.status_code == 200, path
            median = sorted(busy[1:])[2]  # the first compiles the template
            slow += median > DRAWN_MS
            said = f"{path[:44]:44}  {median:11.1f} {max(busy[1:]):16.1f} {sorted(whole[1:])[2]:17.1f}"
            print(said + "  TOO SLOW" * (median > DRAWN_MS), flush=True)
    return slow


def main() -> int:
    """Make, measure, print; 1 if anything took longer than it may."""
    random = Random(1)
    with temporary_mongo() as uri:
        db = connect(uri, "million")
        started = time.monotonic()
        with pymongo.timeout(3600):
            make_records(db, RECORDS, NOW, users=USERS, random=random)
            make_hourly_sums(db, SUMS, NOW, users=USERS, random=random)
            make_indexes(db)
            print(f"made in {time.monotonic() - started:.0f} s", flush=True)
            started, maker = time.monotonic(), SummaryMaker(db, ZONE)
            while maker.step(NOW):
                pass
        print(f"summed up in {time.monotonic() - started:.0f} s")
        slow = measure([*statistics(db), *pages(db)])
        slow += dashboard(uri, db.name)
        db.client.close()
    return 1 if slow else 0


def measure(asked: Iterable[tuple[str, int, Ask]]) -> int:
    """Print how long each takes; return how many are slower than they may be."""
    slow = 0
    print(f"{'':44}  first median  worst of 5, ms")
    for name, limit, ask in asked:
        times = [_milliseconds(ask) for _ in range(5)]
        first, median, worst = times[0], sorted(times)[2], max(times)
        slow += median > limit
        print(
            f"{name:44} {first:6.1f} {median:6.1f} {worst:6.1f}{'  TOO SLOW' * (median > limit)}", flush=True
        )
    return slow


def _milliseconds(ask: Ask) -> float:
    started = time.perf_counter()
    ask()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    sys.exit(main())
