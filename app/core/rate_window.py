"""Requests per minute in fixed windows: the decision as a function of counts and time."""

import math

from app.core.ports import RateDecision

WINDOW_S = 60


def window_start(now: float) -> int:
    """The epoch second at which the current window began; the same on every host."""
    return int(now) // WINDOW_S * WINDOW_S


def decide(used: int, limit: int, now: float) -> RateDecision:
    """Whether a request passes after `used` others in the window of `now` (epoch seconds)."""
    reset_at = window_start(now) + WINDOW_S
    allowed = used < limit
    return RateDecision(
        allowed=allowed,
        limit=limit,
        remaining=limit - used - 1 if allowed else 0,
        reset_at=reset_at,
        retry_after_s=max(1, math.ceil(reset_at - now)),
    )
