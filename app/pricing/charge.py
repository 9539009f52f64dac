"""What a request is charged: its usage at the prices of the models that did the work.

Most of the time that is one model and one usage of text tokens. Beside it there may be other units (searches,
images, tokens of other kinds), passes of other models (advisors, compaction), a model that stepped in for the
one asked for, and reasoning that an upstream reports outside of everything else; what the upstream says it
charged is evidence for the last.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec

from app.pricing.model import Model
from app.pricing.model_names import undated
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import STANDARD, Costs, Line, Terms, itemised
from app.pricing.told_cost import told_nano
from app.records.records import CostItem
from app.wires.usage import REASONING_EXCEEDS_OUTPUT, Usage
from app.wires.usage_fields import MAX_COUNT

FALLBACK_MODEL: Final = "fallback_model"
"""Another model stepped in for the one asked for, and its price was charged."""
MODEL_DIFFERS: Final = "model_differs"
"""The upstream says that another model of the table answered; the price is that of the dearer of the two."""
UNKNOWN_MODEL: Final = "unknown_model"
"""A model that is not in the table did part of the work: charged as the one asked for."""
REASONING_OUTSIDE: Final = "reasoning_outside"
"""Reasoning was reported outside the output and outside the total, and was added to the output."""

_NONE: Final[frozenset[str]] = frozenset()
_AGREEMENT: Final = 1000
"""Two costs agree when they differ by less than this part of them."""


class ReasoningPlace(StrEnum):
    """What an upstream means by reasoning tokens that no total explains."""

    AUTO = "auto"  # part of the output, unless what it says it charged proves otherwise
    OUTSIDE = "outside"  # beside the output


class Charge(msgspec.Struct, frozen=True):
    """The usage as it was charged, what it cost, and what there was to say about that.

    `items` are the parts of the cost, and add up to it exactly; `unpriced` is what was used and has no price
    of its own: units, and tiers that it was answered in.
    """

    usage: Usage
    costs: Costs
    flags: frozenset[str] = frozenset()
    items: tuple[CostItem, ...] = ()
    unpriced: frozenset[str] = frozenset()


def charge(
    models: ModelTable,
    asked: Model,
    usage: Usage,
    *,
    answered: str | None = None,
    reasoning: ReasoningPlace = ReasoningPlace.AUTO,
    terms: Terms = STANDARD,
) -> Charge:
    """Charge a usage; `answered` is the model the upstream named."""
    model, flags = _model(models, asked, usage, answered, terms)
    if usage.stray_reasoning_tokens:
        outside = _with_reasoning(usage)
        if reasoning is ReasoningPlace.OUTSIDE or _is_proven(model, usage, outside, terms):
            usage = outside
            flags.add(REASONING_OUTSIDE)
    rates = model.card.rates(usage, terms)
    unpriced = model.card.unpriced(terms) if terms.tiers else _NONE
    if rates.is_whole and model is asked and not (usage.quantities or usage.beside):
        items, costs = rates.text_cost(usage)
        return Charge(usage, costs, frozenset(flags) if flags else _NONE, items, unpriced if items else _NONE)
    name = model.id if model is not asked else None
    lines: list[tuple[str | None, Line]] = [(name, line) for line in rates.lines(usage)]
    if not lines:
        unpriced = _NONE
    for beside, tokens in usage.beside:
        other = model if beside is None else _known(models, asked, beside)
        if other is None:
            flags.add(UNKNOWN_MODEL)
        payer = other or asked
        name = payer.id if payer is not asked else None
        used = payer.card.rates(tokens, terms).lines(tokens)
        if used:
            lines += [(name, line) for line in used]
            unpriced |= payer.card.unpriced(terms)
    items, costs = itemised(lines)
    unpriced |= {line.unit for _, line in lines if not line.is_priced}
    return Charge(usage, costs, frozenset(flags), items, unpriced)


def _model(
    models: ModelTable, asked: Model, usage: Usage, answered: str | None, terms: Terms
) -> tuple[Model, set[str]]:
    """Return the model whose price the counts are charged at, and flags that say why."""
    if usage.fallback_model is not None:
        model = _known(models, asked, usage.fallback_model)
        return (asked, {FALLBACK_MODEL, UNKNOWN_MODEL}) if model is None else (model, {FALLBACK_MODEL})
    names = (None, asked.upstream_id, asked.id)
    # Asked for by its alias, a model answers by the name of a snapshot: what is charged is the alias's price.
    if answered in names or undated(answered or "") in names:
        return asked, set()
    model = _known(models, asked, answered)
    if model is None or model is asked:
        return asked, set()
    is_dearer = model.cost_nano_usd(usage, terms) > asked.cost_nano_usd(usage, terms)
    return model if is_dearer else asked, {MODEL_DIFFERS}


def _known(models: ModelTable, asked: Model, name: str) -> Model | None:
    """Return the model of this name; the model asked for, where several might be meant."""
    return asked if name in (asked.upstream_id, asked.id) else models.answering(name)


def _with_reasoning(usage: Usage) -> Usage:
    stray = usage.stray_reasoning_tokens
    return msgspec.structs.replace(
        usage,
        output_tokens=min(usage.output_tokens + stray, MAX_COUNT),
        reasoning_tokens=stray,
        flags=usage.flags - {REASONING_EXCEEDS_OUTPUT},
    )


def _is_proven(model: Model, inside: Usage, outside: Usage, terms: Terms) -> bool:
    """Return whether what the upstream says it charged is the cost with the reasoning, not without."""
    told = told_nano(inside.extras)
    if told is None:
        return False
    # It knows nothing of the operator's multiplier, nor of what the user pays.
    terms = terms._replace(factor=None)
    candidates = (told, told * model.price.multiplier)
    without, with_it = (Decimal(model.cost_nano_usd(usage, terms)) for usage in (inside, outside))
    return any(_agree(told, with_it) and not _agree(told, without) for told in candidates)


def _agree(one: Decimal, other: Decimal) -> bool:
    return abs(one - other) * _AGREEMENT < max(one, other)
