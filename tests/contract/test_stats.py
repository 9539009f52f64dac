"""Statistics against a plain recount in Python of the same records."""

from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from booking_world import closed_database, sequenced
from bson import ObjectId

from app.common.errors import StoreUnavailable
from app.common.money import NANO
from app.persistence.booking import Booking
from app.records.records import Outcome
from app.statistics import stats_store
from app.statistics.histogram import BOUNDS, LONGEST_MS, count
from app.statistics.periods import ADMIN_PERIODS, Period
from app.statistics.stats_store import StatsStore

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
    periods = [Period.of(period, NOW, ZONE) for period in ADMIN_PERIODS]
    edges = sorted({edge for period in periods for edge in (period.start, period.end) if edge})
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
        upstream_cost_nano_usd=random.choice((None, 0, random.randrange(NANO))),
        list_cost_nano_usd=random.choice((None, random.randrange(NANO))),
        latency_ms=0 if outcome is Outcome.REJECTED else int(random.lognormvariate(7, 1)),
        ttft_ms=random.choice((None, random.randrange(2000))),
    )


def book(database, records, now=NOW, tz=ZONE):
    for start in range(0, len(records), 100):
        # Two writers, as two workers would be.
        booking = Booking(database, f"w{start // 100 % 2}", now=lambda: now, tz=tz)
        booking.apply(records[start : start + 100])


def documents_of(records):
    return [item.document for item in records]


def within(records, period):
    return [
        document
        for document in documents_of(records)
        if (period.start is None or document["createdAt"] >= period.start)
        and (period.end is None or document["createdAt"] < period.end)
    ]


def recount(records, period):
    """The model table, counted the slow way."""
    documents = within(records, period)
    models = {document["model"] for document in documents}
    return {model: [d for d in documents if d["model"] == model] for model in models}


def assert_row(row, documents):
    timed = sorted(d["latencyMs"] for d in documents if d["outcome"] != "rejected")
    first = [d["ttftMs"] for d in documents if d["ttftMs"] is not None and d["outcome"] != "rejected"]
    for field in ("inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens"):
        assert row[field] == sum(d[field] for d in documents)
    assert row["totalTokens"] == row["inputTokens"] + row["outputTokens"]
    assert row["creditsBurned"] == sum(d["costNanoUsd"] for d in documents) / NANO
    told = [d for d in documents if "upstreamCostNanoUsd" in d]
    assert row["toldRequestCount"] == len(told)
    assert row["toldCostNanoUsd"] == sum(d["costNanoUsd"] for d in told)
    lists = sum(d.get("listCostNanoUsd", d["costNanoUsd"]) for d in told)
    upstream = sum(d["upstreamCostNanoUsd"] for d in told)
    assert row["upstreamCostNanoUsd"] == (upstream if told else None)
    assert row["marginNanoUsd"] == (row["toldCostNanoUsd"] - upstream if told else None)
    drift = 100 * (upstream - lists) / max(upstream, lists, 1)
    assert row["upstreamDriftPercent"] == (pytest.approx(drift, abs=1e-3) if told else None)
    assert row["requestCount"] == len(documents)
    assert row["successCount"] == sum(d["isSuccess"] for d in documents)
    assert row["errorCount"] == row["requestCount"] - row["successCount"]
    assert row["avgLatencyMs"] == (round(sum(timed) / len(timed), 2) if timed else 0)
    assert row["costNanoUsd"] == sum(d["costNanoUsd"] for d in documents)
    assert row["avgTtftMs"] == (round(sum(first) / len(first), 2) if first else None)
    for percent in (50, 95, 99) if timed else ():
        exact = timed[-(-percent * len(timed) // 100) - 1]
        assert abs(row[f"p{percent}LatencyMs"] - exact) <= 0.05 * exact


def test_every_period_is_exact_to_the_record(database, stats):
    records = made(700)
    book(database, records)

    sizes = set()
    for period in ADMIN_PERIODS:
        expected = recount(records, Period.of(period, NOW, ZONE))
        rows = stats.model_stats(Period.of(period, NOW, ZONE))
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
    before = stats.model_stats(Period.of("all", NOW, ZONE))
    database["request_logs"].delete_many({"createdAt": {"$lt": NOW - timedelta(hours=2)}})

    assert stats.model_stats(Period.of("all", NOW, ZONE)) == before
    two_hours = recount(records, Period.of("2h", NOW, ZONE))
    assert {row["model"]: row["requestCount"] for row in stats.model_stats(Period.of("2h", NOW, ZONE))} == {
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
        rows = {row["model"]: row for row in stats.model_stats(Period.of(period, NOW, UTC))}
        assert rows["gpt"]["requestCount"] == number, period
        assert rows["gpt"]["inputTokens"] == 100 + 10 * (number - 1)
        assert rows["gpt"]["creditsBurned"] == (250_000_000 * (number - 1) + 1_000_001) / NANO
        assert (rows["old"]["successCount"], rows["old"]["errorCount"]) == (0, 1)


def test_metrics_count_everything(database, stats):
    records = made(60)
    book(database, records)
    documents = documents_of(records)
    timed = [d["latencyMs"] for d in documents if d["outcome"] != "rejected"]

    assert stats.metrics(Period.of("all", NOW, UTC)) == {
        "total_requests": len(documents),
        "tokens_used": sum(d["tokensUsed"] for d in documents),
        "avg_latency_ms": round(sum(timed) / len(timed), 2),
        "success_rate": round(100 * sum(d["isSuccess"] for d in documents) / len(documents), 2),
        "creditsBurned": sum(d["costNanoUsd"] for d in documents) / NANO,
        "costNanoUsd": sum(d["costNanoUsd"] for d in documents),
        "period": "all",
        "from": None,
        "to": "2026-11-23T12:20:30.000Z",
        "timezone": "UTC",
        "timestamp": "2026-11-23T12:20:30.000Z",
    }


def test_nothing_at_all(stats):
    assert stats.model_stats(Period.of("all", NOW, UTC)) == []
    metrics = stats.metrics(Period.of("1h", NOW, UTC))
    assert (metrics["total_requests"], metrics["success_rate"], metrics["avg_latency_ms"]) == (0, 100.0, 0)
    assert stats.user_stats(Period.of("all", NOW, UTC))["total_users"] == 0
    assert stats.user_stats(Period.of("7d", NOW, UTC))["total_credits_used"] == 0


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
            sequenced(2, created_at=NOW, cost_nano_usd=2 * NANO, upstream_cost_nano_usd=500),
        ],
    )
    ever = stats.user_stats(Period.of("all", NOW, UTC))
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
        "upstreamCostNanoUsd": 500,
        "toldRequestCount": 1,
        "toldCostNanoUsd": 2 * NANO,
        "marginNanoUsd": 2 * NANO - 500,
        "upstreamDriftPercent": -100.0,
        "creditsUsedNanoUsd": 6 * NANO,
        "creditsNanoUsd": 102 * NANO,
        "refCreditsNanoUsd": NANO,
        "creditsNewNanoUsd": 2 * NANO,
        "creditsNewUsedNanoUsd": NANO // 2,
        "period": "all",
        "from": None,
        "to": "2026-11-23T12:20:30.000Z",
        "timezone": "UTC",
    }
    day = stats.user_stats(Period.of("24h", NOW, UTC))
    assert (day["total_credits_used"], day["total_input_tokens"], day["total_credits"]) == (2.0, 100, 102.0)


def test_durations_are_in_the_same_buckets_in_records_as_in_sums(database, stats):
    took = sorted({edge for bound in BOUNDS for edge in (bound, bound + 1)} | {0, 2 * LONGEST_MS})
    records = [
        sequenced(number, created_at=NOW - timedelta(minutes=50), latency_ms=ms)
        for number, ms in enumerate(took, 1)
    ]
    book(database, records)
    # The part of an hour that an hour ago began in is counted from records.
    assert stats.sums(Period.of("1h", NOW, ZONE), by=None, with_latency=True)[None].latency == count(took)
    whole = stats.sums(Period.of("all", NOW, ZONE), by=None, with_latency=True)[None]
    assert whole.latency == count(took)
    assert whole.latency_count == len(took)


def test_sums_by_other_fields_and_of_a_user(database, stats):
    records = made(80)
    book(database, records)
    for period in (Period.of(name, NOW, UTC) for name in ("all", "3d", "yesterday")):
        documents = within(records, period)
        by_user = stats.sums(period, by="userId")
        for name in ("ann", "bob"):
            number = sum(d["userId"] == name for d in documents)
            assert by_user[name].requests == number
            assert stats.total(period, user=name).requests == number
    with pytest.raises(ValueError, match="cannot sum by"):
        stats.sums(Period.of("all", NOW, UTC), by="$where")


def test_what_a_key_used_is_told_apart(database, stats):
    records = [
        sequenced(
            number,
            created_at=NOW - timedelta(hours=number),
            user_key_id=f"wk_{number % 2}",
            cost_nano_usd=number,
        )
        for number in range(1, 9)
    ]
    book(database, records)
    assert stats.total(Period.of("all", NOW, UTC), key="wk_1").cost_nano_usd == 1 + 3 + 5 + 7
    assert stats.total(Period.of("4h", NOW, UTC), key="wk_1").cost_nano_usd == 1 + 3
    assert stats.total(Period.of("all", NOW, UTC), key="wk_9").requests == 0


def test_missing_models_are_counted_and_no_more_refusals_read_than_may_be(database, stats, monkeypatch):
    def refused(age, model, user="ann", **more):
        asked = {} if model is None else {"requestedModel": model}
        kind = {"outcome": "rejected", "errorType": "model_not_found", "userId": user}
        return {"_id": f"r{age}", "createdAt": NOW - timedelta(hours=age), **kind, **asked, **more}

    logs = [refused(1, "a"), refused(2, "a", "bob"), refused(30, "a"), refused(4, "b", count=7)]
    logs += [refused(5, None, count=90), refused(6, "x", errorType="rate_limit_exceeded")]
    logs += [refused(7, "y", outcome="upstream_error"), refused(8, None, endpoint="models")]
    database["request_logs"].insert_many(logs)

    rows, searched_to = stats.missing_models(Period.of("all", NOW, UTC), 10)
    assert searched_to is None
    assert [(row["model"], row["requests"], row["users"]) for row in rows] == [
        (None, 90, 1),
        ("b", 7, 1),
        ("a", 3, 2),
    ]
    assert (rows[2]["firstAt"], rows[2]["lastAt"]) == (NOW - timedelta(hours=30), NOW - timedelta(hours=1))
    assert [row["requests"] for row in stats.missing_models(Period.of("24h", NOW, UTC), 10)[0]] == [90, 7, 2]
    assert [row["model"] for row in stats.missing_models(Period.of("all", NOW, UTC), 2)[0]] == [None, "b"]

    monkeypatch.setattr(stats_store, "_REFUSALS", 2)
    rows, searched_to = stats.missing_models(Period.of("all", NOW, UTC), 10)
    assert ([row["model"] for row in rows], searched_to) == (["a"], NOW - timedelta(hours=2))


def test_a_store_that_is_down():
    nowhere = closed_database()
    stats = StatsStore(nowhere)
    for ask in (stats.model_stats, stats.metrics, stats.user_stats):
        with pytest.raises(StoreUnavailable):
            ask(Period.of("all", NOW, UTC))
