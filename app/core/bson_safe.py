"""Making JSON from outside fit for a MongoDB document, whatever it holds."""

from typing import Any

MAX_DEPTH = 6
MAX_MEMBERS = 64
MAX_TEXT = 500
_INT64 = 2**63


def bson_safe(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """A bounded copy of a JSON object that any MongoDB accepts; None stays None.

    Integers beyond 64 bits become text, names lose NUL and their `$` or `.` become `_`, and depth, breadth
    and texts are cut: a record must never be refused for what an upstream put into its usage object.
    """
    if value is None:
        return None
    return dict(_members(value, MAX_DEPTH))


def _members(value: dict[Any, Any], depth: int) -> list[tuple[str, Any]]:
    return [
        (_name(str(name)), _safe(member, depth - 1)) for name, member in list(value.items())[:MAX_MEMBERS]
    ]


def _name(name: str) -> str:
    return _text(name[:100]).replace("\0", "").replace("$", "_").replace(".", "_")


def _text(text: str) -> str:
    return text[:MAX_TEXT].encode("utf-8", "replace").decode("utf-8")


def _safe(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if -_INT64 <= value < _INT64 else str(value)[:40]
    if isinstance(value, dict):
        return dict(_members(value, depth)) if depth > 0 else None
    if isinstance(value, list):
        return [_safe(item, depth - 1) for item in value[:MAX_MEMBERS]] if depth > 0 else None
    return value if isinstance(value, bool | float | None) else str(value)[:MAX_TEXT]
