"""How much credit a request may need, when it may start without asking the database, and what it gets if not.

**What a request may need** (`Need`) is what it costs at most: all input its body can amount to
(`app.wires.orders`), at the dearest price of input it may get, and as much output as it lets the model
generate (on Messages `max_tokens`, on Chat the larger of both limits; the model's own limit where it names
none), for each of `n` answers.

The prices are the dearest of all that it may be charged at: of each service tier, speed and region that it
asks for or leaves to the upstream, at each size of input that it may come to, times the factor of its user.
Beside tokens there are the vendor's tools that it orders, as often as it allows or else `USUAL_CALLS` times
(`app.wires.orders`). More calls, or a tier that nobody asked for, are in the sums of the bound below.

**When it may start.** A user's credit stands in MongoDB; each process sees it through a cache that is some
seconds old. A process therefore starts requests on its own word only while they are small change. What it has
in flight without a hold, together with what it charged and has not read back yet (its *exposure*), may be 1 /
`AMPLE_FACTOR` of the balance it sees. Beyond that each request first places a hold in MongoDB, in one atomic
step that leaves credit, other requests' holds and the exposure of its own process uncommitted by anybody
else.

**What it gets.** A hold is for all that the request may need, unless that is a large part of what is left
(`share`): then it gets that part, but no less than an answer of `USUAL_OUTPUT` tokens costs, and no more than
is left. A request that gets less than it may need is forwarded with a lower limit on its output, which its
hold pays for (`Need.output_cap`). A user has at most `MAX_HELD` requests with a hold at once.

The bound. Of whatever processes start at the same time, on any hosts, a user can spend beyond their credit
at most

    P × B / AMPLE_FACTOR  +  Σ max(0, cost − hold)  +  Σ max(0, cost − most)

where P is the number of processes that serve them, B the largest balance at which one of their unbooked
requests without a hold was admitted, the first sum is over requests with a hold, the second over those
without. The first part is there because a process does not know the exposure of others: it is zero when every
request has a hold, and it comes once, not once per cache period: what a process spent counts as its exposure
until the balance it reads no longer contains it.

The sums are zero, but for one term, when a model keeps to the limit on its output and takes no more input
than the body can amount to: only a request that was given all that is left may have been given less than its
input may cost (its likely input is covered then), and while it runs no other gets anything. An upstream that
overlooks the limit makes the difference for each of the requests that were lowered; that there are not many
of them is what `USUAL_OUTPUT` is for. Open input (`app.wires.orders`) counts as one whole context window,
though tools that a vendor runs may read it several times.

While MongoDB cannot be reached, or does not answer within `DECISION_S`, requests that would need a hold pass
as long as the process's own view shows credit, so each process can spend its cached balance once: the first
part becomes (P − 1) × B. Both kinds of admission are counted apart.

A hold is a lease. The process that placed it, or may have placed it without having heard so, renews it
while its request runs or is not booked, and removes it afterwards. A hold that nobody renews has no owner any
more and counts no longer than `HOLD_TTL_S`. After an outage of that length holds count again once they are
renewed, within `HOLD_RENEWAL_S`; until then the paragraph above applies.
"""

from collections.abc import Collection, Mapping
from math import ceil
from types import MappingProxyType
from typing import Final

import msgspec

from app.accounts.funds import Funds
from app.pricing.model import Model
from app.pricing.rate_card import STANDARD, Rates, Terms
from app.wires.estimate import tokens_of
from app.wires.usage import Usage

AMPLE_FACTOR: Final = 100
"""How many times a process's exposure the balance has to be for a request to start without a hold."""

HOLD_TTL_S: Final = 180
"""How long a hold counts after it was placed or renewed, in seconds: its owner may have died."""

HOLD_RENEWAL_S: Final = 45
"""How often the owner of a hold renews it, in seconds."""


USUAL_OUTPUT: Final = 16_384
"""Output tokens of each answer that a request gets at least, while there is credit for them."""

LONE_SHARE: Final = 2
CROWD_SHARE: Final = 8
"""The part of what is left, as its divisor, that a request may take: alone, and beside others."""

MAX_HELD: Final = 100
"""The most requests of a user that have a hold at the same time."""

# With credit for fewer output tokens than these a request is refused: nobody could use the answer.
LEAST_OUTPUT: Final = 16

MIN_ESTIMATE_NANO: Final = 1
"""What a request is expected to cost at least: also one that costs nothing needs a user with credit."""


def is_ample(funds: Funds, *, unheld: int, held: int, most: int) -> bool:
    """Return whether a request may start on this process's word; else it has to ask MongoDB.

    `unheld` and `held` are what the process's running requests of the user may cost, without and with a hold.
    """
    return (funds.charged + unheld + most) * AMPLE_FACTOR <= funds.balance - held


class Need(msgspec.Struct, frozen=True, gc=False):
    """What one request may cost, in nano-dollars. All parts are rounded up.

    `likely_input` and `most_input` are what its input will probably cost and can cost; `output_limit` is how
    many tokens each of `choices` answers may have, and `least_output` how many each needs to be of use.
    `rates` are the dearest prices that it may be charged at.
    """

    rates: Rates
    likely_input: int
    most_input: int
    output_limit: int
    choices: int = 1
    least_output: int = LEAST_OUTPUT

    @property
    def most(self) -> int:
        """What the request costs at most."""
        return self._with_output(self.most_input, self.output_limit)

    @property
    def least(self) -> int:
        """What the request costs at least to be of any use: its likely input, and the least output."""
        return self._with_output(self.likely_input, self.least_output)

    @property
    def usual(self) -> int:
        """What the request gets at least, while there is so much: enough for its input and usual answers."""
        return self._with_output(self.most_input, max(USUAL_OUTPUT, self.least_output))

    def output_cap(self, granted: int) -> int:
        """Return the limit on each answer's output that an amount from `least` on pays for.

        What does not cover the input in the dearest case may do for the likely one: there is at most one such
        request at a time, since it was given all that was left.
        """
        least = min(self.least_output, self.output_limit)
        tokens = self._paid_by(granted - self.most_input)
        if granted < self.most_input or tokens < least:
            tokens = self._paid_by(granted - self.likely_input)
        return max(1, min(tokens, self.output_limit))

    def _paid_by(self, nano_usd: int) -> int:
        """Return how many tokens each answer may have for an amount, as far as they cost anything."""
        tokens = self.rates.output_paid_by(nano_usd)
        return self.output_limit if tokens is None else tokens // self.choices

    def plus(self, nano_usd: int) -> "Need":
        """Return the need of a request that costs so much in any case, beside its tokens."""
        likely, most = self.likely_input + nano_usd, self.most_input + nano_usd
        return msgspec.structs.replace(self, likely_input=likely, most_input=most)

    def _with_output(self, input_nano: int, tokens: int) -> int:
        tokens = min(tokens, self.output_limit) * self.choices
        return max(MIN_ESTIMATE_NANO, input_nano + self.rates.output_nano(tokens))


def need(  # noqa: PLR0913  (each is a fact of its own about a request)
    model: Model,
    *,
    prompt_bytes: int,
    most_input: int | None,
    output_limit: int | None,
    predicted: int = 0,
    choices: int = 1,
    least_output: int = LEAST_OUTPUT,
    is_cached_long: bool = False,
    terms: Collection[Terms] = (STANDARD,),
    calls: Mapping[str, int] = MappingProxyType({}),
) -> Need:
    """Work out what a request may cost.

    `prompt_bytes` is its size without media, `most_input` the tokens it may amount to (None: unknown),
    `output_limit` what it says of its output (None: nothing usable). Of `predicted` tokens those that prove
    wrong are charged as output, beside all limits. `terms` are those under which it may be charged: what
    decides is the dearest, at each size that its input may have. `calls` are those of the vendor's tools at
    most, by unit: one of each is likely.
    """
    window = model.context_window
    tokens = window if most_input is None else min(most_input, window)
    rates = model.card.dearest(tokens, terms)
    most = rates.most_nano(tokens, is_cached_long=is_cached_long)
    likely_tokens = min(tokens_of(prompt_bytes), tokens)
    likely = max(model.cost_nano_usd(Usage(input_tokens=likely_tokens), each) for each in terms)
    limit = model.max_output if output_limit is None else output_limit
    if model.says_output:
        limit = min(limit, model.max_output)
    beside = rates.output_nano(predicted * choices) if predicted else 0
    if calls:
        each = {unit: rates.rate(unit)[0] for unit in calls}
        likely += ceil(sum(each.values()))
        most += ceil(sum(each[unit] * max(1, count) for unit, count in calls.items()))
    return Need(rates, min(likely, most) + beside, most + beside, limit, choices, least_output)


def share(left: int, *, most: int, usual: int, running: int, least: int = 1) -> int:
    """Return how much of `left` a request gets that may need `most`, beside `running` others with a hold.

    Nothing if less than `least` is left. `app.credit.credit_holds` says the same to the database.
    """
    part = left // (CROWD_SHARE if running else LONE_SHARE)
    return min(most, left, max(usual, part)) if left >= max(1, least) else 0
