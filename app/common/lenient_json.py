"""Reading JSON that upstreams should not have sent.

The hot path decodes with msgspec, which is strict. What it refuses is tried again here, so that one odd
member (`NaN`, an unpaired surrogate, a control character, a broken byte) does not cost the usage beside it.
"""

import json
from typing import Any

MAX_TEXT = 500
_MAX_INT_DIGITS = 400


def loads_lenient(data: bytes) -> Any:
    """Decode JSON, accepting NaN, unpaired surrogates, control characters, broken UTF-8 and a BOM.

    Raises ValueError for everything that still is not JSON, including nesting too deep to follow.
    """
    try:
        return json.loads(data.decode("utf-8-sig", "replace"), strict=False, parse_int=_parse_int)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _parse_int(digits: str) -> int | float:
    # int() refuses more than 4,300 digits with an error that would hide the rest of the object.
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else float("inf")


def clean_text(value: str, limit: int = MAX_TEXT) -> str:
    """Return at most `limit` characters of `value`, without the unpaired surrogates no database encodes."""
    return value[:limit].encode("utf-8", "replace").decode("utf-8")
