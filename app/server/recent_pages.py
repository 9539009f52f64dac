"""Pages that are dear to draw and open to strangers: a few are drawn in a second, and then given again.

Whoever asks now and then gets a page of now. Whoever asks without pause costs no more than those few.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_A_SECOND = 1.0


@dataclass(slots=True)
class _Drawn(Generic[V]):
    """The last page of a kind, and how many there were since when."""

    page: V
    since: float
    count: int


class RecentPages(Generic[K, V]):
    """The last page of each kind; callers see to it that there are few kinds."""

    def __init__(self, draws: int, monotonic: Callable[[], float]) -> None:
        self._draws = draws
        self._monotonic = monotonic
        self._last: dict[K, _Drawn[V]] = {}

    def get(self, kind: K, draw: Callable[[], V]) -> V:
        """Return a page of this kind: anew, or, if `draws` were drawn within a second, the last of them."""
        now = self._monotonic()
        last = self._last.get(kind)
        if last is None or now - last.since >= _A_SECOND:
            last = self._last[kind] = _Drawn(draw(), now, 1)
        elif last.count < self._draws:
            last.count += 1
            last.page = draw()
        return last.page
