"""How much credit a request may need, and when it may start without asking the database.

A user's credit stands in MongoDB; each process sees it through a cache that is some seconds old. A process
therefore starts requests on its own word only while they are small change. What it has in flight without a
hold, together with what it charged and has not read back yet (its *exposure*), may be 1 / `AMPLE_FACTOR` of
the balance it sees. Beyond that each request first places a hold in MongoDB, in one atomic step that leaves
credit, other requests' holds and the exposure of its own process uncommitted by anybody else.

The bound. Of whatever processes start at the same time, on any hosts, a user can spend beyond his credit
at most

    P × B / AMPLE_FACTOR  +  Σ max(0, cost − hold)  +  Σ max(0, cost − estimate)

where P is the number of processes that serve him, B the largest balance at which one of their unsettled
requests without a hold was admitted, the first sum is over requests with a hold, the second over those
without. When all costs are as estimated, that is P × B / AMPLE_FACTOR and at most one estimate (the last
request that still found credit may have found less than it needs). The first part is there because a
process does not know the exposure of others: it is zero when every request has a hold, as with 200 requests
of a user who has credit for ten. It comes once, not once per cache period: what a process spent counts as
its exposure until the balance it reads no longer contains it.

While MongoDB cannot be reached, requests that would need a hold pass as long as the process's own view shows
credit, so each process can spend its cached balance once: the first part becomes (P − 1) × B. Both kinds of
admission are counted apart.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

import msgspec

from app.core.estimate import BYTES_PER_TOKEN
from app.core.pricing import Model
from app.core.usage import Usage

AMPLE_FACTOR: Final = 100
"""How many times a process's exposure the balance has to be for a request to start without a hold."""

HOLD_TTL_S: Final = 2 * 3600
"""How long a hold counts, in seconds: one whose record never comes must not tie up credit for ever."""

MAX_ESTIMATED_OUTPUT: Final = 1024
"""Output tokens to expect of a request that names no limit, or a higher one: most answers are shorter."""

MIN_ESTIMATE_NANO: Final = 1
"""What a request is expected to cost at least: also one that costs nothing needs a user with credit."""

_LIMITS = ("max_completion_tokens", "max_tokens")


class Standing(Enum):
    """How a user's credit compares with what a request may need."""

    AMPLE = "ample"
    LOW = "low"
    NONE = "none"


class Funds(msgspec.Struct, frozen=True, gc=False):
    """A user's credit as one process sees it, in nano-dollars.

    `balance` is as MongoDB had it when it was last read. `unbooked` is what this process has charged and
    MongoDB does not hold yet; `charged` adds what it holds by now but `balance` may not show.
    """

    balance: int
    charged: int = 0
    unbooked: int = 0


def standing(funds: Funds, *, unheld: int, held: int, estimate: int) -> Standing:
    """Whether a request may start on this process's word (`AMPLE`), or has to ask MongoDB first.

    `unheld` and `held` are the process's running requests of the user, those without and with a hold. `NONE`
    means that they and its charges use up everything it knows of.
    """
    exposure = funds.charged + unheld
    if funds.balance - exposure - held <= 0:
        return Standing.NONE
    if (exposure + estimate) * AMPLE_FACTOR <= funds.balance - held:
        return Standing.AMPLE
    return Standing.LOW


def estimate_cost_nano(model: Model, *, request_bytes: int, output_limit: int | None = None) -> int:
    """What a request will probably cost, in nano-dollars, at least 1.

    Input by the body's size, all of it fresh; output by the limit the client set, if it is a low one.
    """
    expected = MAX_ESTIMATED_OUTPUT if output_limit is None else min(output_limit, MAX_ESTIMATED_OUTPUT)
    usage = Usage(input_tokens=-(-request_bytes // BYTES_PER_TOKEN), output_tokens=max(0, expected))
    return max(MIN_ESTIMATE_NANO, model.cost_nano_usd(usage))


def output_limit(members: Mapping[str, msgspec.Raw]) -> int | None:
    """The limit on output tokens among a request body's top-level members, None when there is no usable one.

    `max_completion_tokens` comes before `max_tokens`, which it replaced.
    """
    for name in _LIMITS:
        raw = members.get(name)
        if raw is None:
            continue
        try:
            limit = msgspec.json.decode(raw, type=int)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # The upstream will say what it thinks of it.
            continue
        if limit > 0:
            return limit
    return None
