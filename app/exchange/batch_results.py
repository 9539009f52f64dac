"""Adding up what the requests of a batch cost, result by result, in bounded memory.

A record has one model and at most `MOST_ITEMS` results; where there are more, they have records of their own,
which stand for no request. Each result is charged once, whoever reads it (`app.persistence.settlements`).
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from app.pricing.charge import Charge, charge
from app.pricing.model import Model
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import Costs, Terms
from app.pricing.told_cost import upstream_cost_nano
from app.records.records import CostItem
from app.wires.formats.batches import BatchResult
from app.wires.orders import answered_tiers
from app.wires.units import Quantity
from app.wires.usage import Usage, normalise
from app.wires.wire_format import WireFormat

MOST_ITEMS: Final = 500
MOST_RESULTS: Final = 200_000
"""No batch has more; what comes beyond is not one's result."""

BATCH: Final = "service_tier:batch"
"""What all of a batch is answered in."""
_TIER: Final = "service_tier:"
_MOST_PARTS: Final = 64
_OTHER: Final = ("other", None)


class Group(msgspec.Struct):
    """Results of one model: each with its cost and counts, and the sums of all.

    `upstream_cost_nano` is what the upstream says it charged for all of them, None where it does not of each.
    """

    model: Model | None
    items: list[list[Any]]
    costs: Costs = Costs()
    usage: Usage = Usage()
    parts: dict[tuple[str, str | None], tuple[Quantity, int]] = {}
    flags: frozenset[str] = frozenset()
    unpriced: frozenset[str] = frozenset()
    upstream_cost_nano: int | None = 0

    @property
    def charge(self) -> Charge:
        """What they cost together, and of what."""
        items = (
            CostItem(unit, quantity, nano_usd, model)
            for (unit, model), (quantity, nano_usd) in self.parts.items()
        )
        return Charge(self.usage, self.costs, self.flags, tuple(items), self.unpriced)

    def add(self, name: str, charged: Charge, told_nano: int | None) -> None:
        """Take what one result was charged, and what the upstream says of that."""
        usage = charged.usage
        counts = (
            *(usage.input_tokens, usage.output_tokens, usage.cache_creation_input_tokens),
            *(usage.cache_creation_1h_input_tokens, usage.cache_read_input_tokens, usage.reasoning_tokens),
        )
        self.items.append([name, sum(charged.costs), *counts, told_nano])
        if self.upstream_cost_nano is not None:
            self.upstream_cost_nano = None if told_nano is None else self.upstream_cost_nano + told_nano
        self.costs = Costs(*map(sum, zip(self.costs, charged.costs, strict=True)))
        self.usage = _added(self.usage, usage)
        self.flags |= charged.flags
        self.unpriced |= charged.unpriced
        for unit, quantity, nano_usd, model in charged.items:
            key = unit, model
            if key not in self.parts and len(self.parts) >= _MOST_PARTS:
                key = _OTHER
            before, cost = self.parts.get(key, (0, 0))
            self.parts[key] = before + quantity, cost + nano_usd


class BatchResults:
    """The results read so far; `emit` is given a group that is full."""

    def __init__(
        self, models: ModelTable, asked: Model | None, emit: Callable[[Group], None], terms: Terms
    ) -> None:
        self._models = models
        self._terms = terms
        self._asked = asked
        self._emit = emit
        self._seen: set[str] = set()
        self._groups: dict[str | None, Group] = {}

    def add(self, result: BatchResult) -> None:
        """Take a result that is charged."""
        if result.custom_id in self._seen or len(self._seen) >= MOST_RESULTS:
            return
        self._seen.add(result.custom_id)
        model = (self._models.resolve(result.model) if result.model else None) or self._asked
        usage = normalise(result.usage, WireFormat.ANTHROPIC) or Usage()
        tiers = (BATCH, *(name for name in answered_tiers(usage.extras, None) if not name.startswith(_TIER)))
        terms = self._terms._replace(tiers=tiers)
        charged = Charge(usage, Costs()) if model is None else charge(self._models, model, usage, terms=terms)
        group = self._groups.setdefault(model.id if model else None, Group(model, []))
        group.add(result.custom_id, charged, upstream_cost_nano(usage.extras, result.usage, is_whole=True))
        if len(group.items) >= MOST_ITEMS:
            del self._groups[model.id if model else None]
            self._emit(group)

    def take_last(self) -> Group | None:
        """Give out all groups but the largest, which is returned."""
        groups = sorted(self._groups.values(), key=lambda group: len(group.items))
        self._groups.clear()
        for group in groups[:-1]:
            self._emit(group)
        return groups[-1] if groups else None


def _added(one: Usage, other: Usage) -> Usage:
    names = (
        *(
            "input_tokens",
            "output_tokens",
            "cache_creation_5m_input_tokens",
            "cache_creation_1h_input_tokens",
        ),
        *("cache_read_input_tokens", "reasoning_tokens"),
    )
    return Usage(**{name: getattr(one, name) + getattr(other, name) for name in names})
