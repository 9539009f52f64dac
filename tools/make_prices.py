"""`make prices`: make models.toml anew from the genai-prices library and what tools/prices.toml adds to it.

The result depends on these two and on a date alone, so that the diff is what has changed. Nothing is written
where nothing has changed but the date. Names are never lost: an id, alias or upstream_id that models.toml has
and that would be gone is an error. Prices that were other ones in the last 60 days are in the table with the
day they changed; so are those announced.
"""

import argparse
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from app.pricing.price_library import PACKAGE, TOKEN_PRICES, Entry, LibraryMissing, PriceLibrary, entry_of

ROOT: Final = Path(__file__).parent.parent
SOURCES: Final = ROOT / "tools" / "prices.toml"
TABLE: Final = ROOT / "models.toml"

MEMORY: Final = timedelta(days=60)
"""For how long the table remembers what a price was before."""

_WIDTH: Final = 120
_NAMES = ("id", "name", "aliases", "upstream_id")
_SIZES = ("context_window", "max_output")
_PARTS = ("units", "tiers", "service_tiers", "inference_geo", "changes")
_ABOUT = ("note", "library", "sets", "source")
_ORDER = (*_NAMES, *TOKEN_PRICES, "multiplier", *_SIZES, *_PARTS)
_WITHIN = ("from", "above_input_tokens", "factor", *TOKEN_PRICES, *_PARTS)
_TIERS = ("batch", "flex", "priority", "fast", "ultrafast")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_DATE = re.compile(r"As of (\d{4}-\d{2}-\d{2})\.")


class SourcesError(ValueError):
    """What tools/prices.toml says cannot be used; the message is one line that says where and why."""


class Sources:
    """What is kept by hand: sections of models, and the sets of prices that they share."""

    def __init__(self, text: str) -> None:
        self._document = tomllib.loads(text, parse_float=Decimal)
        self.sets: Mapping[str, Entry] = self._document["sets"]
        self.sections: list[dict[str, Any]] = self._document["sections"]

    def table(self, library: PriceLibrary, today: date) -> str:
        """Write the table that holds on a day. Raises `SourcesError`."""
        header = self._document["header"].format(library=f"{PACKAGE} {library.version}", date=today)
        lines = [*_comment(header, wrap=False)]
        for section in self.sections:
            lines += ["", f"# ---- {section['title']} ".ljust(_WIDTH - 1, "-")]
            lines += _comment(section.get("note", ""), wrap=False)
            for model in section["models"]:
                lines += ["", *_comment(model.get("note", "")), "[[models]]"]
                lines += _lines(self.entry(section, model, library, today))
        return "\n".join(lines) + "\n"

    def entry(
        self, section: Mapping[str, Any], model: Mapping[str, Any], library: PriceLibrary, today: date
    ) -> Entry:
        """Return the entry of one model: the library's, filled by sets, overruled by its own."""
        own = {key: value for key, value in model.items() if key not in _ABOUT}
        provider, name = reference(section, model)
        found = library.model(provider, name) if provider else None
        entry = entry_of(found, today - MEMORY, today) if found is not None else {}
        if found is None and not own.keys() & {*TOKEN_PRICES, "units"}:
            raise SourcesError(f"{model['id']}: the library has no {name} of {provider}, nor has it a price")
        if own.keys() - {*_NAMES, *_SIZES, "multiplier"} and "source" not in model:
            raise SourcesError(f"{model['id']}: source: missing, and it has prices of its own")
        if found is not None and found.name is not None:
            entry["name"] = found.name
        entry = _merged(entry, own)
        for set_name in model.get("sets", section.get("sets", ())):
            if set_name not in self.sets:
                raise SourcesError(f"{model['id']}: sets: there is no {set_name}")
            entry = _filled(entry, self.sets[set_name])
        unknown = sorted(entry.keys() - {*_ORDER})
        if unknown:
            raise SourcesError(f"{model['id']}: {unknown[0]}: unknown key")
        return entry

    def not_mentioned(self, library: PriceLibrary) -> list[str]:
        """Return what the library has of a section's provider that is in no entry and not left out."""
        missing = []
        for section in self.sections:
            if (provider := section.get("library")) is None:
                continue
            named = {
                found.id
                for other in self.sections
                for model in other["models"]
                if reference(other, model)[0] == provider
                and (found := library.model(*reference(other, model))) is not None
            }
            patterns = [
                pattern
                for other in self.sections
                if other.get("library") == provider
                for pattern in other.get("left_out", ())
            ]
            for model_id in library.ids(provider):
                is_left_out = any(fnmatchcase(model_id, pattern) for pattern in patterns)
                if model_id not in named and not is_left_out:
                    missing.append(f"{provider}:{model_id}")
        return sorted(set(missing))


def reference(section: Mapping[str, Any], model: Mapping[str, Any]) -> tuple[str, str]:
    """Return the library's provider of a model, empty for none, and its name there."""
    provider, _, name = model.get("library", "").partition(":")
    return provider or section.get("library", ""), name or model["id"]


def _merged(entry: Entry, own: Mapping[str, Any]) -> Entry:
    """Return an entry with what another says: prices replace, tables are merged."""
    merged = dict(entry)
    for key, value in own.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = _merged(before, value)
        elif key in ("tiers", "changes") and before:
            merged[key] = _merged_lists(key, before, value)
        else:
            merged[key] = value
    return merged


def _merged_lists(key: str, before: list[Entry], own: list[Entry]) -> list[Entry]:
    mark = "above_input_tokens" if key == "tiers" else "from"
    by_mark = {entry[mark]: entry for entry in before}
    for entry in own:
        by_mark[entry[mark]] = _merged(by_mark.get(entry[mark], {}), entry)
    return [by_mark[value] for value in sorted(by_mark)]


def _filled(entry: Entry, prices: Entry) -> Entry:
    """Return an entry with what a set says and it does not."""
    filled = dict(entry)
    for key, value in prices.items():
        if key in ("times_input", "times_output"):
            base = key.removeprefix("times_")
            for unit, factor in value.items():
                filled = _with_multiple(filled, unit, base, factor)
        elif key not in _ABOUT:
            before = filled.get(key, {})
            filled[key] = {**value, **before} if isinstance(value, dict) else before or value
    return filled


def _with_multiple(entry: Entry, unit: str, base: str, factor: Decimal) -> Entry:
    """Return an entry in which a unit costs so many times what another does, wherever that has a price."""
    changed = dict(entry)
    if base in entry:
        changed[unit] = entry[base] * factor
    for key in ("tiers", "changes"):
        if key in entry:
            changed[key] = [_with_multiple(part, unit, base, factor) for part in entry[key]]
    if "service_tiers" in entry:
        changed["service_tiers"] = {
            name: _with_multiple(tier, unit, base, factor) for name, tier in entry["service_tiers"].items()
        }
    return changed


# ---- how it is written ----------------------------------------------------------------------


def _comment(text: str, *, wrap: bool = True) -> list[str]:
    if not text.strip():
        return []
    lines = textwrap.wrap(text, _WIDTH - 2, break_on_hyphens=False) if wrap else text.strip().split("\n")
    return [f"# {line}".rstrip() for line in lines]


def _lines(entry: Entry) -> Iterator[str]:
    """Write an entry, a key a line; what there is several of has a line each."""
    for key in _ORDER:
        if key not in entry:
            continue
        value = entry[key]
        line = f"{key} = {_value(key, value)}"
        if key in ("service_tiers", "inference_geo"):
            for name in _sorted(value, _TIERS):
                yield from _tier_lines(f"{key}.{_key(name)}", value[name])
        elif key in ("tiers", "changes", "units") and len(line) > _WIDTH:
            yield from _long(key, value)
        else:
            yield line


def _tier_lines(name: str, tier: Entry) -> Iterator[str]:
    line = f"{name} = {_value(name, tier)}"
    if len(line) <= _WIDTH or "tiers" not in tier:
        yield line
        return
    prices = {key: value for key, value in tier.items() if key != "tiers"}
    start = _value(name, {**prices, "tiers": []})
    yield f"{name} = {start.removesuffix('] }')}"
    for part in tier["tiers"]:
        yield f"  {_value(name, part)},"
    yield "] }"


def _long(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, price in value.items():
            yield f"{key}.{_key(name)} = {_value(name, price)}"
    else:
        yield f"{key} = ["
        for part in value:
            yield f"  {_value(key, part)},"
        yield "]"


def _value(key: str, value: Any) -> str:
    if isinstance(value, dict):
        order = _TIERS if key == "service_tiers" else _WITHIN
        parts = (f"{_key(name)} = {_value(name, value[name])}" for name in _sorted(value, order))
        return f"{{ {', '.join(parts)} }}"
    if isinstance(value, list):
        return f"[{', '.join(_value(key, part) for part in value)}]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    return str(value)


def _sorted(names: Iterable[str], order: tuple[str, ...]) -> list[str]:
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else f'"{name}"'


# ---- what has changed ----------------------------------------------------------------------


def date_of(table: str) -> date | None:
    """Return the day that a table says it was made for."""
    found = _DATE.search(table)
    return None if found is None else date.fromisoformat(found[1])


def changes(before: str, after: str) -> list[str]:
    """Return what differs between two tables, a line for each thing, by model."""
    old, new = ({entry["id"]: entry for entry in _entries(text)} for text in (before, after))
    lines = [f"+ {model_id}" for model_id in new if model_id not in old]
    lines += [f"- {model_id}" for model_id in old if model_id not in new]
    for model_id, entry in new.items():
        told = _flat(old.get(model_id, entry))
        tells = _flat(entry)
        for key in sorted(told.keys() | tells.keys()):
            if told.get(key) != tells.get(key):
                lines.append(f"~ {model_id}: {key}: {told.get(key, '-')} -> {tells.get(key, '-')}")
    return lines


def lost_names(before: str, after: str) -> list[str]:
    """Return ids, aliases and upstream ids that one table has and a later one has not."""
    return sorted(_all_names(before) - _all_names(after))


def _entries(text: str) -> list[Entry]:
    entries: list[Entry] = tomllib.loads(text, parse_float=Decimal).get("models", [])
    return entries


def _all_names(text: str) -> set[str]:
    return {
        name
        for entry in _entries(text)
        for name in (entry["id"], *entry.get("aliases", ()), entry.get("upstream_id", entry["id"]))
    }


def _flat(entry: Entry, path: str = "") -> dict[str, str]:
    flat = {}
    for key, value in entry.items():
        name = f"{path}{key}"
        if isinstance(value, dict):
            flat.update(_flat(value, f"{name}."))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for part in value:
                mark = str(part.get("from", part.get("above_input_tokens")))
                flat.update(_flat(part, f"{name}[{mark}]."))
        else:
            flat[name] = _value(key, value if not isinstance(value, int) else Decimal(value))
    return flat


def main() -> int:
    """Make the table, or check that it is what would be made; say what changed."""
    parser = argparse.ArgumentParser(prog="make prices", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if there is a change")
    parser.add_argument("--date", type=date.fromisoformat, help="the day the table is for (default: today)")
    options = parser.parse_args()
    try:
        library = PriceLibrary.installed()
        sources = Sources(SOURCES.read_text(encoding="utf-8"))
        before = TABLE.read_text(encoding="utf-8")
        today = options.date or datetime.now(UTC).date()
        made_for = options.date or date_of(before)
        if made_for is not None and sources.table(library, made_for) == before:
            print(f"Nothing changed: models.toml is what {PACKAGE} {library.version} and prices.toml say.")
            return 0
        after = sources.table(library, today)
    except (LibraryMissing, ValueError) as error:
        print(f"make prices: {error}", file=sys.stderr)
        return 1
    for line in (told := changes(before, after)):
        print(line)
    for model_id in sources.not_mentioned(library):
        print(f"? {model_id}: in the library; in no entry of tools/prices.toml, nor left out")
    if lost := lost_names(before, after):
        print(f"make prices: names would be lost: {', '.join(lost)}: nothing is written", file=sys.stderr)
        return 1
    print(f"{len(told)} changes, for {today}, by {PACKAGE} {library.version}.")
    if options.check:
        return 1
    TABLE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
