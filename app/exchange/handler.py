"""One client request, from its credential to the answer that streams back."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

from app.core import errors
from app.core.content_coding import CodingError, require_decoder
from app.core.credentials import CredentialProblem, extract_credential
from app.core.error_bodies import error_headers, render_error
from app.core.errors import GatewayError, Refusal, UpstreamProblem
from app.core.headers import request_headers, response_headers
from app.core.meter import AnswerMeter, Meter, StreamMeter
from app.core.ports import (
    ClientGone,
    Clock,
    CreditGate,
    Directory,
    RateDecision,
    RecordSink,
    RequestObserver,
    StoreUnavailable,
    UpstreamReply,
    UpstreamRequest,
)
from app.core.principal import Principal
from app.core.records import Outcome
from app.core.request_body import Endpoint
from app.core.sse import LONGEST_STREAM_START, looks_like_stream
from app.exchange.admission import Admission, rate_headers, refuse_over_limit
from app.exchange.attempts import AttemptLoop, Served, Setback
from app.exchange.exchange import CLIENT_CLOSED_REQUEST, Answer, ClientCall, Exchange, Unobserved
from app.exchange.relay import RelayStream, RelayTerms, metering_feed

BAD_REQUEST = 400
MAX_LENGTH_DIGITS = 18
"""A longer Content-Length is none: `int` refuses very long ones, and no answer has 2^63 bytes."""

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

    `on_client_abort` (`drain` or `cancel`, a user may have his own) says what becomes of the answer
    when the client has left, and `abort_drain_s` how many seconds it may go on then. `observer` is also told
    of the requests that leave no record because nobody could be identified.
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
    observer: RequestObserver = field(default_factory=Unobserved)
    _without_usage_option: set[str] = field(default_factory=set)

    def forward(self, call: ClientCall, endpoint: Endpoint) -> Answer:
        """Serve a request that goes upstream."""

        def serve(exchange: Exchange) -> Answer:
            self.admission.admit(exchange, endpoint)
            if self.refuses_when_full and not self.sink.accepts():
                raise Refusal(errors.JOURNAL_FULL, "The proxy cannot record requests now.", retry_after_s=5)
            self.sink.open(exchange.as_opened())
            return self._relay(exchange, endpoint)

        return self._recorded(call, endpoint.name.lower(), serve)

    def answer_locally(self, call: ClientCall, endpoint: str, make: Callable[[], bytes]) -> Answer:
        """Serve a request the proxy answers itself; `make` returns the JSON body or raises a `Refusal`."""

        def serve(exchange: Exchange) -> Answer:
            refuse_over_limit(exchange.rate)
            body = make()
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

        return self._recorded(call, "unknown", serve, if_unknown=refusal)

    def _recorded(
        self,
        call: ClientCall,
        endpoint: str,
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
            exchange.rate = self.admission.rate(principal)
            return serve(exchange)
        except GatewayError as error:
            return self._end_with(exchange, error)
        except StoreUnavailable:
            return self._end_with(exchange, _store_unavailable())
        except ClientGone:
            exchange.settle(Outcome.CLIENT_ABORT, CLIENT_CLOSED_REQUEST, error_type="client_abort")
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

    def _open(self, call: ClientCall, principal: Principal, endpoint: str) -> Exchange:
        self.observer.opened()
        return Exchange(
            call=call,
            principal=principal,
            sink=self.sink,
            directory=self.directory,
            credit=self.credit,
            clock=self.clock,
            endpoint=endpoint,
            observer=self.observer,
        )

    def _relay(self, exchange: Exchange, endpoint: Endpoint) -> Answer:
        assert exchange.body is not None  # noqa: S101  (admission left it)
        assert exchange.model is not None  # noqa: S101
        model = exchange.model.upstream_id
        inject = exchange.body.can_inject_usage and model not in self._without_usage_option
        result = self._send(exchange, endpoint, inject)
        if inject and isinstance(result, Setback) and _refuses_usage_option(result):
            inject = False
            result = self._send(exchange, endpoint, inject)
            if isinstance(result, Served):
                # Remembered only if that was it: a client's own bad `stream_options` is refused again, and
                # must not turn off the metering of a model for everybody.
                self._without_usage_option.add(model)
        if isinstance(result, Setback):
            raise result.problem
        exchange.body = None
        return self._stream(exchange, endpoint, result, strip=inject)

    def _send(self, exchange: Exchange, endpoint: Endpoint, inject: bool) -> Served | Setback:
        assert exchange.body is not None  # noqa: S101
        assert exchange.model is not None  # noqa: S101
        call = exchange.call
        request = UpstreamRequest(
            "POST",
            endpoint.path,
            call.query,
            request_headers(
                call.headers,
                is_messages=endpoint is not Endpoint.CHAT,
                default_anthropic_version=self.default_anthropic_version,
            ),
            exchange.body.forwarded(exchange.model.upstream_id, inject),
        )
        return self.attempts.run(exchange, request)

    def _stream(self, exchange: Exchange, endpoint: Endpoint, served: Served, *, strip: bool) -> Answer:
        try:
            return self._begin_relay(exchange, endpoint, served, strip=strip)
        except CodingError:
            self._abandon(exchange, served, "garbled")
            problem = UpstreamProblem(
                errors.UPSTREAM_FAILED, "The upstream's answer could not be read.", Outcome.UPSTREAM_ERROR
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
        exchange.attempts[-1] = replace(exchange.attempts[-1], error=error)
        try:
            served.reply.close()
        finally:
            self.attempts.finish(exchange, served.lease, error)

    def _begin_relay(self, exchange: Exchange, endpoint: Endpoint, served: Served, *, strip: bool) -> Answer:
        reply = served.reply
        coding = reply.headers.get("content-encoding", "identity").strip().lower()
        is_stream = _is_event_stream(served, coding, exchange.is_stream_asked)
        strip = strip and is_stream
        meter: Meter = (
            StreamMeter(endpoint.wire_format, strip_usage_chunk=strip)
            if is_stream
            else AnswerMeter(endpoint.wire_format)
        )
        decoder = None if coding == "identity" else require_decoder(coding)
        feed = metering_feed(meter, decoder, forward_decoded=strip)
        first = feed(served.first)
        headers = response_headers(reply.headers.items())
        if coding != "identity" and not strip:
            headers.append(("content-encoding", coding))
        length = None if strip else _content_length(reply)
        headers += _framing_headers(headers, is_stream, length)
        body = RelayStream(
            exchange,
            reply,
            meter,
            feed,
            first=first,
            terms=RelayTerms(
                is_stream,
                length,
                self._drain_seconds(exchange.principal),
                is_metered_as_it_comes=coding == "identity",
            ),
            on_end=partial(self.attempts.finish, exchange, served.lease),
        )
        return self._answer(exchange.call, exchange.rate, reply.status, headers, body)

    def _drain_seconds(self, principal: Principal) -> float:
        policy = principal.on_client_abort or self.on_client_abort
        return 0.0 if policy == "cancel" else self.abort_drain_s

    def _end_with(self, exchange: Exchange, error: GatewayError) -> Answer:
        answer = self._refusal(exchange.call, exchange.rate, error)
        exchange.bytes_out = sum(map(len, answer.body))
        exchange.settle(error.outcome, error.status, error_type=error.error_type)
        return answer

    def _refusal(self, call: ClientCall, rate: RateDecision | None, error: GatewayError) -> Answer:
        call.watch.stop()
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
        ids = [("x-request-id", call.request_id), ("request-id", call.request_id)]
        if isinstance(body, list):
            headers = [*headers, ("Content-Length", str(sum(map(len, body))))]
        return Answer(status, [*headers, *ids, *rate_headers(rate)], body)


def _is_event_stream(served: Served, coding: str, is_stream_asked: bool) -> bool:
    """Whether an answer is a stream of events: by its type; where that says nothing, by its first bytes.

    Some upstreams send no type, or one of plain text or bytes. JSON is taken at its word: it is an error.
    """
    content_type = served.reply.headers.get("content-type", "").strip().lower()
    if content_type.startswith("text/event-stream"):
        return True
    if not is_stream_asked or "json" in content_type:
        return False
    start = b""
    # A decoder of its own: the meter's one has to see these bytes too.
    for piece in require_decoder(coding).decode(served.first):
        start += piece
        if len(start) >= LONGEST_STREAM_START:
            break
    return looks_like_stream(start)


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


def _refuses_usage_option(setback: Setback) -> bool:
    return setback.status == BAD_REQUEST and any(
        word in setback.body_text for word in ("stream_options", "include_usage")
    )


def _internal_error() -> UpstreamProblem:
    return UpstreamProblem(errors.INTERNAL, "The proxy failed to serve the request.", Outcome.INTERNAL_ERROR)


def _store_unavailable() -> Refusal:
    return Refusal(errors.STORE_UNAVAILABLE, "The proxy's database cannot be reached.", retry_after_s=5)
