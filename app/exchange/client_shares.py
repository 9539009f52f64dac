"""What one client key may take of a worker at a time: requests that run, and bytes of request bodies.

Both are counted while they are held. No key may have all of them, so that whoever fills theirs is refused
alone; and the bytes of all keys together have a bound, since memory has.
"""

from dataclasses import dataclass

from app.wires import errors
from app.wires.errors import Refusal

_RETRY_S = 2
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ShareLimits:
    """The most of a worker: `bytes_held` by all keys, `key_bytes` and `key_requests` by one."""

    bytes_held: int
    key_bytes: int
    key_requests: int


NO_LIMITS = ShareLimits(2**62, 2**62, 2**62)


class ClientShares:
    """Counts for all requests of a worker."""

    __slots__ = ("_keys", "_limits", "bytes_held")

    def __init__(self, limits: ShareLimits = NO_LIMITS) -> None:
        self._limits = limits
        self._keys: dict[str, list[int]] = {}
        self.bytes_held = 0

    def __len__(self) -> int:
        return len(self._keys)

    def enter(self, key_id: str) -> "Share":
        """Let a request of this key begin; raises a 429 `Refusal` where as many run as may."""
        counts = self._keys.get(key_id)
        if counts is None:
            counts = self._keys[key_id] = [0, 0]
        elif counts[0] >= self._limits.key_requests:
            raise Refusal(
                errors.RATE_LIMITED,
                f"{counts[0]} requests of your key are running. Try again when some have ended.",
                retry_after_s=_RETRY_S,
            )
        counts[0] += 1
        return Share(self, key_id, counts)

    def take(self, counts: list[int], size: int) -> None:
        """Count more bytes for a key; raises a `Refusal`, 429 or 503, where that is too much."""
        limits = self._limits
        if counts[1] + size > limits.key_bytes:
            raise Refusal(
                errors.RATE_LIMITED,
                f"The running requests of your key have sent {limits.key_bytes // _MB} MB. "
                "Try again when some have been answered.",
                retry_after_s=_RETRY_S,
            )
        if self.bytes_held + size > limits.bytes_held:
            raise Refusal(
                errors.NO_PLACE, "The proxy holds as many requests as it can.", retry_after_s=_RETRY_S
            )
        counts[1] += size
        self.bytes_held += size

    def give_back(self, counts: list[int], size: int) -> None:
        """Count `size` bytes less for a key."""
        counts[1] -= size
        self.bytes_held -= size

    def leave(self, key_id: str, counts: list[int]) -> None:
        """Count a request of this key as ended."""
        counts[0] -= 1
        if not counts[0]:
            del self._keys[key_id]


class Share:
    """What one request holds."""

    __slots__ = ("_counts", "_key_id", "_shares", "_size")

    def __init__(self, shares: ClientShares, key_id: str, counts: list[int]) -> None:
        self._shares: ClientShares | None = shares
        self._key_id = key_id
        self._counts = counts
        self._size = 0

    def take(self, size: int) -> None:
        """Hold `size` bytes more; raises a `Refusal`."""
        assert self._shares is not None  # noqa: S101  (it runs)
        self._shares.take(self._counts, size)
        self._size += size

    def give_back(self, size: int) -> None:
        """Hold `size` bytes less."""
        assert self._shares is not None  # noqa: S101
        self._shares.give_back(self._counts, size)
        self._size -= size

    def drop_body(self) -> None:
        """Hold no bytes any more: the answer is there, and nothing will be sent again."""
        if self._size:
            self.give_back(self._size)

    def leave(self) -> None:
        """Give all of the share back: the request is over. Idempotent."""
        shares = self._shares
        if shares is not None:
            self.drop_body()
            self._shares = None
            shares.leave(self._key_id, self._counts)
