"""Passing an upstream answer on, chunk by chunk, and settling the request when it ends."""

import errno
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.core.content_coding import CodingError, Decoder
from app.core.estimate import ESTIMATED, estimate_usage
from app.core.meter import Meter
from app.core.ports import ClientGone, Passed, UpstreamFailure, UpstreamReply
from app.core.readings import BAD_JSON
from app.core.records import Outcome, UsageSource
from app.exchange.exchange import CLIENT_CLOSED_REQUEST, Exchange, Metered

logger = logging.getLogger("weir.exchange")


LINGER_S = 1.0
"""How long an upstream may take to end a whole answer once the client has left, in seconds."""


class AnswerCut(ConnectionResetError):
    """Raised out of the body's iterator so that the server drops the connection without a clean end.

    Its errno makes the server take it for a connection that broke, which is what it now is: no final chunk
    is written, and the client sees the truncation as one. (A client whose answers end by the closing of the
    connection would not: for that one the connection is reset.)
    """

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the upstream's answer was cut")


def metering_feed(
    meter: Meter, decoder: Decoder | None, *, forward_decoded: bool
) -> Callable[[bytes], bytes]:
    """How bytes pass the meter: as they are, or decoded for it; the client gets one of the two forms."""
    if decoder is None:
        return meter.feed

    def feed(data: bytes) -> bytes:
        pieces = [meter.feed(piece) for piece in decoder.decode(data)]
        return b"".join(pieces) if forward_decoded else data

    return feed


@dataclass(frozen=True, slots=True)
class RelayTerms:
    """What holds for one relayed answer.

    `is_stream` says whether it is a stream of events, `content_length` what the client was promised (None:
    not known), and `drain_s` how many seconds the upstream may go on once the client has left, to book the
    true usage; 0 closes it at once. `is_metered_as_it_comes`: nothing is decoded between upstream and meter.
    """

    is_stream: bool
    content_length: int | None
    drain_s: float
    is_metered_as_it_comes: bool = False


class RelayStream:
    """The response body: an iterator with `close()`, which settles the request however it ends.

    A chunk counts as sent once the server asks for the next one. An object and not a generator, because a
    generator that never started never runs its `finally`, and HEAD requests and early disconnects end so.
    `first` has passed the feed already.
    """

    def __init__(
        self,
        exchange: Exchange,
        reply: UpstreamReply,
        meter: Meter,
        feed: Callable[[bytes], bytes],
        *,
        first: bytes,
        terms: RelayTerms,
        on_end: Callable[[str | None], None],
    ) -> None:
        self._exchange = exchange
        self._reply = reply
        self._meter = meter
        self._feed = feed
        self._is_stream = terms.is_stream
        self._length = terms.content_length
        self._drain_s = terms.drain_s
        self._on_end = on_end
        self._in_flight = 0
        self._is_foreseen = False
        self._is_foreseen_whole = False
        self._has_all = False
        self._at_end = False
        self._failure: str | None = None
        self._last_read_at = exchange.clock.monotonic()
        self._pending = first
        # Where chunks of mere text go, past the server's loop.
        is_passable = terms.is_stream and terms.content_length is None and terms.is_metered_as_it_comes
        self._client = exchange.call.stream if is_passable else None
        self._note_content()
        exchange.call.watch.give(terms.drain_s)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return self._advance()
        except (StopIteration, AnswerCut):
            raise
        except Exception:
            logger.exception("request %s failed while its answer was relayed", self._exchange.call.request_id)
            self._settle(Outcome.INTERNAL_ERROR, "internal_error")
            raise self._cut() from None
        except BaseException:
            # The worker is being stopped and cuts what has not ended within the grace period.
            self._settle(Outcome.INTERRUPTED, "interrupted")
            self._cut()
            raise

    def _cut(self) -> AnswerCut:
        """What to raise so that the client sees that its answer is not whole."""
        call = self._exchange.call
        if call.ends_by_close and self._length is None:
            call.watch.reset_on_close()
        return AnswerCut()

    def _advance(self) -> bytes:
        exchange = self._exchange
        exchange.bytes_out += self._in_flight
        self._in_flight = 0
        # The meter is ahead of the client by the bytes that are still pending.
        is_at_end = self._meter.is_terminated and not self._pending
        self._has_all = is_at_end or exchange.bytes_out == self._length
        if self._has_all and self._drain_s > LINGER_S:
            # A client that leaves now has all it wanted; the upstream need not be waited for that long.
            exchange.call.watch.give(LINGER_S)
        if exchange.call.watch.departed and not self._has_all:
            self.close()
            raise self._cut()
        chunk = self._pending
        self._pending = b""
        while not chunk:
            if self._at_end:
                self._finish()
                raise StopIteration
            chunk = self._read_next()
            if exchange.call.watch.departed and not self._has_all:
                # While this was waited for. It may hold all that was missing, but nobody gets it any more.
                self.close()
                raise self._cut()
        self._in_flight = len(chunk)
        self._foresee(len(chunk))
        return chunk

    def _foresee(self, size: int) -> None:
        """Before a stream's first chunk and before the last of any answer leaves, note what is known.

        If the process dies with the client holding an answer, its record still says what the answer cost.
        """
        has_all_bytes = self._exchange.bytes_out + size == self._length
        is_whole = has_all_bytes or self._meter.is_terminated
        if self._is_foreseen_whole or (self._is_foreseen and not is_whole):
            return
        if not is_whole and not self._is_stream:
            return
        self._is_foreseen, self._is_foreseen_whole = True, is_whole
        if has_all_bytes:
            self._meter.flush()  # a plain body is read when it is all there
        self._exchange.foresee(self._status, self._result(Outcome.INTERRUPTED), is_whole=is_whole)

    @property
    def _status(self) -> int:
        return self._exchange.upstream_status or 200

    def close(self) -> None:
        """End the request: the server calls this after the last chunk, and when the client has left.

        Also when the worker's end finds it waiting for a client that reads slowly.
        """
        if self._exchange.is_settled:
            return
        cause = sys.exception()
        if cause is not None and not isinstance(cause, Exception) and not self._has_all:
            self._settle(Outcome.INTERRUPTED, "interrupted")
            self._cut()
            return
        self._exchange.call.watch.depart()
        try:
            if not self._has_all:
                self._drain()
        finally:
            self._settle_departed()

    def _read_next(self) -> bytes:
        watch = self._exchange.call.watch
        watch.waiting()
        data: bytes | None
        try:
            data = self._reply.read_passing(self._pass_on) if self._client else self._reply.read()
        except UpstreamFailure as failure:
            data = b""
            self._failure = failure.kind
        except ClientGone:
            self._settle_departed()
            raise self._cut() from None
        finally:
            watch.working()
        if data is None:
            self._wait_for_client()
            return b""
        self._last_read_at = self._exchange.clock.monotonic()
        if not data:
            self._at_end = True
            return self._meter.flush()
        return self._metered(data)

    def _pass_on(self, data: bytes) -> Passed:
        """Called while the upstream is waited for, perhaps from the event loop: send what needs no reading.

        The server has sent all that came before, for it has asked for more.
        """
        exchange, client = self._exchange, self._client
        events = self._meter.passable(data)
        if client is None or not events or exchange.call.watch.departed:
            return Passed.NOT
        passed = client.offer(data)
        if passed is not Passed.NOT:
            self._meter.note_passed(events)
            self._last_read_at = exchange.clock.monotonic()
            if passed is Passed.ON:
                exchange.bytes_out += len(data)
            else:
                self._in_flight = len(data)
        return passed

    def _wait_for_client(self) -> None:
        """Have it take what it was offered; one that does not has left."""
        assert self._client is not None  # noqa: S101
        try:
            self._client.flush()
        except OSError:
            self.close()
            raise self._cut() from None
        self._exchange.bytes_out += self._in_flight
        self._in_flight = 0

    def _metered(self, data: bytes) -> bytes:
        """The bytes to forward for these upstream bytes."""
        try:
            chunk = self._feed(data)
        except CodingError:
            self._failure = "garbled"
            self._at_end = True
            return b""
        self._note_content()
        return chunk

    def _note_content(self) -> None:
        if self._exchange.first_content_at is None and self._is_stream and self._meter.has_content:
            self._exchange.first_content_at = self._last_read_at

    def _finish(self) -> None:
        """The upstream's side is over; whether its answer was whole is for the meter to say."""
        meter = self._meter
        departed = self._exchange.call.watch.departed and not self._has_all
        if departed:
            self._settle(Outcome.CLIENT_ABORT, "client_abort")
        elif meter.error is not None:
            # An error inside a 200: within a stream, or as the whole body.
            self._settle(
                Outcome.STREAM_ERROR if self._is_stream else Outcome.UPSTREAM_ERROR, meter.error.type
            )
        elif self._failure is not None and not (self._is_stream and meter.is_terminated):
            self._settle(_BROKEN_OFF.get(self._failure, Outcome.UPSTREAM_TRUNCATED), self._failure)
        elif self._is_stream and not meter.is_complete:
            self._settle(Outcome.UPSTREAM_TRUNCATED, "truncated")
            raise self._cut()
        elif not self._is_stream and BAD_JSON in meter.flags:
            # Relayed as it came and to its end, but no client can read it.
            self._settle(Outcome.UPSTREAM_ERROR, BAD_JSON)
        else:
            # A cut after `[DONE]` or `message_stop` takes nothing from the client; but one that was promised
            # a length would wait for the rest.
            self._settle(Outcome.OK, None)
            if self._length is None:
                return
        if departed or self._failure is not None:
            raise self._cut()

    def _drain(self) -> None:
        """Read the rest for the meter's sake, as long as the watch's grace lasts."""
        if self._drain_s <= 0 or self._at_end:
            return
        watch = self._exchange.call.watch
        watch.waiting()
        try:
            while not self._meter.is_terminated and (data := self._reply.read()):
                self._feed(data)
            self._meter.flush()
            self._at_end = True
        except (UpstreamFailure, ClientGone, CodingError):
            return  # the cap, or the upstream's own end: what was seen until here is what is booked
        finally:
            watch.working()

    def _settle_departed(self) -> None:
        """The client is gone. If it had all it waited for, that is a success."""
        if self._has_all:
            self._meter.flush()
        if self._has_all and self._meter.error is None:
            self._settle(Outcome.OK, None)
        else:
            self._settle(Outcome.CLIENT_ABORT, "client_abort")

    def _settle(self, outcome: Outcome, error_type: str | None) -> None:
        exchange = self._exchange
        if exchange.is_settled:
            return
        status = self._status
        if outcome is Outcome.CLIENT_ABORT and exchange.bytes_out == 0:
            status = CLIENT_CLOSED_REQUEST
        try:
            self._reply.close()
            self._on_end(self._broken_by(outcome))
        finally:
            exchange.settle(
                outcome,
                status,
                metered=self._result(outcome),
                error_type=error_type,
                ended_at=self._last_read_at,
            )

    def _broken_by(self, outcome: Outcome) -> str | None:
        """How the upstream broke off its answer, if it did; what clients and workers do is not its fault."""
        if outcome is Outcome.UPSTREAM_TRUNCATED:
            return self._failure or "truncated"
        return self._failure if outcome in (Outcome.UPSTREAM_TIMEOUT, Outcome.UPSTREAM_ERROR) else None

    def _result(self, outcome: Outcome) -> Metered:
        meter = self._meter
        usage = meter.usage
        flags = meter.flags
        if self._at_end and meter.is_complete and meter.error is None:
            source = UsageSource.UPSTREAM if usage else UsageSource.NONE
        elif meter.is_terminated and usage:
            source = UsageSource.UPSTREAM
        elif outcome is Outcome.CLIENT_ABORT:
            # The upstream was closed before it told: what it generated until then is charged all the same.
            usage = estimate_usage(
                usage,
                request_bytes=self._exchange.request_bytes,
                content_events=meter.content_events,
            )
            flags |= usage.flags
            source = UsageSource.ESTIMATE if ESTIMATED in usage.flags else UsageSource.PARTIAL
        else:
            source = UsageSource.PARTIAL if usage else UsageSource.NONE
        return Metered(usage, meter.usage_raw, source, meter.upstream_model, meter.service_tier, flags)


_BROKEN_OFF = {"timeout": Outcome.UPSTREAM_TIMEOUT, "garbled": Outcome.UPSTREAM_ERROR}
"""Outcomes of an answer that broke off after its first byte; any other kind is a truncation."""
