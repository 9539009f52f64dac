"""The upstream's catalogue, `GET /v1/models`: read, and compared with the model table. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from app.pricing.model_table import ModelTable

MAX_BODY: Final = 4 * 1024 * 1024
"""The largest answer that is read, in bytes."""
MAX_MODELS: Final = 2000
MAX_ID: Final = 200
"""How long an id may be, in characters. Longer ones, and those with control characters, are left out."""


class CatalogueError(ValueError):
    """The answer is no list of models; the message is one line for an operator."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The catalogue beside the table.

    `new` are offered and in no entry of the table, `gone` are entries whose upstream id is not offered, and
    `unpriced` are offered and in the table, where everything about them costs nothing. `agreeing` counts the
    offered ones that are in the table with a price.
    """

    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    unpriced: tuple[str, ...] = ()
    agreeing: int = 0

    @property
    def is_even(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.new or self.gone or self.unpriced)


def offered_ids(body: bytes) -> tuple[str, ...]:
    """Read the ids of a list of models in OpenAI's or Anthropic's shape, sorted; raises `CatalogueError`."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CatalogueError("its list of models is not JSON") from None
    entries = document.get("data") if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise CatalogueError("its answer has no list of models")
    if len(entries) > MAX_MODELS:
        raise CatalogueError(f"its list has more than {MAX_MODELS} models")
    ids = {entry.get("id") for entry in entries if isinstance(entry, dict) and _is_id(entry.get("id"))}
    if not ids:
        raise CatalogueError("its list names no model")
    return tuple(sorted(str(model_id) for model_id in ids))


def _is_id(value: object) -> bool:
    return (
        isinstance(value, str) and 0 < len(value) <= MAX_ID and value.isprintable() and value == value.strip()
    )


def compare(models: ModelTable, offered: Iterable[str]) -> Comparison:
    """Compare the table with the ids that the upstream offers."""
    known = frozenset(offered)
    new, unpriced, agreeing = [], [], 0
    for model_id in sorted(known):
        model = models.named(model_id)
        if model is None:
            new.append(model_id)
        elif not any(model.price.unit_rates().values()):
            unpriced.append(model_id)
        else:
            agreeing += 1
    gone = sorted(model.id for model in models if model.upstream_id not in known)
    return Comparison(tuple(new), tuple(gone), tuple(unpriced), agreeing)
