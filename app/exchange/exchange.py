"""One client request from its credential to its record: everything known about it, on one object."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from fractions import Fraction
from typing import Any, Final

from app.accounts.principal import Principal
from app.accounts.rate_window import RateDecision
from app.common.lenient_json import clean_text
from app.credit.budgets import Claim, claims_of
from app.credit.reservation import Reservation
from app.exchange.batch_results import BatchResults, Group
from app.exchange.caller_limits import HeldLimits
from app.exchange.client_shares import Share
from app.exchange.ports import (
    ClientStream,
    ClientWatch,
    Clock,
    CreditGate,
    Directory,
    NoPace,
    NothingKept,
    Pace,
    RecordSink,
    RequestObserver,
    UpstreamObjects,
)
from app.exchange.spool import Spool
from app.journal.journal_format import OpenRequest
from app.keys.lease import OnlyKey
from app.objects.upstream_object import UpstreamObject
from app.pricing.charge import Charge, ReasoningPlace, charge
from app.pricing.model import Model
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import Costs, Terms, factor_of, factor_text
from app.pricing.told_cost import list_cost_nano, upstream_cost_nano
from app.records.bson_safe import bson_safe
from app.records.records import AttemptRecord, Attribution, ExchangeRecord, Outcome, UsageSource
from app.wires.attribution import Attributor, Person
from app.wires.endpoints import Answers, Endpoint, Retry
from app.wires.errors import Refusal
from app.wires.estimate import estimate_usage, of_quantities, of_tokens
from app.wires.orders import MAX_UNITS, answered_tiers, used_units
from app.wires.readings import ToldObject
from app.wires.request_body import RequestBody
from app.wires.units import Quantity
from app.wires.usage import Usage
from app.wires.wire_format import WireFormat

STILL_KNOWN_S = 0.4
"""For so long what was found of a caller counts: credential and credit are looked at again after that."""

NOT_FOUND = 404
CANCELLED = "cancelled"
CANCELLED_FOR: Final = timedelta(minutes=15)
"""How long after its beginning something cancelled may still turn out to have been completed."""

CLIENT_CLOSED_REQUEST = 499
"""Status of a record whose client left before anything was sent (nginx's number for it)."""

OUTPUT_CAPPED = "output_capped"
"""Less output was asked of the upstream than the client asked for: that is what the credit left pays for."""

NEVER_TOLD = "never_told"
"""What went on in the background is gone, or never ended, and nobody has told what it cost."""

_NO_USAGE = Usage()
_NO_COSTS = Costs()
_NO_GROUP: Final[frozenset[str]] = frozenset()
MAX_GROUP: Final = 70
_NO_MODELS = ModelTable(())
NO_PACE = NoPace()
_NOBODY = Person()
_ATTRIBUTOR = Attributor()
NOTHING_KEPT = NothingKept()

PENDING_FOR: Final = timedelta(hours=26)
"""How long what goes on in the background may take to end: vendors let nothing run for more than a day."""


def _no_pieces(_limit: int) -> Iterable[bytes]:
    return ()


@dataclass(slots=True)
class ClientCall:
    """What the edge hands over: the request as it came, its body still unread.

    `headers` have lower-case names; `read_body(limit, took)` returns at most `limit` + 1 bytes, and tells
    `took`, which may raise, the size of each piece before it is kept; `body_pieces(limit)` yields the same in
    pieces. `ends_by_close`
    says that an answer of unknown length ends for this client when the connection is closed (HTTP/1.0).
    `stream` takes chunks of the answer past the server's loop, once that has sent one; None where it cannot.
    `pace` is for work that takes long. `parameters` are those of the endpoint's path, as they came. `scheme`
    is that of the URLs under which the client sees the proxy, `address` where it is.

    Nothing changes one. (Not frozen: making one of so many fields takes three times as long then.)
    """

    request_id: str
    accepted_at: datetime
    accepted: float
    path: str
    query: str
    wire_format: WireFormat
    headers: Mapping[str, str]
    read_body: Callable[[int, Callable[[int], None]], bytes]
    watch: ClientWatch
    ends_by_close: bool = False
    stream: ClientStream | None = None
    pace: Pace = NO_PACE
    parameters: Mapping[str, str] = field(default_factory=dict)
    scheme: str = "http"
    body_pieces: Callable[[int], Iterable[bytes]] = _no_pieces
    address: str | None = None


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """How often a client is told that its stream goes on while the upstream is silent, in seconds.

    `longest_silence_s` is how long the upstream may be silent at all.
    """

    every_s: float
    longest_silence_s: float


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
    told: ToldObject | None = None

    def is_same_but_for_source(self, other: "Metered") -> bool:
        """Return whether a record made of either has the same in it, but for `source`."""
        return (
            self.usage == other.usage
            and self.usage_raw == other.usage_raw
            and self.upstream_model == other.upstream_model
            and self.service_tier == other.service_tier
            and self.flags == other.flags
            and self.told == other.told
        )


class Unobserved:
    """A `RequestObserver` for where nobody counts."""

    def opened(self) -> None:
        """Ignore that a request has begun."""

    def settled(self, record: ExchangeRecord) -> None:
        """Ignore that a request has ended."""

    def refused(self, reason: str) -> None:
        """Ignore that a request was refused."""

    def usage_option_refused(self) -> None:
        """Ignore that the upstream refused to be asked for usage."""


@dataclass(slots=True)
class Exchange:
    """The state of one request. `settle` ends it, once: the first ending wins.

    `body` is let go of once an answer is being relayed: a stream may last long, and no key is tried after it.
    `spool` is where a form's bytes are, `state` what is sent upstream where no model is asked.
    `only` is the one key that it may go to, because of an id that it names; `not_found` is what the client
    hears where that key is gone, `target` what the path's id names. `is_background`: the client orders an
    answer that goes on without it. `is_kept`: the upstream keeps the answer under an id. `is_own`: no client
    asks, but the proxy, to find out what something has cost.
    `request_bytes` is its size without media, `share` what the request holds of its key's part of the worker,
    `held` what of its caller's limits. Budgets begin anew at midnight in `zone`.
    `models` is the table by which it is charged: as it was when the request began. `output_cap` is the limit
    on its output that is sent upstream, where the client's credit pays for less than it asks for; `units` is
    what it orders beside tokens, and `quantities` how much of it, where that is said. `drain_s` is how many
    seconds the upstream may go on once the client has left; `is_sent` says that it was left with the request,
    without having refused it. `person` is whom the body names, and `attributor` knows how much of that
    records say.
    """

    call: ClientCall
    principal: Principal
    sink: RecordSink
    directory: Directory
    credit: CreditGate
    clock: Clock
    endpoint: Endpoint
    observer: RequestObserver = field(default_factory=Unobserved)
    rate: RateDecision | None = None
    share: Share | None = None
    held: HeldLimits | None = None
    zone: tzinfo = UTC
    requested_model: str | None = None
    model: Model | None = None
    models: ModelTable = _NO_MODELS
    reasoning: ReasoningPlace = ReasoningPlace.AUTO
    body: RequestBody | None = None
    state: bytes = b""
    objects: UpstreamObjects = NOTHING_KEPT
    only: OnlyKey | None = None
    not_found: Refusal | None = None
    target: UpstreamObject | None = None
    is_background: bool = False
    is_kept: bool = False
    is_own: bool = False
    results: BatchResults | None = None
    told: ToldObject | None = None
    spool: Spool | None = None
    is_stream_asked: bool = False
    request_bytes: int = 0
    output_cap: int | None = None
    units: frozenset[str] = frozenset()
    quantities: tuple[tuple[str, Quantity], ...] = ()
    drain_s: float = 0.0
    keep_alive: KeepAlive | None = None
    is_sent: bool = False
    attempts: list[AttemptRecord] = field(default_factory=list)
    factory_key_id: str | None = None
    upstream_key: str = ""
    forwarded_at: float | None = None
    first_content_at: float | None = None
    upstream_status: int | None = None
    upstream_request_id: str | None = None
    bytes_out: int = 0
    reservation: Reservation | None = None
    is_settled: bool = False
    keeps_messages: bool = True
    attributor: Attributor = _ATTRIBUTOR
    person: Person = _NOBODY
    _attribution: Attribution | None = None
    _shown: tuple[Group | None, bool] | None = None
    _last_checkpoint: tuple[Metered, ExchangeRecord] | None = None

    @property
    def began(self) -> datetime:
        """When the request began whose cost this one has to tell."""
        return self.call.accepted_at if self.target is None else self.target.created_at

    @property
    def factor(self) -> Fraction | None:
        """What the prices of the table are multiplied by for this user; None for 1."""
        own, group = self.principal.price_factor, self.principal.group
        if own is None and group is None:
            return None
        if own is not None:
            return factor_of(own)
        factor = self.models.groups.get(group or "")
        return None if factor == 1 else factor

    @property
    def terms(self) -> Terms:
        """The terms under which it is charged, but for how it is answered."""
        return Terms(self.began, (), self.factor)

    @property
    def is_billed(self) -> bool:
        """Whether the request makes the upstream generate something: counting tokens is free."""
        return self.endpoint.is_billed

    @property
    def retry(self) -> Retry:
        """After which failures a further key may be tried: what goes on by itself must not be begun twice."""
        return Retry.UNBEGUN if self.is_background else self.endpoint.retry

    @property
    def upstream_model(self) -> str:
        """How the upstream calls the model that is asked; nothing where none is."""
        return "" if self.model is None else self.model.upstream_id

    def abandoned(self) -> Metered:
        """Return what to book where the client left before an answer began, and none came in time.

        The upstream has read the request by then, and charges for that.
        """
        if not (self.is_sent and self.is_billed):
            return Metered()
        usage = self.estimated(None, 0)
        return Metered(usage, source=UsageSource.ESTIMATE, flags=usage.flags)

    def estimated(self, seen: Usage | None, output_tokens: int) -> Usage:
        """Fill up what an answer told: by what was ordered, where that has a price; else by its size."""
        is_told = seen is not None and (seen.quantities or seen.total_input_tokens or seen.output_tokens)
        if not is_told and self.quantities and self.model is not None:
            if all(self.model.has_price(unit) for unit, _ in self.quantities):
                return of_quantities(self.quantities)
            seen = of_tokens(self.quantities)
        return estimate_usage(seen, request_bytes=self.request_bytes, output_tokens=output_tokens)

    def as_opened(self) -> OpenRequest:
        """Return what is known when the request is about to be forwarded."""
        call, principal = self.call, self.principal
        return OpenRequest(
            call.request_id,
            principal.user_id,
            principal.user_key_id,
            call.accepted_at,
            str(call.wire_format),
            self.endpoint.name,
            self.body.stream if self.body else False,
            self.model.id if self.model else None,
            self._requested_model(),
            self._attributed(),
        )

    def learn(self, told: ToldObject) -> None:
        """Have it known whose this is, and with which key it was made; again when more is told of it."""
        self.objects.learn(
            UpstreamObject(
                object_id=told.object_id,
                key=self.upstream_key,
                user_id=self.principal.user_id,
                user_key_id=self.principal.user_key_id,
                request_id=self.call.request_id,
                endpoint=self.endpoint.name,
                api_format=str(self.call.wire_format),
                created_at=self.call.accepted_at,
                model=self.model.id if self.model else None,
                parts=told.parts,
                is_background=self.is_background,
                attribution=self._attributed(),
            )
        )

    def _learn(self, metered: Metered) -> None:
        told = metered.told
        if told is not None and self.upstream_key and (self.is_kept or (told.parts and self.target is None)):
            self.learn(told)

    def drop_body(self) -> None:
        """Let go of the request's body: the answer is there, and no key is tried after it."""
        self.body = None
        if self.spool is not None:
            self.spool.close()
        if self.share is not None:
            self.share.drop_body()

    def checkpoint(self, status: int, metered: Metered, *, is_whole: bool) -> None:
        """Have the record kept that this request leaves if the process dies from now on.

        `is_whole` says that the answer is in hand to its end: then probably only the ending will be new.
        """
        if self.is_own:
            return  # it is asked again
        self._learn(metered)
        record = self._record(Outcome.INTERRUPTED, status, metered, "interrupted", None)
        if is_whole:
            self._last_checkpoint = metered, record
        self.sink.checkpoint(record)

    def settle(
        self,
        outcome: Outcome,
        status: int,
        *,
        metered: Metered | None = None,
        error_type: str | None = None,
        error_message: str | None = None,
        told_message: str | None = None,
        ended_at: float | None = None,
    ) -> None:
        """Price what was metered and hand the record to the sink. Only the first call counts."""
        if self.is_settled:
            return
        self.is_settled = True
        self.call.watch.stop()
        if self.spool is not None:
            self.spool.close()
        if self.share is not None:
            self.share.leave()
        if self.held is not None:
            self.held.leave()
        metered = metered or Metered()
        self.told = metered.told
        if self.results is not None:
            self._shown = self.results.take_last(), outcome is Outcome.OK
        if self.is_own and self._settles(metered, outcome) is None:
            return  # it has not ended, and no client has asked
        self._learn(metered)
        record = self._ended(outcome, status, metered, error_type, ended_at)
        if self.held is not None:
            self.held.count_tokens(record.input_tokens + record.cache_write_tokens + record.output_tokens)
        if error_message and self.keeps_messages:
            record.explain(error_message, told_message)
        try:
            # In this order there is no moment at which the charge counts neither here nor there.
            noted = record.cost_nano_usd + (record.pending["nanoUsd"] if record.pending else 0)
            if noted and self.principal.is_metered:
                self.directory.note_charge(self.principal.user_id, noted)
            if record.settles is not None and record.settles["isWhole"]:
                self.objects.settled(record.settles["id"])
            if self.reservation is not None:
                self.credit.release(self.reservation)
        finally:
            if self.is_own:
                self.observer.opened()  # it was none before it had something to say
            # Before the record is put, which may wait for the disk and be broken off there.
            self.observer.settled(record)
            self.sink.put(record)

    def emit_results(self, group: Group) -> None:
        """Have results charged that do not fit into the request's own record: by one that stands for none."""
        self._shown = group, False
        record = self._record(Outcome.OK, self.upstream_status or 200, Metered(), None, None)
        self._shown = None
        record.request_id, record.count, record.bytes_out = self.clock.new_request_id(), 0, 0
        self.directory.note_charge(self.principal.user_id, record.cost_nano_usd)
        self.observer.opened()
        self.observer.settled(record)
        self.sink.put(record)

    def _ended(
        self, outcome: Outcome, status: int, metered: Metered, error_type: str | None, ended_at: float | None
    ) -> ExchangeRecord:
        """Return the checkpoint with its ending if nothing else is known by now; else a new record."""
        last = self._last_checkpoint
        # Whose cost has been seen to its end is not said before that.
        is_same = last is not None and (metered is last[0] or metered.is_same_but_for_source(last[0]))
        if last is None or self.target is not None or not is_same:
            return self._record(outcome, status, metered, error_type, ended_at)
        record = last[1]
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
        """Return the time from forwarding to `ended_at` (None: now), in ms; 0 if nothing was forwarded."""
        if self.forwarded_at is None:
            return 0
        return _ms((self.clock.monotonic() if ended_at is None else ended_at) - self.forwarded_at)

    def _record(
        self, outcome: Outcome, status: int, metered: Metered, error_type: str | None, ended_at: float | None
    ) -> ExchangeRecord:
        call = self.call
        settles, pending = self._settles(metered, outcome), self._pending(metered)
        if pending is not None or (settles is None and not self.endpoint.asks_model):
            # What it costs is not known yet, or was charged to whoever asked for it.
            metered = replace(metered, usage=None, usage_raw=None, source=UsageSource.NONE)
        charged, model = self._charge(metered), self.model
        group = self._shown[0] if self._shown is not None and settles is not None else None
        if group is not None:
            charged, model = group.charge, group.model
            metered = replace(metered, source=UsageSource.UPSTREAM, service_tier="batch")
        own = (OUTPUT_CAPPED,) if self.output_cap is not None else ()
        if settles is not None and self.is_own and metered.source is UsageSource.NONE:
            own = (*own, NEVER_TOLD)
        flags = {*metered.flags, *charged.flags, *own}
        upstream_cost = list_cost = None
        factor = self.factor
        if model is not None and (factor is not None or model.price.multiplier != 1):
            list_cost = list_cost_nano(sum(charged.costs), model.price.multiplier, factor)
        if group is not None:
            upstream_cost = group.upstream_cost_nano
        elif (raw := metered.usage_raw) is not None:
            is_whole = metered.source is UsageSource.UPSTREAM
            upstream_cost = upstream_cost_nano(charged.usage.extras, raw, is_whole=is_whole)
        record = ExchangeRecord(
            request_id=call.request_id,
            user_id=self.principal.user_id,
            user_key_id=self.principal.user_key_id,
            created_at=call.accepted_at,
            api_format=str(call.wire_format),
            outcome=outcome,
            status_code=status,
        )
        # One by one: forty named arguments take longer to be told apart than all of this.
        record.model = model.id if model else None
        record.requested_model = self._requested_model()
        record.endpoint = self.endpoint.name
        record.stream = self.is_stream_asked
        record.usage_flags = tuple(sorted(flags)) if flags else ()
        record.unpriced = self._unpriced(metered, charged.unpriced | self._stray_group(charged))
        record.price_version = self._price_version(charged, model)
        record.price_factor = self._price_factor(charged)
        record.upstream_cost_nano_usd = upstream_cost
        record.list_cost_nano_usd = list_cost
        record.error_type = error_type
        record.count = 0 if self.is_own else 1
        record.made = self._made(metered)
        record.pending = pending
        record.settles = settles
        record.attribution = self._attributed() if settles is None else self._attributed_to_maker()
        record.budgets = self._budgets(model) if any(charged.costs) or pending else ()
        _note_usage(record, metered, charged)
        self._note_way(record, ended_at)
        return record

    def _note_way(self, record: ExchangeRecord, ended_at: float | None) -> None:
        """Note how the request went upstream and came back, and how long that took."""
        started, first = self.forwarded_at, self.first_content_at
        forwarded = self.clock.monotonic() if started is None else started
        record.factory_key_id = self.factory_key_id
        record.upstream_status_code = self.upstream_status
        record.upstream_request_id = self.upstream_request_id
        record.latency_ms = self._latency_ms(ended_at)
        record.ttft_ms = _ms(first - started) if first is not None and started is not None else None
        record.overhead_ms = _ms(forwarded - self.call.accepted)
        record.attempts = tuple(self.attempts)
        record.bytes_out = self.bytes_out
        record.hold_nano_usd = self.reservation.hold_nano if self.reservation else 0
        record.client_retry_count = _retry_count(self.call.headers.get("x-stainless-retry-count"))

    def _budgets(self, model: Model | None) -> tuple[dict[str, Any], ...]:
        return tuple(claim.to_document() for claim in self.claims(model))

    def claims(self, model: Model | None) -> tuple[Claim, ...]:
        """Return the budgets that this request is paid from where it asks this model."""
        principal = self.principal
        if principal.user_limits is None and principal.key_limits is None:
            return ()
        return claims_of(principal, model.id if model else None, self.call.accepted_at, self.zone)

    def _attributed(self) -> Attribution:
        """Return for whom and by what the request was made; read once."""
        if self._attribution is None:
            self._attribution = self.attributor.attribute(self.call.headers, self.person)
        return self._attribution

    def _attributed_to_maker(self) -> Attribution:
        """Return the same, and what it does not say as the request did that began what is charged now."""
        own = self._attributed()
        if self.target is None or not self.attributor.is_on:
            return own
        return own.filled_up(self.target.attribution)

    def _made(self, metered: Metered) -> dict[str, Any] | None:
        """Return under which id the upstream keeps the answer."""
        told = metered.told
        if told is None or not self.is_kept or not self.upstream_key:
            return None
        made: dict[str, Any] = {"id": told.object_id, "upstreamKey": self.upstream_key}
        return {**made, "parts": list(told.parts)} if told.parts else made

    def _pending(self, metered: Metered) -> dict[str, Any] | None:
        """Return what goes on after the request, and may cost as much as is held for it."""
        told = metered.told
        if told is None or not self.is_background or not self.is_kept or told.has_ended:
            return None
        estimate = self.reservation.nano if self.reservation else 0
        return {"nanoUsd": estimate, "until": self.call.accepted_at + PENDING_FOR}

    def _settles(self, metered: Metered, outcome: Outcome) -> dict[str, Any] | None:
        """Return whose cost has been seen to its end, if it was not known: the first to see it is charged."""
        target, told = self.target, metered.told
        if target is None or not target.is_background or target.is_settled:
            return None
        settles: dict[str, Any] = {
            "id": target.object_id,
            "requestId": target.request_id,
            "began": target.created_at,
            "isWhole": True,
        }
        if self._shown is not None:
            group, is_whole = self._shown
            items = group.items if group is not None else []
            return {**settles, "isWhole": is_whole, "items": items} if items or is_whole else None
        is_late = target.until is not None and self.call.accepted_at >= target.until
        if self.is_own and (is_late or self.upstream_status == NOT_FOUND):
            return settles  # nobody will ever tell
        if told is None or told.object_id != target.object_id or self.endpoint.answers is Answers.BATCH:
            return None  # (what a batch costs is told by its results)
        # What was cancelled may have ended all the same, and tells so later.
        is_open = told.status == CANCELLED and metered.usage_raw is None and not self._is_over(target)
        is_whole = told.has_ended and outcome in (Outcome.OK, Outcome.UPSTREAM_ERROR, Outcome.STREAM_ERROR)
        return settles if is_whole and not is_open else None

    def _is_over(self, target: UpstreamObject) -> bool:
        """Whether what was cancelled so long ago will not tell of a cost any more; only the proxy waits."""
        return self.is_own and self.call.accepted_at - target.created_at >= CANCELLED_FOR

    def _unpriced(self, metered: Metered, units: frozenset[str]) -> tuple[str, ...]:
        """Return what was used and has no price: `units` that are counted, and what nothing counts."""
        usage = metered.usage
        is_free = not self.is_billed and self.target is None
        if is_free or metered.source is UsageSource.NONE:
            return ()
        if usage is None:
            return tuple(sorted(units)[:MAX_UNITS])  # of the results of a batch
        uncounted = used_units(
            self.units,
            self.call.wire_format,
            told=usage.extras,
            counted=(unit for unit, _ in usage.quantities),
            is_told=metered.usage_raw is not None,
            tells_tools=usage.tells_tools,
            tier=metered.service_tier,
        )
        return tuple(sorted({*uncounted, *units})[:MAX_UNITS]) if units else uncounted

    def _charge(self, metered: Metered) -> Charge:
        if metered.usage is None or self.model is None:
            return Charge(metered.usage or _NO_USAGE, _NO_COSTS)
        return charge(
            self.models,
            self.model,
            metered.usage,
            answered=metered.upstream_model,
            reasoning=self.reasoning,
            terms=Terms(self.began, answered_tiers(metered.usage.extras, metered.service_tier), self.factor),
        )

    def _price_factor(self, charged: Charge) -> str | None:
        """Return the factor that is in the cost; None for 1, and where nothing was charged."""
        factor = self.factor if charged.items else None
        return None if factor is None else factor_text(factor)

    def _stray_group(self, charged: Charge) -> frozenset[str]:
        """Return the user's group if the table does not have it: its factor was taken for 1."""
        principal = self.principal
        if principal.group is None or principal.price_factor is not None or not charged.items:
            return _NO_GROUP
        is_known = principal.group in self.models.groups
        return _NO_GROUP if is_known else frozenset({clean_text(f"group:{principal.group}", MAX_GROUP)})

    def _price_version(self, charged: Charge, model: Model | None) -> str | None:
        """Return the version of the table it was charged by; None where there was nothing to charge."""
        return None if model is None or charged.usage is _NO_USAGE else self.models.version or None

    def _requested_model(self) -> str | None:
        """Return the model's name as the client wrote it, where it is not the canonical id."""
        if self.requested_model is None or (self.model and self.model.id == self.requested_model):
            return None
        return self.requested_model


def _note_usage(record: ExchangeRecord, metered: Metered, charged: Charge) -> None:
    """Note what was used, who says so, and what it costs."""
    usage = charged.usage
    record.upstream_model = metered.upstream_model
    record.service_tier = metered.service_tier
    record.input_tokens = usage.input_tokens
    record.output_tokens = usage.output_tokens
    record.cache_write_tokens = usage.cache_creation_input_tokens
    record.cache_write_1h_tokens = usage.cache_creation_1h_input_tokens
    record.cache_hit_tokens = usage.cache_read_input_tokens
    record.reasoning_tokens = usage.reasoning_tokens
    record.usage_source = metered.source
    record.usage_raw = bson_safe(metered.usage_raw)
    record.cost_items = charged.items
    record.cost_nano_usd = sum(charged.costs)
    record.costs = charged.costs


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _retry_count(value: str | None) -> int | None:
    return (
        int(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 4 else None
    )
