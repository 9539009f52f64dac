"""When a batch is due: a pure function of what was appended and of the time passed in."""

from collections.abc import Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BatchBuffer(Generic[Item]):
    """Collects items until there are enough of them or the first has waited long enough."""

    def __init__(self, max_size: int, max_age_s: float) -> None:
        if max_size < 1:
            raise ValueError("a batch holds at least one item")
        self._max_size = max_size
        self._max_age_s = max_age_s
        self._items: list[Item] = []
        self._first_at: float | None = None

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"BatchBuffer({len(self._items)}/{self._max_size})"

    @property
    def room(self) -> int:
        """How many more items fit before the batch is due."""
        return max(0, self._max_size - len(self._items))

    @property
    def first_at(self) -> float | None:
        """When the oldest item was appended; None when empty."""
        return self._first_at

    def append(self, item: Item, now: float) -> None:
        """Add an item. A full buffer takes it too: it is the caller who decides when to drain."""
        self.extend((item,), now)

    def extend(self, items: Iterable[Item], now: float) -> None:
        """Add items, of which the first is of this moment."""
        if self._first_at is None:
            self._first_at = now
        self._items += items

    def is_ready(self, now: float) -> bool:
        """Return whether the batch is due: full, or its first item is `max_age_s` old."""
        if self._first_at is None:
            return False
        return len(self._items) >= self._max_size or now - self._first_at >= self._max_age_s

    def next_deadline(self, now: float) -> float | None:
        """Return the seconds until the batch is due by age; 0 when it is due, None when there is nothing."""
        if self._first_at is None:
            return None
        if self.is_ready(now):
            return 0.0
        return self._first_at + self._max_age_s - now

    def drain(self) -> list[Item]:
        """Take everything out, oldest first."""
        items, self._items, self._first_at = self._items, [], None
        return items
