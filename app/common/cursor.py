"""Where a page of a list ended: the one cursor of all lists, whose next page begins after it."""

import base64
import binascii
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

NEWEST_FIRST: Final = ""
"""The order of most lists; a list with several orders names the others."""

_LATEST_MS = 2**47
_NATIVE_ID_DIGITS = 24
_HEX = frozenset("0123456789abcdef")


class FilterError(ValueError):
    """A filter value that cannot be used; `field` is the parameter's name, the text says what it takes."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass(frozen=True, slots=True)
class PageCursor:
    """The last entry of a page: what the list is sorted by (`key`), and the entry's id among equals.

    `key` is the entry's time in epoch milliseconds where the newest come first, and a float in other orders.
    Ids are texts, or, with `is_native_id`, made by MongoDB: those sort after all texts.
    """

    key: float
    entry_id: str
    is_native_id: bool = False
    order: str = NEWEST_FIRST

    @property
    def moment(self) -> datetime:
        """The last entry's time, where the newest come first."""
        return datetime.fromtimestamp(self.key / 1000, UTC)

    def encode(self) -> str:
        """Return the cursor as opaque text, fit for a URL."""
        named = [self.order] if self.order else []
        content = json.dumps([self.key, self.entry_id, self.is_native_id, *named], separators=(",", ":"))
        return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, order: str = NEWEST_FIRST) -> Self:
        """Read what `encode` made in this order; raises `FilterError` for anything else."""
        try:
            padded = text + "=" * (-len(text) % 4)
            content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            key, entry_id, is_native_id, *named = content
        except (ValueError, TypeError, RecursionError, binascii.Error):
            raise _unknown() from None
        if named != ([order] if order else []) or not _is_key(key, order):
            raise _unknown()
        if not isinstance(is_native_id, bool) or not _is_id(entry_id, is_native_id):
            raise _unknown()
        return cls(key, entry_id, is_native_id, order)

    @classmethod
    def parse(cls, text: str | None, order: str = NEWEST_FIRST) -> Self | None:
        """Read a parameter; left out or empty, it is None: the first page. Raises `FilterError`."""
        return cls.decode(text, order) if text else None


def _unknown() -> FilterError:
    return FilterError("cursor", "is not one that was handed out as nextCursor of this list")


def _is_key(key: Any, order: str) -> bool:
    if order == NEWEST_FIRST:
        return type(key) is int and 0 <= key < _LATEST_MS
    return type(key) is float and math.isfinite(key)


def _is_id(entry_id: Any, is_native_id: bool) -> bool:
    if not isinstance(entry_id, str):
        return False
    if is_native_id:
        return len(entry_id) == _NATIVE_ID_DIGITS and _HEX.issuperset(entry_id)
    try:
        entry_id.encode()  # half a character, as JSON's escapes can make it, no store takes
    except UnicodeEncodeError:
        return False
    return True
