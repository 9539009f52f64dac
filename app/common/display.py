"""How stored values are shown in JSON, CSV and on pages."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def iso_utc(moment: datetime) -> str:
    """Format a time as `2026-11-23T10:00:00.123Z`; one without a zone is UTC, as MongoDB's are."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_ready(value: Any) -> Any:
    """Turn a stored value into what JSON can hold: dates as ISO 8601 text, other foreign types as text."""
    if isinstance(value, Mapping):
        return {str(name): json_ready(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, datetime):
        return iso_utc(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)


def counted(count: int, things: str, *, one: str | None = None) -> str:
    """Say how many things there are: "1 key", "1,200 keys".

    `one` is said of a single thing, where that is not its plural without the ending.
    """
    return f"{count:,} {things if count != 1 else one or _singular(things)}"


def _singular(things: str) -> str:
    if things.endswith("ies"):
        return f"{things[:-3]}y"
    return things[:-2] if things.endswith("sses") else things.removesuffix("s")
