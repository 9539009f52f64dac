from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.records.records import AttemptRecord, CostItem, ExchangeRecord, Outcome, UsageSource

NOW = datetime(2026, 11, 23, 12, 0, 0, 5000, tzinfo=UTC)
FULL = ExchangeRecord(
    request_id="r1",
    user_id="ann",
    user_key_id="wk_1",
    created_at=NOW,
    api_format="openai",
    outcome=Outcome.OK,
    status_code=200,
    factory_key_id="env-1",
    model="gpt",
    requested_model="gpt-alias",
    upstream_model="gpt-2026",
    endpoint="chat",
    stream=True,
    input_tokens=9,
    output_tokens=2,
    cache_write_tokens=3,
    cache_write_1h_tokens=1,
    cache_hit_tokens=4,
    reasoning_tokens=1,
    usage_source=UsageSource.UPSTREAM,
    usage_flags=("ambiguous",),
    unpriced=("web_search",),
    cost_items=(CostItem("input", 9, 18_000), CostItem("second", Decimal("12.5"), 7, "other")),
    usage_raw={"prompt_tokens": 9},
    cost_nano_usd=1_234_567_891,
    error_type="x",
    upstream_status_code=200,
    upstream_request_id="up-1",
    service_tier="standard",
    latency_ms=100,
    ttft_ms=10,
    overhead_ms=1,
    attempts=(AttemptRecord("a", None, 5, "unreachable"), AttemptRecord("env-1", 200, 95, proxy_id="p")),
    bytes_out=321,
    client_retry_count=0,
)

FIELDS: dict[str, Any] = {
    "_id": str,
    "requestId": str,
    "userId": str,
    "userKeyId": str,
    "factoryKeyId": str | None,
    "model": str | None,
    "upstreamModel": str | None,
    "apiFormat": str,
    "stream": bool,
    "inputTokens": int,
    "outputTokens": int,
    "cacheWriteTokens": int,
    "cacheHitTokens": int,
    "reasoningTokens": int,
    "usageSource": str,
    "tokensUsed": int,
    "creditsCost": float,
    "costNanoUsd": int,
    "creditType": str,
    "statusCode": int,
    "isSuccess": bool,
    "outcome": str,
    "errorType": str | None,
    "upstreamStatusCode": int | None,
    "latencyMs": int,
    "ttftMs": int | None,
    "overheadMs": int,
    "attempts": list,
    "bytesOut": int,
    "usageRaw": dict | None,
    "createdAt": datetime,
}
MORE = {"upstream", "endpoint", "cacheWrite1hTokens"}
IF_KNOWN = {
    "requestedModel",
    "usageFlags",
    "unpriced",
    "costItems",
    "priceVersion",
    "upstreamRequestId",
    "serviceTier",
    "clientRetryCount",
}


def refused() -> ExchangeRecord:
    return ExchangeRecord("r2", "ann", "wk_1", NOW, "anthropic", Outcome.REJECTED, 401)


@pytest.mark.parametrize("record", [FULL, refused()], ids=["full", "refused"])
def test_a_document_has_exactly_the_promised_fields_with_their_types(record: ExchangeRecord) -> None:
    document = record.to_document()
    assert set(document) - IF_KNOWN == set(FIELDS) | MORE
    for name, kind in FIELDS.items():
        value = document[name]
        assert isinstance(value, kind), name
        assert kind is bool or not isinstance(value, bool), name


def test_what_is_not_known_of_a_request_is_left_out_or_empty() -> None:
    document = refused().to_document()
    assert not IF_KNOWN & set(document)
    assert document["ttftMs"] is document["usageRaw"] is document["model"] is None
    assert (document["inputTokens"], document["usageSource"]) == (0, "none")
    assert document["attempts"] == []


def test_a_document_says_what_the_record_says() -> None:
    document = FULL.to_document()
    assert document["_id"] == document["requestId"] == "r1"
    assert document["tokensUsed"] == 11
    assert document["creditType"] == "ohmygpt"
    assert document["isSuccess"] is True
    assert document["usageFlags"] == ["ambiguous"]
    assert document["unpriced"] == ["web_search"]
    assert document["costItems"] == [
        {"unit": "input", "quantity": 9, "nanoUsd": 18_000},
        {"unit": "second", "quantity": 12.5, "nanoUsd": 7, "model": "other"},
    ]
    assert document["clientRetryCount"] == 0
    assert document["attempts"] == [
        {"factoryKeyId": "a", "statusCode": None, "latencyMs": 5, "error": "unreachable"},
        {"factoryKeyId": "env-1", "statusCode": 200, "latencyMs": 95, "proxyId": "p"},
    ]
    assert type(document["outcome"]) is type(document["usageSource"]) is str


def test_the_end_of_a_foreseen_record_changes_its_ending_and_nothing_else() -> None:
    checkpointed = replace(FULL, outcome=Outcome.INTERRUPTED, usage_source=UsageSource.PARTIAL, bytes_out=0)
    facts = checkpointed.facts()
    checkpointed.end(
        FULL.outcome,
        FULL.status_code,
        error_type=FULL.error_type,
        usage_source=FULL.usage_source,
        latency_ms=FULL.latency_ms,
        bytes_out=FULL.bytes_out,
    )
    assert checkpointed == FULL
    assert checkpointed.facts() == facts
    assert not set(facts) & set(checkpointed.ending())


def test_a_document_can_be_stored() -> None:
    stored = bson.decode(bson.encode(FULL.to_document()))
    assert stored["createdAt"].replace(tzinfo=UTC) == NOW


@given(st.integers(0, 2**63 - 1))
def test_the_cost_in_usd_is_the_exact_cost(nano: int) -> None:
    document = replace(FULL, cost_nano_usd=nano).to_document()
    assert document["costNanoUsd"] == nano
    assert document["creditsCost"] == nano / 10**9  # rounded once: as a float it may have been rounded before


@pytest.mark.parametrize("outcome", Outcome)
def test_only_ok_is_a_success(outcome: Outcome) -> None:
    document = replace(FULL, outcome=outcome).to_document()
    assert document["isSuccess"] is (outcome == "ok")
    assert document["outcome"] == outcome.value


def test_outcomes_and_sources_are_the_promised_words() -> None:
    assert {str(outcome) for outcome in Outcome} == {
        "ok",
        "rejected",
        "client_abort",
        "upstream_error",
        "upstream_unreachable",
        "upstream_timeout",
        "upstream_truncated",
        "stream_error",
        "interrupted",
        "internal_error",
    }
    assert {str(source) for source in UsageSource} == {"upstream", "partial", "estimate", "none"}
