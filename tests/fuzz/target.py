"""What a target is, and how the bytes that a fuzzer makes up become the arguments of one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """A reader under test. `check` raises when something it promises does not hold for these bytes.

    `seeds` are inputs to begin with, `words` what is worth putting into one.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    words: tuple[bytes, ...] = ()
    max_bytes: int = 2048


class Material:
    """An input: some bytes that choose, one each, and the rest, which is read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """The next byte; 0 behind the end."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def one_of(self, options: Sequence[T]) -> T:
        """One of these."""
        return options[self.byte() % len(options)]

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._data)

    def rest(self) -> bytes:
        """All that is left."""
        return self._data[self._at :]


def cut(data: bytes, seed: int) -> list[bytes]:
    """The same bytes in pieces whose sizes depend on the seed: single bytes with 0, half of them small."""
    if seed == 0:
        return [data[at : at + 1] for at in range(len(data))]
    pieces = []
    at, state = 0, seed
    while at < len(data):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        size = 1 + (state >> 16) % (4 if state >> 30 else 64)
        pieces.append(data[at : at + size])
        at += size
    return pieces
