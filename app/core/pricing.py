"""What tokens cost: the model table, and the one place where money is computed.

Prices are USD per million tokens, written as decimals and kept exact. A cost is rounded once, half up, to
whole nano-dollars (10⁻⁹ USD).
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from fractions import Fraction
from math import lcm
from typing import Any, Final, NamedTuple

from app.core.usage import Usage

NANO_PER_USD: Final = 10**9
TOKENS_PER_PRICE: Final = 10**6
MAX_PRICE: Final = Decimal(100_000)
"""Highest price times multiplier, in USD per million tokens: keeps every cost within 64 bits."""

# Defaults for cache prices that are left out, relative to the input price: Anthropic's list prices since
# 2024.
CACHE_WRITE_FACTOR: Final = Decimal("1.25")
CACHE_WRITE_1H_FACTOR: Final = Decimal(2)
CACHE_HIT_FACTOR: Final = Decimal("0.1")

_PRICES = ("input", "output", "cache_write", "cache_write_1h", "cache_hit")
_KEYS = frozenset(("id", "name", "aliases", "upstream_id", "multiplier", *_PRICES))


class ModelTableError(ValueError):
    """The model table is not usable; the message is one line that names the model and the field."""


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Prices in USD per million tokens, before `multiplier`."""

    input: Decimal
    output: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    cache_hit: Decimal
    multiplier: Decimal = Decimal(1)

    def rates(self) -> tuple[tuple[int, int, int, int, int], int]:
        """Nano-dollars per token as integers over one common denominator, in the order of `Usage`.

        That order: fresh input, cache read, cache write 5 min, cache write 1 h, output. Nothing is rounded.
        """
        prices = (self.input, self.cache_hit, self.cache_write, self.cache_write_1h, self.output)
        factor = Fraction(self.multiplier) * (NANO_PER_USD // TOKENS_PER_PRICE)
        exact = [Fraction(price) * factor for price in prices]
        denominator = lcm(*(rate.denominator for rate in exact))
        fresh, read, write, write_1h, output = (int(rate * denominator) for rate in exact)
        return (fresh, read, write, write_1h, output), denominator


class Costs(NamedTuple):
    """A cost in nano-dollars, by the kind of token; the parts add up to the whole exactly."""

    input: int = 0
    output: int = 0
    cache_write: int = 0
    cache_hit: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """A model clients may ask for: by `id` or an alias; `upstream_id` is what the upstream calls it."""

    id: str
    name: str
    aliases: tuple[str, ...]
    upstream_id: str
    price: ModelPrice
    _rates: tuple[int, int, int, int, int] = field(init=False, repr=False, compare=False)
    _denominator: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rates, denominator = self.price.rates()
        object.__setattr__(self, "_rates", rates)
        object.__setattr__(self, "_denominator", denominator)

    def cost_nano_usd(self, usage: Usage) -> int:
        """The cost of `usage`, exact but for one rounding to whole nano-dollars, half up."""
        return sum(self.costs_nano_usd(usage))

    def costs_nano_usd(self, usage: Usage) -> Costs:
        """The same by kind. What is rounded is each sum so far, so that the whole is rounded once."""
        fresh, read, write, write_1h, output = self._rates
        one, half = 2 * self._denominator, self._denominator
        exact = 2 * usage.input_tokens * fresh
        to_input = (exact + half) // one
        exact += 2 * usage.output_tokens * output
        to_output = (exact + half) // one
        exact += 2 * (
            usage.cache_creation_5m_input_tokens * write + usage.cache_creation_1h_input_tokens * write_1h
        )
        to_write = (exact + half) // one
        exact += 2 * usage.cache_read_input_tokens * read
        to_hit = (exact + half) // one
        return Costs(to_input, to_output - to_input, to_write - to_output, to_hit - to_write)


def cost_nano_usd(model: Model, usage: Usage) -> int:
    """The cost of `usage` in nano-dollars, rounded half up, once."""
    return model.cost_nano_usd(usage)


def cost_usd(model: Model, usage: Usage) -> Decimal:
    """The same cost in USD: a decimal with nine places."""
    return nano_to_usd(model.cost_nano_usd(usage))


def nano_to_usd(nano_usd: int) -> Decimal:
    """Nano-dollars as exact USD."""
    return Decimal(nano_usd) / NANO_PER_USD


def usd_to_nano(usd: Decimal) -> int:
    """USD as whole nano-dollars, rounded half up."""
    return int((usd * NANO_PER_USD).to_integral_value(ROUND_HALF_UP))


class ModelTable:
    """The models on offer, in the order of the file."""

    def __init__(self, models: tuple[Model, ...]) -> None:
        self.models = models
        self._by_name: dict[str, Model] = {}
        for model in models:
            self._by_name[model.id] = model
            self._by_name.update(dict.fromkeys(model.aliases, model))

    @classmethod
    def from_toml(cls, text: str) -> "ModelTable":
        """Read the text of a `models.toml`. Raises `ModelTableError`.

        `[[models]]` entries take `id`, `input` and `output`, and may have `name` and `upstream_id` (both
        default to `id`), `aliases`, `cache_write` (default 1.25 × input), `cache_write_1h` (2 × input),
        `cache_hit` (0.1 × input) and `multiplier` (1). Numbers may be written as strings.
        """
        try:
            document = tomllib.loads(text, parse_float=Decimal)
        except (tomllib.TOMLDecodeError, InvalidOperation) as error:
            raise ModelTableError(f"not valid TOML: {error}") from None
        except RecursionError:
            raise ModelTableError("not valid TOML: nested too deeply") from None
        unknown = sorted(document.keys() - {"models"})
        if unknown:
            raise ModelTableError(f"unknown key {unknown[0]!r}: only [[models]] entries are known")
        entries = document.get("models")
        if not isinstance(entries, list) or not entries:
            raise ModelTableError("no [[models]] entries")
        models = tuple(_model(number, entry) for number, entry in enumerate(entries, 1))
        _refuse_collisions(models)
        return cls(models)

    def resolve(self, name: str) -> Model | None:
        """The model of this id or alias; exact spelling."""
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)


def _model(number: int, entry: object) -> Model:
    if not isinstance(entry, dict):
        raise ModelTableError(f"model {number}: must be a table, [[models]]")
    model_id = entry.get("id")
    if not isinstance(model_id, str) or not model_id.strip():
        raise ModelTableError(f"model {number}: id: must be a text that is not empty")
    where = f"model {model_id!r}"
    unknown = sorted(entry.keys() - _KEYS)
    if unknown:
        raise ModelTableError(f"{where}: {unknown[0]}: unknown key")
    name = _text(where, entry, "name", model_id)
    upstream_id = _text(where, entry, "upstream_id", model_id)
    aliases = entry.get("aliases", [])
    if not isinstance(aliases, list) or not all(
        isinstance(alias, str) and alias.strip() for alias in aliases
    ):
        raise ModelTableError(f"{where}: aliases: must be a list of texts that are not empty")
    return Model(model_id, name, tuple(aliases), upstream_id, _price(where, entry))


def _price(where: str, entry: Mapping[str, Any]) -> ModelPrice:
    for key in ("input", "output"):
        if key not in entry:
            raise ModelTableError(f"{where}: {key}: missing")
    fresh = _decimal(where, entry, "input", Decimal(0))
    multiplier = _decimal(where, entry, "multiplier", Decimal(1))
    price = ModelPrice(
        input=fresh,
        output=_decimal(where, entry, "output", Decimal(0)),
        cache_write=_decimal(where, entry, "cache_write", fresh * CACHE_WRITE_FACTOR),
        cache_write_1h=_decimal(where, entry, "cache_write_1h", fresh * CACHE_WRITE_1H_FACTOR),
        cache_hit=_decimal(where, entry, "cache_hit", fresh * CACHE_HIT_FACTOR),
        multiplier=multiplier,
    )
    for key in _PRICES:
        if getattr(price, key) * multiplier > MAX_PRICE:
            raise ModelTableError(f"{where}: {key}: above {MAX_PRICE} USD per million tokens")
    return price


def _decimal(where: str, entry: Mapping[str, Any], key: str, default: Decimal) -> Decimal:
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ModelTableError(f"{where}: {key}: must be a number")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise ModelTableError(f"{where}: {key}: {value!r} is not a number") from None
    if not number.is_finite() or number < 0:
        raise ModelTableError(f"{where}: {key}: must be 0 or more, not {value}")
    return number


def _text(where: str, entry: Mapping[str, Any], key: str, default: str) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str) or not value.strip():
        raise ModelTableError(f"{where}: {key}: must be a text that is not empty")
    return value


def _refuse_collisions(models: tuple[Model, ...]) -> None:
    """Every id and alias must name one model."""
    owners: dict[str, str] = {}
    for model in models:
        if model.id in owners:
            raise ModelTableError(f"model {model.id!r}: id: used twice")
        owners[model.id] = model.id
    for model in models:
        for alias in model.aliases:
            if alias in owners:
                raise ModelTableError(
                    f"model {model.id!r}: aliases: {alias!r} already names {owners[alias]!r}"
                )
            owners[alias] = model.id
