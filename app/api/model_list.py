"""The model list in both shapes, answered from the model table."""

from collections.abc import Mapping
from typing import Any

import msgspec

from app.core import errors
from app.core.errors import Refusal, invalid_body
from app.core.pricing import Model, ModelTable
from app.core.wire_format import WireFormat

_CREATED = 1_760_000_000
"""The table knows no release dates, and SDKs want one: the same for all models."""
_CREATED_TEXT = "2025-10-09T08:53:20Z"

_DEFAULT_PAGE = 20
_LARGEST_PAGE = 1000


class ModelList:
    """Renders the table for `GET /v1/models` and `/v1/models/{id}`."""

    def __init__(self, table: ModelTable) -> None:
        self._table = table

    def listing(self, wire_format: WireFormat, query: Mapping[str, str]) -> bytes:
        """All models; Anthropic's list is paged by `limit`, `after_id` and `before_id`."""
        if wire_format is WireFormat.OPENAI:
            return msgspec.json.encode({"object": "list", "data": [_openai(model) for model in self._table]})
        return msgspec.json.encode(self._page(query))

    def one(self, wire_format: WireFormat, model_id: str) -> bytes:
        """One model by id or alias; raises a 404 `Refusal`."""
        model = self._table.resolve(model_id)
        if model is None:
            raise Refusal(
                errors.UNKNOWN_MODEL, f"The model {model_id[:200]!r} does not exist.", param="model"
            )
        return msgspec.json.encode(_openai(model) if wire_format is WireFormat.OPENAI else _anthropic(model))

    def _page(self, query: Mapping[str, str]) -> dict[str, Any]:
        limit = query.get("limit", str(_DEFAULT_PAGE))
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= _LARGEST_PAGE):
            raise invalid_body(f"limit: takes a number from 1 to {_LARGEST_PAGE}", "limit")
        models = self._table.models
        ids = [model.id for model in models]
        start, end = 0, len(ids)
        if (after := query.get("after_id")) in ids:
            start = ids.index(after) + 1
        if (before := query.get("before_id")) in ids:
            end = ids.index(before)
            start = max(start, end - int(limit))
        page = models[start : min(end, start + int(limit))]
        return {
            "data": [_anthropic(model) for model in page],
            "has_more": (start > 0) if before in ids else (start + len(page) < end),
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }


def _openai(model: Model) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": _CREATED, "owned_by": "weir"}


def _anthropic(model: Model) -> dict[str, Any]:
    return {"type": "model", "id": model.id, "display_name": model.name, "created_at": _CREATED_TEXT}
