"""Which requests upstreams refuse to be asked for usage on, and when they are asked again.

Streams are told their usage only where `stream_options.include_usage` is in the request, and some upstreams
know no such option: old versions, single channels behind a reseller, requests with certain members. Such a
refusal is remembered for requests of the same kind only, and for a short time: first for a second, then
twice as long each time it is met again, up to some minutes. What is forgotten can be asked for again.
"""

import re
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 300.0
# This many kinds of requests are remembered; then those are forgotten that were met longest ago.
MAX_KINDS: Final = 1000

_OPTION = re.compile(r"stream[_ .-]?options|include[_ .-]?usage", re.IGNORECASE)
# Errors with these statuses are about keys, limits and sizes.
_OF_OTHERS = frozenset((401, 402, 403, 408, 409, 413, 429))
_LOWEST_ERROR = 400


def names_option(status: int | None, body: str) -> bool:
    """Return whether an upstream's error is about having been asked for usage: it names the option."""
    if status is None or status < _LOWEST_ERROR or status in _OF_OTHERS:
        return False
    return _OPTION.search(body) is not None


@dataclass(slots=True)
class _Pause:
    until: float
    length_s: float
    noted_at: float


class RefusedOption:
    """The memory of refusals. Moments are monotonic, in seconds; a kind is whatever tells requests apart."""

    def __init__(self) -> None:
        self._pauses: OrderedDict[Hashable, _Pause] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pauses)

    def may_ask(self, kind: Hashable, now: float) -> bool:
        """Return whether usage may be asked for. After a pause, one request tries, and the others wait."""
        pause = self._pauses.get(kind)
        if pause is None:
            return True
        if now < pause.until:
            return False
        pause.until = now + pause.length_s
        return True

    def refused(self, kind: Hashable, asked_at: float, now: float) -> None:
        """Note that the upstream refused the option, and served the request without it.

        Requests that were under way together are refused together: that counts once.
        """
        known = self._pauses.get(kind)
        if known is not None and asked_at < known.noted_at:
            return
        length = FIRST_PAUSE_S if known is None else min(2 * known.length_s, LONGEST_PAUSE_S)
        self._pauses[kind] = _Pause(now + length, length, now)
        self._pauses.move_to_end(kind)
        if len(self._pauses) > MAX_KINDS:
            self._pauses.popitem(last=False)

    def taken(self, kind: Hashable) -> None:
        """Note that the upstream took the option."""
        if self._pauses:
            self._pauses.pop(kind, None)
