"""What the exchange needs from the outside, as protocols; `app.factory` puts the real things behind them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

import msgspec

from app.core.journal_format import OpenRequest
from app.core.key_choice import NoKey
from app.core.principal import Balance, Principal
from app.core.records import ExchangeRecord
from app.core.upstream_outcome import Finding


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """An upstream key that may be used now: its pool id and the secret itself (never shown whole)."""

    key_id: str
    secret: str

    def __repr__(self) -> str:
        return f"ProviderKey({self.key_id!r})"


class Directory(Protocol):
    """Client keys and balances, answered from a cache whenever possible."""

    def find(self, secret: str) -> Principal | None:
        """Who this client key belongs to; None for unknown, revoked or disabled ones.

        Raises `StoreUnavailable` when it is not cached and the store cannot be asked.
        """

    def balance(self, user_id: str) -> Balance | None:
        """What the user can still spend, less what is charged but not yet written; None: no limit."""

    def note_charge(self, user_id: str, nano_usd: int) -> None:
        """Count a charge against the cached balance at once, before the writer has booked it."""


class Lease(msgspec.Struct, frozen=True, eq=False):
    """An upstream key lent to one attempt, from `sent_at` until it is released.

    `is_probe` says that the key was without money and this is the trial whether it still is.
    """

    key: ProviderKey
    sent_at: datetime
    is_probe: bool = False


class KeyPool(Protocol):
    """The upstream keys. Nothing here waits or raises: states are exchanged with others in the background."""

    def acquire(self, excluding: frozenset[str]) -> Lease | NoKey:
        """The best key that is not in `excluding` (pool ids), or why there is none."""

    def shortage(self, excluding: frozenset[str]) -> NoKey | None:
        """Why `acquire` would give none; None when it would give one."""

    def report(self, lease: Lease, finding: Finding, request_id: str) -> None:
        """Tell what came of the attempt, perhaps more than once, before the lease is released."""

    def release(self, lease: Lease) -> None:
        """Give the key back. Idempotent."""


class RateLimiter(Protocol):
    """Requests per minute and client key; `failed_open` counts those that passed unchecked."""

    failed_open: int

    def hit(self, key_id: str, limit: int, cost: int = 1) -> "RateDecision":
        """Count one request; `limit` is in requests per minute. With `cost` 0 it only looks."""


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


class RecordSink(Protocol):
    """Where finished records go. Never waits, never raises; what it cannot take it counts as lost."""

    def put(self, record: ExchangeRecord) -> bool:
        """Take the record; False when it was lost (and counted)."""

    def accepts(self) -> bool:
        """Whether there is room to note a new request durably."""

    def open(self, request: OpenRequest) -> bool:
        """Note a request that is about to be forwarded: it leaves a record even if the process dies."""

    def foresee(self, record: ExchangeRecord) -> bool:
        """Note the record that an opened request leaves if the process dies from now on."""


class Passed(Enum):
    """What became of bytes that were offered to a client's connection."""

    ON = "on"
    """All of them are on their way."""
    PARTLY = "partly"
    """It has them, but the client does not take them all: `ClientStream.flush` before anything else."""
    NOT = "not"
    """Not one: they have to go the usual way."""


class UpstreamReply(Protocol):
    """An upstream answer whose status and headers have arrived; `proxy_id` is the proxy it came through."""

    status: int
    headers: Mapping[str, str]
    proxy_id: str | None

    def read(self) -> bytes:
        """Whatever has arrived, at least one byte, waiting for it; `b""` at the proper end.

        Raises `UpstreamFailure` when the answer is cut, stalls or breaks its own framing.
        """

    def read_passing(self, pass_on: Callable[[bytes], Passed]) -> bytes | None:
        """Like `read`, but what comes is first offered to `pass_on`, which must not wait.

        Only what that does not take is returned, and None when the client does not keep up with it.
        """

    def close(self) -> None:
        """Give the connection back when the answer was read to its end, else close it. Idempotent."""


class Upstream(Protocol):
    """The transport to the upstream."""

    def send(self, request: "UpstreamRequest", key: ProviderKey) -> UpstreamReply:
        """Send and wait for the headers; raises `UpstreamFailure`."""


class UpstreamRequest(msgspec.Struct, frozen=True):
    """What goes upstream: path with its leading slash, raw query string, headers without credentials."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


class UpstreamFailure(Exception):
    """The transport failed; `kind` says how: unreachable, no_proxy, reset, timeout, truncated or garbled.

    `is_stale` says that the connection came from the pool and the upstream had given it up: a fresh one may
    do. `proxy_id` is the outbound proxy it had gone through, if there was one.
    """

    def __init__(self, kind: str, detail: str, *, is_stale: bool = False) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.is_stale = is_stale
        self.proxy_id: str | None = None


class StoreUnavailable(Exception):
    """The database cannot be reached and nothing cached can stand in for it."""


class TooManyTries(Exception):
    """So many wrong passwords were given for a name that none is checked for now."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many wrong passwords: wait {retry_after_s} s")
        self.retry_after_s = retry_after_s


class ClientGone(BaseException):
    """Thrown into a request that waits for the upstream once its client has left for good.

    A `BaseException`, like `gevent.Timeout`: transports clean up after it and nobody mistakes it for an
    upstream error.
    """


class ClientWatch(Protocol):
    """Looks at the client's connection while the request waits for the upstream."""

    @property
    def departed(self) -> bool:
        """Whether the client has left."""

    def waiting(self) -> None:
        """The current greenlet now waits for the upstream: `ClientGone` may be thrown into it."""

    def working(self) -> None:
        """It does not any more."""

    def give(self, grace_s: float) -> None:
        """How long the upstream may go on after the client left, in seconds; 0 at first."""

    def depart(self) -> None:
        """The client is known to have left (a write failed): the grace begins."""

    def stop(self) -> None:
        """Stop watching. Idempotent."""

    def reset_on_close(self) -> None:
        """The connection is about to be closed, and the client must not take that for the answer's end."""


class ClientStream(Protocol):
    """The client's side of an answer that is being sent."""

    def offer(self, chunk: bytes) -> Passed:
        """Send a further chunk of the answer, as far as that needs no waiting. Never raises."""

    def flush(self) -> None:
        """Wait until the client has taken what it was offered; raises OSError when it does not."""


class Clock(Protocol):
    """Time and ids, passed in so that everything below the edges is a function of its arguments."""

    def monotonic(self) -> float:
        """Seconds, for durations."""

    def utcnow(self) -> datetime:
        """The moment, in UTC."""

    def new_request_id(self) -> str:
        """A UUIDv7: sortable by time."""


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """Credit set aside for a running request, in nano-dollars.

    `hold_nano` is what is, or may be, held for it in the database: it goes into the request's record
    (`ExchangeRecord.hold_nano_usd`), whose booking lets go of it.
    """

    user_id: str
    request_id: str
    nano: int
    hold_nano: int = 0

    @property
    def held(self) -> bool:
        """Whether the database has, or may have, a hold for it."""
        return self.hold_nano > 0


class CreditExhausted(Exception):
    """Nothing is left to reserve. `balance_nano` is the credit less what is already charged, 0 or more.

    Where that is not 0, requests that are still running have reserved it.
    """

    def __init__(self, balance_nano: int) -> None:
        super().__init__(f"no credit left to reserve, balance {balance_nano} nano-dollars")
        self.balance_nano = balance_nano


class CreditGate(Protocol):
    """Bounds what concurrent requests of a user can spend together; see `app.core.credit_policy`."""

    def reserve(self, user_id: str, request_id: str, estimate_nano: int) -> Reservation:
        """Set credit aside before the request goes upstream; without waiting while the balance is ample.

        Raises `CreditExhausted`, or `StoreUnavailable` when the balance is not known at all. Each
        reservation has to be released, and its record has to say what was held.
        """

    def release(self, reservation: Reservation) -> None:
        """The request is over and its charge, if any, was noted with the directory. Idempotent, no I/O."""


class RequestObserver(Protocol):
    """Counts requests for the metrics. Never waits, never raises."""

    def opened(self) -> None:
        """A request of a known caller has begun."""

    def settled(self, record: ExchangeRecord) -> None:
        """It has ended, and this is its record."""

    def refused(self, reason: str) -> None:
        """A request ended without its caller having been identified: it leaves no record."""
