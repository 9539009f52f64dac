from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.statistics.figures import Figures, Totals, mean, model_table

DOCUMENT = {
    "_id": "r1",
    "userId": "ann",
    "userKeyId": "wk_1",
    "factoryKeyId": "pool-1",
    "model": "gpt",
    "apiFormat": "openai",
    "createdAt": datetime(2026, 11, 23, 12, tzinfo=UTC),
    "outcome": "ok",
    "statusCode": 200,
    "inputTokens": 3,
    "outputTokens": 4,
    "costNanoUsd": 5,
    "latencyMs": 6,
    "ttftMs": None,
}


def test_figures_of_a_record():
    figures = Figures.read(9, DOCUMENT)

    assert (figures.seq, figures.request_id, figures.tokens_used, figures.cost_nano_usd) == (9, "r1", 7, 5)
    assert figures.is_success
    assert not figures.is_rejected
    assert figures.status_code == 200
    assert figures.ttft_ms is None
    assert figures.cache_hit_tokens == 0


@pytest.mark.parametrize(
    "moment",
    [datetime(2026, 11, 23, 12), datetime(2026, 11, 23, 19, tzinfo=timezone(timedelta(hours=7)))],  # noqa: DTZ001
)
def test_moments_are_taken_as_utc(moment):
    assert Figures.read(1, DOCUMENT | {"createdAt": moment}).created_at == DOCUMENT["createdAt"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("_id", ""),
        ("userId", None),
        ("userKeyId", 3),
        ("model", b"x"),
        ("factoryKeyId", "\ud800"),
        ("createdAt", 5),
        ("inputTokens", True),
        ("costNanoUsd", 1.5),
        ("latencyMs", -1),
        ("ttftMs", 2**60),
    ],
)
def test_an_unusable_field_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        Figures.read(1, DOCUMENT | {field: value})


def totals(**sums):
    made = Totals()
    made.add(sums)
    return made


def test_sums_add_up_and_absent_ones_are_zero():
    sums = totals(requests=2, success=1, inputTokens=5)
    sums.add({"requests": 1, "inputTokens": None})
    sums.add_latencies({"b3": 1})
    sums.add_latencies({"b3": 2})

    assert (sums.requests, sums.success, sums.errors, sums.input_tokens) == (3, 1, 2, 5)
    assert sums.latency == {"b3": 3}
    assert sums.success_rate == 33.33


def test_of_nothing():
    assert Totals().success_rate == 100.0
    assert Totals().avg_latency_ms == 0
    assert mean(0, 0) is None
    row = Totals().model_row("m")
    assert (row["p50LatencyMs"], row["avgTtftMs"], row["requestCount"]) == (None, None, 0)
    assert row["cacheHitShare"] is None


def test_a_row():
    sums = totals(
        requests=3,
        success=2,
        rejected=1,
        inputTokens=10,
        outputTokens=5,
        cacheWriteTokens=2,
        cacheHitTokens=1,
        costNanoUsd=1_500_000_000,
        latencyCount=2,
        latencySumMs=30,
        ttftCount=1,
        ttftSumMs=4,
    )
    sums.add_latencies({"b10": 1})
    sums.add_latencies({"b20": 1})
    assert sums.model_row("m") == {
        "model": "m",
        "inputTokens": 10,
        "outputTokens": 5,
        "cacheWriteTokens": 2,
        "cacheHitTokens": 1,
        "cacheHitShare": 0.0769,
        "totalTokens": 15,
        "creditsBurned": 1.5,
        "costNanoUsd": 1_500_000_000,
        "requestCount": 3,
        "successCount": 2,
        "errorCount": 1,
        "rejectedCount": 1,
        "upstreamCostNanoUsd": None,
        "toldRequestCount": 0,
        "toldCostNanoUsd": 0,
        "marginNanoUsd": None,
        "upstreamDriftPercent": None,
        "avgLatencyMs": 15.0,
        "p50LatencyMs": 10,
        "p95LatencyMs": 20,
        "p99LatencyMs": 20,
        "avgTtftMs": 4.0,
    }


def test_the_table_is_sorted_by_tokens_with_what_has_no_model():
    rows = model_table(
        {
            "b": totals(inputTokens=1),
            "a": totals(inputTokens=1),
            None: totals(inputTokens=99),
            "c": totals(outputTokens=2),
        }
    )
    assert [row["model"] for row in rows] == [None, "c", "a", "b"]


def test_what_the_upstream_told_and_what_is_left():
    sums = totals(
        costNanoUsd=90,
        toldRequests=2,
        toldCostNanoUsd=50,
        upstreamCostNanoUsd=70,
        markupNanoUsd=5,
        toldMarkupNanoUsd=-6,
    )

    assert sums.ledger() == {
        "upstreamCostNanoUsd": 70,
        "toldRequestCount": 2,
        "toldCostNanoUsd": 50,
        "marginNanoUsd": -20,
        "upstreamDriftPercent": 20.0,
    }


def test_what_stands_for_no_request_has_a_told_cost_all_the_same():
    sums = Totals()
    sums.add({"upstreamCostNanoUsd": 40, "toldCostNanoUsd": 50})
    assert (sums.ledger()["upstreamCostNanoUsd"], sums.margin_nano) == (40, 10)


def test_a_told_cost_is_told_from_none():
    assert Figures.read(1, DOCUMENT).upstream_cost_nano is None
    assert Figures.read(1, DOCUMENT | {"upstreamCostNanoUsd": 0}).upstream_cost_nano == 0
    assert Figures.read(1, DOCUMENT | {"listCostNanoUsd": 2}).markup_nano == 3
    assert Figures.read(1, DOCUMENT | {"listCostNanoUsd": 9}).markup_nano == -4
    with pytest.raises(ValueError, match="upstreamCostNanoUsd"):
        Figures.read(1, DOCUMENT | {"upstreamCostNanoUsd": -1})
