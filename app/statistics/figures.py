"""The figures of a record, and how sums of them are shown in statistics."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from app.common.csv_text import csv_lines, previous_columns
from app.common.money import NANO
from app.pricing.told_cost import drift_of
from app.records.records import Outcome
from app.statistics.histogram import percentile_ms

# Above this a count cannot be real, and sums of it would no longer be exact in a double.
_LARGEST = 2**53


class Figures(NamedTuple):
    """What has to be booked for one record: whom it concerns, when, how it ended, how much it was.

    `seq` is the record's number in its writer's sequence; tokens are counts, durations milliseconds.
    `requests` is how many it stands for, all of one kind; the other figures are those of one of them.
    `budgets` are those that it is paid from: name, period, and the bucket that the cost goes to.
    `pending_nano` is what goes on after the request may cost, until `pending_until`; `settles` is the request
    whose cost this record has seen to its end. `upstream_cost_nano` is what the upstream says it charged,
    `markup_nano` what the operator's own factors have added to the cost, or taken from it.
    """

    seq: int
    request_id: str
    user_id: str
    user_key_id: str
    factory_key_id: str | None
    model: str | None
    api_format: str
    created_at: datetime
    outcome: str
    status_code: int
    input_tokens: int
    output_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    cache_hit_tokens: int
    reasoning_tokens: int
    cost_nano_usd: int
    latency_ms: int
    ttft_ms: int | None
    hold_nano_usd: int = 0
    requests: int = 1
    pending_nano: int = 0
    pending_until: datetime | None = None
    settles: str | None = None
    upstream_cost_nano: int | None = None
    markup_nano: int = 0
    endpoint: str | None = None
    budgets: tuple[tuple[str, str, int], ...] = ()

    @classmethod
    def read(cls, seq: int, document: Mapping[str, Any]) -> "Figures":
        """Read the figures of a `request_logs` document; raises `ValueError` naming the unusable field."""
        ttft_ms = document.get("ttftMs")
        pending = document.get("pending")
        settles = document.get("settles")
        told, listed = document.get("upstreamCostNanoUsd"), document.get("listCostNanoUsd")
        cost_nano = _number(document, "costNanoUsd")
        return cls(
            seq=seq,
            request_id=_text(document, "_id"),
            user_id=_text(document, "userId"),
            user_key_id=_text(document, "userKeyId"),
            factory_key_id=_optional_text(document, "factoryKeyId"),
            model=_optional_text(document, "model"),
            api_format=_text(document, "apiFormat"),
            created_at=_moment(document, "createdAt"),
            outcome=_text(document, "outcome"),
            status_code=_number(document, "statusCode"),
            input_tokens=_number(document, "inputTokens"),
            output_tokens=_number(document, "outputTokens"),
            cache_write_tokens=_number(document, "cacheWriteTokens"),
            cache_write_1h_tokens=_number(document, "cacheWrite1hTokens"),
            cache_hit_tokens=_number(document, "cacheHitTokens"),
            reasoning_tokens=_number(document, "reasoningTokens"),
            cost_nano_usd=cost_nano,
            latency_ms=_number(document, "latencyMs"),
            ttft_ms=None if ttft_ms is None else _number(document, "ttftMs"),
            hold_nano_usd=_number(document, "holdNanoUsd") if "holdNanoUsd" in document else 0,
            requests=_number(document, "count") if "count" in document else 1,
            pending_nano=_number(pending, "nanoUsd") if pending else 0,
            pending_until=_moment(pending, "until") if pending else None,
            settles=_text(settles, "requestId") if settles and settles.get("isWhole") else None,
            upstream_cost_nano=None if told is None else _number(document, "upstreamCostNanoUsd"),
            markup_nano=0 if listed is None else cost_nano - _number(document, "listCostNanoUsd"),
            endpoint=_optional_text(document, "endpoint"),
            budgets=_budgets(document) if "budgets" in document else (),
        )

    @property
    def is_success(self) -> bool:
        """Whether the client got a whole, good answer."""
        return self.outcome == Outcome.OK

    @property
    def is_rejected(self) -> bool:
        """Whether the proxy refused it, so that it has no duration and costs nothing."""
        return self.outcome == Outcome.REJECTED

    @property
    def may_have_hold(self) -> bool:
        """Whether credit was held for it, or may have been: what died with its process could not say."""
        return self.hold_nano_usd > 0 or self.outcome == Outcome.INTERRUPTED

    @property
    def tokens_used(self) -> int:
        """Fresh input plus output, as `tokensUsed` in the record."""
        return self.input_tokens + self.output_tokens


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is not a text")
    return _storable(name, value)


def _budgets(document: Mapping[str, Any]) -> tuple[tuple[str, str, int], ...]:
    try:
        return tuple((_text(of, "name"), _text(of, "per"), _number(of, "from")) for of in document["budgets"])
    except (AttributeError, TypeError):
        raise ValueError("budgets is no list of budgets") from None


def _optional_text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a text")  # noqa: TRY004 -- one kind of error for every bad field
    return _storable(name, value)


def _storable(name: str, value: str) -> str:
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not valid Unicode") from None
    return value


def _number(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise ValueError(f"{name} is not a whole number from 0 to 2^53")
    return value


def _moment(document: Mapping[str, Any], name: str) -> datetime:
    value = document.get(name)
    if not isinstance(value, datetime):
        raise ValueError(f"{name} is not a date")  # noqa: TRY004
    if value.tzinfo is UTC:
        return value
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def usd(nano_usd: int) -> float:
    """Convert nano-dollars to the double that is nearest to the exact amount, as old readers expect it."""
    return nano_usd / NANO


@dataclass(slots=True)
class Totals:
    """Sums over some records; durations only of those that went upstream.

    `upstream_cost_nano` is what the upstream says it charged for `told_requests` of them, which cost
    `told_cost_nano` here; of the others it said nothing. `markup_nano` and `told_markup_nano` are what the
    operator's own factors have added to the costs, or taken from them.
    """

    requests: int = 0
    success: int = 0
    rejected: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_hit_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int = 0
    upstream_cost_nano: int = 0
    told_requests: int = 0
    told_cost_nano: int = 0
    markup_nano: int = 0
    told_markup_nano: int = 0
    latency_count: int = 0
    latency_sum_ms: int = 0
    ttft_count: int = 0
    ttft_sum_ms: int = 0
    latency: dict[str, int] = field(default_factory=dict)

    def add(self, sums: Mapping[str, Any]) -> None:
        """Add sums under their stored names (`requests`, `inputTokens`, …); absent ones are 0."""
        for attribute, name in SUM_FIELDS.items():
            setattr(self, attribute, getattr(self, attribute) + int(sums.get(name) or 0))

    def merge(self, other: "Totals") -> None:
        """Add the sums of other totals."""
        self._combine(other, 1)

    def subtract(self, other: "Totals") -> None:
        """Take away what is a part of this."""
        self._combine(other, -1)

    def copy(self) -> "Totals":
        """Return a copy that can be changed on its own."""
        same = Totals()
        same.merge(self)
        return same

    def _combine(self, other: "Totals", sign: int) -> None:
        for attribute in SUM_FIELDS:
            setattr(self, attribute, getattr(self, attribute) + sign * getattr(other, attribute))
        self.add_latencies(other.latency, sign)

    def add_latencies(self, counts: Mapping[str, int], sign: int = 1) -> None:
        """Add a histogram of durations, or with `sign` -1 take it away."""
        histogram = self.latency
        for bucket, number in counts.items():
            histogram[bucket] = histogram.get(bucket, 0) + sign * number

    @property
    def errors(self) -> int:
        """Requests that did not end well, refused ones among them."""
        return self.requests - self.success

    @property
    def success_rate(self) -> float:
        """Per cent; 100 when nothing has happened."""
        return 100.0 if self.requests == 0 else round(100 * self.success / self.requests, 2)

    @property
    def avg_latency_ms(self) -> float:
        """Mean duration in milliseconds, 0 when there is none."""
        return mean(self.latency_sum_ms, self.latency_count) or 0

    @property
    def cache_hit_share(self) -> float | None:
        """What part of the input was read from a cache, from 0 to 1; None where there was no input."""
        whole = self.input_tokens + self.cache_write_tokens + self.cache_hit_tokens
        return round(self.cache_hit_tokens / whole, 4) if whole else None

    @property
    def is_told(self) -> bool:
        """Whether the upstream said of any what it charged; what stands for no request has a cost, too."""
        return bool(self.told_requests or self.told_cost_nano or self.upstream_cost_nano)

    @property
    def margin_nano(self) -> int | None:
        """What is left of the cost of those requests whose upstream cost was told; None where none was."""
        return self.told_cost_nano - self.upstream_cost_nano if self.is_told else None

    @property
    def list_nano(self) -> int:
        """What the requests cost by the prices of the table alone."""
        return self.cost_nano_usd - self.markup_nano

    @property
    def told_list_nano(self) -> int:
        """What those cost so whose upstream cost was told: what it is to be compared with."""
        return self.told_cost_nano - self.told_markup_nano

    @property
    def upstream_drift(self) -> float | None:
        """How much more the upstream charged than the table says, as a share of the larger."""
        return drift_of(self.upstream_cost_nano, self.told_list_nano) if self.is_told else None

    def ledger(self) -> dict[str, float | None]:
        """Return what the upstream says it charged, for how many, what those cost here, and the margin."""
        return {
            "upstreamCostNanoUsd": self.upstream_cost_nano if self.is_told else None,
            "toldRequestCount": self.told_requests,
            "toldCostNanoUsd": self.told_cost_nano,
            "marginNanoUsd": self.margin_nano,
            "upstreamDriftPercent": None
            if self.upstream_drift is None
            else round(100 * self.upstream_drift, 4),
        }

    def model_row(self, model: str | None) -> dict[str, Any]:
        """Return a row of the model table. `successCount` and `errorCount` add up to `requestCount`."""
        return {
            "model": model,
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "cacheWriteTokens": self.cache_write_tokens,
            "cacheHitTokens": self.cache_hit_tokens,
            "cacheHitShare": self.cache_hit_share,
            "totalTokens": self.input_tokens + self.output_tokens,
            "creditsBurned": usd(self.cost_nano_usd),
            "costNanoUsd": self.cost_nano_usd,
            "requestCount": self.requests,
            "successCount": self.success,
            "errorCount": self.errors,
            "rejectedCount": self.rejected,
            **self.ledger(),
            "avgLatencyMs": self.avg_latency_ms,
            "p50LatencyMs": percentile_ms(self.latency, 50),
            "p95LatencyMs": percentile_ms(self.latency, 95),
            "p99LatencyMs": percentile_ms(self.latency, 99),
            "avgTtftMs": mean(self.ttft_sum_ms, self.ttft_count),
        }


SUM_FIELDS: Mapping[str, str] = {
    "requests": "requests",
    "success": "success",
    "rejected": "rejected",
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "cache_write_tokens": "cacheWriteTokens",
    "cache_hit_tokens": "cacheHitTokens",
    "reasoning_tokens": "reasoningTokens",
    "cost_nano_usd": "costNanoUsd",
    "upstream_cost_nano": "upstreamCostNanoUsd",
    "told_requests": "toldRequests",
    "told_cost_nano": "toldCostNanoUsd",
    "markup_nano": "markupNanoUsd",
    "told_markup_nano": "toldMarkupNanoUsd",
    "latency_count": "latencyCount",
    "latency_sum_ms": "latencySumMs",
    "ttft_count": "ttftCount",
    "ttft_sum_ms": "ttftSumMs",
}
"""The sums, and the names they are stored under in hourly sums."""


def model_csv(
    rows: Sequence[Mapping[str, Any]], *, before: Sequence[Mapping[str, Any]] | None = None
) -> Iterator[str]:
    """Write the rows of the model table as CSV (the caller ends the lines).

    `before` are those of the period before: columns for comparison, and lines of models only used then.
    """
    columns = tuple(Totals().model_row(None))
    if before is None:
        return csv_lines(columns, ([row[name] for name in columns] for row in rows))
    earlier = {row["model"]: row for row in before}
    names = {row["model"] for row in rows}
    shown = [*rows, *(Totals().model_row(model) for model in earlier if model not in names)]
    nothing = Totals().model_row(None)
    return csv_lines(
        (*columns, *previous_columns(columns[1:])),
        (
            [row[name] for name in columns]
            + [earlier.get(row["model"], nothing)[name] for name in columns[1:]]
            for row in shown
        ),
    )


def mean(total: int, number: int) -> float | None:
    """Return the mean to two decimals; None if there was nothing to count."""
    return round(total / number, 2) if number else None


def model_table(totals: Mapping[str | None, Totals]) -> list[dict[str, Any]]:
    """Return the rows of all models, most tokens first; `model` None: requests that have none."""
    rows = [sums.model_row(model) for model, sums in totals.items()]
    return sorted(rows, key=lambda row: (-row["totalTokens"], -row["requestCount"], row["model"] or ""))
