"""Records as their readers may see them."""

from collections.abc import Mapping
from typing import Any

from app.accounts.credentials import shown_key_id
from app.common.display import json_ready

_CLIENT_KEY_FIELDS = ("userKeyId", "friendKeyId", "trollKeyId")

# How a record was booked, which says nothing about the request.
_INTERNAL_FIELDS = ("writerId", "seq")


def shown_record(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `request_logs` document as a reader may see it: `id` for `_id`, no client key in the clear."""
    shown = {"id": str(document.get("_id")), **document}
    for name in ("_id", *_INTERNAL_FIELDS):
        shown.pop(name, None)
    if isinstance(settles := shown.get("settles"), Mapping) and "items" in settles:
        # Hundreds of them, each with its figures: what they add up to is in the record.
        items = settles["items"]
        shown["settles"] = {**settles, "items": len(items) if isinstance(items, list) else 0}
    for name in _CLIENT_KEY_FIELDS:
        if isinstance(shown.get(name), str):
            shown[name] = shown_key_id(shown[name])
    return {name: json_ready(value) for name, value in shown.items()}
