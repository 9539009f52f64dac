"""What a request asks of the database is the same with ten users, keys and records as with thousands."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pymongo.database import Database

from app.accounts.client_keys import ClientKeyStore
from app.accounts.credentials import hash_client_key
from app.accounts.directory import CachedDirectory
from app.accounts.rate_limiter import SharedRateLimiter, ensure_expiry
from app.accounts.users import UserStore
from app.billing.statements import Statements
from app.credit.credit_gate import MongoCreditGate
from app.credit.credit_holds import CreditHolds
from app.keys.key_pool import SharedKeyPool
from app.keys.key_rotation import KeyRotation
from app.keys.key_state_store import KeyStateStore
from app.keys.key_sync import KeySync
from app.keys.provider_keys import ProviderKeyStore
from app.persistence.booking import Booking
from app.records.records import SequencedRecord
from app.statistics.figures import Totals
from app.statistics.histogram import count
from app.statistics.periods import Period
from app.statistics.stats_store import StatsStore
from app.statistics.summaries import SummaryMaker
from app.statistics.usage import Grouping
from app.store.key_cipher import KeyCipher
from bench import crowd

FEW, MANY = 10, 3000
NOW = datetime(2026, 11, 23, 12, 20, tzinfo=UTC)
REQUESTS = 10
DOLLAR = 10**9
CIPHER = KeyCipher("a secret key of the tests, long enough")

Work = Counter[tuple[str, str, int]]
"""How often: command, collection, documents examined."""


def filled(database: Database[Any], size: int) -> None:
    crowd.make_users(database, size, NOW)
    crowd.make_upstream_keys(database, 3, CIPHER, NOW)
    crowd.make_records(database, size, NOW, users=size, random=Random(1))
    crowd.make_hourly_sums(database, size, NOW, users=size, random=Random(1))
    crowd.make_indexes(database)
    ensure_expiry(database)
    summaries = SummaryMaker(database)
    while summaries.step(NOW):
        pass


def record(number: int) -> SequencedRecord:
    user, key_id = crowd.user_name(number), hash_client_key(crowd.client_key(number))
    whom = {
        "userId": user,
        "userKeyId": key_id,
        "factoryKeyId": "pool-1",
        "model": "m",
        "apiFormat": "openai",
    }
    counts = ("inputTokens", "outputTokens", "cacheWriteTokens", "cacheWrite1hTokens", "cacheHitTokens")
    figures = {"reasoningTokens": 0, "tokensUsed": 10, "costNanoUsd": 7, "latencyMs": 5, "ttftMs": 4}
    how = {"outcome": "ok", "statusCode": 200, "createdAt": NOW}
    document = {"_id": f"r{number}", **whom, **dict.fromkeys(counts, 5), **figures, **how}
    return SequencedRecord(number + 1, document)


def serve(database: Database[Any]) -> None:
    """All that ten requests of ten users who are in no cache ask of the database, and what goes on beside."""
    directory = CachedDirectory(
        UserStore(database), ClientKeyStore(database), clock=lambda: 0.0, spawn=lambda work: work()
    )
    gate = MongoCreditGate(directory, CreditHolds(database), clock=lambda: 0.0)
    limiter = SharedRateLimiter("w1", NOW.timestamp)
    for number in range(REQUESTS):
        principal = directory.find(crowd.client_key(number))
        assert principal is not None
        limiter.hit(principal.user_key_id, 60)
        # Every second one asks for so much that it has to be held in the database.
        gate.reserve(principal.user_id, f"r{number}", 900 * DOLLAR if number % 2 else 1)
    assert directory.find("sk-of-nobody") is None
    limiter.sync(database)
    Booking(database, "w1", now=lambda: NOW).apply([record(number) for number in range(REQUESTS)])
    pool = SharedKeyPool(["sk-env-key"], now=lambda: NOW)
    states = KeyStateStore(database)
    sync = KeySync(pool, ProviderKeyStore(database, CIPHER), states, KeyRotation(database, CIPHER))
    assert sync.refresh()
    assert not SummaryMaker(database).step(NOW)
    crowd.make_indexes(database)  # as at a start: they are there


def work_of(database: Database[Any]) -> Work:
    database.command("profile", 2)
    serve(database)
    database.command("profile", 0)
    work: Work = Counter()
    for entry in database["system.profile"].find({"op": {"$ne": "killcursors"}}):
        command = next(iter(entry["command"]), entry["op"])
        if command != "profile":
            place = entry["ns"].partition(".")[2]
            work[command, place, entry.get("docsExamined", 0)] += 1
            assert "COLLSCAN" not in entry.get("planSummary", "") or place in SMALL, entry
    return work


AT_START = ("listIndexes", "createIndexes")
SMALL = ("ohmygpt_keys", "ohmygpt_backup_keys", "upstream_key_states", "request_summaries")


@pytest.fixture
def another_database(database: Database[Any]) -> Any:
    other = database.client[f"{database.name}_2"]
    yield other
    database.client.drop_database(other.name)


def test_requests_ask_the_same_of_the_database_however_large_it_is(
    database: Database[Any], another_database: Database[Any]
) -> None:
    filled(database, FEW)
    filled(another_database, MANY)
    few, many = work_of(database), work_of(another_database)
    assert another_database["usersNew"].estimated_document_count() == MANY
    assert few == many
    examined = sum(examined * times for (_, _, examined), times in many.items())
    assert examined <= 20 * REQUESTS
    # Beside what requests ask, a writer looks once an hour whether the database is whole.
    asked = {what: times for what, times in many.items() if what[0] not in AT_START}
    assert sum(asked.values()) <= 8 * REQUESTS + 5


def statistics_of_a_month(database: Database[Any]) -> list[dict[str, Any]]:
    """What MongoDB did for a page of the month by user, of 20 users, and for the statement of one."""
    zone = ZoneInfo("Asia/Ho_Chi_Minh")
    stats, statements = StatsStore(database), Statements(database, zone)
    month = statements.month("2026-11")
    database.command("profile", 2)
    page = stats.usage(Grouping.parse("user"), Period.of("month", NOW, zone).frozen(), limit=20)
    statements.statement(month, crowd.user_name(3), NOW)
    database.command("profile", 0)
    assert page.other_count + len(page.rows) > 5
    assert page.total.requests > 0
    return list(
        database["system.profile"].find({"planSummary": {"$exists": True}, "ns": {"$regex": "request"}})
    )


def test_a_month_by_user_reads_figures_of_those_only_who_are_on_the_page(database: Database[Any]) -> None:
    crowd.make_hourly_sums(database, MANY, NOW, users=MANY, random=Random(1))
    crowd.make_indexes(database)
    summaries = SummaryMaker(database, ZoneInfo("Asia/Ho_Chi_Minh"))
    while summaries.step(NOW):
        pass
    assert database["request_summaries"].count_documents({"_id.level": "running_month"}) > MANY
    done = statistics_of_a_month(database)
    assert not [entry["planSummary"] for entry in done if "COLLSCAN" in entry["planSummary"]]
    # The order is read out of an index; a page has 20 users, and there are twenty times as many.
    assert sum(entry.get("keysExamined", 0) for entry in done) > MANY / 2
    assert sum(entry.get("docsExamined", 0) for entry in done) < MANY / 4


def asked_of(database: Database[Any], what: Callable[[], object]) -> list[tuple[str, str, int]]:
    """Which command was sent for which collection, and how many rows came."""
    database["system.profile"].drop()
    database.command("profile", 2)
    what()
    database.command("profile", 0)
    return [
        (command, str(entry["command"][command]), entry.get("nreturned", 0))
        for entry in database["system.profile"].find({"op": {"$in": ["query", "command", "getmore"]}})
        if (command := next(iter(entry["command"]))) != "profile"
    ]


def test_one_answer_reads_but_once_what_decides_where_sums_are(database: Database[Any]) -> None:
    crowd.make_records(database, FEW, NOW, users=FEW, random=Random(1))
    crowd.make_indexes(database)
    periods = [Period.of(name, NOW, UTC) for name in ("1h", "24h", "30d")]
    asked = StatsStore(database).for_one_answer()

    def answer() -> None:
        for period in periods:
            asked.sums(period, by="model", with_latency=True)
            asked.usage(Grouping.parse("user"), period)

    done = Counter((command, place) for command, place, _ in asked_of(database, answer))
    assert done["listIndexes", "request_logs"] == 1
    assert done["find", "request_summaries"] == 1


def test_sums_of_several_periods_are_one_question(database: Database[Any]) -> None:
    Booking(database, "w1", now=lambda: NOW).apply([record(number) for number in range(REQUESTS)])
    stats = StatsStore(database)
    periods = [Period.of(name, NOW + timedelta(minutes=5), UTC) for name in ("today", "30d", "all")]
    found: list[Totals] = []
    done = asked_of(
        database, lambda: found.extend(stats.totals(periods, key=hash_client_key(crowd.client_key(3))))
    )
    assert [command for command, _, _ in done].count("aggregate") == 1
    assert [totals.requests for totals in found] == [1, 1, 1]
    assert [totals.cost_nano_usd for totals in found] == [7, 7, 7]


def test_durations_come_from_records_in_one_row_for_each_key(database: Database[Any]) -> None:
    took = {number: number * 37 for number in range(1, MANY)}
    records = [
        {"_id": str(number), "createdAt": NOW - timedelta(minutes=50), "outcome": "ok", "statusCode": 200}
        | {"model": f"model-{number % 3}", "latencyMs": ms}
        for number, ms in took.items()
    ]
    database["request_logs"].insert_many(records)
    sums: dict[str | None, Totals] = {}
    stats, hour = StatsStore(database), Period.of("1h", NOW, UTC)
    done = asked_of(database, lambda: sums.update(stats.sums(hour, by="model", with_latency=True)))
    assert sum(rows for _, _, rows in done) < 10
    assert len(sums) == 3
    for model, totals in sums.items():
        assert totals.latency == count(ms for number, ms in took.items() if f"model-{number % 3}" == model)
