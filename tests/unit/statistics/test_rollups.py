from collections import defaultdict
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest

from app.records.records import Outcome
from app.statistics.figures import Figures
from app.statistics.histogram import bucket_key
from app.statistics.rollups import by_document, rollup_id, rollup_update

KOLKATA = ZoneInfo("Asia/Kolkata")  # its midnight falls into an hour of UTC
BEFORE_MIDNIGHT = datetime(2026, 11, 23, 18, 25, tzinfo=UTC)


def figures(seq: int, random: Random) -> Figures:
    outcome = random.choice((Outcome.OK, Outcome.OK, Outcome.REJECTED, Outcome.CLIENT_ABORT))
    rejected = outcome is Outcome.REJECTED
    document = {
        "_id": f"r{seq}",
        "userId": random.choice(("ann", "bob")),
        "userKeyId": "wk_1",
        "factoryKeyId": None if rejected else "pool-1",
        "model": random.choice(("gpt", None)),
        "apiFormat": "openai",
        # "chat" is what no endpoint stands for.
        "endpoint": random.choice((None, "chat", "embeddings")),
        "createdAt": BEFORE_MIDNIGHT + timedelta(minutes=random.randrange(60)),
        "outcome": str(outcome),
        "statusCode": 429 if rejected else random.choice((200, 499, 500, 503)),
        "count": random.randrange(1, 5) if rejected else 1,
        "inputTokens": random.randrange(9),
        "cacheWrite1hTokens": random.randrange(2),
        "costNanoUsd": 0 if rejected else random.randrange(100),
        "listCostNanoUsd": random.randrange(100),
        "upstreamCostNanoUsd": random.choice((None, 0, 7)),
        "latencyMs": random.randrange(30),
        "ttftMs": random.choice((None, 0, 3)),
    }
    return Figures.read(seq, document)


@pytest.fixture
def rows():
    random = Random(7)
    return [figures(seq, random) for seq in range(1, 300)]


@pytest.mark.parametrize("zone", [UTC, KOLKATA])
def test_records_are_divided_as_each_by_itself_would_be(rows, zone):
    expected = defaultdict(set)
    for row in rows:
        expected[rollup_id("w", row, zone)].add(row.seq)

    found = by_document("w", iter(rows), zone)

    assert {name: {row.seq for row in of} for name, of in found.items()} == expected
    assert sum(map(len, found.values())) == len(rows)


def test_the_sums_are_those_of_the_records_counted_one_by_one(rows):
    expected = defaultdict(int)
    for row in rows:
        for name, amount in counted(row).items():
            expected[name] += amount

    update = rollup_update("w", rows, UTC)

    assert update["$inc"] == {name: amount for name, amount in expected.items() if amount}
    assert update["$set"] == {"seq": 299}


def test_a_document_of_refusals_alone_has_no_durations(rows):
    refused = [row for row in rows if row.is_rejected]

    added = rollup_update("w", refused, UTC)["$inc"]

    assert added["requests"] == added["rejected"] == sum(row.requests for row in refused)
    assert not {name for name in added if name.startswith(("latency", "ttft"))}


def counted(row: Figures) -> dict[str, int]:
    is_ok, is_timed = row.outcome == "ok", row.outcome != "rejected"
    sums = {
        "requests": row.requests,
        "success": row.requests if is_ok else 0,
        "rejected": 0 if is_timed else row.requests,
        "errors": row.requests if is_timed and not is_ok else 0,
        "inputTokens": row.input_tokens,
        "cacheWrite1hTokens": row.cache_write_1h_tokens,
        "costNanoUsd": row.cost_nano_usd,
        "markupNanoUsd": row.markup_nano,
        f"statusClasses.{row.status_code // 100}xx": row.requests,
        f"outcomes.{row.outcome}": row.requests,
    }
    if row.upstream_cost_nano is not None:
        sums |= {
            "upstreamCostNanoUsd": row.upstream_cost_nano,
            "toldRequests": row.requests,
            "toldCostNanoUsd": row.cost_nano_usd,
            "toldMarkupNanoUsd": row.markup_nano,
        }
    if is_timed:
        sums |= {
            "latencyCount": row.requests,
            "latencySumMs": row.latency_ms * row.requests,
            f"latency.{bucket_key(row.latency_ms)}": row.requests,
        }
    if is_timed and row.ttft_ms is not None:
        sums |= {
            "ttftCount": row.requests,
            "ttftSumMs": row.ttft_ms * row.requests,
            f"ttft.{bucket_key(row.ttft_ms)}": row.requests,
        }
    return sums
