"""How the limits of an upstream key are divided among the workers of all hosts: together they keep them.

A limit is a number of slots. A slot of `maxInFlight` is occupied while a request runs, one of `rpm` for a
minute after a request was sent, and the only slot for the trial of an exhausted key while that runs. Each
worker holds a share of the slots and never occupies more than its share; the shares never add up to more
than the limit. Both together are the whole guarantee:

    occupied by all  ≤  sum of the shares  ≤  limit

A worker changes only its own share, by one atomic step that sees all others: it may always shrink to what it
has occupied, and grow into what nobody holds. How much it aims at is a question of fairness alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

MINUTE_S = 60.0
SILENCE_S = 10.0
"""How long a worker gives no sign, in seconds, before the others take its share over."""


LEFT = -1


class Kind(StrEnum):
    """What a slot is for, under its stored name."""

    IN_FLIGHT = "inFlight"
    RATE = "rpm"
    PROBE = "probe"


@dataclass(frozen=True, slots=True)
class QuotaShare:
    """The slots a worker holds, and how many it could use; `LEFT` of one that wants none any more."""

    slots: int
    want: int


@dataclass(frozen=True, slots=True)
class QuotaNeed:
    """A limit, how many of its slots a worker has occupied, and how many it could use."""

    limit: int
    occupied: int
    want: int


Shares = Mapping[Kind, QuotaShare]
"""One worker's shares in the limits of one key."""


def wanted(share: int, peak: int, limit: int) -> int:
    """Return how many slots a worker could use that has occupied at most `peak` of its share lately.

    A worker that had occupied all of it may have been short of slots: it wants twice as many.
    """
    return min(limit, peak if peak < share else max(2 * share, 1))


def fair_shares(limit: int, wants: Mapping[str, int], turn: int) -> dict[str, int]:
    """Divide all of the limit among workers.

    No worker gets less than an equal part unless it wants less; what none wants is divided equally. Where a
    slot cannot be divided, `turn` (a number that grows with time) moves it on from worker to worker.
    """
    names = sorted(wants)
    start = turn % len(names) if names else 0
    names = names[start:] + names[:start]
    shares = dict.fromkeys(names, 0)
    left, hungry = limit, [name for name in names if wants[name] > 0]
    while left and hungry:
        part = max(1, left // len(hungry))
        for name in hungry[:left]:
            given = min(part, wants[name] - shares[name])
            shares[name] += given
            left -= given
        hungry = [name for name in hungry if shares[name] < wants[name]]
    if names:
        part, rest = divmod(left, len(names))
        for number, name in enumerate(names):
            shares[name] += part + (number < rest)
    return shares


def reshared(
    me: str,
    needs: Mapping[Kind, QuotaNeed],
    held: Mapping[str, Shares],
    silent_s: Mapping[str, float],
    turn: int,
    *,
    is_leaving: bool = False,
) -> dict[str, dict[Kind, QuotaShare]]:
    """Work out all workers' shares in one key's limits after `me` has taken its own anew.

    `held` are all shares as they are, `silent_s` says of other workers for how long nothing was heard of them
    (as far as that was watched without a break). A worker that is leaving keeps what is occupied.
    """
    kept = {
        name: {kind: share for kind, share in shares.items() if not _is_over(kind, silent_s.get(name, 0.0))}
        for name, shares in held.items()
        if name != me
    }
    mine = {}
    for kind, need in needs.items():
        others = {name: shares[kind] for name, shares in kept.items() if kind in shares}
        if is_leaving:
            mine[kind] = QuotaShare(need.occupied, LEFT)
            continue
        idle = {
            name
            for name, share in others.items()
            if share.want == LEFT or silent_s.get(name, 0.0) >= SILENCE_S
        }
        wants = {name: share.want for name, share in others.items() if name not in idle}
        divided = need.limit - sum(others[name].slots for name in idle)
        free = need.limit - sum(share.slots for share in others.values())
        aim = min(fair_shares(max(divided, 0), wants | {me: need.want}, turn)[me], free)
        mine[kind] = QuotaShare(max(aim, need.occupied), need.want)
    if is_leaving:
        mine = {kind: share for kind, share in mine.items() if share.slots}
    kept[me] = mine
    return {name: shares for name, shares in kept.items() if shares}


def _is_over(kind: Kind, silent_s: float) -> bool:
    # What a dead worker has sent is counted by the upstream for another minute.
    return silent_s >= SILENCE_S + (MINUTE_S if kind is Kind.RATE else 0.0)
