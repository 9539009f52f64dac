"""What a client key and its user may do at a time: tokens a minute, requests at once, models, addresses.

Counts are exchanged between workers twice a second (`app.accounts.rate_limiter`), whatever storage counts the
requests a minute. Nothing of this concerns a caller without limits.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Raw

from app.accounts.limits import Limits
from app.accounts.principal import Principal
from app.accounts.rate_limiter import SharedRateLimiter
from app.accounts.rate_window import RateDecision
from app.wires import errors
from app.wires.errors import Refusal
from app.wires.orders import other_models_in

_RETRY_S: Final = 1
"""When to try again where too many requests run: nobody knows when one of them ends."""

ALL_KEYS: Final = "all:"
"""What is before a user's name where all of their keys are counted together; no key's id begins so."""


class CallerLimits:
    """Enforces the limits of all callers of a worker."""

    def __init__(self, counts: SharedRateLimiter) -> None:
        self._counts = counts

    def enter(self, principal: Principal) -> "HeldLimits | None":
        """Let a request begin; raises a 429 `Refusal` where as many run as may. None: nothing is limited."""
        if principal.key_limits is None and principal.user_limits is None:
            return None
        held = HeldLimits(self._counts)
        for name, limits in _each(principal):
            most = limits.max_parallel
            if most is not None and not held.take_place(name, most):
                held.leave()
                whose = "This key" if limits is principal.key_limits else "You"
                message = f"{whose} may have {most} requests running at once. Try again when one has ended."
                raise Refusal(errors.TOO_MANY_AT_ONCE, message, retry_after_s=_RETRY_S)
        return held

    def take_tokens(self, principal: Principal, held: "HeldLimits", tokens: int) -> None:
        """Count a request's input against the tokens a minute; raises a 429 `Refusal` where all are used."""
        for name, limits in _each(principal):
            most = limits.tpm
            if most is None:
                continue
            decision = held.take_tokens(name, most, tokens)
            if not decision.allowed:
                raise Refusal(
                    errors.TOO_MANY_TOKENS,
                    f"The limit of {most} tokens per minute is reached. "
                    f"Try again in {decision.retry_after_s} seconds.",
                    retry_after_s=decision.retry_after_s,
                )


class HeldLimits:
    """What one request takes of its caller's limits."""

    __slots__ = ("_counts", "_places", "_tokens")

    def __init__(self, counts: SharedRateLimiter) -> None:
        self._counts = counts
        self._places: list[str] = []
        self._tokens: list[tuple[str, int, int]] = []

    def take_place(self, name: str, most: int) -> bool:
        """Take a place, unless as many are taken as may."""
        place = f"places:{name}"
        is_free = self._counts.enter(place, most)
        if is_free:
            self._places.append(place)
        return is_free

    def take_tokens(self, name: str, most: int, tokens: int) -> RateDecision:
        """Count tokens, unless as many are used as may."""
        counted = f"tokens:{name}"
        decision = self._counts.hit(counted, most, tokens)
        if decision.allowed:
            self._tokens.append((counted, most, tokens))
        return decision

    def leave(self) -> None:
        """Give the places back: the request is over. Idempotent."""
        while self._places:
            self._counts.leave(self._places.pop())

    def count_tokens(self, tokens: int) -> None:
        """Count what the request has used beyond what was counted at its beginning. Idempotent."""
        while self._tokens:
            name, most, counted = self._tokens.pop()
            if tokens > counted:
                self._counts.hit(name, most, tokens - counted)


def refuse_address(principal: Principal, address: str | None) -> None:
    """Raise a 403 `Refusal` where the key is not accepted from this address."""
    limits = principal.key_limits
    if limits is not None and not limits.allows_address(address):
        raise Refusal(errors.ADDRESS_NOT_ALLOWED, "This key is not accepted from where the request came.")


def refuse_model(principal: Principal, model: str, members: Mapping[str, Raw]) -> None:
    """Raise a 403 `Refusal` for a model that the key or its user may not ask.

    Who may ask some only may not have the upstream choose among others, either: `members` are the body's.
    """
    for limits in (principal.key_limits, principal.user_limits):
        if limits is None or limits.models is None:
            continue
        if (member := other_models_in(members)) is not None:
            message = (
                f"{member}: which models may be used is limited, so that one may be asked alone, in `model`."
            )
            raise Refusal(errors.MODEL_NOT_ALLOWED, message, param=member)
        if not limits.allows_model(model):
            whose = "This key is" if limits is principal.key_limits else "You are"
            message = f"{whose} not allowed to use the model {model!r}."
            raise Refusal(errors.MODEL_NOT_ALLOWED, message, param="model")


def _each(principal: Principal) -> Iterator[tuple[str, Limits]]:
    if principal.key_limits is not None:
        yield principal.user_key_id, principal.key_limits
    if principal.user_limits is not None:
        yield f"{ALL_KEYS}{principal.user_id}", principal.user_limits
