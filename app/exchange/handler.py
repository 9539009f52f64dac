"""One client request, from its credential to the answer that streams back."""

import logging
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from functools import partial

import msgspec

from app.accounts.credentials import CredentialProblem, extract_credential
from app.accounts.principal import Principal
from app.accounts.rate_window import RateDecision
from app.common.errors import StoreUnavailable
from app.exchange.admission import Admission, rate_headers, refuse_over_limit
from app.exchange.attempts import AttemptLoop, Served, Setback
from app.exchange.batch_results import BatchResults
from app.exchange.caller_limits import refuse_address
from app.exchange.exchange import (
    CLIENT_CLOSED_REQUEST,
    NOTHING_KEPT,
    STILL_KNOWN_S,
    Answer,
    ClientCall,
    Exchange,
    KeepAlive,
    Unobserved,
)
from app.exchange.own_urls import with_own_urls
from app.exchange.ports import (
    Clock,
    CreditGate,
    Directory,
    NobodyWaits,
    RecordSink,
    RequestObserver,
    UpstreamObjects,
)
from app.exchange.relay import AnswerCut, AnswerPath, RelayOptions, RelayStream
from app.keys.key_mask import KeyMask
from app.keys.upstream_outcome import of_failure
from app.objects.upstream_object import UpstreamObject
from app.pricing.charge import ReasoningPlace
from app.records.records import Outcome
from app.upstream.transport import ClientGone, LargeBody, UpstreamReply, UpstreamRequest
from app.wires import errors
from app.wires.attribution import Attributor
from app.wires.content_coding import CodingError, require_decoder
from app.wires.endpoints import (
    BATCH_RESULTS,
    CREATE_BATCH,
    GET_BATCH,
    GET_RESPONSE,
    UNKNOWN,
    Answers,
    Endpoint,
)
from app.wires.error_bodies import error_headers, id_headers, render_error
from app.wires.errors import GatewayError, Refusal, UpstreamProblem
from app.wires.headers import request_headers, response_headers
from app.wires.meter import (
    SLIM,
    AnswerMeter,
    BytesMeter,
    DocumentMeter,
    Meter,
    ResultsMeter,
    SlimMeter,
    StreamMeter,
)
from app.wires.readings import ToldObject
from app.wires.sse import LONGEST_STREAM_START, looks_like_stream
from app.wires.usage_option import RefusedOption, names_option
from app.wires.wire_format import WireFormat

# A longer Content-Length counts as none: `int` refuses very long ones, and no answer has 2^63 bytes.
MAX_LENGTH_DIGITS = 18

logger = logging.getLogger("weir.exchange")

_CREDENTIAL_REFUSALS = {
    CredentialProblem.MISSING: Refusal(
        errors.MISSING_CREDENTIAL, "No API key: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
    ),
    CredentialProblem.CONFLICT: Refusal(
        errors.CONFLICTING_CREDENTIALS, "'Authorization' and 'x-api-key' carry different keys: send one."
    ),
}


@dataclass(slots=True)
class Gateway:
    """The way of a request through the proxy. One instance serves all requests of a worker.

    `on_client_abort` (`drain` or `cancel`, a user may have their own) says what becomes of the answer
    when the client has left, and `abort_drain_s` how many seconds it may go on then. `observer` is also told
    of the requests that leave no record because nobody could be identified. `keeps_messages`: records say
    in words why a request failed.
    """

    admission: Admission
    attempts: AttemptLoop
    directory: Directory
    credit: CreditGate
    sink: RecordSink
    clock: Clock
    on_client_abort: str
    abort_drain_s: float
    default_anthropic_version: str
    refuses_when_full: bool = False
    keeps_messages: bool = True
    observer: RequestObserver = field(default_factory=Unobserved)
    reasoning: ReasoningPlace = ReasoningPlace.AUTO
    objects: UpstreamObjects = NOTHING_KEPT
    keep_alive: KeepAlive | None = None
    attributor: Attributor = field(default_factory=Attributor)
    zone: tzinfo = UTC
    _refused_option: RefusedOption = field(default_factory=RefusedOption)

    def forward(self, call: ClientCall, endpoint: Endpoint) -> Answer:
        """Serve a request that goes upstream."""

        def serve(exchange: Exchange) -> Answer:
            self.admission.admit(exchange)
            # A body may take minutes, and the key may have been revoked meanwhile.
            if self.clock.monotonic() - call.accepted >= STILL_KNOWN_S:
                self._authenticate(call)
            if self.refuses_when_full and not self.sink.accepts():
                raise Refusal(errors.JOURNAL_FULL, "The proxy cannot record requests now.", retry_after_s=5)
            self._settle_before_deletion(exchange)
            self.sink.open(exchange.as_opened())
            return self._relay(exchange)

        return self._recorded(call, endpoint, serve)

    def answer_locally(
        self, call: ClientCall, endpoint: Endpoint, make: Callable[[Principal], bytes]
    ) -> Answer:
        """Serve a request the proxy answers itself.

        `make` returns the JSON body for the caller, or raises a `Refusal`.
        """

        def serve(exchange: Exchange) -> Answer:
            refuse_over_limit(exchange.rate)
            body = make(exchange.principal)
            exchange.bytes_out = len(body)
            exchange.settle(Outcome.OK, 200)
            return self._answer(
                exchange.call, exchange.rate, 200, [("Content-Type", "application/json")], [body]
            )

        return self._recorded(call, endpoint, serve)

    def refuse_unrouted(self, call: ClientCall, refusal: Refusal) -> Answer:
        """Refuse a path or method that does not exist: recorded when the caller is known, 4xx either way."""

        def serve(exchange: Exchange) -> Answer:
            refuse_over_limit(exchange.rate)
            raise refusal

        return self._recorded(call, UNKNOWN, serve, if_unknown=refusal)

    def poll(self, made: UpstreamObject) -> None:
        """Ask about something that goes on in the background; leaves a record once it has ended.

        Nobody waits for the answer, no client's request is counted, and while it goes on there is no record.
        """
        if made.endpoint != CREATE_BATCH.name:
            self._ask(made, GET_RESPONSE)
        elif (told := self._ask(made, GET_BATCH)) is not None and told.has_ended:
            self._ask(made, BATCH_RESULTS)

    def _ask(self, made: UpstreamObject, endpoint: Endpoint) -> ToldObject | None:
        call = ClientCall(
            request_id=self.clock.new_request_id(),
            accepted_at=self.clock.utcnow(),
            accepted=self.clock.monotonic(),
            path="",
            query="",
            wire_format=WireFormat(made.api_format),
            headers={},
            read_body=lambda _limit, _took: b"",
            watch=NobodyWaits(),
            parameters={"id": made.object_id},
        )
        exchange = self._exchange(call, self.directory.caller(made.user_id, made.user_key_id), endpoint)
        exchange.is_own = True
        self.admission.aim(exchange, made)
        try:
            answer = self._relay_state(exchange)
            for _ in answer.body:
                pass
        except GatewayError as error:
            self._end_with(exchange, error)
        except AnswerCut:
            pass  # it is settled, and asked again
        return exchange.told

    def _settle_before_deletion(self, exchange: Exchange) -> None:
        """See what something in the background has cost before a client has it deleted.

        Raises a `Refusal` while it goes on: nobody could tell any more what it came to.
        """
        target = exchange.target
        if target is None or exchange.endpoint.method != "DELETE" or not target.is_background:
            return
        if not target.is_settled:
            self.poll(target)
            found = self.objects.find([target.object_id], target.user_id).get(target.object_id)
            if found is None or not found.is_settled:
                message = "It has not ended yet, or its cost is not known yet: cancel it, or try again later."
                raise Refusal(errors.STILL_RUNNING, message)

    def _recorded(
        self,
        call: ClientCall,
        endpoint: Endpoint,
        serve: Callable[[Exchange], Answer],
        if_unknown: Refusal | None = None,
    ) -> Answer:
        """Authenticate, then serve in such a way that every ending leaves its record.

        `if_unknown` is what a caller hears who cannot be identified, in place of the reason.
        """
        try:
            principal = self._authenticate(call)
        except GatewayError as refusal:
            self.observer.refused(refusal.error_type)
            return self._refusal(call, None, if_unknown or refusal)
        except Exception:
            logger.exception("request %s failed inside the proxy", call.request_id)
            self.observer.refused("internal_error")
            return self._refusal(call, None, if_unknown or _internal_error())
        exchange = self._open(call, principal, endpoint)
        try:
            if principal.key_limits is not None:
                refuse_address(principal, call.address)
            exchange.rate = self.admission.rate(principal, is_billed=endpoint.is_billed)
            return serve(exchange)
        except GatewayError as error:
            return self._end_with(exchange, error)
        except StoreUnavailable:
            return self._end_with(exchange, _store_unavailable())
        except ClientGone:
            exchange.settle(
                Outcome.CLIENT_ABORT,
                CLIENT_CLOSED_REQUEST,
                metered=exchange.abandoned(),
                error_type="client_abort",
            )
            return self._answer(call, exchange.rate, CLIENT_CLOSED_REQUEST, [], [])
        except Exception:
            logger.exception("request %s failed inside the proxy", call.request_id)
            return self._end_with(exchange, _internal_error())
        except BaseException:
            # The worker is being stopped and cuts what has not ended within the grace period.
            exchange.settle(Outcome.INTERRUPTED, CLIENT_CLOSED_REQUEST, error_type="interrupted")
            raise

    def _authenticate(self, call: ClientCall) -> Principal:
        secret = extract_credential(call.headers.get("authorization"), call.headers.get("x-api-key"))
        if isinstance(secret, CredentialProblem):
            raise _CREDENTIAL_REFUSALS[secret]
        try:
            principal = self.directory.find(secret)
        except StoreUnavailable:
            raise _store_unavailable() from None
        if principal is None:
            raise Refusal(errors.UNKNOWN_CREDENTIAL, "The API key is unknown, revoked or disabled.")
        return principal

    def _open(self, call: ClientCall, principal: Principal, endpoint: Endpoint) -> Exchange:
        self.observer.opened()
        return self._exchange(call, principal, endpoint)

    def _exchange(self, call: ClientCall, principal: Principal, endpoint: Endpoint) -> Exchange:
        return Exchange(
            call=call,
            principal=principal,
            sink=self.sink,
            directory=self.directory,
            credit=self.credit,
            clock=self.clock,
            endpoint=endpoint,
            observer=self.observer,
            models=self.admission.models,
            reasoning=self.reasoning,
            keeps_messages=self.keeps_messages,
            drain_s=self._drain_seconds(principal),
            objects=self.objects,
            keep_alive=self.keep_alive,
            attributor=self.attributor,
            zone=self.zone,
        )

    def _relay(self, exchange: Exchange) -> Answer:
        if exchange.body is None:
            return self._relay_state(exchange)
        assert exchange.model is not None  # noqa: S101  (admission left it)
        body, now, kind = exchange.body, 0.0, None
        if inject := body.can_inject_usage:
            # One user's refusals tell nothing about the others' requests: they may have been brought about.
            now = exchange.clock.monotonic()
            kind = exchange.principal.user_id, exchange.model.upstream_id, body.shape
            inject = self._refused_option.may_ask(kind, now)
        result = self._send(exchange, inject)
        if inject and isinstance(result, Setback) and names_option(result.status, result.body_text):
            inject = False
            result = self._send(exchange, inject)
            if isinstance(result, Served):
                # Remembered only if that was it: a client's own bad `stream_options` is refused again.
                self._note_refused_option(exchange, kind, now)
        elif inject and isinstance(result, Served):
            self._refused_option.taken(kind)
        if isinstance(result, Setback):
            raise result.problem
        exchange.drop_body()
        return self._stream(exchange, result, strip=inject, choices=body.choices)

    def _relay_state(self, exchange: Exchange) -> Answer:
        """Relay a request for something the upstream keeps: nothing is asked of a model."""
        result = self._send(exchange, inject=False)
        if isinstance(result, Setback):
            raise result.problem
        exchange.drop_body()
        return self._stream(exchange, result, strip=False, choices=1)

    def _note_refused_option(self, exchange: Exchange, kind: Hashable, asked_at: float) -> None:
        self._refused_option.refused(kind, asked_at, exchange.clock.monotonic())
        self.observer.usage_option_refused()
        logger.warning(
            "the upstream takes no stream_options from requests such as %s (model %s): "
            "its usage is estimated where it does not tell it by itself",
            exchange.call.request_id,
            exchange.model.id if exchange.model else None,
        )

    def _send(self, exchange: Exchange, inject: bool) -> Served | Setback:
        call, endpoint, body = exchange.call, exchange.endpoint, exchange.body
        sent: bytes | LargeBody = exchange.state
        if body is not None:
            sent = body.to_send(exchange.upstream_model, inject, exchange.output_cap)
        request = UpstreamRequest(
            endpoint.method,
            endpoint.filled_path(call.parameters),
            call.query,
            request_headers(
                call.headers,
                endpoint,
                default_anthropic_version=self.default_anthropic_version,
                has_body=bool(sent),
            ),
            sent,
        )
        return self.attempts.run(exchange, request)

    def _stream(self, exchange: Exchange, served: Served, *, strip: bool, choices: int) -> Answer:
        try:
            return self._begin_relay(exchange, served, strip=strip, choices=choices)
        except CodingError:
            self._abandon(exchange, served, "garbled")
            problem = UpstreamProblem(
                errors.UPSTREAM_GARBLED, "The upstream's answer could not be read.", Outcome.UPSTREAM_ERROR
            )
            raise problem from None
        except BaseException as error:
            # Nobody else knows of the reply and its key until the relay has them.
            self._abandon(
                exchange, served, "internal_error" if isinstance(error, Exception) else "interrupted"
            )
            raise

    def _abandon(self, exchange: Exchange, served: Served, error: str) -> None:
        """Let go of an answer that will not be relayed after all, and say so of its attempt."""
        exchange.attempts[-1] = msgspec.structs.replace(exchange.attempts[-1], error=error)
        try:
            served.reply.close()
        finally:
            self.attempts.finish(exchange, served.lease, of_failure(error))

    def _begin_relay(self, exchange: Exchange, served: Served, *, strip: bool, choices: int) -> Answer:
        if exchange.endpoint.answers is Answers.BATCH:
            served = with_own_urls(exchange.call, served)
        reply = served.reply
        coding = reply.headers.get("content-encoding", "identity").strip().lower()
        answers = exchange.endpoint.answers
        if answers.is_by_type:
            is_stream = _media_type(reply) == "text/event-stream"
        else:
            is_stream = _is_event_stream(served, coding, exchange.is_stream_asked)
        strip = strip and is_stream
        meter = _meter(exchange, reply, is_stream=is_stream, strip=strip, choices=choices)
        decoder = None if coding == "identity" else require_decoder(coding)
        mask = KeyMask(served.lease.key.secret)
        path = AnswerPath(meter, mask, decoder, forwards_decoded=strip, pace=exchange.call.pace)
        first = path.feed(served.first)
        headers = [(name, mask.text(value)) for name, value in response_headers(reply.headers.items())]
        if coding != "identity" and not strip:
            headers.append(("content-encoding", coding))
        length = None if strip else _content_length(reply)
        headers += _framing_headers(headers, is_stream, length)
        body = RelayStream(
            exchange,
            reply,
            meter,
            path,
            first=first,
            terms=RelayOptions(
                is_stream,
                length,
                exchange.drain_s,
                is_metered_as_it_comes=coding == "identity",
                begins_silent=is_stream and exchange.keep_alive is not None and not served.first,
            ),
            on_end=partial(self.attempts.finish, exchange, served.lease),
            scrubbed=partial(self.attempts.scrubbed, served.lease),
        )
        return self._answer(exchange.call, exchange.rate, reply.status, headers, body)

    def _drain_seconds(self, principal: Principal) -> float:
        policy = principal.on_client_abort or self.on_client_abort
        return 0.0 if policy == "cancel" else self.abort_drain_s

    def _end_with(self, exchange: Exchange, error: GatewayError) -> Answer:
        told = error.told_as(exchange.endpoint.final_status)
        error.__traceback__ = None  # as below
        answer = self._refusal(exchange.call, exchange.rate, told)
        exchange.bytes_out = sum(map(len, answer.body))
        exchange.settle(
            error.outcome,
            told.status,
            error_type=error.error_type,
            error_message=error.reason or error.message,
            told_message=error.message if isinstance(error, UpstreamProblem) else None,
        )
        return answer

    def _refusal(self, call: ClientCall, rate: RateDecision | None, error: GatewayError) -> Answer:
        call.watch.stop()
        error.__traceback__ = None  # frames it went through may know it, as `refuse_unrouted` does: a cycle
        body = render_error(error, call.wire_format, call.request_id)
        return self._answer(call, rate, error.status, error_headers(error), [body])

    def _answer(
        self,
        call: ClientCall,
        rate: RateDecision | None,
        status: int,
        headers: list[tuple[str, str]],
        body: Iterable[bytes],
    ) -> Answer:
        ids = id_headers(call.request_id)
        if isinstance(body, list):
            headers = [*headers, ("Content-Length", str(sum(map(len, body))))]
        return Answer(status, [*headers, *ids, *rate_headers(rate)], body)


def _meter(exchange: Exchange, reply: UpstreamReply, *, is_stream: bool, strip: bool, choices: int) -> Meter:
    wire_format, answers = exchange.call.wire_format, exchange.endpoint.answers
    if is_stream:
        return StreamMeter(wire_format, strip_usage_chunk=strip, choices=choices, answers=answers)
    if answers is Answers.RESULTS and (exchange.target is None or exchange.target.is_settled):
        return ResultsMeter(wire_format, lambda _result: None)
    if answers is Answers.RESULTS:
        exchange.results = BatchResults(
            exchange.models, exchange.model, exchange.emit_results, exchange.terms
        )
        return ResultsMeter(wire_format, exchange.results.add)
    if answers in (Answers.DOCUMENT, Answers.BATCH):
        return DocumentMeter(wire_format)
    if answers in SLIM:
        return _slim_meter(reply, wire_format, answers)
    return AnswerMeter(wire_format, choices=choices)


def _is_event_stream(served: Served, coding: str, is_stream_asked: bool) -> bool:
    """Return whether an answer is a stream of events: by its first bytes, whatever its type says.

    Only where the first bytes do not show it, the type decides, and what was asked for.
    """
    start = b""
    # A decoder of its own: the meter's one has to see these bytes too.
    for piece in [served.first] if coding == "identity" else require_decoder(coding).decode(served.first):
        start += piece[:LONGEST_STREAM_START]
        if len(start) >= LONGEST_STREAM_START:
            break
    looks = looks_like_stream(start)
    if looks is not None:
        return looks
    content_type = served.reply.headers.get("content-type", "").strip().lower()
    return content_type.startswith("text/event-stream") or (is_stream_asked and "json" not in content_type)


def _media_type(reply: UpstreamReply) -> str:
    return reply.headers.get("content-type", "").partition(";")[0].strip().lower()


def _slim_meter(reply: UpstreamReply, wire_format: WireFormat, answers: Answers) -> Meter:
    """Return what reads a body of results: JSON, unless its type says that it is audio, or mere text."""
    kind = _media_type(reply)
    if answers.is_by_type and "json" not in kind:
        return BytesMeter(wire_format, is_text=kind.startswith("text/") or kind == "application/x-subrip")
    return SlimMeter(wire_format, answers)


def _framing_headers(
    headers: list[tuple[str, str]], is_stream: bool, length: int | None
) -> list[tuple[str, str]]:
    names = {name for name, _ in headers}
    extra = []
    if is_stream:
        # Caches and buffering reverse proxies must not sit on a stream.
        extra.append(("X-Accel-Buffering", "no"))
        if "cache-control" not in names:
            extra.append(("Cache-Control", "no-cache"))
    if "content-type" not in names:
        extra.append(("Content-Type", "text/event-stream" if is_stream else "application/json"))
    if length is not None:
        extra.append(("Content-Length", str(length)))
    return extra


def _content_length(reply: UpstreamReply) -> int | None:
    value = reply.headers.get("content-length", "")
    is_chunked = "transfer-encoding" in reply.headers
    is_number = value.isascii() and value.isdigit() and len(value) <= MAX_LENGTH_DIGITS
    return int(value) if is_number and not is_chunked else None


def _internal_error() -> UpstreamProblem:
    return UpstreamProblem(errors.INTERNAL, "The proxy failed to serve the request.", Outcome.INTERNAL_ERROR)


def _store_unavailable() -> Refusal:
    return Refusal(errors.STORE_UNAVAILABLE, "The proxy's database cannot be reached.", retry_after_s=5)
