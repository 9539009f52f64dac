"""What a month of 1,000,000 records and 10,000 users costs, from usage to closing: `make volume`.

Takes half an hour and more, most of it for making records and summaries.
"""

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pymongo
from pymongo.database import Database

from app.billing.statements import Statements
from app.statistics.periods import Period
from app.statistics.stats_store import StatsStore
from app.statistics.summaries import SummaryMaker
from app.statistics.usage import Grouping
from app.store.connection import connect
from bench.crowd import HOURS, make_hourly_sums, make_indexes, make_records, make_users
from tests.support.a_million import PAGE_MS, ZONE, Ask, measure
from tests.support.backup_of_a_million import run
from tests.support.temporary_mongo import temporary_mongo

RECORDS, SUMS, USERS = 1_000_000, 280 * HOURS, 10_000
NOW = datetime(2026, 11, 30, 12, 20, 30, tzinfo=UTC)
MONTH_OVER = NOW + timedelta(days=2)
PAIRS_MS, SLOW_MS = 500, 30_000
CLOSING_S = 120


def usage(db: Database[Any], now: datetime, period: str) -> Iterator[tuple[str, int, Ask]]:
    """Name, limit in milliseconds, and what to measure."""
    stats, asked = StatsStore(db), Period.of(period, now, ZONE).frozen()
    for by, limit in (("user", PAGE_MS), ("key", PAGE_MS), ("model", PAGE_MS), ("user,model", PAIRS_MS)):
        yield f"usage {period} by {by}", limit, lambda by=by: stats.usage(Grouping.parse(by), asked)
    by_user = Grouping.parse("user")
    yield f"usage {period}, the last users", PAGE_MS, lambda: stats.usage(by_user, asked, shown=USERS - 200)


def statements(db: Database[Any]) -> Iterator[tuple[str, int, Ask]]:
    """The list of a month that is not closed yet, and one of its statements."""
    store = Statements(db, ZONE)
    month = store.month("2026-11")

    def page() -> object:
        return list(store.statements(month, store.users(month, MONTH_OVER)[:100], MONTH_OVER))

    yield "statements of a month, a page of 100", SLOW_MS, page
    yield "one statement", PAGE_MS, lambda: store.statement(month, "user-7", MONTH_OVER)


def billing(db: Database[Any], uri: str) -> float:
    """Close the month and write all its statements; return the longer of the three times, in seconds."""
    store = Statements(db, UTC)
    store.ensure_indexes()
    month = store.month("2026-11")
    fine = {"consistent": True, "differenceCount": 0, "pendingCount": 0}
    took = [exported(uri, db.name, "as it is")]
    started = time.monotonic()
    closed = store.close(
        month, "root", MONTH_OVER, lambda: MONTH_OVER, lambda: fine, progress=progress("closing")
    )
    took.append(time.monotonic() - started)
    print(f"{closed['users']:,} statements closed in {took[-1]:.0f} s, without `verify`", flush=True)
    return max(*took, exported(uri, db.name, "closed"))


def exported(uri: str, name: str, state: str) -> float:
    """Write all statements as CSV and HTML; return how long the command took, in seconds."""
    with TemporaryDirectory() as directory:
        forms = ("--format", "csv", "--format", "html")
        done, seconds, memory = run(
            uri, directory, name, "statements", "export", "2026-11", "--dir", f"{directory}/out", *forms
        )
    print(f"{done['statements']:,} statements exported, {state}: {seconds:.0f} s, {memory:.0f} MB of memory")
    return seconds


def progress(what: str) -> Any:
    """Tell on standard error how far it is."""

    def say(done: int, of: int) -> None:
        print(f"\r{what}: {done:,} of {of:,}", end="\n" if done == of else "", file=sys.stderr, flush=True)

    return say


def main() -> int:
    """Make, measure, print; 1 if anything took longer than it may."""
    random = Random(1)
    with temporary_mongo() as uri, pymongo.timeout(3600):
        db = connect(uri, "million")
        started = time.monotonic()
        make_users(db, USERS, NOW)
        make_hourly_sums(db, SUMS, NOW, users=USERS, random=random)
        make_records(db, RECORDS, NOW, users=USERS, random=random)
        make_indexes(db)
        print(f"{USERS:,} users, made in {time.monotonic() - started:.0f} s", flush=True)
        slow = 0
        for now, period in ((NOW, "month"), (MONTH_OVER, "last_month")):
            started, maker = time.monotonic(), SummaryMaker(db, ZONE)
            while maker.step(now):
                pass
            print(f"summed up in {time.monotonic() - started:.0f} s", flush=True)
            slow += measure(usage(db, now, period))
        slow += measure(statements(db))
        slow += billing(db, uri) > CLOSING_S
        db.client.close()
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
