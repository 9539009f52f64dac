"""What is charged beside tokens of text: the names that records and prices have for it, and its quantities.

Two kinds. *Tokens of other kinds* than text (`PART_OF`) are part of the counts of input, output and cache
hits, and are told beside them. *Counted units* (searches, images, seconds, characters, ...) are in no count.
Their names are open: `image:high:1024x1024` is an image of that quality and size, and a price of `image:high`
or of `image` is its price, too, where it has none of its own.
"""

from collections.abc import Mapping
from decimal import Decimal
from itertools import islice
from typing import Any, Final

from app.common.lenient_json import clean_text

Quantity = int | Decimal
"""How much of a unit, exactly: a number above 0."""

PART_OF: Final[Mapping[str, str]] = {
    "cache_hit_audio": "cache_hit",
    "cache_hit_image": "cache_hit",
    "input_audio": "input",
    "input_image": "input",
    "output_audio": "output",
    "output_image": "output",
}
"""Tokens of other kinds than text, and which count they are part of."""

WEB_SEARCH: Final = "web_search"
CODE_SESSION: Final = "code_session"
IMAGE: Final = "image"
SECOND: Final = "second"
CHARACTER: Final = "character"
SEARCH_UNIT: Final = "search_unit"

MAX_QUANTITY: Final = 10**6
"""No request uses more of a counted unit: a larger number is a mistake, not a quantity."""
MAX_CHARACTERS: Final = 10**9
"""A body may be large, and a character is a small thing."""

_MAX_NAME: Final = 40
_MAX_TOOLS: Final = 16

FREE_TOOLS: Final = ("web_fetch", "tool_search", "mcp", "advisor")
"""What tools begin with that cost tokens alone."""
TOOL_UNITS: Final = {
    "code_execution": CODE_SESSION,
    "code_interpreter": CODE_SESSION,
    "web_search_preview": WEB_SEARCH,
    "image_generation": IMAGE,
}


def clean_quantity(value: object, most: int = MAX_QUANTITY) -> Quantity | None:
    """Return a quantity from a decoded JSON value; None for 0 and for what is none, or absurdly much."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    if not 0 < value <= most:  # nor is NaN
        return None
    # A float's text is what was written: 12.5 is twelve and a half.
    return value if isinstance(value, int | Decimal) else _plain(Decimal(str(value)))


def _plain(value: Decimal) -> Quantity:
    return int(value) if value == value.to_integral_value() else value


def tool_counts(server_tool_use: object) -> dict[str, int]:
    """Return how often the tools that a vendor runs were used, by unit, without those that are free.

    `server_tool_use` is that of a usage object: `{"web_search_requests": 2}`.
    """
    counts: dict[str, int] = {}
    used = server_tool_use.items() if isinstance(server_tool_use, dict) else ()
    for key, count in islice(used, _MAX_TOOLS):
        quantity = clean_quantity(count)
        name = clean_text(str(key), _MAX_NAME).removesuffix("_requests")
        if isinstance(quantity, int) and not name.startswith(FREE_TOOLS):
            unit = TOOL_UNITS.get(name, name)
            counts[unit] = min(counts.get(unit, 0) + quantity, MAX_QUANTITY)
    return counts


def base_unit(unit: str) -> str:
    """Return the unit without what sort of it: `image` of `image:high:1024x1024`."""
    return unit.partition(":")[0]


def image_unit(quality: Any, size: Any) -> str:
    """Return the unit of an image of some quality and size, which may be unknown, and may be anything."""
    parts = [IMAGE]
    for value in (quality, size):
        is_told = isinstance(value, str) and value.isascii() and value.isalnum() and len(value) <= _MAX_NAME
        parts.append(value.lower() if is_told else "auto")
    while parts[-1] == "auto":
        parts.pop()
    return ":".join(parts)
