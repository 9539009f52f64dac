"""Why a record cost what it did: line by line, worked out anew by the text of the table it was charged by."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, NamedTuple

from app.common.display import counted
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import STANDARD, Terms
from app.pricing.recharge import Recharged, recharge, terms_of
from app.wires.units import PART_OF, Quantity, clean_quantity
from app.wires.usage import Usage
from app.wires.usage_fields import MAX_COUNT

_MOST_SHOWN: Final = 20
_INPUT: Final = frozenset(("input", "cache_hit", "cache_write", "cache_write_1h"))


class ExplainedLine(NamedTuple):
    """So much of a unit, what one of it costs in nano-dollars (None: no one price), and what it came to.

    `nano_usd` is worked out anew (None: it cannot be), `booked_nano` is what the record says (None: nothing);
    `model` whose price it is, `is_priced` whether that is a price of its own. What is rounded is each sum so
    far, so that the whole is rounded once: a line may be a nano-dollar off its product.
    """

    unit: str
    quantity: Quantity
    rate: Fraction | None
    nano_usd: int | None
    booked_nano: int | None
    model: str
    is_priced: bool = True

    @property
    def agrees(self) -> bool:
        """Whether the record says of this line what was worked out."""
        return self.booked_nano is None or self.booked_nano == self.nano_usd


@dataclass(frozen=True, slots=True)
class Explanation:
    """The cost of a record. `version` is of the table that it names, None: it names none.

    `worked_out_nano` is what its lines come to, None where they cannot be worked out, and `exact` the same
    before it was rounded, None where more than one sum was. `above` is the limit of the context tier (0:
    none). `may_differ` is by how many nano-dollars the sum may differ for the rounding of many costs.
    `notes` are sentences for a person.
    """

    version: str | None
    booked_nano: int
    worked_out_nano: int | None
    lines: tuple[ExplainedLine, ...] = ()
    exact: Fraction | None = None
    terms: Terms = STANDARD
    above: int = 0
    may_differ: int = 0
    notes: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether what was worked out is what was booked: in sum, and line by line if rounded once."""
        if self.worked_out_nano is None:
            return False
        are_same = self.may_differ > 0 or all(line.agrees for line in self.lines)
        return are_same and abs(self.worked_out_nano - self.booked_nano) <= self.may_differ


def explain(record: Mapping[str, Any], table: ModelTable | None) -> Explanation:
    """Explain a record by the table of its version (None: its text is not known)."""
    version = record.get("priceVersion")
    version = version if isinstance(version, str) else None
    booked, notes = _whole(record, "costNanoUsd"), _notes(record)
    if version is None and not booked:
        return Explanation(None, 0, 0, notes=(*notes, "Nothing was charged."))
    if table is None:
        return Explanation(version, booked, None, tuple(_as_told(record)), notes=notes)
    if results := _results(record):
        return _of_results(record, table, results, Explanation(version, booked, None, notes=notes))
    found, terms = recharge(table, record), terms_of(record)
    if found.missing:
        missing = ", ".join(sorted(found.missing)[:_MOST_SHOWN])
        notes = (*notes, f"The table has no model of this name: {missing}.")
    return Explanation(
        version,
        booked,
        sum(item.nano_usd for item in found.items),
        tuple(_lines(record, found)),
        sum((line.rate * Fraction(line.quantity) for _, line in found.lines), Fraction(0)),
        terms,
        _limit(record, table, found, terms),
        notes=notes,
    )


def cost_by(table: ModelTable, record: Mapping[str, Any]) -> tuple[int, frozenset[str]]:
    """Return what a record would cost by another table, and models that this does not have: they cost 0."""
    if results := _results(record):
        told = _of_results(record, table, results, Explanation(None, 0, None))
        missing = () if told.worked_out_nano is not None else (str(record.get("model") or ""),)
        return told.worked_out_nano or 0, frozenset(missing)
    found = recharge(table, record)
    return sum(item.nano_usd for item in found.items), found.missing


def _lines(record: Mapping[str, Any], found: Recharged) -> Iterator[ExplainedLine]:
    told = list(_as_told(record))
    for place, ((model, line), item) in enumerate(zip(found.lines, found.items, strict=True)):
        booked = told[place].booked_nano if place < len(told) else None
        yield ExplainedLine(
            line.unit, line.quantity, line.rate, item.nano_usd, booked, model, is_priced=line.is_priced
        )


def _as_told(record: Mapping[str, Any]) -> Iterator[ExplainedLine]:
    items = record.get("costItems")
    for item in items if isinstance(items, list) else ():
        if isinstance(item, Mapping) and (quantity := clean_quantity(item.get("quantity"), MAX_COUNT * 1000)):
            model = str(item.get("model") or record.get("model") or "")
            yield ExplainedLine(str(item.get("unit")), quantity, None, None, _whole(item, "nanoUsd"), model)


def _results(record: Mapping[str, Any]) -> list[list[Any]]:
    """Return the results of a batch that a record stands for: each with its name, cost and counts."""
    settles = record.get("settles")
    items = settles.get("items") if isinstance(settles, Mapping) else None
    if not isinstance(items, list):
        return []
    return [item for item in items if isinstance(item, list) and len(item) > _COUNTS]


_COUNTS: Final = 6
"""The last place of a result's counts of tokens: name, cost, input, output, written, of that 1 h, hits."""


def _of_results(
    record: Mapping[str, Any],
    table: ModelTable,
    results: list[list[Any]],
    so_far: Explanation,
) -> Explanation:
    """Add up results that were each charged, and rounded, by themselves."""
    name, terms = str(record.get("model") or ""), terms_of(record)
    model = table.named(name)
    counts: dict[str, int] = {}
    sums: dict[str, int] = {}
    rates: dict[str, set[Fraction]] = {}
    for result in results:
        read, written, output, written_1h, hits = (_count(result[place]) for place in (2, 4, 3, 5, 6))
        usage = Usage(
            input_tokens=read,
            output_tokens=output,
            cache_creation_5m_input_tokens=max(0, written - written_1h),
            cache_creation_1h_input_tokens=written_1h,
            cache_read_input_tokens=hits,
        )
        prices = None if model is None else model.card.rates(usage, terms)
        for item in () if prices is None else prices.text_cost(usage)[0]:
            counts[item.unit] = counts.get(item.unit, 0) + int(item.quantity)
            sums[item.unit] = sums.get(item.unit, 0) + item.nano_usd
            rates.setdefault(item.unit, set()).add(prices.rate(item.unit)[0] if prices else Fraction(0))
    told = {line.unit: line for line in _as_told(record)}
    lines = [
        ExplainedLine(
            unit,
            count,
            next(iter(rates[unit])) if len(rates[unit]) == 1 else None,
            sums[unit],
            told[unit].booked_nano if unit in told else None,
            name,
        )
        for unit, count in counts.items()
    ]
    others = [line for unit, line in told.items() if unit not in counts]
    # How much of other units each had is not told, only what all cost.
    lines += [line._replace(nano_usd=line.booked_nano) for line in others]
    count = len(results)
    notes = (
        *so_far.notes,
        f"It stands for {counted(count, 'results')} of a batch, each rounded by itself.",
    )
    return Explanation(
        so_far.version,
        so_far.booked_nano,
        None if model is None else sum(line.nano_usd or 0 for line in lines),
        tuple(lines),
        terms=terms,
        may_differ=count if others else 0,
        notes=notes,
    )


def _limit(record: Mapping[str, Any], table: ModelTable, found: Recharged, terms: Terms) -> int:
    """Return the limit of the context tier that the record's own model was charged in; 0: none."""
    own = str(record.get("model") or "")
    model = table.named(own)
    if model is None:
        return 0
    whole = sum(
        int(line.quantity)
        for name, line in found.lines
        if name == own and PART_OF.get(line.unit, line.unit) in _INPUT
    )
    return max((tier.above for tier in model.card.at(terms.began).tiers if whole > tier.above), default=0)


def _notes(record: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_sentences(record))


def _sentences(record: Mapping[str, Any]) -> Iterator[str]:
    if record.get("usageSource") == "estimate":
        yield "The upstream told no counts: they are estimated."
    elif record.get("usageSource") == "partial":
        yield "The answer did not end properly: its counts may be incomplete."
    if record.get("outcome") == "rejected":
        yield "The request was refused, and nothing was sent upstream."
    pending = record.get("pending")
    if isinstance(pending, Mapping):
        by = pending.get("settledBy")
        told = f"request {by} has what it cost" if by else "nobody has seen its end yet"
        yield f"It went on in the background: {told}."
    settles = record.get("settles")
    if isinstance(settles, Mapping):
        if settles.get("isLate"):
            yield "Other records were charged for some or all of what it has seen the end of."
        else:
            yield f"It has what request {settles.get('requestId')} cost, whose end it has seen."
    unpriced = record.get("unpriced")
    if isinstance(unpriced, list) and unpriced:
        named = ", ".join(str(unit)[:80] for unit in unpriced[:_MOST_SHOWN])
        yield f"Without a price of its own: {named}."


def _whole(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _count(value: object) -> int:
    return min(max(value, 0), MAX_COUNT) if isinstance(value, int) else 0
