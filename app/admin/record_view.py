"""A record as its page shows it: the attempts in time, and what it cost in words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from app.admin.formats import is_number
from app.core.pricing import Model
from app.core.usage import Usage

_WIDTH = 1000
_MIN_WIDTH = 4
_LARGEST = 2**53


@dataclass(frozen=True, slots=True)
class Span:
    """A bar of the timeline, in thousandths of its width; times in milliseconds since the first forward."""

    label: str
    kind: str
    start_ms: int
    length_ms: int
    x: int
    width: int
    attempt: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CostLine:
    """One kind of token: how many, at what price (USD per million, None: not known any more)."""

    kind: str
    tokens: int
    price: Decimal | None

    @property
    def usd(self) -> Decimal | None:
        """What they come to, before the multiplier and not rounded."""
        return None if self.price is None else self.tokens * self.price / 10**6


@dataclass(frozen=True, slots=True)
class CostView:
    """How the cost comes about. `agrees`: today's prices give what was booked (None: they are not known)."""

    lines: list[CostLine]
    multiplier: Decimal
    today_nano: int | None
    booked_nano: int

    @property
    def agrees(self) -> bool | None:
        """Whether the prices have stayed what they were."""
        return None if self.today_nano is None else self.today_nano == self.booked_nano


def whole(record: Mapping[str, Any], name: str) -> int:
    """A count out of a record that anybody may have written; 0 for what is none."""
    value = record.get(name)
    return min(max(int(value), 0), _LARGEST) if is_number(value) else 0


def timeline(record: Mapping[str, Any]) -> list[Span]:
    """The attempts, one after the other, as each took place; the last lasts as long as its answer."""
    attempts = [item for item in record.get("attempts") or [] if isinstance(item, Mapping)]
    total = max(whole(record, "latencyMs"), sum(whole(item, "latencyMs") for item in attempts), 1)
    spans, start = [], 0
    for index, attempt in enumerate(attempts):
        is_last = index == len(attempts) - 1
        length = max(whole(record, "latencyMs") - start, 0) if is_last else whole(attempt, "latencyMs")
        kind = "bad" if attempt.get("error") else "good"
        spans.append(_span(str(attempt.get("factoryKeyId") or "–"), kind, start, length, total, attempt))
        start += length
    return spans


def _span(
    label: str, kind: str, start: int, length: int, total: int, attempt: Mapping[str, Any] | None
) -> Span:
    x = min(_WIDTH - _MIN_WIDTH, round(_WIDTH * start / total))
    width = max(_MIN_WIDTH, min(_WIDTH - x, round(_WIDTH * length / total)))
    return Span(label, kind, start, length, x, width, attempt)


def position(record: Mapping[str, Any], moment_ms: int) -> int:
    """Where a moment is on the timeline."""
    total = max(whole(record, "latencyMs"), 1)
    return min(_WIDTH, round(_WIDTH * moment_ms / total))


def cost_view(record: Mapping[str, Any], find_model: Callable[[str], Model | None]) -> CostView:
    """The cost of a record by kind of token, with today's prices beside what was booked."""
    model = find_model(str(record.get("model") or ""))
    price = model.price if model else None
    write_1h = whole(record, "cacheWrite1hTokens")
    write_5m = whole(record, "cacheWriteTokens") - write_1h
    usage = Usage(
        input_tokens=whole(record, "inputTokens"),
        cache_read_input_tokens=whole(record, "cacheHitTokens"),
        cache_creation_5m_input_tokens=max(0, write_5m),
        cache_creation_1h_input_tokens=write_1h,
        output_tokens=whole(record, "outputTokens"),
    )
    kinds = (
        ("fresh input", usage.input_tokens, "input"),
        ("cache hits", usage.cache_read_input_tokens, "cache_hit"),
        ("cache writes, 5 minutes", usage.cache_creation_5m_input_tokens, "cache_write"),
        ("cache writes, 1 hour", usage.cache_creation_1h_input_tokens, "cache_write_1h"),
        ("output", usage.output_tokens, "output"),
    )
    lines = [CostLine(kind, tokens, getattr(price, field, None)) for kind, tokens, field in kinds]
    return CostView(
        lines=[line for line in lines if line.tokens],
        multiplier=price.multiplier if price else Decimal(1),
        today_nano=model.cost_nano_usd(usage) if model else None,
        booked_nano=booked_nano(record),
    )


def booked_nano(record: Mapping[str, Any]) -> int:
    """What was booked, in nano-dollars; earlier software kept it in USD only."""
    if is_number(record.get("costNanoUsd")):
        return whole(record, "costNanoUsd")
    cost = record.get("creditsCost")
    return min(round(float(cost) * 10**9), _LARGEST) if is_number(cost) else 0
