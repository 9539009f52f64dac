"""The record that every authenticated request leaves, and its shape in MongoDB."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

NANO = 1_000_000_000


class Outcome(StrEnum):
    """How a request ended. `OK` is the only success."""

    OK = "ok"
    REJECTED = "rejected"
    CLIENT_ABORT = "client_abort"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_TRUNCATED = "upstream_truncated"
    STREAM_ERROR = "stream_error"
    INTERRUPTED = "interrupted"
    INTERNAL_ERROR = "internal_error"


class UsageSource(StrEnum):
    """Where the token counts come from: how far they can be trusted."""

    UPSTREAM = "upstream"
    PARTIAL = "partial"
    ESTIMATE = "estimate"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try at the upstream: the key, what came back (None: nothing), how long it took, in ms.

    `proxy_id` is the outbound proxy it went through, None for a direct one or where none connected.
    """

    factory_key_id: str
    status_code: int | None
    latency_ms: int
    error: str | None = None
    proxy_id: str | None = None

    def to_document(self) -> dict[str, Any]:
        """The shape kept in `request_logs.attempts`."""
        document: dict[str, Any] = {
            "factoryKeyId": self.factory_key_id,
            "statusCode": self.status_code,
            "latencyMs": self.latency_ms,
        }
        if self.error is not None:
            document["error"] = self.error
        if self.proxy_id is not None:
            document["proxyId"] = self.proxy_id
        return document


@dataclass(slots=True)
class ExchangeRecord:
    """Everything known about one client request once it has ended.

    Tokens are counts with `input_tokens` being fresh input (cache tokens are not in it); durations are
    milliseconds; `cost_nano_usd` is exact; `hold_nano_usd` is the credit that was held in the database while
    the request ran (0: none); `costs` are the parts of the cost by kind, for metrics. Prompts and answers are
    never part of it.

    Nothing changes one but `end`. (Not frozen: making one of so many fields takes three times as long then.)
    `kept` is the sink's, which may leave there what it made of the facts.
    """

    request_id: str
    user_id: str
    user_key_id: str
    created_at: datetime
    api_format: str
    outcome: Outcome
    status_code: int
    factory_key_id: str | None = None
    model: str | None = None
    requested_model: str | None = None
    upstream_model: str | None = None
    endpoint: str = ""
    stream: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_hit_tokens: int = 0
    reasoning_tokens: int = 0
    usage_source: UsageSource = UsageSource.NONE
    usage_flags: tuple[str, ...] = ()
    usage_raw: dict[str, Any] | None = None
    cost_nano_usd: int = 0
    error_type: str | None = None
    upstream_status_code: int | None = None
    upstream_request_id: str | None = None
    service_tier: str | None = None
    latency_ms: int = 0
    ttft_ms: int | None = None
    overhead_ms: int = 0
    attempts: tuple[AttemptRecord, ...] = field(default=())
    bytes_out: int = 0
    client_retry_count: int | None = None
    hold_nano_usd: int = 0
    costs: tuple[int, int, int, int] = (0, 0, 0, 0)
    kept: Any = field(default=None, init=False, repr=False, compare=False)

    @property
    def is_success(self) -> bool:
        """Whether the client got a whole, good answer."""
        return self.outcome is Outcome.OK

    def end(
        self,
        outcome: Outcome,
        status_code: int,
        *,
        error_type: str | None,
        usage_source: UsageSource,
        latency_ms: int,
        bytes_out: int,
    ) -> None:
        """Say how the request has ended whose record was foreseen."""
        self.outcome = outcome
        self.status_code = status_code
        self.error_type = error_type
        self.usage_source = usage_source
        self.latency_ms = latency_ms
        self.bytes_out = bytes_out

    def to_document(self) -> dict[str, Any]:
        """The document of `request_logs`; its `_id` makes writing it twice harmless."""
        return self.facts() | self.ending()

    def facts(self) -> dict[str, Any]:
        """The part of the document that `end` does not change."""
        document: dict[str, Any] = {
            "_id": self.request_id,
            "requestId": self.request_id,
            "userId": self.user_id,
            "userKeyId": self.user_key_id,
            "factoryKeyId": self.factory_key_id,
            "model": self.model,
            "upstreamModel": self.upstream_model,
            "upstream": "ohmygpt",
            "apiFormat": self.api_format,
            "endpoint": self.endpoint,
            "stream": self.stream,
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "cacheWriteTokens": self.cache_write_tokens,
            "cacheWrite1hTokens": self.cache_write_1h_tokens,
            "cacheHitTokens": self.cache_hit_tokens,
            "reasoningTokens": self.reasoning_tokens,
            "tokensUsed": self.input_tokens + self.output_tokens,
            "creditsCost": self.cost_nano_usd / NANO,
            "costNanoUsd": self.cost_nano_usd,
            "creditType": "ohmygpt",
            "upstreamStatusCode": self.upstream_status_code,
            "ttftMs": self.ttft_ms,
            "overheadMs": self.overhead_ms,
            "attempts": [attempt.to_document() for attempt in self.attempts],
            "usageRaw": self.usage_raw,
            "createdAt": self.created_at,
        }
        if self.requested_model is not None:
            document["requestedModel"] = self.requested_model
        if self.usage_flags:
            document["usageFlags"] = list(self.usage_flags)
        if self.upstream_request_id is not None:
            document["upstreamRequestId"] = self.upstream_request_id
        if self.service_tier is not None:
            document["serviceTier"] = self.service_tier
        if self.client_retry_count is not None:
            document["clientRetryCount"] = self.client_retry_count
        if self.hold_nano_usd:
            document["holdNanoUsd"] = self.hold_nano_usd
        return document

    def ending(self) -> dict[str, Any]:
        """The rest of it: how the request ended."""
        return {
            "usageSource": str(self.usage_source),
            "statusCode": self.status_code,
            "isSuccess": self.is_success,
            "outcome": str(self.outcome),
            "errorType": self.error_type,
            "latencyMs": self.latency_ms,
            "bytesOut": self.bytes_out,
        }


class SequencedRecord(NamedTuple):
    """A record's document and its number, strictly increasing within one writer.

    The store books a record only if its number is higher than the last one booked for that writer, so
    records must reach it in the order of their numbers. `queued_at` is monotonic, in seconds; `encoded` is
    the document's BSON, where that is at hand.
    """

    seq: int
    document: dict[str, Any]
    queued_at: float = 0.0
    encoded: bytes = b""
