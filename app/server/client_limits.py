"""How long a client may take for each part of its request, and to take in its answer.

Without these a connection that stalls would be held for as long as its client likes (slowloris). What a
connection waits for is a phase: a request at all, the rest of its head, its body, the rest of a body that
nobody wants. Time is monotonic seconds, passed in.
"""

from dataclasses import dataclass
from enum import Enum
from math import inf


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Seconds a client is waited for.

    `idle_s` for the next request of a kept connection, `head_s` for a head from its first byte to its last
    (and for a new connection's first byte), `body_s` for more of a body, `write_s` for the taking of one
    piece of an answer (64 KiB at most).
    """

    idle_s: float = 75.0
    head_s: float = 20.0
    body_s: float = 30.0
    write_s: float = 60.0
    rest_s: float = 5.0
    min_rate: float = 1000.0
    """Bytes per second: a body that comes more slowly than this runs out of time after `body_s`."""
    whole_bodies: int = 10
    """The longest that a body may take as a whole, however fast it comes, in multiples of `body_s`."""


class Phase(Enum):
    """What is waited for."""

    REQUEST = "request"
    HEAD = "head"
    BODY = "body"
    REST = "rest"


class ClientDeadlines:
    """Says how long to wait for a client's next bytes."""

    __slots__ = ("_limits", "_until", "_whole_until", "phase")

    def __init__(self, limits: ClientLimits, now: float) -> None:
        self._limits = limits
        self.phase = Phase.REQUEST
        self._until = now + limits.head_s
        self._whole_until = self._until

    def __repr__(self) -> str:
        return f"ClientDeadlines({self.phase.value}, until {self._until:.3f})"

    def expect_request(self, now: float) -> None:
        """Note that the connection is kept for another request."""
        self.phase = Phase.REQUEST
        self._until = now + self._limits.idle_s

    def expect_body(self, now: float) -> None:
        """Note that the head is there, and the body may follow."""
        self.phase = Phase.BODY
        self._until = now + self._limits.body_s
        self._whole_until = now + self._limits.whole_bodies * self._limits.body_s

    def expect_rest(self, now: float) -> None:
        """Note that the request was answered before its body was read: what is left of it is skipped."""
        self.phase = Phase.REST
        self._until = now + self._limits.rest_s

    def received(self, size: int, now: float) -> None:
        """Note that `size` bytes came."""
        if self.phase is Phase.REQUEST:
            self.phase = Phase.HEAD
            self._until = now + self._limits.head_s
        elif self.phase is Phase.BODY:
            # What came fast is no reason to wait for longer than usual now.
            limits = self._limits
            self._until = min(self._until + size / limits.min_rate, now + limits.body_s, self._whole_until)

    def give_up(self) -> None:
        """Wait for nothing more: the place is needed for another connection."""
        self._until = -inf

    @property
    def until(self) -> float:
        """Until when it is waited for the next bytes: the earlier, the more slowly the body has come."""
        return self._until

    def left_s(self, now: float) -> float:
        """Return how long to wait for the next bytes; 0 or less: not any more."""
        return self._until - now
