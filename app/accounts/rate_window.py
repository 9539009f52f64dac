"""Requests per minute in fixed windows: the decision as a function of counts and time."""

import math
from typing import Protocol

import msgspec

WINDOW_S = 60


class RateDecision(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a rate check and what the `X-RateLimit-*` headers say.

    `reset_at` is in whole epoch seconds, when the window ends; `retry_after_s` is how long from now until
    a request can pass again (1 or more), meant for a refused one.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_at: int
    retry_after_s: int


class RateLimiter(Protocol):
    """Requests per minute and client key; `failed_open` counts those that passed unchecked."""

    failed_open: int

    def hit(self, key_id: str, limit: int, cost: int = 1) -> RateDecision:
        """Count one request; `limit` is in requests per minute. With `cost` 0, only look."""


def window_start(now: float) -> int:
    """Return the epoch second at which the current window began; the same on every host."""
    return int(now) // WINDOW_S * WINDOW_S


def decide(used: int, limit: int, now: float) -> RateDecision:
    """Decide whether a request passes after `used` others in the window of `now` (epoch seconds)."""
    reset_at = window_start(now) + WINDOW_S
    allowed = used < limit
    return RateDecision(
        allowed=allowed,
        limit=limit,
        remaining=limit - used - 1 if allowed else 0,
        reset_at=reset_at,
        retry_after_s=max(1, math.ceil(reset_at - now)),
    )
