"""The model list, in both formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simulator.answer import FIXED_CREATED
from simulator.call import ANTHROPIC

DEFAULT_MODELS = (
    "gpt-5.6",
    "gpt-5.6-sol",
    "gpt-5.4-mini",
    "claude-opus-5",
    "claude-sonnet-5",
    "claude-haiku-4-5",
    "vendor/model with space",
)


def model_document(model: str, wire_format: str) -> dict[str, Any]:
    """Return one model."""
    if wire_format == ANTHROPIC:
        return {
            "type": "model",
            "id": model,
            "display_name": model.title(),
            "created_at": "2026-01-01T00:00:00Z",
            "lifecycle": "active",
        }
    return {"id": model, "object": "model", "created": FIXED_CREATED, "owned_by": "simulator"}


def model_list(models: Sequence[str], wire_format: str, params: Mapping[str, str]) -> dict[str, Any]:
    """Return all models; the Anthropic list pages with ``limit``, ``after_id`` and ``before_id``."""
    if wire_format != ANTHROPIC:
        return {"object": "list", "data": [model_document(model, wire_format) for model in models]}
    ids = list(models)
    if params.get("after_id") in ids:
        ids = ids[ids.index(params["after_id"]) + 1 :]
    if params.get("before_id") in ids:
        ids = ids[: ids.index(params["before_id"])]
    limit = int(params["limit"]) if params.get("limit", "").isdigit() else 20
    page = ids[:limit]
    return {
        "data": [model_document(model, wire_format) for model in page],
        "has_more": len(ids) > limit,
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
    }
