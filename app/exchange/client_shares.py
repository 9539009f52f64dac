"""What one client may take of a worker at a time: requests that run, and bytes of request bodies.

Both are counted while they are held. Nobody may have all of them, so that whoever fills theirs is refused
alone; and the bytes of all together have a bound, since memory has. Users make keys of their own: what
another key could have beside the first has a bound for the user.
"""

from dataclasses import dataclass

from app.wires import errors
from app.wires.errors import Refusal

_RETRY_S = 2
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ShareLimits:
    """The most of a worker: `bytes_held` by all, `user_bytes` and `user_requests` by one user's keys.

    `key_bytes` is what one of these may hold.
    """

    bytes_held: int
    user_bytes: int
    key_bytes: int
    user_requests: int


NO_LIMITS = ShareLimits(2**62, 2**62, 2**62, 2**62)


class _Held:
    """What the requests of a user, or of a key, hold."""

    __slots__ = ("requests", "size")

    def __init__(self) -> None:
        self.requests = 0
        self.size = 0


class ClientShares:
    """Counts for all requests of a worker."""

    __slots__ = ("_keys", "_limits", "_users", "bytes_held")

    def __init__(self, limits: ShareLimits = NO_LIMITS) -> None:
        self._users: dict[str, _Held] = {}
        self._keys: dict[str, _Held] = {}
        self._limits = limits
        self.bytes_held = 0

    def __len__(self) -> int:
        """Return how many users and keys hold something."""
        return len(self._users) + len(self._keys)

    def enter(self, user_id: str, key_id: str) -> "Share":
        """Let a request of this user's key begin; raises a 429 `Refusal` where as many run as may."""
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = _Held()
        elif user.requests >= self._limits.user_requests:
            raise Refusal(
                errors.RATE_LIMITED,
                f"{user.requests} requests of yours are running. Try again when some have ended.",
                retry_after_s=_RETRY_S,
            )
        key = self._keys.get(key_id)
        if key is None:
            key = self._keys[key_id] = _Held()
        user.requests += 1
        key.requests += 1
        return Share(self, (user_id, user), (key_id, key))

    def take(self, user: _Held, key: _Held, size: int) -> None:
        """Count more bytes; raises a `Refusal`, 429 or 503, where that is too much."""
        limits = self._limits
        for held, most, whose in ((key, limits.key_bytes, "your key"), (user, limits.user_bytes, "yours")):
            if held.size + size > most:
                raise Refusal(
                    errors.RATE_LIMITED,
                    f"The running requests of {whose} have sent {most // _MB} MB. "
                    "Try again when some have been answered.",
                    retry_after_s=_RETRY_S,
                )
        if self.bytes_held + size > limits.bytes_held:
            raise Refusal(
                errors.NO_PLACE, "The proxy holds as many requests as it can.", retry_after_s=_RETRY_S
            )
        self.count(user, key, size)

    def count(self, user: _Held, key: _Held, size: int) -> None:
        """Count `size` bytes more, or less."""
        user.size += size
        key.size += size
        self.bytes_held += size

    def leave(self, user: tuple[str, _Held], key: tuple[str, _Held]) -> None:
        """Count a request as ended."""
        for counts, (name, held) in ((self._users, user), (self._keys, key)):
            held.requests -= 1
            if not held.requests:
                del counts[name]


class Share:
    """What one request holds."""

    __slots__ = ("_key", "_shares", "_size", "_user")

    def __init__(self, shares: ClientShares, user: tuple[str, _Held], key: tuple[str, _Held]) -> None:
        self._shares: ClientShares | None = shares
        self._user = user
        self._key = key
        self._size = 0

    def take(self, size: int) -> None:
        """Hold `size` bytes more; raises a `Refusal`."""
        assert self._shares is not None  # noqa: S101  (it runs)
        self._shares.take(self._user[1], self._key[1], size)
        self._size += size

    def give_back(self, size: int) -> None:
        """Hold `size` bytes less."""
        assert self._shares is not None  # noqa: S101
        self._shares.count(self._user[1], self._key[1], -size)
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
            shares.leave(self._user, self._key)
