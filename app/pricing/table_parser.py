"""The text of a model table becomes models with rate cards, and groups; what is wrong is named with its line.

An entry is read as it is written, and completed afterwards: a context tier, a service tier or a change names
the prices that are different in it, all others stay. Prices of the cache that an entry names nowhere keep
following the price of input.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, Final

from app.accounts.prices import FACTOR_DECIMALS, GROUP_NAME, MAX_FACTOR
from app.pricing.model import DEFAULT_CONTEXT_WINDOW, DEFAULT_MAX_OUTPUT, Model
from app.pricing.rate_card import (
    MAX_PRICE,
    TEXT_PRICES,
    TOKEN_PRICES,
    ContextTier,
    ModelPrice,
    RateCard,
    Surcharge,
    most_price,
)
from app.wires.usage_fields import MAX_COUNT

# Defaults for cache prices that are left out, relative to the input price: Anthropic's list prices since
# 2024.
CACHE_WRITE_FACTOR: Final = Decimal("1.25")
CACHE_WRITE_1H_FACTOR: Final = Decimal(2)
CACHE_HIT_FACTOR: Final = Decimal("0.1")

_UNIT = re.compile(r"[a-z0-9_]{1,40}(?::[a-z0-9_.-]{1,40}){0,3}")
_VARIED = frozenset((*TOKEN_PRICES, "units", "multiplier", "tiers", "service_tiers", "inference_geo"))
_KEYS = _VARIED | {"id", "name", "aliases", "upstream_id", "context_window", "max_output", "changes"}
_HEADER = re.compile(r"\s*\[(?:\[\s*[\"']?models[\"']?\s*\]\]|\s*[\"']?groups\b)")

_Path = tuple[str | int, ...]


class ModelTableError(ValueError):
    """The model table is not usable; the message is one line that names the model, the field and the line."""


class _Misfit(Exception):
    """Something at `path` of the document is not as it has to be."""

    def __init__(self, message: str, path: _Path) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, slots=True)
class _Written:
    """Prices as they are written; None, or not there: they stay what they are elsewhere."""

    tokens: Mapping[str, Decimal] = field(default_factory=dict)
    units: Mapping[str, Decimal] = field(default_factory=dict)
    multiplier: Decimal | None = None
    tiers: tuple[tuple[int, Mapping[str, Decimal]], ...] | None = None
    surcharges: Mapping[str, tuple[Decimal | None, "_Written"]] = field(default_factory=dict)

    def changed(self, later: "_Written") -> "_Written":
        """Return these prices with what others say instead."""
        return _Written(
            {**self.tokens, **later.tokens},
            {**self.units, **later.units},
            self.multiplier if later.multiplier is None else later.multiplier,
            self.tiers if later.tiers is None else later.tiers,
            {**self.surcharges, **later.surcharges},
        )

    def price(self) -> ModelPrice:
        """Return these prices with those that follow from them."""
        fresh = self.tokens.get("input", Decimal(0))
        return ModelPrice(
            input=fresh,
            output=self.tokens.get("output", Decimal(0)),
            cache_write=self.tokens.get("cache_write", fresh * CACHE_WRITE_FACTOR),
            cache_write_1h=self.tokens.get("cache_write_1h", fresh * CACHE_WRITE_1H_FACTOR),
            cache_hit=self.tokens.get("cache_hit", fresh * CACHE_HIT_FACTOR),
            multiplier=Decimal(1) if self.multiplier is None else self.multiplier,
            other_tokens={key: self.tokens[key] for key in sorted(self.tokens.keys() - set(TEXT_PRICES))},
            units=self.units,
            missing=frozenset(key for key in ("input", "output") if key not in self.tokens),
        )

    def card(self) -> RateCard:
        """Return the rate card that these prices are."""
        return RateCard(
            self.price(),
            tuple(
                ContextTier(above, self.changed(_Written(prices)).price())
                for above, prices in self.tiers or ()
            ),
            {name: self._surcharge(*surcharge) for name, surcharge in self.surcharges.items()},
        )

    def _surcharge(self, factor: Decimal | None, written: "_Written") -> Surcharge:
        beyond = dict(written.tiers or ())
        if factor is None:
            return Surcharge(Decimal(1), self.changed(written).price(), beyond)
        rest = {unit: price * factor for unit, price in self.price().tokens().items()}
        return Surcharge(factor, replace(self, tokens=rest).changed(written).price(), beyond)


class _Table:
    """A table of the document: its values, what it is called in messages, and where it stands."""

    def __init__(self, values: object, where: str, path: _Path, spelling: str) -> None:
        if not isinstance(values, dict):
            raise _Misfit(f"{where}: must be a table, {spelling}", path)
        self.values: dict[str, Any] = values
        self.where = where
        self._path = path

    def misfit(self, key: str, message: str) -> _Misfit:
        return self.misfit_at((key,), key if key.isprintable() and " " not in key else repr(key), message)

    def misfit_at(self, path: _Path, shown: str, message: str) -> _Misfit:
        return _Misfit(f"{self.where}: {shown}: {message}", (*self._path, *path))

    def only(self, keys: frozenset[str]) -> None:
        unknown = [key for key in self.values if key not in keys]
        if unknown:
            raise self.misfit(unknown[0], "unknown key")

    def table(self, key: str, spelling: str) -> "_Table":
        where = f"{self.where}: {key}"
        return _Table(self.values.get(key, {}), where, (*self._path, key), spelling)

    def tables(self, key: str, spelling: str) -> Iterator["_Table"]:
        entries = self.values.get(key, [])
        if not isinstance(entries, list):
            raise self.misfit(key, f"must be a list of tables, {spelling}")
        for number, entry in enumerate(entries):
            where = f"{self.where}: {key} {number + 1}"
            yield _Table(entry, where, (*self._path, key, number), spelling)

    def number(self, key: str, most: Decimal | None = None) -> Decimal:
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
            raise self.misfit(key, "must be a number")
        try:
            number = Decimal(value)
        except InvalidOperation:
            raise self.misfit(key, f"{value!r} is not a number") from None
        if not number.is_finite() or number < 0:
            raise self.misfit(key, f"must be 0 or more, not {value}")
        if most is not None and number > most:
            raise self.misfit(key, f"must be {most} at most, not {value}")
        return number

    def count(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_COUNT:
            raise self.misfit(key, f"must be a whole number from 1 to {MAX_COUNT}")
        return value

    def text(self, key: str, default: str | None) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value.strip():
            raise self.misfit(key, "must be a text that is not empty")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.values.get(key, [])
        if not isinstance(values, list) or not all(isinstance(text, str) and text.strip() for text in values):
            raise self.misfit(key, "must be a list of texts that are not empty")
        return tuple(values)

    def moment(self, key: str) -> datetime:
        value = self.values.get(key)
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise self.misfit(key, "must say its offset from UTC, as in 2026-12-15T00:00:00Z")
            return value.astimezone(UTC)
        if not isinstance(value, date):
            raise self.misfit(key, "must be a date, as in 2026-12-15, without quotes")
        return datetime(value.year, value.month, value.day, tzinfo=UTC)


def parse_table(text: str) -> tuple[tuple[Model, ...], dict[str, Fraction]]:
    """Read the text of a model table: its models, and the price factor of each group.

    Raises `ModelTableError`. docs/configuration.md has the syntax.
    """
    try:
        document = tomllib.loads(text, parse_float=Decimal)
    except (tomllib.TOMLDecodeError, InvalidOperation) as error:
        raise ModelTableError(f"not valid TOML: {error}") from None
    except RecursionError:
        raise ModelTableError("not valid TOML: nested too deeply") from None
    try:
        return _models(document), _groups(document)
    except _Misfit as misfit:
        line = _line_of(text, misfit.path)
        raise ModelTableError(f"{misfit} (at line {line})" if line else str(misfit)) from None


def model_of(entry: Mapping[str, object]) -> Model:
    """Read one `[[models]]` entry that is decoded already. Raises `ModelTableError`."""
    try:
        return _model(0, entry)
    except _Misfit as misfit:
        raise ModelTableError(str(misfit)) from None


def _models(document: Mapping[str, Any]) -> tuple[Model, ...]:
    unknown = sorted(document.keys() - {"models", "groups"})
    if unknown:
        message = f"unknown key {unknown[0]!r}: only [[models]] and [groups] are known"
        raise _Misfit(message, (unknown[0],))
    entries = document.get("models")
    if not isinstance(entries, list) or not entries:
        raise _Misfit("no [[models]] entries", ())
    models = tuple(_model(number, entry) for number, entry in enumerate(entries))
    _refuse_collisions(models)
    return models


def _groups(document: Mapping[str, Any]) -> dict[str, Fraction]:
    groups = _Table(document.get("groups", {}), "groups", ("groups",), "[groups.NAME]")
    factors: dict[str, Fraction] = {}
    for name in groups.values:
        if not GROUP_NAME.fullmatch(name):
            raise groups.misfit(name, "must be at most 64 letters, digits, dots, dashes, underscores")
        group = groups.table(name, f"[groups.{name}]")
        group.only(frozenset(("price_factor",)))
        if "price_factor" not in group.values:
            raise group.misfit("price_factor", "missing")
        factor = group.number("price_factor", MAX_FACTOR)
        if factor != round(factor, FACTOR_DECIMALS):
            raise group.misfit("price_factor", f"has {FACTOR_DECIMALS} decimals at most")
        factors[name] = Fraction(factor)
    return factors


def _model(number: int, entry: object) -> Model:
    path: _Path = ("models", number)
    model_id = _Table(entry, f"model {number + 1}", path, "[[models]]").text("id", None)
    table = _Table(entry, f"model {model_id!r}", path, "[[models]]")
    table.only(_KEYS)
    return Model(
        model_id,
        table.text("name", model_id),
        table.texts("aliases"),
        table.text("upstream_id", model_id),
        _card(table),
        table.count("context_window", DEFAULT_CONTEXT_WINDOW),
        table.count("max_output", DEFAULT_MAX_OUTPUT),
        "max_output" in table.values,
        "context_window" in table.values,
    )


def _card(table: _Table) -> RateCard:
    written = _written(table)
    if not written.units and written.tokens.keys().isdisjoint(("input", "output", *_OTHER_TOKENS)):
        raise table.misfit("input", "missing, as is every other price")
    card = _checked(table, written)
    changes: list[tuple[datetime, RateCard]] = []
    for change in table.tables("changes", "[[models.changes]]"):
        change.only(_VARIED | {"from"})
        begins = change.moment("from")
        if changes and begins <= changes[-1][0]:
            raise change.misfit("from", "must be later than that of the change before")
        if change.values.keys() == {"from"}:
            raise change.misfit("from", "nothing changes then")
        written = written.changed(_written(change))
        changes.append((begins, _checked(change, written)))
    return replace(card, changes=tuple(changes)) if changes else card


_OTHER_TOKENS = TOKEN_PRICES - set(TEXT_PRICES)


def _written(table: _Table) -> _Written:
    multiplier = table.number("multiplier") if "multiplier" in table.values else None
    surcharges = {
        f"{prefix}{name}": surcharge
        for key, prefix in (("service_tiers", ""), ("inference_geo", "inference_geo:"))
        for name, surcharge in _surcharges(table.table(key, f"[models.{key}.NAME]"), key)
    }
    tiers = tuple(_tiers(table)) if "tiers" in table.values else None
    return _Written(_tokens(table), _units(table), multiplier, tiers, surcharges)


def _tokens(table: _Table) -> dict[str, Decimal]:
    return {key: table.number(key) for key in table.values if key in TOKEN_PRICES}


def _units(table: _Table) -> dict[str, Decimal]:
    """Read the prices of what is no token."""
    units = table.table("units", "[models.units]")
    for unit in units.values:
        if not _UNIT.fullmatch(unit):
            raise units.misfit(unit, "must be a name, or names with colons between")
        if unit in TOKEN_PRICES:
            raise units.misfit(unit, "is a price of tokens, beside `id`")
    return {unit: units.number(unit) for unit in units.values}


def _tiers(table: _Table) -> Iterator[tuple[int, dict[str, Decimal]]]:
    before = 0
    for tier in table.tables("tiers", "[[models.tiers]]"):
        tier.only(TOKEN_PRICES | {"above_input_tokens"})
        above = tier.count("above_input_tokens")
        if above <= before:
            raise tier.misfit("above_input_tokens", "must be more than that of the tier before")
        prices = _tokens(tier)
        if not prices:
            raise tier.misfit("above_input_tokens", "no price is different beyond it")
        before = above
        yield above, prices


def _surcharges(tables: _Table, key: str) -> Iterator[tuple[str, tuple[Decimal | None, _Written]]]:
    for name in tables.values:
        if not GROUP_NAME.fullmatch(name):
            raise tables.misfit(name, "must be at most 64 letters, digits, dots, dashes, underscores")
        table = tables.table(name, f"[models.{key}.{name}]")
        table.only(TOKEN_PRICES | {"factor", "units", "tiers"})
        if not table.values:
            raise tables.misfit(name, "needs a factor, or prices")
        factor = table.number("factor", MAX_FACTOR) if "factor" in table.values else None
        yield name, (factor, _Written(_tokens(table), _units(table), tiers=tuple(_tiers(table))))


def _checked(table: _Table, written: _Written) -> RateCard:
    """Return the rate card of these prices, unless one of them is absurd."""
    card = written.card()
    places: list[tuple[str, _Path, ModelPrice]] = [("", (), card.price)]
    places += [
        (f"tiers {number + 1}: ", ("tiers", number), tier.price) for number, tier in enumerate(card.tiers)
    ]
    for name, surcharge in card.surcharges.items():
        kind, _, region = name.rpartition(":")
        key = kind or "service_tiers"
        places.append((f"{key}: {region}: ", (key, region), surcharge.price))
        own = {tier.above for tier in card.tiers}
        if stray := [above for above in surcharge.beyond if above not in own]:
            message = f"{stray[0]} is no limit of the model's own tiers"
            raise table.misfit_at((key, region, "tiers"), f"{key}: {region}: tiers", message)
    for shown, path, price in places:
        for unit, value in price.tokens().items():
            if value * price.multiplier > MAX_PRICE:
                message = f"above {MAX_PRICE} USD per million tokens"
                raise table.misfit_at((*path, unit), f"{shown}{unit}", message)
        for unit, value in price.units.items():
            if value * price.multiplier > (most := most_price(unit)):
                raise table.misfit_at((*path, "units", unit), f"{shown}units: {unit}", f"above {most} USD")
    return card


def _refuse_collisions(models: tuple[Model, ...]) -> None:
    """Refuse a table in which an id or alias names more than one model."""
    owners: dict[str, str] = {}
    for number, model in enumerate(models):
        if model.id in owners:
            raise _Misfit(f"model {model.id!r}: id: used twice", ("models", number, "id"))
        owners[model.id] = model.id
    for number, model in enumerate(models):
        for alias in model.aliases:
            if alias in owners:
                message = f"model {model.id!r}: aliases: {alias!r} already names {owners[alias]!r}"
                raise _Misfit(message, ("models", number, "aliases"))
            owners[alias] = model.id


def _line_of(text: str, path: _Path) -> int | None:
    """Return the line on which what stands at `path` is complete, as far as that can be found out.

    Nothing is guessed from the look of a line: the text up to some line is read like the whole, and the first
    such part in which something is found has it on its last line. What is not there (a missing price) is
    where the innermost part of the path is that is there.
    """
    lines = text.splitlines(keepends=True)
    if not path:
        return None
    first, last = 0, len(lines)
    headers = [number for number, line in enumerate(lines) if _HEADER.match(line)]
    if len(path) > 1:
        # Only of the model itself, or of the groups: the table may be long.
        is_model = path[0] == "models"
        start = _first(headers, lines, path[: 2 if is_model else 1])
        if start is None:
            return None
        first = start
        if is_model:
            last = _first(headers, lines, ("models", int(path[1]) + 1)) or last
            path = ("models", 0, *path[2:])
    for length in range(len(path), 0, -1):
        for number in range(first + 1, last + 1):
            is_likely = len(path) > 1 or str(path[0]) in lines[number - 1]
            if is_likely and _has(lines[first:number], path[:length]):
                return number
    return None


def _first(headers: list[int], lines: list[str], path: _Path) -> int | None:
    """Return which header is the first one behind which the path is there."""
    return next((number for number in headers if _has(lines[: number + 1], path)), None)


def _has(lines: list[str], path: _Path) -> bool:
    try:
        found: Any = tomllib.loads("".join(lines))
        for step in path:
            found = found[step]
    except (tomllib.TOMLDecodeError, KeyError, IndexError, TypeError, RecursionError, InvalidOperation):
        return False
    return True
