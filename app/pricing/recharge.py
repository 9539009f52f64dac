"""What a stored record comes to by some model table: its own, to explain it, or another one, to compare.

A record has the quantities of everything that was charged (`costItems`), and what decided the prices: when it
began, the tier it was answered in, the factor of its user. Older records have counts of tokens alone, if they
were charged for nothing else.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from fractions import Fraction
from itertools import chain
from typing import Any, Final, NamedTuple

from app.pricing.model import Model
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import Costs, Line, Terms, factor_of, itemised
from app.records.records import CostItem
from app.wires.orders import answered_tiers
from app.wires.units import PART_OF, Quantity, clean_quantity
from app.wires.usage import Usage, normalise
from app.wires.usage_fields import MAX_COUNT
from app.wires.wire_format import WireFormat

_COUNTS: Final = (
    ("input", "inputTokens"),
    ("cache_hit", "cacheHitTokens"),
    ("cache_write", "cacheWriteTokens"),
    ("cache_write_1h", "cacheWrite1hTokens"),
    ("output", "outputTokens"),
)
_INPUT: Final = ("input", "cache_hit", "cache_write", "cache_write_1h")


class Recharged(NamedTuple):
    """What a record comes to: `lines` with the id of the model whose price each has, and its cost items.

    `unpriced` are units and tiers without a price of their own; `missing` are models that the table does not
    have, whose parts cost 0.
    """

    lines: tuple[tuple[str, Line], ...]
    items: tuple[CostItem, ...]
    costs: Costs
    unpriced: frozenset[str]
    missing: frozenset[str]


def terms_of(record: Mapping[str, Any]) -> Terms:
    """Return the terms under which a record was charged."""
    settles = record.get("settles")
    began = settles.get("began") if isinstance(settles, Mapping) else None
    if not isinstance(began, datetime):
        began = record.get("createdAt")
    if isinstance(began, datetime) and began.tzinfo is None:
        began = began.replace(tzinfo=UTC)
    raw = record.get("usageRaw")
    told = raw if isinstance(raw, Mapping) else {}
    start = told.get("message_start")
    told = {**(start if isinstance(start, Mapping) else {}), **told}
    tier = record.get("serviceTier")
    return Terms(
        began if isinstance(began, datetime) else None,
        answered_tiers(told, tier if isinstance(tier, str) else None),
        factor_of(record.get("priceFactor")),
    )


def recharge(models: ModelTable, record: Mapping[str, Any]) -> Recharged:
    """Charge what a record was charged for by the prices of a table; the names are looked up exactly.

    What many requests of a batch cost is one record: by its own table it comes to what was charged but for a
    nano-dollar for each of them, as each was rounded, and unless only some of them were long ones.
    """
    terms, own = terms_of(record), str(record.get("model") or "")
    largest = _largest_of_batch(record)
    passes = list(_passes(record))
    sizes = _sizes(record, len(passes)) if largest is None else [largest] * len(passes)
    lines: list[tuple[str, Line]] = []
    unpriced: set[str] = set()
    missing: set[str] = set()
    for size, (name, parts) in zip(sizes, passes, strict=True):
        model_id = own if name is None else name
        model = models.named(model_id)
        if model is None:
            missing.add(model_id)
            lines += [
                (model_id, Line(unit, quantity, Fraction(0), False)) for unit, quantity in parts.items()
            ]
            continue
        lines += [(model_id, line) for line in _lines(model, parts, size, terms)]
        unpriced |= model.card.unpriced(terms)
    unpriced |= {line.unit for _, line in lines if not line.is_priced}
    items, costs = itemised((None if model_id == own else model_id, line) for model_id, line in lines)
    return Recharged(tuple(lines), items, costs, frozenset(unpriced), frozenset(missing))


def _largest_of_batch(record: Mapping[str, Any]) -> int | None:
    """Return the whole input of the largest request of a batch that a record has the cost of."""
    settles = record.get("settles")
    items = settles.get("items") if isinstance(settles, Mapping) else None
    if not isinstance(items, list):
        return None
    # Name, cost, input, output, written, of that for an hour, read, reasoning: `app.exchange.batch_results`.
    rows = (item[2:7] for item in items if isinstance(item, list))
    counts = ([clean_quantity(count, MAX_COUNT) or 0 for count in row] for row in rows)
    return max((int(row[0] + row[2] + row[4]) for row in counts if len(row) > _READ), default=None)


_READ: Final = 4


def _sizes(record: Mapping[str, Any], count: int) -> list[int]:
    """Return for each pass the input of the largest of the requests that it was made of; 0: it was one."""
    raw = record.get("usageRaw")
    told = normalise(raw, WireFormat.ANTHROPIC) if isinstance(raw, Mapping) and "iterations" in raw else None
    sizes = [] if told is None else [told.context_tokens, *(usage.context_tokens for _, usage in told.beside)]
    return sizes if len(sizes) == count else [0] * count


def _lines(model: Model, parts: Mapping[str, Quantity], size: int, terms: Terms) -> Iterator[Line]:
    whole = sum(int(count) for unit, count in parts.items() if PART_OF.get(unit, unit) in _INPUT)
    whole = size or whole
    rates = model.card.rates(Usage(input_tokens=min(whole, MAX_COUNT)), terms)
    for unit, quantity in parts.items():
        yield Line(unit, quantity, *rates.rate(unit))


def _passes(record: Mapping[str, Any]) -> Iterator[tuple[str | None, dict[str, Quantity]]]:
    """Return what was charged pass by pass: of which model, None for the record's, and how much of each unit.

    A pass ends where another model's begins, and where a unit comes for the second time.
    """
    name: str | None = None
    parts: dict[str, Quantity] = {}
    for unit, quantity, model in chain(_parts(record), [("", 0, None)]):
        if parts and (not unit or model != name or unit in parts):
            yield name, parts
            parts = {}
        name = model
        parts[unit] = quantity


def _parts(record: Mapping[str, Any]) -> Iterable[tuple[str, Quantity, str | None]]:
    items = record.get("costItems")
    if not isinstance(items, list):
        counts = {unit: clean_quantity(record.get(name), MAX_COUNT) or 0 for unit, name in _COUNTS}
        # Those written for an hour are among those written.
        counts["cache_write"] = max(0, counts["cache_write"] - counts["cache_write_1h"])
        return [(unit, count, None) for unit, count in counts.items() if count]
    return [
        (str(item.get("unit")), quantity, str(model) if (model := item.get("model")) else None)
        for item in items
        if isinstance(item, Mapping) and (quantity := clean_quantity(item.get("quantity"), MAX_COUNT * 1000))
    ]
