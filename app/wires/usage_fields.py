"""The number fields of usage objects: their many names, how they are cleaned, how a stream's are merged."""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, Final

# No single request uses more tokens than this: a larger number is a mistake, not a count.
MAX_COUNT: Final = 10**9

INCLUSIVE: Final = "inclusive"
"""Marks fields whose `input_tokens` came with `input_tokens_details` (Responses API: cache is inside)."""
TOTAL: Final = "total_tokens"

_READ = ("cached_tokens", "cache_read_input_tokens", "prompt_cache_hit_tokens", "num_cached_tokens")
_WRITE = (
    "cache_write_tokens",
    "cache_creation_tokens",
    "cached_creation_tokens",
    "cache_creation_input_tokens",
)
# Anthropic's two lifetimes, and OpenAI's: the longer one of either is what costs more.
_SHORT = ("ephemeral_5m_input_tokens", "ttl_30m_tokens")
_LONG = ("ephemeral_1h_input_tokens", "ttl_12h_tokens")
_AUDIO, _IMAGE = "audio_tokens", "image_tokens"
_INPUT_DETAILS = (
    "prompt_tokens_details",
    "input_tokens_details",
    "prompt_token_details",
    "input_token_details",
)
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details", "output_token_details")
_CACHED_DETAILS, _CACHED_UNITS = "cached_tokens_details", ("cache_hit_audio", "cache_hit_image")
# Where the split of cache writes by lifetime is found: Anthropic's own place, OpenAI's, and what resellers
# put into details.
_SPLITS = ("cache_creation", "cache_creation_token_details", "cache_write_tokens_details")
_SPLIT_PATHS = (
    ("cache_creation",),
    *((details, split) for details in _INPUT_DETAILS for split in _SPLITS),
)

# A field's name here is its path in the usage object, joined with dots. Each group holds the aliases of one
# quantity: names for the same tokens.
READ_ALIASES: Final = frozenset(
    (*_READ, *(f"{details}.{name}" for details in _INPUT_DETAILS for name in _READ))
)
WRITE_ALIASES: Final = frozenset(
    (*_WRITE, *(f"{details}.{name}" for details in _INPUT_DETAILS for name in _WRITE))
)
_WRITE_1H = "claude_cache_creation_1_h_tokens"
WRITE_5M_ALIASES: Final = frozenset(
    (
        "claude_cache_creation_5_m_tokens",
        *(".".join((*path, name)) for path in _SPLIT_PATHS for name in _SHORT),
    )
)
WRITE_1H_ALIASES: Final = frozenset(
    (_WRITE_1H, *(".".join((*path, name)) for path in _SPLIT_PATHS for name in _LONG))
)
REASONING_ALIASES: Final = frozenset(
    f"{prefix}{name}"
    for prefix in ("", *(f"{details}." for details in _OUTPUT_DETAILS))
    for name in ("reasoning_tokens", "thinking_tokens")
    if prefix or name == "reasoning_tokens"
)
AUDIO_INPUT_ALIASES: Final = frozenset(f"{details}.{_AUDIO}" for details in _INPUT_DETAILS)

_OF_INPUT = {
    f"{details}.{inside}{name}": unit
    for details in _INPUT_DETAILS
    for inside, units in (("", ("input_audio", "input_image")), (f"{_CACHED_DETAILS}.", _CACHED_UNITS))
    for name, unit in zip((_AUDIO, _IMAGE), units, strict=True)
}
_OF_OUTPUT = {
    f"{details}.{name}": unit
    for details in _OUTPUT_DETAILS
    for name, unit in ((_AUDIO, "output_audio"), (_IMAGE, "output_image"))
}
OTHER_TOKENS: Final[Mapping[str, str]] = {**_OF_INPUT, **_OF_OUTPUT}
"""Fields that tell tokens of other kinds than text, and their units (`app.wires.units.PART_OF`)."""

_SPLIT_ALIASES = WRITE_5M_ALIASES | WRITE_1H_ALIASES
_INPUT_SIDE = frozenset(
    (
        *("prompt_tokens", "input_tokens", *READ_ALIASES, *WRITE_ALIASES),
        *(*_SPLIT_ALIASES, *_OF_INPUT),
    )
)
_OUTPUT_SIDE = frozenset(("completion_tokens", "output_tokens", *REASONING_ALIASES, *_OF_OUTPUT))


def _top_level(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in names if "." not in name)


# Which members count, object by object.
_TOP_NAMES = _top_level(_INPUT_SIDE | _OUTPUT_SIDE | {TOTAL})
_INPUT_DETAIL_NAMES = frozenset((*_READ, *_WRITE, _AUDIO, _IMAGE))
_OUTPUT_DETAIL_NAMES = frozenset(("reasoning_tokens", "thinking_tokens", _AUDIO, _IMAGE))
_SPLIT_NAMES = frozenset((*_SHORT, *_LONG))
# A zero of these is told by nearly everybody, and tells nothing.
_KINDS = frozenset((_AUDIO, _IMAGE))
_NESTED = (*((split, _SPLIT_NAMES) for split in _SPLITS), (_CACHED_DETAILS, _KINDS))


_QUANTITY_OF: Final[Mapping[str, frozenset[str]]] = {
    name: aliases
    for aliases in (READ_ALIASES, WRITE_ALIASES, WRITE_5M_ALIASES, WRITE_1H_ALIASES, REASONING_ALIASES)
    for name in aliases
}


def highest_of_each(fields: Mapping[str, int]) -> dict[frozenset[str], int]:
    """Return what `highest` does, by aliases, of all quantities in one pass; nothing of those that are 0."""
    found: dict[frozenset[str], int] = {}
    for name, count in fields.items():
        aliases = _QUANTITY_OF.get(name)
        if aliases is not None and count > found.get(aliases, 0):
            found[aliases] = count
    return found


def highest(fields: Mapping[str, int], aliases: frozenset[str]) -> int:
    """Return the largest of a quantity's aliases: they name the same tokens, so they are never added."""
    if aliases.isdisjoint(fields):
        return 0
    return max([count for name, count in fields.items() if name in aliases])


def clean_fields(raw: Mapping[str, Any]) -> tuple[dict[str, int], bool]:
    """Return the known counts of a usage object by path, and whether all of them were sound.

    A null is a missing value. Integers, integral floats and digit strings from 0 to `MAX_COUNT` are sound;
    anything else (booleans, NaN, fractions, negatives, absurdly large numbers, other types) is left out.
    """
    fields: dict[str, int] = {}
    is_clean = _collect(raw, "", _TOP_NAMES, fields)
    for name, details in raw.items():
        if not isinstance(details, dict):
            continue
        prefix = f"{name}."
        if name in _INPUT_DETAILS:
            is_clean &= _collect(details, prefix, _INPUT_DETAIL_NAMES, fields)
            for nested, names in _NESTED:
                if isinstance(inner := details.get(nested), dict):
                    is_clean &= _collect(inner, f"{prefix}{nested}.", names, fields)
        elif name in _OUTPUT_DETAILS:
            is_clean &= _collect(details, prefix, _OUTPUT_DETAIL_NAMES, fields)
        elif name == "cache_creation":
            is_clean &= _collect(details, prefix, _SPLIT_NAMES, fields)
    if isinstance(raw.get("input_tokens_details"), dict):
        fields[INCLUSIVE] = 1
    return fields, is_clean


def _collect(source: Mapping[str, Any], prefix: str, names: frozenset[str], into: dict[str, int]) -> bool:
    is_clean = True
    for name, value in source.items():
        if name in names and value is not None and (value or name not in _KINDS):
            count = clean_count(value)
            if count is None:
                is_clean = False
            else:
                into[prefix + name] = count
    return is_clean


def clean_count(value: object) -> int | None:
    """Return a token count from a decoded JSON value, None if it is not one."""
    if type(value) is int:
        return value if 0 <= value <= MAX_COUNT else None
    is_number = type(value) is float and isfinite(value) and value.is_integer()
    is_digits = isinstance(value, str) and len(value) <= 20 and value.isascii() and value.isdigit()
    if not (is_number or is_digits):
        return None
    count = int(value)  # type: ignore[call-overload]
    return count if 0 <= count <= MAX_COUNT else None


def tells_output(fields: Mapping[str, int]) -> bool:
    """Return whether any of these fields is about what was generated."""
    return not _OUTPUT_SIDE.isdisjoint(fields)


def merge_fields(merged: dict[str, int], new: Mapping[str, int], *, is_output_open: bool = False) -> None:
    """Lay the fields of a later usage object over those seen before.

    A usage seen twice is the same usage, so nothing is added up: the latest value wins, field by field. But
    an input side, or output side, that is all zero never replaces a positive one: only the placeholder that
    a message begins with gives way to any output (`is_output_open`).
    """
    if not merged:  # as in all answers that tell their usage once
        merged.update(new)
        if not new.get(TOTAL):
            merged.pop(TOTAL, None)
        return
    before = dict(merged)
    for side in (_INPUT_SIDE, _OUTPUT_SIDE):
        fields = {name: count for name, count in new.items() if name in side}
        is_open = (is_output_open and side is _OUTPUT_SIDE) or not _is_positive(before, side)
        if is_open or any(fields.values()):
            merged.update(fields)
            if side is _INPUT_SIDE:
                _settle_writes(merged, fields)
    if INCLUSIVE in new:
        merged[INCLUSIVE] = 1
    # A total is evidence about the numbers it came with, not about later ones.
    if new.get(TOTAL):
        merged[TOTAL] = new[TOTAL]
    elif merged != before:
        merged.pop(TOTAL, None)


def _is_positive(fields: Mapping[str, int], side: frozenset[str]) -> bool:
    return not side.isdisjoint(fields) and any(fields[name] for name in side.intersection(fields))


def _settle_writes(merged: dict[str, int], new: Mapping[str, int]) -> None:
    """Keep cache writes and their split by lifetime in step where an update restated only one of them."""
    has_split, has_total = not _SPLIT_ALIASES.isdisjoint(new), not WRITE_ALIASES.isdisjoint(new)
    if has_total and not has_split:
        # A corrected total without a split: the old split may not exceed it. What lives for an hour stays so.
        total = highest(merged, WRITE_ALIASES)
        one_hour = highest(merged, WRITE_1H_ALIASES)
        if highest(merged, WRITE_5M_ALIASES) + one_hour > total:
            for name in _SPLIT_ALIASES:
                merged.pop(name, None)
            merged[_WRITE_1H] = min(one_hour, total)
    elif has_split and not has_total and any(new.get(name) for name in _SPLIT_ALIASES):
        # A new split without its total: the sum of the split is the total.
        for name in WRITE_ALIASES:
            merged.pop(name, None)
