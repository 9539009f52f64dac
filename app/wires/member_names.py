"""Names of a body's members that another reader may take for ones that matter.

Some JSON readers match names in any case, overlook `_` and `-`, or end them at a control character, and of
several that match the last one counts. What they understand and the proxy does not would be served and not
metered. So a name that reads like one of those below, and is not it to the letter, is refused.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from app.wires.errors import invalid_body

MATTERING: Final = frozenset(
    (
        *("model", "messages", "stream", "stream_options", "include_usage", "n", "best_of"),
        *("input", "instructions", "prompt", "background", "background_options", "prompt_cache_options"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "prediction", "thinking"),
        *("service_tier", "speed", "inference_geo", "tools", "functions", "modalities", "audio", "container"),
        *("web_search_options", "search_parameters", "mcp_servers", "context_management", "cache_control"),
        *("plugins", "models", "route", "fallbacks", "previous_response_id", "conversation", "items"),
        *("background", "store", "quality", "size", "documents", "stream_format", "max_tool_calls"),
        *("enable_search", "data_sources"),
    )
)
"""What decides whether an answer is metered, by which model, how much it may be, and what it goes on with."""

# In characters; a longer name is nobody's, and not worth the time of looking into it.
LONGEST_NAME: Final = 256

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def refuse_lookalikes(names: Iterable[str]) -> None:
    """Raise a 400 `Refusal` for a name that some readers take for one that matters."""
    for name in names:
        if len(name) > LONGEST_NAME:
            raise invalid_body(f"a member's name is longer than {LONGEST_NAME} characters", name[:80])
        if name not in MATTERING and (meant := _OF_BODIES.meant(name)) is not None:
            shown = name[:80]
            raise invalid_body(f"the member {shown!r} is not spelled {meant!r}: remove or rename it", shown)


class Lookalikes:
    """Tells which of some names another reader may take a name for."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_folded = {_folded(name): name for name in names}
        self._cached = lru_cache(1024)(self._find)

    def meant(self, name: str) -> str | None:
        """Return the name that this one is, or may be taken for; None: none of them."""
        return self._cached(name) if len(name) <= LONGEST_NAME else None

    def _find(self, name: str) -> str | None:
        whole, start = _folded(name), _folded(_CONTROL.split(name, maxsplit=1)[0])
        return self._by_folded.get(whole) or self._by_folded.get(start)


def _folded(name: str) -> str:
    """Return the letters and digits alone, in one case; also for letters such as U+017F and U+212A."""
    return "".join(filter(str.isalnum, name.casefold()))


_OF_BODIES = Lookalikes(MATTERING)
