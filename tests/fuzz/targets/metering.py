"""What meters have found, in a form that can be compared, and what has to hold of it in any case."""

from decimal import Decimal
from typing import Any

import bson
import msgspec

from app.pricing.charge import ReasoningPlace, charge
from app.pricing.model import Model
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import ModelPrice, RateCard
from app.records.bson_safe import bson_safe
from app.wires.estimate import estimate_usage
from app.wires.meter import Meter
from app.wires.usage import Usage
from app.wires.usage_fields import MAX_COUNT

PRICE = ModelPrice(Decimal(2), Decimal(10), Decimal("2.5"), Decimal(4), Decimal("0.2"))
MODEL = Model("m", "m", (), "m", RateCard(PRICE))
MODELS = ModelTable((MODEL,))
RESULTS = (
    *("usage", "usage_raw", "upstream_model", "service_tier", "has_content", "is_complete"),
    *("is_terminated", "is_usage_final", "output_estimate", "error", "flags"),
)
COUNTS = (
    *("input_tokens", "cache_read_input_tokens", "cache_creation_5m_input_tokens"),
    *("cache_creation_1h_input_tokens", "output_tokens", "reasoning_tokens"),
)


def found(meter: Meter) -> list[Any]:
    """All results, as text where NaN or the order of a set would make the same look different."""
    return [(name, _shown(getattr(meter, name))) for name in RESULTS]


def _shown(value: Any) -> str:
    if isinstance(value, Usage):
        return repr({name: _shown(part) for name, part in msgspec.structs.asdict(value).items()})
    return repr(sorted(value)) if isinstance(value, frozenset) else repr(value)


def assert_sound(meter: Meter) -> None:
    """Counts, costs and texts that can be booked, whatever they were read from."""
    if (usage := meter.usage) is not None:
        assert_bookable(usage)
    assert_bookable(estimate_usage(usage, request_bytes=1000, output_tokens=meter.output_estimate))
    told = (meter.upstream_model, meter.service_tier)
    assert all(text is None or len(text) <= 500 for text in told)
    error = meter.error and {"type": meter.error.type, "message": meter.error.message}
    bson.encode({"raw": bson_safe(meter.usage_raw), "error": error, "told": list(told)})


def assert_bookable(usage: Usage) -> None:
    for name in COUNTS:
        count = getattr(usage, name)
        assert type(count) is int
        assert 0 <= count <= MAX_COUNT, name
    assert usage.reasoning_tokens <= usage.output_tokens
    for place in ReasoningPlace:
        charged = charge(MODELS, MODEL, usage, answered="m", reasoning=place)
        assert all(0 <= cost < 2**63 for cost in charged.costs)
