"""Making JSON from outside fit for a MongoDB document, whatever it holds."""

from functools import lru_cache
from itertools import islice
from typing import Any

MAX_DEPTH = 6
MAX_MEMBERS = 64
MAX_TEXT = 500
MAX_VALUES = 2000
"""How many values one object may hold in all: far below MongoDB's 16 MB, whatever they are."""
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_SHOWN_BITS = 1024
_MAX_NAME = 100


def bson_safe(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """Make a bounded copy of a JSON object that any MongoDB accepts; None stays None.

    Integers beyond 64 bits become text, names lose NUL and their `$` or `.` become `_`, and depth, breadth,
    texts and the number of values are cut: a record must never be refused for what an upstream put into its
    usage object.
    """
    return None if value is None else _Copy().members(value, MAX_DEPTH)


class _Copy:
    """One copy in the making, and how many values may still go into it."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def members(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        copy: dict[str, Any] = {}
        for name, member in islice(value.items(), MAX_MEMBERS):
            if not self._left:
                break
            self._left -= 1
            is_plain = type(member) is int and _LOWEST <= member <= _HIGHEST  # nearly all of a usage object
            copy[_name(str(name)[:_MAX_NAME])] = member if is_plain else self._value(member, depth - 1)
        return copy

    def _items(self, value: list[Any], depth: int) -> list[Any]:
        copy: list[Any] = []
        for item in value[:MAX_MEMBERS]:
            if not self._left:
                break
            self._left -= 1
            copy.append(self._value(item, depth - 1))
        return copy

    def _value(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return self.members(value, depth) if depth > 0 else None
        if isinstance(value, list):
            return self._items(value, depth) if depth > 0 else None
        return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, bool | float | None):
        return value
    if isinstance(value, int):
        if _LOWEST <= value <= _HIGHEST:
            return value
        # Python refuses to write out integers of more than a few thousand digits.
        is_shown = value.bit_length() <= _SHOWN_BITS
        return str(value)[:40] if is_shown else f"integer of {value.bit_length()} bits"
    return _text(value if isinstance(value, str) else str(value))


@lru_cache(maxsize=1024)  # there are few, and the same in every answer
def _name(name: str) -> str:
    return _text(name).replace("\0", "").replace("$", "_").replace(".", "_")


def _text(text: str) -> str:
    return text[:MAX_TEXT].encode("utf-8", "replace").decode("utf-8")
