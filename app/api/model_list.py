"""The model list in both shapes, answered from the model table."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from app.accounts.principal import Principal
from app.exchange.admission import unknown_model
from app.pricing.model import Model
from app.pricing.model_table import ModelTable
from app.wires.errors import invalid_body
from app.wires.wire_format import WireFormat

# The table knows no release dates, and SDKs want one: the same for all models.
_CREATED = 1_760_000_000
_CREATED_TEXT = "2025-10-09T08:53:20Z"

# OpenAI's list tells no sizes, and every client looks for them under a name of its own: vLLM's, OpenRouter's,
# LiteLLM's, LM Studio's. What the table does not say is left out, so that clients go by what they know.
_WINDOW = ("context_window", "context_length", "max_model_len", "max_input_tokens")
_OUTPUT = ("max_output_tokens", "max_completion_tokens")

_DEFAULT_PAGE = 20
_LARGEST_PAGE = 1000


class ModelList:
    """Renders the table for `GET /v1/models` and `/v1/models/{id}`."""

    def __init__(self, table: ModelTable) -> None:
        self._table = table

    def listing(self, wire_format: WireFormat, query: Mapping[str, str], caller: Principal) -> bytes:
        """List the models the caller may use; Anthropic's list is paged by `limit`, `after_id`, `before_id`.

        Callers without a credit balance see those without a price, too, that they may use.
        """
        models = self._table.models if caller.is_metered else (*self._table.models, *self._table.beside())
        models = tuple(model for model in models if caller.allows_model(model.id))
        if wire_format is WireFormat.OPENAI:
            return msgspec.json.encode({"object": "list", "data": [_openai(model) for model in models]})
        return msgspec.json.encode(_page(models, query))

    def one(self, wire_format: WireFormat, model_id: str, caller: Principal) -> bytes:
        """Return one model by id or alias; raises a 404 `Refusal`."""
        model = self._table.resolve(model_id)
        if model is None and not caller.is_metered:
            model = self._table.unpriced(model_id)
        if model is None or not caller.allows_model(model.id):
            raise unknown_model(model_id, self._table)
        return msgspec.json.encode(_openai(model) if wire_format is WireFormat.OPENAI else _anthropic(model))


def _page(models: Sequence[Model], query: Mapping[str, str]) -> dict[str, Any]:
    limit = query.get("limit", str(_DEFAULT_PAGE))
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= _LARGEST_PAGE):
        raise invalid_body(f"limit: takes a number from 1 to {_LARGEST_PAGE}", "limit")
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
    shown: dict[str, Any] = {
        "id": model.id,
        "object": "model",
        "created": _CREATED,
        "owned_by": "weir",
        "name": model.name,
        "display_name": model.name,
    }
    if model.says_window:
        shown |= dict.fromkeys(_WINDOW, model.context_window)
    if model.says_output:
        shown |= dict.fromkeys(_OUTPUT, model.max_output)
    return shown


def _anthropic(model: Model) -> dict[str, Any]:
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.name,
        "created_at": _CREATED_TEXT,
        "lifecycle": "active",
        "max_input_tokens": model.context_window if model.says_window else None,
        "max_tokens": model.max_output if model.says_output else None,
    }
