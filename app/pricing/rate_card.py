"""What one of each unit costs under which terms: the rate card of a model, and the arithmetic of costs.

Prices of tokens are USD per million, those of other units (searches, images, seconds, ...) USD for one; they
are written as decimals and kept exact. A cost is rounded once, half up, to whole nano-dollars (10⁻⁹ USD).

Four things decide which prices a request has, beside what it used:

- when it began (`RateCard.changes`);
- how large its whole input is, whatever of it was cached (`RateCard.tiers`): beyond a limit all of the
  request has other prices, not only what is beyond it;
- in which service tier, at which speed and where it was *answered* (`RateCard.surcharges`): several at once
  multiply;
- the price factor of its user.

`RateCard.rates` looks that up, once for each combination. Most models have one set of rates for everything,
which is there without looking.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from math import lcm
from types import MappingProxyType
from typing import Final, NamedTuple

from app.accounts.prices import MAX_FACTOR
from app.common.money import NANO
from app.records.records import CostItem
from app.wires.units import CHARACTER, PART_OF, Quantity, base_unit
from app.wires.usage import Usage

TOKENS_PER_PRICE: Final = 10**6
MAX_PRICE: Final = Decimal(100_000)
"""Highest price of tokens, whatever it is multiplied by, in USD per million: keeps costs within 64 bits."""
MAX_UNIT_PRICE: Final = Decimal(100)
"""Highest price of any other unit, whatever it is multiplied by, in USD; a character's is a token's."""

_MOST_DIGITS: Final = 32

TEXT_PRICES: Final = ("input", "output", "cache_write", "cache_write_1h", "cache_hit")
TOKEN_PRICES: Final = frozenset((*TEXT_PRICES, *PART_OF))
_IN_ORDER: Final = ("input", "cache_hit", "cache_write", "cache_write_1h", "output")

_MOST_RATES = 1024

# What `CostItem(...)` and `Costs(...)` come to: this is done for every request, and three times as fast.
_item: Final[Callable[[type[CostItem], tuple[str, int, int, None]], CostItem]] = tuple.__new__


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Prices before `multiplier`: in USD per million tokens, and in `units` in USD for one.

    `other_tokens` has the prices of tokens of other kinds than text. `missing` says which of `input` and
    `output` the table does not tell (all five for a model that is not in it): they are 0 then, and whoever
    uses them is told of.
    """

    input: Decimal
    output: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    cache_hit: Decimal
    multiplier: Decimal = Decimal(1)
    other_tokens: Mapping[str, Decimal] = field(default_factory=dict, hash=False)
    units: Mapping[str, Decimal] = field(default_factory=dict, hash=False)
    missing: frozenset[str] = frozenset()

    def tokens(self) -> dict[str, Decimal]:
        """Return the prices of tokens, as far as they are told, by unit."""
        text = {name: getattr(self, name) for name in TEXT_PRICES if name not in self.missing}
        return {**text, **self.other_tokens}

    def unit_rates(self) -> dict[str, Fraction]:
        """Return nano-dollars for one of each unit that has a price, exactly."""
        per_unit = Fraction(self.multiplier) * NANO
        return {
            **{unit: Fraction(price) * per_unit / TOKENS_PER_PRICE for unit, price in self.tokens().items()},
            **{unit: Fraction(price) * per_unit for unit, price in self.units.items()},
        }


class Costs(NamedTuple):
    """A cost in nano-dollars, by kind; the parts add up to the whole exactly. `units` are no tokens."""

    input: int = 0
    output: int = 0
    cache_write: int = 0
    cache_hit: int = 0
    units: int = 0


_costs: Final[Callable[[type[Costs], tuple[int, int, int, int, int]], Costs]] = tuple.__new__


class Line(NamedTuple):
    """So much of a unit, and what one of it costs, in nano-dollars; `is_priced`: at a price of its own."""

    unit: str
    quantity: Quantity
    rate: Fraction
    is_priced: bool


class Terms(NamedTuple):
    """What decides the prices of a request beside what it used.

    `began` is when it began (None: now counts, for a look at the table alone). `tiers` is how it was answered
    where that is not the standard: `service_tier:flex`, `speed:fast`, `inference_geo:us`. `factor` is the
    price factor of its user, None for 1.
    """

    began: datetime | None = None
    tiers: tuple[str, ...] = ()
    factor: Fraction | None = None


STANDARD: Final = Terms()


class ContextTier(NamedTuple):
    """All prices of a request whose whole input has more tokens than `above`."""

    above: int
    price: ModelPrice


class Surcharge(NamedTuple):
    """All prices in a service tier, at a speed or in a region; `factor` is that of prices of tokens.

    They are those of a request of standard size. `beyond` has, by the limits of the model's context tiers,
    prices of tokens that do not follow from them there.
    """

    factor: Decimal
    price: ModelPrice
    beyond: Mapping[int, Mapping[str, Decimal]] = MappingProxyType({})


class Rates:
    """What one of each unit costs, in nano-dollars, exactly; nothing in it changes."""

    __slots__ = ("_denominator", "_half", "_most_input", "_most_output", "_plain", "by_unit", "is_whole")

    def __init__(self, by_unit: Mapping[str, Fraction]) -> None:
        self.by_unit: Mapping[str, Fraction] = {
            unit: min(rate, _most_rate(unit)) for unit, rate in by_unit.items()
        }
        # For tokens of text, integers over a common denominator.
        plain = [self.by_unit.get(unit, Fraction(0)) for unit in _IN_ORDER]
        kinds = [(PART_OF.get(unit, unit), rate) for unit, rate in self.by_unit.items()]
        most_output = max((rate for unit, rate in kinds if unit == "output"), default=Fraction(0))
        of_input = ("input", "cache_hit", "cache_write")
        most_input = max((rate for unit, rate in kinds if unit in of_input), default=Fraction(0))
        exact = (*plain, most_input, most_output)
        self._half = lcm(*(rate.denominator for rate in exact))
        self._denominator = 2 * self._half
        doubled = [int(rate * self._denominator) for rate in exact]
        self._plain = tuple(doubled[:5])
        self._most_input, self._most_output = doubled[5:]
        self.is_whole = all(unit in self.by_unit for unit in _IN_ORDER)
        """Whether all text tokens have a price."""

    def rate(self, unit: str) -> tuple[Fraction, bool]:
        """Return what one of a unit costs, in nano-dollars, and whether that is a price of its own.

        A sort of a unit has the price of the next more general one: `image:high:1024x1024`, `image:high`,
        `image`. Tokens of other kinds than text cost what those of text do, where they have no own price.
        """
        name = unit
        while name:
            if (rate := self.by_unit.get(name)) is not None:
                return rate, True
            name = name.rpartition(":")[0]
        return self.by_unit.get(PART_OF.get(unit, ""), Fraction(0)), False

    def lines(self, usage: Usage) -> list[Line]:
        """Return what there is to charge for `usage`, each kind with its price."""
        return [Line(unit, quantity, *self.rate(unit)) for unit, quantity in quantities(usage)]

    def text_cost(self, usage: Usage) -> tuple[tuple[CostItem, ...], Costs]:
        """Return what the text tokens of `usage` cost, item by item and by kind, where all have a price.

        What is rounded is each sum so far, so that the whole is rounded once; as `itemised` does, and faster.
        """
        fresh, read, write, write_1h, output = self._plain
        half, one = self._half, self._denominator
        items: list[CostItem] = []
        exact = to_input = 0
        if count := usage.input_tokens:
            exact = count * fresh
            to_input = (exact + half) // one
            items.append(_item(CostItem, ("input", count, to_input, None)))
        to_hit = to_input
        if count := usage.cache_read_input_tokens:
            exact += count * read
            to_hit = (exact + half) // one
            items.append(_item(CostItem, ("cache_hit", count, to_hit - to_input, None)))
        to_write = to_hit
        if count := usage.cache_creation_5m_input_tokens:
            exact += count * write
            to_write = (exact + half) // one
            items.append(_item(CostItem, ("cache_write", count, to_write - to_hit, None)))
        if count := usage.cache_creation_1h_input_tokens:
            exact += count * write_1h
            before, to_write = to_write, (exact + half) // one
            items.append(_item(CostItem, ("cache_write_1h", count, to_write - before, None)))
        to_output = to_write
        if count := usage.output_tokens:
            exact += count * output
            to_output = (exact + half) // one
            items.append(_item(CostItem, ("output", count, to_output - to_write, None)))
        costs = (to_input, to_output - to_write, to_write - to_hit, to_hit - to_input, 0)
        return tuple(items), _costs(Costs, costs)

    def most_nano(self, input_tokens: int, *, is_cached_long: bool) -> int:
        """Return what `input_tokens` cost at most, however much is read from a cache or written to one."""
        dearest = max(self._most_input, self._plain[3] if is_cached_long else 0)
        return -(-input_tokens * dearest // self._denominator)

    def output_nano(self, tokens: int) -> int:
        """Return what `tokens` of output cost at most, rounded up."""
        return -(-tokens * self._most_output // self._denominator)

    def output_paid_by(self, nano_usd: int) -> int | None:
        """Return how many tokens of output an amount pays for; None where they cost nothing."""
        rate = self._most_output
        return max(0, nano_usd) * self._denominator // rate if rate else None


@dataclass(frozen=True, slots=True)
class RateCard:
    """All prices of a model.

    `tiers` ascend; `surcharges` are by name (`batch`, `fast`, `inference_geo:us`), each with the prices that
    a request of standard size has under it. `changes` ascend, too: each with the card that is in force from
    then on.
    """

    price: ModelPrice
    tiers: tuple[ContextTier, ...] = ()
    surcharges: Mapping[str, Surcharge] = field(default_factory=dict, hash=False)
    changes: tuple[tuple[datetime, "RateCard"], ...] = ()
    standard: Rates = field(init=False, repr=False, compare=False)
    _is_flat: bool = field(init=False, repr=False, compare=False)
    _known: dict[tuple[int, tuple[str, ...], Fraction | None], Rates] = field(
        init=False, repr=False, compare=False
    )
    _dearest: dict[tuple[Rates, ...], Rates] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "standard", Rates(self.price.unit_rates()))
        object.__setattr__(self, "_is_flat", not (self.tiers or self.changes))
        object.__setattr__(self, "_known", {(0, (), None): self.standard})
        object.__setattr__(self, "_dearest", {})

    def at(self, moment: datetime | None) -> "RateCard":
        """Return the card that is in force for a request that began at `moment`."""
        card = self
        for begins, changed in self.changes if moment is not None else ():
            if moment is None or moment < begins:
                break
            card = changed
        return card

    def rates(self, usage: Usage, terms: Terms = STANDARD) -> Rates:
        """Return the prices of a request that used so much: what counts is its whole input."""
        _, tiers, factor = terms
        if self._is_flat and not tiers and factor is None:
            return self.standard
        card = self.at(terms.began)
        size = usage.context_tokens or usage.total_input_tokens if card.tiers else 0
        return card._looked_up(size, terms)

    def dearest(self, most_input: int, terms: Collection[Terms]) -> Rates:
        """Return of each unit the highest price it has under any of the terms, for up to so much input."""
        if self._is_flat and not [each for each in terms if each.tiers or each.factor is not None]:
            return self.standard
        reachable = (rates for each in terms for rates in self._up_to(most_input, each))
        found = tuple(dict.fromkeys(reachable))
        if len(found) == 1:
            return found[0]
        rates = self._dearest.get(found)
        if rates is None:
            if len(self._dearest) >= _MOST_RATES:
                self._dearest.clear()
            units = {unit for rates in found for unit in rates.by_unit}
            highest = {unit: max(rates.rate(unit)[0] for rates in found) for unit in units}
            rates = self._dearest[found] = Rates(highest)
        return rates

    def _up_to(self, most_input: int, terms: Terms) -> Iterator[Rates]:
        card = self.at(terms.began)
        yield card._looked_up(0, terms)
        for tier in card.tiers:
            if tier.above < most_input:
                yield card._looked_up(tier.above + 1, terms)

    def unpriced(self, terms: Terms) -> frozenset[str]:
        """Return which of the tiers it was answered in have no price: they are charged as the standard."""
        if not terms.tiers:
            return _NONE
        card = self.at(terms.began)
        return frozenset(name for name in terms.tiers if card._surcharge(name) is None)

    def _looked_up(self, input_tokens: int, terms: Terms) -> Rates:
        tier = sum(input_tokens > tier.above for tier in self.tiers)
        names = tuple(filter(None, map(self._surcharge, terms.tiers)))
        key = tier, names, terms.factor
        rates = self._known.get(key)
        if rates is None:
            if len(self._known) >= _MOST_RATES:
                self._known.clear()  # of factors there may be as many as users
            rates = self._known[key] = self._worked_out(*key)
        return rates

    def _surcharge(self, name: str) -> str | None:
        """Return under which name the card has a tier, a speed or a region, if it has it."""
        kind, _, value = name.partition(":")
        if kind == "inference_geo":
            return name if name in self.surcharges else None
        if ":" in value:
            return None
        if value in self.surcharges:
            return value
        # A request for `fast` is answered in the tier that used to be called so.
        is_priority = name == "service_tier:fast" and "priority" in self.surcharges
        return "priority" if is_priority else None

    def _worked_out(self, tier: int, names: Iterable[str], factor: Fraction | None) -> Rates:
        """Return the rates of a context tier, each raised as surcharges raise that of the standard."""
        base = self.standard.by_unit
        rates = dict(self.tiers[tier - 1].price.unit_rates() if tier else base)
        usual, per_token = dict(rates), Fraction(self.price.multiplier) * NANO / TOKENS_PER_PRICE
        for name in names:
            surcharge, before = self.surcharges[name], dict(rates)
            for unit, rate in surcharge.price.unit_rates().items():
                if base.get(unit) and unit in TOKEN_PRICES:
                    rates[unit] *= rate / base[unit]
                elif unit in TOKEN_PRICES and not rate:
                    rates[unit] = rates.get(unit, Fraction(0)) * Fraction(surcharge.factor)
                else:
                    rates[unit] = rate
            for unit, price in surcharge.beyond.get(self.tiers[tier - 1].above, {}).items() if tier else ():
                rate = Fraction(price) * per_token
                rates[unit] = before[unit] * rate / usual[unit] if usual.get(unit) else rate
        return Rates(rates if factor is None else {unit: rate * factor for unit, rate in rates.items()})


_NONE: Final[frozenset[str]] = frozenset()


def quantities(usage: Usage) -> Iterable[tuple[str, Quantity]]:
    """Return how much there is of each unit: tokens of other kinds than text are taken out of the counts."""
    parts = dict(usage.quantities)
    tokens: dict[str, Quantity] = {
        "input": usage.input_tokens,
        "cache_hit": usage.cache_read_input_tokens,
        "cache_write": usage.cache_creation_5m_input_tokens,
        "cache_write_1h": usage.cache_creation_1h_input_tokens,
        "output": usage.output_tokens,
    }
    for unit, whole in PART_OF.items():
        if unit in parts:
            tokens[whole] -= min(parts[unit], tokens[whole])
    return [(unit, quantity) for unit, quantity in (*tokens.items(), *parts.items()) if quantity]


def itemised(lines: Iterable[tuple[str | None, Line]]) -> tuple[tuple[CostItem, ...], Costs]:
    """Return what each line costs, and the whole by kind; each line with the model whose price it is.

    What is rounded is each sum so far, so that the whole is rounded once.
    """
    items: list[CostItem] = []
    by_kind = dict.fromkeys(Costs._fields, 0)
    exact, before = Fraction(0), 0
    for model, line in lines:
        exact += line.rate * Fraction(line.quantity)
        whole = rounded(exact)
        items.append(CostItem(line.unit, line.quantity, whole - before, model))
        by_kind[_kind(line.unit)] += whole - before
        before = whole
    return tuple(items), Costs(**by_kind)


def factor_of(value: str | None) -> Fraction | None:
    """Return a price factor as it is stored; None for 1, and for what is none."""
    if not isinstance(value, str) or len(value) > _MOST_DIGITS:
        return None
    try:
        factor = Fraction(Decimal(value))
    except (ArithmeticError, ValueError):
        return None
    return factor if factor != 1 and 0 <= factor <= MAX_FACTOR else None


def factor_text(factor: Fraction) -> str:
    """Return a price factor as it is stored, exactly."""
    return f"{Decimal(factor.numerator) / Decimal(factor.denominator):f}"


def rounded(nano_usd: Fraction) -> int:
    """Return whole nano-dollars, half up."""
    return (2 * nano_usd.numerator + nano_usd.denominator) // (2 * nano_usd.denominator)


def most_price(unit: str) -> Decimal:
    """Return what a unit may cost at most, in USD for one, or per million of tokens."""
    if unit in TOKEN_PRICES:
        return MAX_PRICE
    return MAX_PRICE / TOKENS_PER_PRICE if base_unit(unit) == CHARACTER else MAX_UNIT_PRICE


def _most_rate(unit: str) -> Fraction:
    most = Fraction(most_price(unit)) * NANO
    return most / TOKENS_PER_PRICE if unit in TOKEN_PRICES else most


def _kind(unit: str) -> str:
    """Return what a unit counts as in metrics."""
    kind = PART_OF.get(unit, unit).removesuffix("_1h")
    return kind if kind in Costs._fields else "units"
