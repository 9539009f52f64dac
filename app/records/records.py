"""The record that every authenticated request leaves, and its shape in MongoDB."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple, Self

import msgspec

from app.common.lenient_json import clean_text
from app.common.money import NANO

MAX_MESSAGE = 300
"""How much of a message a record keeps, in characters."""


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


class AttemptRecord(msgspec.Struct, frozen=True, gc=False):
    """One try at the upstream: the key, what came back (None: nothing), how long it took, in ms.

    `proxy_id` is the outbound proxy it went through, None for a direct one or where none connected; `host`
    the position of the upstream host in OHMYGPT_BASE_URL, None where that names only one.
    """

    factory_key_id: str
    status_code: int | None
    latency_ms: int
    error: str | None = None
    proxy_id: str | None = None
    host: int | None = None

    def to_document(self) -> dict[str, Any]:
        """Return the shape kept in `request_logs.attempts`."""
        document: dict[str, Any] = {
            "factoryKeyId": self.factory_key_id,
            "statusCode": self.status_code,
            "latencyMs": self.latency_ms,
        }
        if self.error is not None:
            document["error"] = self.error
        if self.proxy_id is not None:
            document["proxyId"] = self.proxy_id
        if self.host is not None:
            document["host"] = self.host
        return document


class Attribution(NamedTuple):
    """For whom and by what a request was made, as its client says; None and nothing where it does not."""

    end_user: str | None = None
    session_id: str | None = None
    client_name: str | None = None
    tags: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """Return the fields of a record that say so."""
        document: dict[str, Any] = {}
        if self.end_user is not None:
            document["endUser"] = self.end_user
        if self.session_id is not None:
            document["sessionId"] = self.session_id
        if self.client_name is not None:
            document["clientName"] = self.client_name
        if self.tags:
            document["tags"] = list(self.tags)
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_document` has made."""
        return cls(
            document.get("endUser"),
            document.get("sessionId"),
            document.get("clientName"),
            tuple(document.get("tags", ())),
        )

    def filled_up(self, other: Self) -> Self:
        """Return this, and what it does not say as the other one says it."""
        return type(self)(
            self.end_user or other.end_user,
            self.session_id or other.session_id,
            self.client_name or other.client_name,
            self.tags or other.tags,
        )

    def shared_with(self, other: Self) -> Self:
        """Return what both have in common."""
        return type(self)(
            self.end_user if self.end_user == other.end_user else None,
            self.session_id if self.session_id == other.session_id else None,
            self.client_name if self.client_name == other.client_name else None,
            self.tags if self.tags == other.tags else (),
        )


NOT_ATTRIBUTED = Attribution()


class CostItem(NamedTuple):
    """A part of a cost: so much of a unit (`app.wires.units`), and what it came to, in nano-dollars.

    `model` is whose price it was, where that is not the record's.
    """

    unit: str
    quantity: int | Decimal
    nano_usd: int
    model: str | None = None

    def to_document(self) -> dict[str, Any]:
        """Return the shape kept in `request_logs.costItems`."""
        # A float: JSON has it so, and a quantity that is no whole number was told as one.
        quantity = self.quantity if isinstance(self.quantity, int) else float(self.quantity)
        document: dict[str, Any] = {"unit": self.unit, "quantity": quantity, "nanoUsd": self.nano_usd}
        if self.model is not None:
            document["model"] = self.model
        return document


@dataclass(slots=True)
class ExchangeRecord:
    """Everything known about one client request once it has ended.

    Tokens are counts with `input_tokens` being fresh input (cache tokens are not in it); durations are
    milliseconds; `cost_nano_usd` is exact; `hold_nano_usd` is the credit that was held in the database while
    the request ran (0: none); `costs` are the parts of the cost by kind, for metrics; `cost_items` by unit,
    where not only text tokens of one model were charged; `unpriced` is what was used and has no price;
    `price_version` is the version of the model table that it was charged by, None where nothing was;
    `upstream_cost_nano_usd` is what the upstream says it charged, None where it says nothing, and
    `list_cost_nano_usd` the cost before the operator's own factors, None where that is the same.
    Prompts and answers are never part of it.

    `error_message` says why the request failed, and `told_message` what the client was told if not that.

    `count` says how many requests it stands for: more than 1 only where refusals were too many to have one
    each (`app.records.refusal_sums`). `bytes_out` is then what all were sent, the rest as of the first. It is
    0 where no client asked: what it says was found out by the proxy.

    `budgets` are those that its cost is taken from (`app.credit.budgets`).

    `made` is what the upstream keeps of it under an id, `pending` what of it goes on after the answer, and
    `settles` whose cost it has seen (`app.persistence.settlements` says how each is charged once).

    Nothing changes one but who makes it, and its methods. (Not frozen: making one of so many fields takes
    three times as long then.) `kept` is the sink's, which may leave there what it made of the facts.
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
    unpriced: tuple[str, ...] = ()
    cost_items: tuple[CostItem, ...] = ()
    price_version: str | None = None
    price_factor: str | None = None
    cost_nano_usd: int = 0
    upstream_cost_nano_usd: int | None = None
    list_cost_nano_usd: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    told_message: str | None = None
    upstream_status_code: int | None = None
    upstream_request_id: str | None = None
    service_tier: str | None = None
    latency_ms: int = 0
    ttft_ms: int | None = None
    overhead_ms: int = 0
    attempts: tuple[AttemptRecord, ...] = ()
    bytes_out: int = 0
    client_retry_count: int | None = None
    hold_nano_usd: int = 0
    costs: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    count: int = 1
    made: dict[str, Any] | None = None
    pending: dict[str, Any] | None = None
    settles: dict[str, Any] | None = None
    attribution: Attribution = NOT_ATTRIBUTED
    budgets: tuple[dict[str, Any], ...] = ()
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
        """Note how the request whose record was checkpointed has ended."""
        self.outcome = outcome
        self.status_code = status_code
        self.error_type = error_type
        self.usage_source = usage_source
        self.latency_ms = latency_ms
        self.bytes_out = bytes_out

    def explain(self, message: str, told: str | None) -> None:
        """Note why the request failed, in words for the operator and, where they differ, for the client."""
        self.error_message = clean_text(message, MAX_MESSAGE)
        if told and told != message:
            self.told_message = clean_text(told, MAX_MESSAGE)

    def absorb(self, other: "ExchangeRecord") -> None:
        """Let this record stand for `other`, too, which is of the same kind."""
        self.count += other.count
        self.bytes_out += other.bytes_out
        if self.requested_model != other.requested_model:
            self._ask_for(None)
        if self.attribution != other.attribution:
            self.attribution = self.attribution.shared_with(other.attribution)
            self.kept = None

    def forget_model(self) -> None:
        """Let this record name no model."""
        self.model = None
        self._ask_for(None)

    def _ask_for(self, requested_model: str | None) -> None:
        self.requested_model = requested_model
        self.kept = None

    def to_document(self) -> dict[str, Any]:
        """Return the document of `request_logs`; its `_id` makes writing it twice harmless."""
        return self.facts() | self.ending()

    def facts(self) -> dict[str, Any]:
        """Return the part of the document that `end` and `absorb` do not change."""
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
        if self.usage_flags:
            document["usageFlags"] = list(self.usage_flags)
        if self.cost_items:
            document["costItems"] = [item.to_document() for item in self.cost_items]
        if self.unpriced:
            document["unpriced"] = list(self.unpriced)
        if self.hold_nano_usd:
            document["holdNanoUsd"] = self.hold_nano_usd
        others = (
            ("requestedModel", self.requested_model),
            ("priceVersion", self.price_version),
            ("priceFactor", self.price_factor),
            ("upstreamCostNanoUsd", self.upstream_cost_nano_usd),
            ("listCostNanoUsd", self.list_cost_nano_usd),
            ("upstreamRequestId", self.upstream_request_id),
            ("serviceTier", self.service_tier),
            ("clientRetryCount", self.client_retry_count),
            ("object", self.made),
            ("pending", self.pending),
            ("settles", self.settles),
        )
        document.update({name: value for name, value in others if value is not None})
        if self.attribution != NOT_ATTRIBUTED:
            document.update(self.attribution.to_document())
        return document if not self.budgets else {**document, "budgets": list(self.budgets)}

    def ending(self) -> dict[str, Any]:
        """Return the rest of the document: how the request ended."""
        document: dict[str, Any] = {
            "usageSource": str(self.usage_source),
            "statusCode": self.status_code,
            "isSuccess": self.is_success,
            "outcome": str(self.outcome),
            "errorType": self.error_type,
            "latencyMs": self.latency_ms,
            "bytesOut": self.bytes_out,
        }
        if self.count != 1:
            document["count"] = self.count
        if self.error_message is not None:
            document["errorMessage"] = self.error_message
            if self.told_message is not None:
                document["toldMessage"] = self.told_message
        return document


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
