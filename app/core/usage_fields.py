"""The number fields of usage objects: their many names, how they are cleaned, how a stream's are merged."""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, Final

MAX_COUNT: Final = 10**9
"""No single request uses more tokens than this: a larger number is a mistake, not a count."""

INCLUSIVE: Final = "inclusive"
"""Marks fields whose `input_tokens` came with `input_tokens_details` (Responses API: cache is inside)."""
TOTAL: Final = "total_tokens"

_READ = ("cached_tokens", "cache_read_input_tokens", "prompt_cache_hit_tokens")
_WRITE = (
    "cache_write_tokens",
    "cache_creation_tokens",
    "cached_creation_tokens",
    "cache_creation_input_tokens",
)
_5M, _1H = "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"
_INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")
# Where the split of cache writes by lifetime is found: Anthropic's own place, and what resellers put into
# details.
_SPLITS = ("cache_creation", "cache_creation_token_details")
_SPLIT_PATHS = (
    ("cache_creation",),
    *((details, split) for details in _INPUT_DETAILS for split in _SPLITS),
)

# A field's name here is its path in the usage object, joined with dots. Each group holds the aliases of one
# quantity: names for the same tokens.
READ_ALIASES: Final = (*_READ, *(f"{details}.{name}" for details in _INPUT_DETAILS for name in _READ))
WRITE_ALIASES: Final = (*_WRITE, *(f"{details}.{name}" for details in _INPUT_DETAILS for name in _WRITE))
WRITE_5M_ALIASES: Final = (
    "claude_cache_creation_5_m_tokens",
    *(".".join((*path, _5M)) for path in _SPLIT_PATHS),
)
WRITE_1H_ALIASES: Final = (
    "claude_cache_creation_1_h_tokens",
    *(".".join((*path, _1H)) for path in _SPLIT_PATHS),
)
REASONING_ALIASES: Final = (
    "reasoning_tokens",
    *(f"{details}.{name}" for details in _OUTPUT_DETAILS for name in ("reasoning_tokens", "thinking_tokens")),
)

_SPLIT_ALIASES = (*WRITE_5M_ALIASES, *WRITE_1H_ALIASES)
_INPUT_SIDE = frozenset(("prompt_tokens", "input_tokens", *READ_ALIASES, *WRITE_ALIASES, *_SPLIT_ALIASES))
_OUTPUT_SIDE = frozenset(("completion_tokens", "output_tokens", *REASONING_ALIASES))


def _top_level(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in names if "." not in name)


# Which members count, object by object.
_TOP_NAMES = _top_level(_INPUT_SIDE | _OUTPUT_SIDE | {TOTAL})
_INPUT_DETAIL_NAMES = frozenset((*_READ, *_WRITE))
_OUTPUT_DETAIL_NAMES = frozenset(("reasoning_tokens", "thinking_tokens"))
_SPLIT_NAMES = frozenset((_5M, _1H))


def highest(fields: Mapping[str, int], aliases: Iterable[str]) -> int:
    """The largest of a quantity's aliases: they name the same tokens, so they are never added."""
    return max([fields.get(name, 0) for name in aliases])


def clean_fields(raw: Mapping[str, Any]) -> tuple[dict[str, int], bool]:
    """The known counts of a usage object by path, and whether all of them were sound.

    A null is a missing value. Integers, integral floats and digit strings from 0 to `MAX_COUNT` are sound;
    anything else (booleans, NaN, fractions, negatives, absurdly large numbers, other types) is left out.
    """
    fields: dict[str, int] = {}
    is_clean = _collect(raw, "", _TOP_NAMES, fields)
    for name in _INPUT_DETAILS:
        if isinstance(details := raw.get(name), dict):
            is_clean &= _collect(details, f"{name}.", _INPUT_DETAIL_NAMES, fields)
            for split in _SPLITS:
                if isinstance(inner := details.get(split), dict):
                    is_clean &= _collect(inner, f"{name}.{split}.", _SPLIT_NAMES, fields)
    for name in _OUTPUT_DETAILS:
        if isinstance(details := raw.get(name), dict):
            is_clean &= _collect(details, f"{name}.", _OUTPUT_DETAIL_NAMES, fields)
    if isinstance(split_by_lifetime := raw.get("cache_creation"), dict):
        is_clean &= _collect(split_by_lifetime, "cache_creation.", _SPLIT_NAMES, fields)
    if isinstance(raw.get("input_tokens_details"), dict):
        fields[INCLUSIVE] = 1
    return fields, is_clean


def _collect(source: Mapping[str, Any], prefix: str, names: frozenset[str], into: dict[str, int]) -> bool:
    is_clean = True
    for name, value in source.items():
        if name in names and value is not None:
            count = clean_count(value)
            if count is None:
                is_clean = False
            else:
                into[prefix + name] = count
    return is_clean


def clean_count(value: object) -> int | None:
    """A token count from a decoded JSON value, None if it is not one."""
    is_number = type(value) is int or (type(value) is float and isfinite(value) and value.is_integer())
    is_digits = isinstance(value, str) and len(value) <= 20 and value.isascii() and value.isdigit()
    if not (is_number or is_digits):
        return None
    count = int(value)  # type: ignore[call-overload]
    return count if 0 <= count <= MAX_COUNT else None


def merge_fields(merged: dict[str, int], new: Mapping[str, int]) -> None:
    """Lay the fields of a later usage object over those seen before.

    A usage seen twice is the same usage, so nothing is added up: the latest value wins, field by field. But
    an input side, or output side, that is all zero never replaces a positive one.
    """
    before = dict(merged)
    for side in (_INPUT_SIDE, _OUTPUT_SIDE):
        fields = {name: count for name, count in new.items() if name in side}
        if any(fields.values()) or not any(count for name, count in merged.items() if name in side):
            merged.update(fields)
    _settle_writes(merged, new)
    if INCLUSIVE in new:
        merged[INCLUSIVE] = 1
    # A total is evidence about the numbers it came with, not about later ones.
    if new.get(TOTAL):
        merged[TOTAL] = new[TOTAL]
    elif merged != before:
        merged.pop(TOTAL, None)


def _settle_writes(merged: dict[str, int], new: Mapping[str, int]) -> None:
    """Keep cache writes and their split by lifetime in step where an update restated only one of them."""
    has_split = any(name in new for name in _SPLIT_ALIASES)
    has_total = any(name in new for name in WRITE_ALIASES)
    if has_total and not has_split:
        # A corrected total without a split: the old split may not exceed it. What lives for an hour stays so.
        total = highest(merged, WRITE_ALIASES)
        one_hour = highest(merged, WRITE_1H_ALIASES)
        if highest(merged, WRITE_5M_ALIASES) + one_hour > total:
            for name in _SPLIT_ALIASES:
                merged.pop(name, None)
            merged[WRITE_1H_ALIASES[0]] = min(one_hour, total)
    elif has_split and not has_total and any(new.get(name) for name in _SPLIT_ALIASES):
        # A new split without its total: the sum of the split is the total.
        for name in WRITE_ALIASES:
            merged.pop(name, None)
