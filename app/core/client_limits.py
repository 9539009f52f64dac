"""How long a client may take for each part of its request, and to take in its answer.

Without these a connection that stalls would be held for as long as its client likes (slowloris). What a
connection waits for is a phase: a request at all, the rest of its head, its body, the rest of a body that
nobody wants. Time is monotonic seconds, passed in.
"""

from dataclasses import dataclass
from enum import Enum


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


class Phase(Enum):
    """What is waited for."""

    REQUEST = "request"
    HEAD = "head"
    BODY = "body"
    REST = "rest"


class Patience:
    """Says how long to wait for a client's next bytes."""

    __slots__ = ("_limits", "_until", "phase")

    def __init__(self, limits: ClientLimits, now: float) -> None:
        self._limits = limits
        self.phase = Phase.REQUEST
        self._until = now + limits.head_s

    def __repr__(self) -> str:
        return f"Patience({self.phase.value}, until {self._until:.3f})"

    def expect_request(self, now: float) -> None:
        """The connection is kept for another request."""
        self.phase = Phase.REQUEST
        self._until = now + self._limits.idle_s

    def expect_body(self, now: float) -> None:
        """The head is there, the body may follow."""
        self.phase = Phase.BODY
        self._until = now + self._limits.body_s

    def expect_rest(self, now: float) -> None:
        """The request was answered before its body was read: what is left of it is skipped."""
        self.phase = Phase.REST
        self._until = now + self._limits.rest_s

    def received(self, size: int, now: float) -> None:
        """So many bytes came."""
        if self.phase is Phase.REQUEST:
            self.phase = Phase.HEAD
            self._until = now + self._limits.head_s
        elif self.phase is Phase.BODY:
            self._until += size / self._limits.min_rate

    def left_s(self, now: float) -> float:
        """How long to wait for the next bytes; 0 or less: not any more."""
        left = self._until - now
        return min(left, self._limits.body_s) if self.phase is Phase.BODY else left
