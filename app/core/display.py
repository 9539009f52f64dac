"""How stored values are shown in JSON, CSV and on pages."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.core.credentials import is_key_id, mask

_CLIENT_KEY_FIELDS = ("userKeyId", "friendKeyId", "trollKeyId")


def iso_utc(moment: datetime) -> str:
    """`2026-11-23T10:00:00.123Z`; a time without a zone is UTC, as MongoDB's are."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_ready(value: Any) -> Any:
    """A stored value as JSON can hold it: dates as ISO 8601 text, other foreign types as text."""
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


def shown_key_id(key_id: str) -> str:
    """A client key's id as it may be shown.

    Ids made by this product (`wk_…`, `user:…`, `env`) are no secrets. Existing deployments stored the key
    itself as its id: of those no more is shown than of any secret (first eight, `...`, last four).
    """
    if key_id == "env" or is_key_id(key_id) or key_id.startswith("user:"):
        return key_id
    return mask(key_id)


def shown_record(document: Mapping[str, Any]) -> dict[str, Any]:
    """A `request_logs` document as a reader may see it: `id` for `_id`, no client key in the clear."""
    shown = {"id": str(document.get("_id")), **document}
    del shown["_id"]
    for name in _CLIENT_KEY_FIELDS:
        if isinstance(shown.get(name), str):
            shown[name] = shown_key_id(shown[name])
    return {name: json_ready(value) for name, value in shown.items()}
