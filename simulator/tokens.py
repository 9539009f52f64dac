"""Token counts as this simulator knows them: it made them up, so it never has to parse its own output."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one answer spent. Fields do not overlap, except ``reasoning``, which is within ``output``."""

    fresh: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def cache_write(self) -> int:
        """Cache writes of both lifetimes."""
        return self.cache_write_5m + self.cache_write_1h

    @property
    def prompt(self) -> int:
        """The whole input: fresh, read from cache and written to cache."""
        return self.fresh + self.cache_read + self.cache_write

    def as_dict(self) -> dict[str, int]:
        """Return the counts for JSON."""
        return asdict(self)
