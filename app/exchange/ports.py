"""What the exchange needs from the outside, as protocols; `app.services` puts the real things behind them.

Each guards that boundary: neither the exchange nor the routes import what is behind one.
"""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Protocol

from app.accounts.funds import Balance, Spending
from app.accounts.principal import Principal
from app.credit.budgets import Claim
from app.credit.reservation import Reservation
from app.journal.journal_format import OpenRequest
from app.keys.key_choice import NO_WISH, KeyWish, NoKey
from app.keys.lease import Lease, OnlyKey
from app.keys.upstream_outcome import Finding
from app.objects.upstream_object import UpstreamObject
from app.records.records import ExchangeRecord
from app.upstream.transport import Passed


class Directory(Protocol):
    """Client keys and balances, answered from a cache whenever possible."""

    def find(self, secret: str) -> Principal | None:
        """Return whose client key this is; None for unknown, revoked or disabled ones.

        Raises `StoreUnavailable` when the key is not cached and the store cannot be asked.
        """

    def balance(self, user_id: str) -> Balance | None:
        """Return what the user can still spend, less charges that are not written yet; None: no limit."""

    def caller(self, user_id: str, user_key_id: str) -> Principal:
        """Return who it would be that called with this key, with the limits of now.

        Raises `StoreUnavailable`.
        """

    def spending(self, user_id: str) -> Spending:
        """Return what of the user's budgets is booked (`app.credit.budgets`), as last read."""

    def note_charge(self, user_id: str, nano_usd: int) -> None:
        """Count a charge against the cached balance at once, before the writer has booked it."""


class KeyPool(Protocol):
    """The upstream keys. Nothing here waits or raises: states are exchanged with others in the background."""

    @property
    def has_choice(self) -> bool:
        """Whether there is more than one key: else no request needs to say which it would rather have."""

    def acquire(
        self,
        excluding: frozenset[str],
        client: str = "",
        model: str = "",
        wish: KeyWish = NO_WISH,
        only: OnlyKey | None = None,
    ) -> Lease | NoKey:
        """Lease the best key that is not in `excluding` (pool ids), or say why there is none.

        With `only`, no other will do.
        """

    def shortage(
        self,
        excluding: frozenset[str],
        client: str = "",
        model: str = "",
        only: OnlyKey | None = None,
    ) -> NoKey | None:
        """Say why `acquire` would give no key; None when it would give one."""

    def report(self, lease: Lease, finding: Finding, request_id: str) -> None:
        """Tell what came of the attempt, perhaps more than once, even after the lease was released."""

    def release(self, lease: Lease) -> None:
        """Give the key back. Idempotent."""


class UpstreamObjects(Protocol):
    """What the upstream keeps under an id: who made it, and with which key."""

    def find(self, ids: Collection[str], user_id: str, *, waits: bool = True) -> Mapping[str, UpstreamObject]:
        """Return what is known of these ids, by id, for a request of a user; what nobody knows is left out.

        `waits`: what is not there yet is waited for. Raises `StoreUnavailable` when the store has to be
        asked and does not answer.
        """

    def learn(self, made: UpstreamObject) -> None:
        """Note what a request has made, or used again, or a part more of it; never waits."""

    def settled(self, object_id: str) -> None:
        """Note that what an object cost has been seen here: nobody need look again."""


class NothingKept:
    """`UpstreamObjects` for where nothing is kept."""

    def find(self, ids: Collection[str], user_id: str, *, waits: bool = True) -> Mapping[str, UpstreamObject]:
        """Find none."""
        return {}

    def learn(self, made: UpstreamObject) -> None:
        """Forget it."""

    def settled(self, object_id: str) -> None:
        """Forget it."""


class RecordSink(Protocol):
    """Where finished records go. Never raises; what it cannot take it counts as lost.

    It waits for the journal's file, and with `JOURNAL_SYNC=always` for the disk; never for the database.
    """

    def put(self, record: ExchangeRecord) -> bool:
        """Take the record; return False when it was lost (and counted)."""

    def accepts(self) -> bool:
        """Return whether there is room to note a new request durably."""

    def open(self, request: OpenRequest) -> bool:
        """Note a request that is about to be forwarded: it leaves a record even if the process dies."""

    def checkpoint(self, record: ExchangeRecord) -> bool:
        """Note the record that an opened request leaves if the process dies from now on."""


class ClientWatch(Protocol):
    """Looks at the client's connection while the request waits for the upstream."""

    @property
    def departed(self) -> bool:
        """Whether the client has left."""

    def waiting(self) -> None:
        """Note that the current greenlet now waits for the upstream: `ClientGone` may be thrown into it."""

    def working(self) -> None:
        """Note that the greenlet does not wait any more."""

    def give(self, grace_s: float) -> None:
        """Set how long the upstream may go on after the client left, in seconds; 0 at first."""

    def end_within(self, seconds: float) -> None:
        """Bound the wait for the end of a whole answer.

        From `seconds` on, a wait for more of the answer is an `UpstreamFailure`.
        """

    def tell_silence(self, after_s: float, heard_at: Callable[[], float]) -> None:
        """Have `StillSilent` thrown into waits once the upstream has been silent for so many seconds.

        And again each time as many seconds have passed since `heard_at`, by the monotonic clock.
        """

    def tell_no_silence(self) -> None:
        """Have it thrown no more. Idempotent."""

    def depart(self) -> None:
        """Begin the grace: the client is known to have left (a write failed)."""

    def stop(self) -> None:
        """Stop watching. Idempotent."""

    def reset_on_close(self) -> None:
        """Have the connection reset when it is closed: the client must not take that for the answer's end."""


class NobodyWaits:
    """A `ClientWatch` for where the proxy asks by itself."""

    departed = False

    def waiting(self) -> None:
        """Wait: nobody can leave."""

    def working(self) -> None:
        """Go on."""

    def give(self, grace_s: float) -> None:
        """Give nobody time."""

    def end_within(self, seconds: float) -> None:
        """Wait as long as it takes."""

    def tell_silence(self, after_s: float, heard_at: Callable[[], float]) -> None:
        """Tell nobody."""

    def tell_no_silence(self) -> None:
        """Go on telling nobody."""

    def depart(self) -> None:
        """Note that nobody has left."""

    def stop(self) -> None:
        """Stop watching nobody."""

    def reset_on_close(self) -> None:
        """Have no connection reset."""


class ClientStream(Protocol):
    """The client's side of an answer that is being sent."""

    def offer(self, chunk: bytes) -> Passed:
        """Send a further chunk of the answer, as far as that needs no waiting. Never raises."""

    def flush(self) -> None:
        """Wait until the client has taken what it was offered; raises OSError when it does not."""


class Pace(Protocol):
    """Has long work wait for the short work of others. Each method may let other requests go on meanwhile."""

    def rest(self) -> None:
        """Let others go first between two pieces of work, each of bounded size."""

    def queue(self) -> None:
        """Let others go first before a piece of work that takes long by itself."""

    def give_way(self) -> None:
        """Let others go first before work for an unknown caller, or after a refusal."""


class NoPace:
    """A `Pace` for where each request has a thread of its own."""

    def rest(self) -> None:
        """Go on at once."""

    def queue(self) -> None:
        """Go on at once."""

    def give_way(self) -> None:
        """Go on at once."""


class Clock(Protocol):
    """Time and ids, passed in so that everything below the edges is a function of its arguments."""

    def monotonic(self) -> float:
        """Return a time in seconds, for durations."""

    def utcnow(self) -> datetime:
        """Return the moment, in UTC."""

    def new_request_id(self) -> str:
        """Make a UUIDv7: sortable by time."""


class CreditGate(Protocol):
    """Bounds what concurrent requests of a user can spend together; see `app.credit.credit_policy`."""

    def reserve(
        self,
        user_id: str,
        request_id: str,
        most_nano: int,
        usual_nano: int | None = None,
        least_nano: int = 1,
        claims: tuple[Claim, ...] = (),
    ) -> Reservation:
        """Set credit aside before the request goes upstream; without waiting while the balance is ample.

        `most_nano` is what it may cost. It may get less (`app.credit.credit_policy.share`), but, unless less
        is left, no less than `usual_nano`, which is as much if it is not given; never less than `least_nano`.
        `claims` are the budgets it is paid from, beside the credit.
        Raises `CreditExhausted`, or `StoreUnavailable` when the balance is not known at all. Each
        reservation has to be released, and its record has to say what was held.
        """

    def release(self, reservation: Reservation) -> None:
        """Stop counting a request that is over; its charge, if any, was noted before. Idempotent, no I/O."""


class RequestObserver(Protocol):
    """Counts requests for the metrics. Never waits, never raises."""

    def opened(self) -> None:
        """Count a request of a known caller that has begun."""

    def settled(self, record: ExchangeRecord) -> None:
        """Count a request that has ended, with its record."""

    def refused(self, reason: str) -> None:
        """Count a request that ended without its caller having been identified: it leaves no record."""

    def usage_option_refused(self) -> None:
        """Count a stream whose usage the upstream refused to be asked for, and which it served without."""
