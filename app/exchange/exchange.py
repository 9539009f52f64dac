"""One client request from its credential to its record: everything known about it, on one object."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.core.bson_safe import bson_safe
from app.core.journal_format import OpenRequest
from app.core.ports import (
    ClientStream,
    ClientWatch,
    Clock,
    CreditGate,
    Directory,
    RateDecision,
    RecordSink,
    RequestObserver,
    Reservation,
)
from app.core.pricing import Costs, Model
from app.core.principal import Principal
from app.core.records import AttemptRecord, ExchangeRecord, Outcome, UsageSource
from app.core.request_body import RequestBody
from app.core.usage import Usage
from app.core.wire_format import WireFormat

CLIENT_CLOSED_REQUEST = 499
"""Status of a record whose client left before anything was sent (nginx's number for it)."""

_NO_USAGE = Usage()
_NO_COSTS = Costs()


@dataclass(frozen=True, slots=True)
class ClientCall:
    """What the edge hands over: the request as it came, its body still unread.

    `headers` have lower-case names; `read_body(limit)` returns at most `limit` + 1 bytes. `ends_by_close`
    says that an answer of unknown length ends for this client when the connection is closed (HTTP/1.0).
    `stream` takes chunks of the answer past the server's loop, once that has sent one; None where it cannot.
    """

    request_id: str
    accepted_at: datetime
    accepted: float
    path: str
    query: str
    wire_format: WireFormat
    headers: Mapping[str, str]
    read_body: Callable[[int], bytes]
    watch: ClientWatch
    ends_by_close: bool = False
    stream: ClientStream | None = None


@dataclass(slots=True)
class Answer:
    """What goes back: status, headers, and a body that is closed when the request is over."""

    status: int
    headers: list[tuple[str, str]]
    body: Iterable[bytes]


@dataclass(slots=True)
class Metered:
    """What the meter knew of the answer when the request ended."""

    usage: Usage | None = None
    usage_raw: dict[str, Any] | None = None
    source: UsageSource = UsageSource.NONE
    upstream_model: str | None = None
    service_tier: str | None = None
    flags: Iterable[str] = ()

    def is_same_but_for_source(self, other: "Metered") -> bool:
        """Whether a record made of either has the same in it, but for `source`."""
        return (
            self.usage == other.usage
            and self.usage_raw == other.usage_raw
            and self.upstream_model == other.upstream_model
            and self.service_tier == other.service_tier
            and self.flags == other.flags
        )


class Unobserved:
    """A `RequestObserver` for where nobody counts."""

    def opened(self) -> None:
        """A request has begun."""

    def settled(self, record: ExchangeRecord) -> None:
        """It has ended."""

    def refused(self, reason: str) -> None:
        """A request was refused."""


@dataclass(slots=True)
class Exchange:
    """The state of one request. `settle` ends it, once: the first ending wins.

    `body` is let go of once an answer is being relayed: a stream may last long, and no key is tried after it.
    """

    call: ClientCall
    principal: Principal
    sink: RecordSink
    directory: Directory
    credit: CreditGate
    clock: Clock
    endpoint: str
    observer: RequestObserver = field(default_factory=Unobserved)
    rate: RateDecision | None = None
    requested_model: str | None = None
    model: Model | None = None
    body: RequestBody | None = None
    is_stream_asked: bool = False
    request_bytes: int = 0
    attempts: list[AttemptRecord] = field(default_factory=list)
    factory_key_id: str | None = None
    forwarded_at: float | None = None
    first_content_at: float | None = None
    upstream_status: int | None = None
    upstream_request_id: str | None = None
    bytes_out: int = 0
    reservation: Reservation | None = None
    is_settled: bool = False
    _foreseen: tuple[Metered, ExchangeRecord] | None = None

    def as_opened(self) -> OpenRequest:
        """What is known when the request is about to be forwarded."""
        call, principal = self.call, self.principal
        return OpenRequest(
            call.request_id,
            principal.user_id,
            principal.user_key_id,
            call.accepted_at,
            str(call.wire_format),
            self.endpoint,
            self.body.stream if self.body else False,
            self.model.id if self.model else None,
            self._requested_model(),
        )

    def foresee(self, status: int, metered: Metered, *, is_whole: bool) -> None:
        """Have the record kept that this request leaves if the process dies from now on.

        `is_whole` says that the answer is in hand to its end: then probably only the ending will be new.
        """
        record = self._record(Outcome.INTERRUPTED, status, metered, "interrupted", None)
        if is_whole:
            self._foreseen = metered, record
        self.sink.foresee(record)

    def settle(
        self,
        outcome: Outcome,
        status: int,
        *,
        metered: Metered | None = None,
        error_type: str | None = None,
        ended_at: float | None = None,
    ) -> None:
        """Price what was metered and hand the record to the sink. Only the first call counts."""
        if self.is_settled:
            return
        self.is_settled = True
        self.call.watch.stop()
        record = self._ended(outcome, status, metered or Metered(), error_type, ended_at)
        try:
            # In this order there is no moment at which the charge counts neither here nor there.
            if record.cost_nano_usd and self.principal.is_metered:
                self.directory.note_charge(self.principal.user_id, record.cost_nano_usd)
            if self.reservation is not None:
                self.credit.release(self.reservation)
        finally:
            # Before the record is put, which may wait for the disk and be broken off there.
            self.observer.settled(record)
            self.sink.put(record)

    def _ended(
        self, outcome: Outcome, status: int, metered: Metered, error_type: str | None, ended_at: float | None
    ) -> ExchangeRecord:
        """The foreseen record with its ending, where nothing else has become known since; else a new one."""
        if self._foreseen is None or not metered.is_same_but_for_source(self._foreseen[0]):
            return self._record(outcome, status, metered, error_type, ended_at)
        record = self._foreseen[1]
        record.end(
            outcome,
            status,
            error_type=error_type,
            usage_source=metered.source,
            latency_ms=self._latency_ms(ended_at),
            bytes_out=self.bytes_out,
        )
        return record

    def _latency_ms(self, ended_at: float | None) -> int:
        """From the forwarding to the end, which is now if it is not given; 0 if it was not forwarded."""
        if self.forwarded_at is None:
            return 0
        return _ms((self.clock.monotonic() if ended_at is None else ended_at) - self.forwarded_at)

    def _record(
        self, outcome: Outcome, status: int, metered: Metered, error_type: str | None, ended_at: float | None
    ) -> ExchangeRecord:
        call = self.call
        started, first = self.forwarded_at, self.first_content_at
        forwarded = self.clock.monotonic() if started is None else started
        usage = metered.usage or _NO_USAGE
        costs = self.model.costs_nano_usd(usage) if self.model else _NO_COSTS
        return ExchangeRecord(
            request_id=call.request_id,
            user_id=self.principal.user_id,
            user_key_id=self.principal.user_key_id,
            created_at=call.accepted_at,
            api_format=str(call.wire_format),
            outcome=outcome,
            status_code=status,
            factory_key_id=self.factory_key_id,
            model=self.model.id if self.model else None,
            requested_model=self._requested_model(),
            upstream_model=metered.upstream_model,
            endpoint=self.endpoint,
            stream=self.is_stream_asked,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_write_tokens=usage.cache_creation_input_tokens,
            cache_write_1h_tokens=usage.cache_creation_1h_input_tokens,
            cache_hit_tokens=usage.cache_read_input_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            usage_source=metered.source,
            usage_flags=tuple(sorted(metered.flags)) if metered.flags else (),
            usage_raw=bson_safe(metered.usage_raw),
            cost_nano_usd=sum(costs),
            costs=costs,
            error_type=error_type,
            upstream_status_code=self.upstream_status,
            upstream_request_id=self.upstream_request_id,
            service_tier=metered.service_tier,
            latency_ms=self._latency_ms(ended_at),
            ttft_ms=_ms(first - started) if first is not None and started is not None else None,
            overhead_ms=_ms(forwarded - call.accepted),
            attempts=tuple(self.attempts),
            bytes_out=self.bytes_out,
            hold_nano_usd=self.reservation.hold_nano if self.reservation else 0,
            client_retry_count=_retry_count(call.headers.get("x-stainless-retry-count")),
        )

    def _requested_model(self) -> str | None:
        """The model's name as the client wrote it, where it is not the canonical id."""
        if self.requested_model is None or (self.model and self.model.id == self.requested_model):
            return None
        return self.requested_model


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _retry_count(value: str | None) -> int | None:
    return (
        int(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 4 else None
    )
