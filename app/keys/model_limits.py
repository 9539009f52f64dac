"""Limits of single models on a key: who met them, until when they hold, and for whom.

A limit may be the model's, or only that of the one client's requests that met it. So a client is kept from a
model on a key until the limit it has met itself is over, and by what others have met only as far as two of
them agree. For each model the two longest claims say all of that.

Everything here is a value, and `merged` makes the same of any claims in any order: workers and hosts meet in
it.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import msgspec

MAX_MODELS = 32
"""Models of one key whose limits are known; those that end first are forgotten."""

_FIRST_S = 2.0
_LONGEST_S = 60.0


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A limit as one client met it, from `since` until `until`."""

    until: datetime
    since: datetime
    client: str


Claims = tuple[Claim, ...]
ModelLimits = Mapping[str, Claims]


def closed_until(claims: Claims, client: str) -> datetime | None:
    """Return until when the client is to leave the model alone; None: there is no such moment."""
    if claims and claims[0].client == client:
        return claims[0].until
    return claims[1].until if len(claims) > 1 else None


def is_claimed(limits: ModelLimits, model: str, now: datetime) -> bool:
    """Return whether anybody has met a limit of the model that is not over."""
    claims = limits.get(model)
    return bool(claims) and claims[0].until > now  # type: ignore[index]


def is_closed(limits: ModelLimits, model: str, client: str, now: datetime) -> bool:
    """Return whether the client is to leave the model alone."""
    until = closed_until(limits.get(model, ()), client)
    return until is not None and until > now


def met(
    limits: ModelLimits, model: str, client: str, sent_at: datetime, now: datetime, told_s: float | None
) -> ModelLimits:
    """Return the limits after the client has met one; `told_s` is how long the upstream said it lasts.

    Where the upstream said nothing, the limit is short, and each time twice as long that it is met again soon
    after it was over.
    """
    claims = limits.get(model, ())
    seconds = _next_s(claims, sent_at) if told_s is None else told_s
    return merged(limits, {model: (Claim(now + timedelta(seconds=seconds), now, client),)})


def served(limits: ModelLimits, model: str, sent_at: datetime) -> ModelLimits:
    """Return the limits after a request for the model was served, without those over when it was sent."""
    left = tuple(claim for claim in limits.get(model, ()) if claim.until > sent_at)
    if len(left) == len(limits.get(model, ())):
        return limits
    others = {name: claims for name, claims in limits.items() if name != model}
    return {**others, model: left} if left else others


def merged(limits: ModelLimits, others: ModelLimits) -> ModelLimits:
    """Merge limits: of each client's claims on a model the longest, of each model's the two longest."""
    if not others:
        return limits
    both = {name: longest((*limits.get(name, ()), *others.get(name, ()))) for name in {*limits, *others}}
    if len(both) <= MAX_MODELS:
        return both
    last = sorted(both.items(), key=lambda item: (item[1][0].until, item[0]))
    return dict(last[-MAX_MODELS:])


def fresh(limits: ModelLimits, now: datetime) -> ModelLimits:
    """Keep limits that are not over, or not for long: met anew so soon, a limit counts as the same."""
    since = now - timedelta(seconds=_LONGEST_S)
    return {model: claims for model, claims in limits.items() if claims[0].until > since}


def longest(claims: Iterable[Claim]) -> Claims:
    """Return the two longest claims of different clients, the longer one first."""
    found: dict[str, Claim] = {}
    for claim in sorted(claims, key=_rank, reverse=True):
        found.setdefault(claim.client, claim)
        if len(found) == 2:
            break
    return tuple(found.values())


def _rank(claim: Claim) -> tuple[datetime, datetime, str]:
    return claim.until, claim.since, claim.client


def _next_s(claims: Claims, sent_at: datetime) -> float:
    if not claims:
        return _FIRST_S
    last = max(claims, key=lambda claim: (claim.since, _rank(claim)))
    lasted = min((last.until - last.since).total_seconds(), _LONGEST_S)
    passed = (sent_at - last.until).total_seconds()
    if passed > max(lasted, _FIRST_S):
        return _FIRST_S  # long ago
    # What was sent before the last one was over says nothing new.
    return max(_FIRST_S, lasted if passed < 0 else min(2 * lasted, _LONGEST_S))
