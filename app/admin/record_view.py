"""A record as its page shows it: the attempts in time, and what it cost in words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from app.admin.formats import is_number
from app.common.money import NANO
from app.pricing.model import Model
from app.wires.usage import Usage

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
    """So much of one kind, what it came to, and its price (USD per million tokens), as far as they are known.

    `usd` is before the multiplier and not rounded where the price is today's, else as it was charged.
    """

    kind: str
    quantity: float
    price: Decimal | None
    usd: Decimal | None


@dataclass(frozen=True, slots=True)
class CostView:
    """How the cost comes about. `agrees`: today's prices give what was booked (None: they are not known).

    `is_charged`: the lines are what was charged, and add up; else they are worked out by today's prices.
    """

    lines: list[CostLine]
    multiplier: Decimal
    today_nano: int | None
    booked_nano: int
    is_charged: bool = False

    @property
    def agrees(self) -> bool | None:
        """Whether the prices have stayed what they were."""
        return None if self.today_nano is None else self.today_nano == self.booked_nano


def whole(record: Mapping[str, Any], name: str) -> int:
    """Return a count out of a record that anybody may have written; 0 for what is none."""
    value = record.get(name)
    return min(max(int(value), 0), _LARGEST) if is_number(value) else 0


def timeline(record: Mapping[str, Any]) -> list[Span]:
    """Return the attempts, one after the other, as each took place; the last lasts as long as its answer."""
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
    """Return where a moment is on the timeline."""
    total = max(whole(record, "latencyMs"), 1)
    return min(_WIDTH, round(_WIDTH * moment_ms / total))


def cost_view(record: Mapping[str, Any], find_model: Callable[[str], Model | None]) -> CostView:
    """Return the cost of a record by kind: as it was charged, else by today's prices."""
    if charged := _charged_lines(record):
        return CostView(charged, Decimal(1), None, booked_nano(record), is_charged=True)
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
    return CostView(
        lines=[_line(kind, tokens, getattr(price, field, None)) for kind, tokens, field in kinds if tokens],
        multiplier=price.multiplier if price else Decimal(1),
        today_nano=model.cost_nano_usd(usage) if model else None,
        booked_nano=booked_nano(record),
    )


def _line(kind: str, tokens: int, price: Decimal | None) -> CostLine:
    return CostLine(kind, tokens, price, None if price is None else tokens * price / 10**6)


def _charged_lines(record: Mapping[str, Any]) -> list[CostLine]:
    """Return the parts of the cost that a record tells; none where it was text tokens of one model alone."""
    items = record.get("costItems")
    lines = []
    for item in items if isinstance(items, list) else ():
        if isinstance(item, Mapping) and is_number(quantity := item.get("quantity")):
            of = f" ({item['model']})" if item.get("model") else ""
            kind = f"{str(item.get('unit')).replace('_', ' ')}{of}"
            lines.append(CostLine(kind, quantity, None, Decimal(whole(item, "nanoUsd")) / NANO))
    return lines


def booked_nano(record: Mapping[str, Any]) -> int:
    """Return what was booked, in nano-dollars; earlier software kept it in USD only."""
    if is_number(record.get("costNanoUsd")):
        return whole(record, "costNanoUsd")
    cost = record.get("creditsCost")
    return min(round(float(cost) * NANO), _LARGEST) if is_number(cost) else 0
