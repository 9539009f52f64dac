"""How many lines of one kind a log gets: what strangers cause without end is said a few times, then summed.

A kind is a place in the code, not what is said there: so there are few. Times are seconds, passed in.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

WINDOW_S = 60
MOST_LINES = 50
"""How many lines of one kind are written in `WINDOW_S`."""

_MOST_KINDS = 500


@dataclass(slots=True)
class _Said:
    since: float
    lines: int = 0
    left_out: int = 0


class Repeats(Generic[K]):
    """Says which lines are written, and how many were not."""

    def __init__(self) -> None:
        self._said: dict[K | None, _Said] = {}
        self._summed: set[K | None] = set()

    def take(self, kind: K, now: float) -> tuple[bool, list[tuple[K | None, int]]]:
        """Return whether to write a line of this kind, and the sums of left-out lines to write before it."""
        sums = self.due(now)
        known: K | None = kind
        if kind not in self._said and len(self._said) >= _MOST_KINDS:
            known = None  # all further kinds together
        said = self._said.get(known)
        if said is None or not 0 <= now - said.since < WINDOW_S:
            said = self._said[known] = _Said(now)
        if said.lines < MOST_LINES:
            said.lines += 1
            return True, sums
        said.left_out += 1
        self._summed.add(known)
        return False, sums

    def due(self, now: float | None = None) -> list[tuple[K | None, int]]:
        """Take the kinds and numbers of lines left out in windows that are over; without `now` in all."""
        over = [
            kind for kind in self._summed if now is None or not 0 <= now - self._said[kind].since < WINDOW_S
        ]
        self._summed.difference_update(over)
        return [(kind, self._said.pop(kind).left_out) for kind in over]
