"""Statistics against a plain recount in Python of the same records."""

from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from bson import ObjectId
from settlement_world import closed_database, sequenced

from app.adapters.mongo.settlement import Settlement
from app.adapters.mongo.stats import StatsStore
from app.core.periods import ADMIN_PERIODS, period_start
from app.core.ports import StoreUnavailable
from app.core.records import NANO, Outcome

NOW = datetime(2026, 11, 23, 12, 20, 30, tzinfo=UTC)
ZONE = ZoneInfo("Asia/Kolkata")  # days start at half past the hour there


@pytest.fixture
def stats(database):
    store = StatsStore(database)
    store.ensure_indexes()
    return store


def made(count, seed=3):
    """Records of the last 40 days, most of them recent, some exactly on the edges of periods."""
    random = Random(seed)
    edges = [period_start(period, NOW, ZONE) for period in ADMIN_PERIODS if period != "all"]
    ages = [timedelta(seconds=random.expovariate(1 / 40_000) ** 1.15) for _ in range(count)]
    moments = [NOW - age for age in ages] + edges + [edge - timedelta(milliseconds=1) for edge in edges]
    return [made_record(number, moment, random) for number, moment in enumerate(moments, start=1)]


def made_record(number, moment, random):
    outcome = random.choice(
        [Outcome.OK] * 5 + [Outcome.REJECTED, Outcome.UPSTREAM_ERROR, Outcome.CLIENT_ABORT]
    )
    return sequenced(
        number,
        created_at=moment.replace(microsecond=moment.microsecond // 1000 * 1000),
        user_id=random.choice(("ann", "bob")),
        model=random.choice(("gpt", "claude", "mini")) if outcome is not Outcome.REJECTED else None,
        outcome=outcome,
        input_tokens=random.randrange(9000),
        output_tokens=random.randrange(900),
        cache_write_tokens=random.randrange(50),
        cache_hit_tokens=random.randrange(50),
        cost_nano_usd=0 if outcome is Outcome.REJECTED else random.randrange(NANO),
        latency_ms=0 if outcome is Outcome.REJECTED else int(random.lognormvariate(7, 1)),
        ttft_ms=random.choice((None, random.randrange(2000))),
    )


def book(database, records, now=NOW):
    for start in range(0, len(records), 100):
        # Two writers, as two workers would be.
        Settlement(database, f"w{start // 100 % 2}", now=lambda: now).apply(records[start : start + 100])


def documents_of(records):
    return [item.document for item in records]


def recount(records, start):
    """The model table, counted the slow way."""
    documents = [d for d in documents_of(records) if start is None or d["createdAt"] >= start]
    models = {document["model"] for document in documents} - {None}
    return {model: [d for d in documents if d["model"] == model] for model in models}


def assert_row(row, documents):
    timed = sorted(d["latencyMs"] for d in documents if d["outcome"] != "rejected")
    first = [d["ttftMs"] for d in documents if d["ttftMs"] is not None and d["outcome"] != "rejected"]
    for field in ("inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens"):
        assert row[field] == sum(d[field] for d in documents)
    assert row["totalTokens"] == row["inputTokens"] + row["outputTokens"]
    assert row["creditsBurned"] == sum(d["costNanoUsd"] for d in documents) / NANO
    assert row["requestCount"] == len(documents)
    assert row["successCount"] == sum(d["isSuccess"] for d in documents)
    assert row["errorCount"] == row["requestCount"] - row["successCount"]
    assert row["avgLatencyMs"] == round(sum(timed) / len(timed), 2)
    assert row["avgTtftMs"] == (round(sum(first) / len(first), 2) if first else None)
    for percent in (50, 95, 99):
        exact = timed[-(-percent * len(timed) // 100) - 1]
        assert abs(row[f"p{percent}LatencyMs"] - exact) <= 0.05 * exact


def test_every_period_is_exact_to_the_record(database, stats):
    records = made(700)
    book(database, records)

    sizes = set()
    for period in ADMIN_PERIODS:
        expected = recount(records, period_start(period, NOW, ZONE))
        rows = stats.model_stats(period, NOW, ZONE)
        assert {row["model"] for row in rows} == set(expected)
        for row in rows:
            assert_row(row, expected[row["model"]])
        tokens = [row["totalTokens"] for row in rows]
        assert tokens == sorted(tokens, reverse=True)
        sizes.add(sum(tokens))
    assert len(sizes) >= 9, "the periods should differ"


def test_sums_stay_right_after_the_records_have_expired(database, stats):
    records = made(100)
    book(database, records)
    before = stats.model_stats("all", NOW, ZONE)
    database["request_logs"].delete_many({"createdAt": {"$lt": NOW - timedelta(hours=2)}})

    assert stats.model_stats("all", NOW, ZONE) == before
    two_hours = recount(records, NOW - timedelta(hours=2))
    assert {row["model"]: row["requestCount"] for row in stats.model_stats("2h", NOW, ZONE)} == {
        model: len(documents) for model, documents in two_hours.items()
    }


def test_records_of_earlier_software_are_counted_too(database, stats):
    def old(minutes_ago, **changes):
        return {
            "_id": ObjectId(),
            "userId": "ann",
            "model": "gpt",
            "inputTokens": 10,
            "outputTokens": 1,
            "creditsCost": 0.25,
            "tokensUsed": 11,
            "statusCode": 200,
            "latencyMs": 100,
            "isSuccess": True,
            "createdAt": NOW - timedelta(minutes=minutes_ago),
        } | changes

    database["request_logs"].insert_many([old(5), old(50), old(500), old(5, isSuccess=False, model="old")])
    book(database, [sequenced(1, created_at=NOW)])

    for period, number in (("1h", 3), ("2h", 3), ("24h", 4), ("all", 4)):
        rows = {row["model"]: row for row in stats.model_stats(period, NOW, UTC)}
        assert rows["gpt"]["requestCount"] == number, period
        assert rows["gpt"]["inputTokens"] == 100 + 10 * (number - 1)
        assert rows["gpt"]["creditsBurned"] == (250_000_000 * (number - 1) + 1_000_001) / NANO
        assert (rows["old"]["successCount"], rows["old"]["errorCount"]) == (0, 1)


def test_metrics_count_everything(database, stats):
    records = made(60)
    book(database, records)
    documents = documents_of(records)
    timed = [d["latencyMs"] for d in documents if d["outcome"] != "rejected"]

    assert stats.metrics("all", NOW, UTC) == {
        "total_requests": len(documents),
        "tokens_used": sum(d["tokensUsed"] for d in documents),
        "avg_latency_ms": round(sum(timed) / len(timed), 2),
        "success_rate": round(100 * sum(d["isSuccess"] for d in documents) / len(documents), 2),
        "period": "all",
        "timestamp": "2026-11-23T12:20:30.000Z",
    }


def test_nothing_at_all(stats):
    assert stats.model_stats("all", NOW, UTC) == []
    metrics = stats.metrics("1h", NOW, UTC)
    assert (metrics["total_requests"], metrics["success_rate"], metrics["avg_latency_ms"]) == (0, 100.0, 0)
    assert stats.user_stats("all", NOW, UTC)["total_users"] == 0
    assert stats.user_stats("7d", NOW, UTC)["total_credits_used"] == 0


def test_user_stats(database, stats):
    database["usersNew"].insert_many(
        [
            {"_id": "ann", "credits": 100.0, "refCredits": 1.0, "creditsUsed": 3.0, "totalInputTokens": 50},
            {"_id": "bob", "credits": 5.0, "isActive": False, "creditsNew": 2.0, "creditsNewUsed": 0.5},
        ]
    )
    book(
        database,
        [
            sequenced(1, created_at=NOW - timedelta(days=2), cost_nano_usd=NANO),
            sequenced(2, created_at=NOW, cost_nano_usd=2 * NANO),
        ],
    )
    ever = stats.user_stats("all", NOW, UTC)
    assert ever == {
        "total_users": 2,
        "active_users": 1,
        "users_with_requests": 1,
        "total_credits_used": 6.0,
        "total_credits": 102.0,
        "total_ref_credits": 1.0,
        "total_creditsNew": 2.0,
        "total_creditsNewUsed": 0.5,
        "total_input_tokens": 250,
        "total_output_tokens": 20,
        "period": "all",
    }
    day = stats.user_stats("24h", NOW, UTC)
    assert (day["total_credits_used"], day["total_input_tokens"], day["total_credits"]) == (2.0, 100, 102.0)


def test_sums_by_other_fields_and_of_a_user(database, stats):
    records = made(80)
    book(database, records)
    for start in (None, NOW - timedelta(days=3)):
        documents = [d for d in documents_of(records) if start is None or d["createdAt"] >= start]
        by_user = stats.sums(start, by="userId")
        for name in ("ann", "bob"):
            number = sum(d["userId"] == name for d in documents)
            assert by_user[name].requests == number
            assert stats.total(start, user=name).requests == number
    with pytest.raises(ValueError, match="cannot sum by"):
        stats.sums(None, by="$where")


def test_a_store_that_is_down():
    nowhere = closed_database()
    stats = StatsStore(nowhere)
    for ask in (stats.model_stats, stats.metrics, stats.user_stats):
        with pytest.raises(StoreUnavailable):
            ask("all", NOW, UTC)
