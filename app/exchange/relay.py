"""Passing an upstream answer on, chunk by chunk, and settling the request when it ends."""

import errno
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from app.exchange.exchange import CLIENT_CLOSED_REQUEST, NO_PACE, Exchange, Metered
from app.exchange.ports import Pace
from app.keys.key_mask import KEY_ECHOED, KeyMask
from app.keys.upstream_outcome import SERVED, Finding, of_failure, of_told_error
from app.records.records import Outcome, UsageSource
from app.upstream.transport import ClientGone, Passed, StillSilent, UpstreamFailure, UpstreamReply
from app.wires.content_coding import CodingError, Decoder
from app.wires.estimate import ESTIMATED
from app.wires.formats.failures import CHOICES_MISSING, NO_ANSWER
from app.wires.meter import Meter
from app.wires.readings import BAD_JSON, StreamError
from app.wires.scrubbing import scrub

logger = logging.getLogger("weir.exchange")


LINGER_S = 1.5
"""How long an upstream may take to end a whole answer, in seconds: with what a busy machine adds, two."""

# More bytes than this that decode to next to nothing are no answer.
_MOST_UNDECIDED = 64 * 1024


class AnswerCut(ConnectionResetError):
    """Raised out of the body's iterator so that the server drops the connection without a clean end.

    Its errno makes the server take it for a connection that broke, which is what it now is: no final chunk
    is written, and the client sees the truncation as one. (A client whose answers end by the closing of the
    connection would not: for that one the connection is reset.)
    """

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the upstream's answer was cut")


MOST_METERED: Final = 8 * 1024
"""How many bytes a meter reads at once; with more than `_MANY_LINES` lines in them, `_LEAST_METERED`."""
_LEAST_METERED: Final = 1024
_MANY_LINES: Final = 512
_EVENT_END: Final = b"\n\n"

# At hand, since they are looked at for each chunk.
_PASSED_ON: Final = Passed.ON
_NOT_PASSED: Final = Passed.NOT

KEEP_ALIVE: Final = b": keep-alive\n\n"
"""A comment of a stream of events: no event, nothing that a client's reader hands on."""


class AnswerPath:
    """The way of an answer's bytes from the upstream to the client: past the mask, then the meter.

    A coded answer is decoded for both. The client gets one of the two forms: what is decoded, or the bytes as
    they are; where those hold the key, they cannot be masked, and are a `CodingError`. Much at once passes in
    pieces, between which others have their turn.
    """

    __slots__ = ("_coded", "_decoder", "_forwards_decoded", "_meter", "_pace", "mask")

    def __init__(
        self,
        meter: Meter,
        mask: KeyMask,
        decoder: Decoder | None = None,
        *,
        forwards_decoded: bool = False,
        pace: Pace = NO_PACE,
    ) -> None:
        self._meter = meter
        self._pace = pace
        self.mask = mask
        self._decoder = decoder
        self._forwards_decoded = forwards_decoded
        # Bytes as they came, of which it does not show yet whether they may go on.
        self._coded = b""

    def feed(self, data: bytes) -> bytes:
        """Take upstream bytes; return the bytes to forward now. Raises `CodingError`."""
        if self._decoder is None:
            return self._metered(data)
        pieces = []
        for piece in self._decoder.decode(data):
            pieces.append(self._metered(piece))
            self._pace.rest()
        if self._forwards_decoded:
            return b"".join(pieces)
        self._coded += data
        if self.mask.has_found or len(self._coded) > _MOST_UNDECIDED + len(data):
            raise CodingError("it repeats the upstream key")
        if self.mask.is_holding:
            return b""
        coded, self._coded = self._coded, b""
        return coded

    def _metered(self, data: bytes) -> bytes:
        if len(data) <= MOST_METERED:
            return self._meter.feed(self.mask.feed(data))
        self._pace.queue()
        pieces = []
        start = 0
        while start < len(data):
            is_dense = data.count(b"\n", start, start + MOST_METERED) > _MANY_LINES
            most = _LEAST_METERED if is_dense else MOST_METERED
            # Behind an event, if one ends there: what is cut is read in another way.
            end = data.rfind(_EVENT_END, start, start + most) + len(_EVENT_END)
            end = end if end > start + len(_EVENT_END) else start + most
            pieces.append(self._meter.feed(self.mask.feed(data[start:end])))
            start = end
            self._pace.rest()
        return b"".join(pieces)

    def flush(self) -> bytes:
        """Return what was held back, now that the upstream has ended."""
        held = self.mask.flush()
        rest = (self._meter.feed(held) if held else b"") + self._meter.flush()
        if self._decoder is None or self._forwards_decoded:
            return rest
        coded, self._coded = self._coded, b""
        return coded


@dataclass(slots=True)
class RelayOptions:
    """What holds for one relayed answer. Nothing changes it; freezing it would make it thrice as dear.

    `is_stream` says whether it is a stream of events, `content_length` what the client was promised (None:
    not known), and `drain_s` how many seconds the upstream may go on once the client has left, to book the
    true usage; 0 closes it at once. `is_metered_as_it_comes`: nothing is decoded between upstream and meter.
    `begins_silent`: the client is to have a comment first, since nothing of the stream has come yet.
    """

    is_stream: bool
    content_length: int | None
    drain_s: float
    is_metered_as_it_comes: bool = False
    begins_silent: bool = False


class RelayStream:
    """The response body: an iterator with `close()`, which settles the request however it ends.

    A chunk counts as sent once the server asks for the next one. An object and not a generator, because a
    generator that never started never runs its `finally`, and HEAD requests and early disconnects end so.
    `first` has passed the `path` already.
    """

    def __init__(
        self,
        exchange: Exchange,
        reply: UpstreamReply,
        meter: Meter,
        path: AnswerPath,
        *,
        first: bytes,
        terms: RelayOptions,
        on_end: Callable[[Finding | None], None],
        scrubbed: Callable[[str], str] = scrub,
    ) -> None:
        self._exchange = exchange
        self._watch = exchange.call.watch
        self._reply = reply
        self._meter = meter
        self._path = path
        self._is_clean = path.mask.is_clean
        self._is_stream = terms.is_stream
        self._length = terms.content_length
        self._drain_s = terms.drain_s
        self._on_end = on_end
        self._scrubbed = scrubbed
        self._in_flight = 0
        self._has_checkpoint = False
        self._has_whole_checkpoint = False
        # What a good ending has to tell, once all of a body is there whose length was told.
        self._final: Metered | None = None
        self._has_all = False
        self._ends_by: float | None = None
        self._at_end = False
        self._failure: str | None = None
        self._last_read_at = self._last_sign_at = exchange.clock.monotonic()
        self._pending = KEEP_ALIVE if terms.begins_silent else first
        # Where chunks of text alone go, past the server's loop.
        is_passable = terms.is_stream and terms.content_length is None and terms.is_metered_as_it_comes
        self._client = exchange.call.stream if is_passable else None
        self._is_learnt = not exchange.is_kept
        self._keep_alive = exchange.keep_alive if is_passable else None
        if self._keep_alive is not None:
            self._watch.tell_silence(self._keep_alive.every_s, self._last_sign)
        self._note_content()

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
        """Make the error to raise so that the client sees that its answer is not whole."""
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
        if is_at_end and self._is_stream and self._ends_by is None:
            # Nobody needs what may still come: the client's answer ends soon, whatever the upstream does.
            self._ends_by = exchange.clock.monotonic() + LINGER_S
            self._watch.end_within(LINGER_S)
        if self._watch.departed and not self._has_all:
            self.close()
            raise self._cut()
        chunk = self._pending
        self._pending = b""
        while not chunk:
            if self._at_end:
                self._finish()
                raise StopIteration
            chunk = self._read_next()
            if self._watch.departed and not self._has_all:
                # While this was waited for. It may hold all that was missing, but nobody gets it any more.
                self.close()
                raise self._cut()
        if chunk is KEEP_ALIVE:
            return chunk  # which is no part of the answer
        self._in_flight = len(chunk)
        self._checkpoint(len(chunk))
        return chunk

    def _checkpoint(self, size: int) -> None:
        """Note what is known, before a stream's first chunk and before the last chunk of any answer leaves.

        If the process dies with the client holding an answer, its record still says what the answer cost.
        """
        has_all_bytes = self._exchange.bytes_out + size == self._length
        is_whole = has_all_bytes or self._meter.is_terminated
        if self._has_whole_checkpoint or (self._has_checkpoint and not is_whole):
            return
        if not is_whole and not self._is_stream:
            return
        self._has_checkpoint, self._has_whole_checkpoint = True, is_whole
        if has_all_bytes:
            self._meter.flush()  # a plain body is read when it is all there
        metered = self._result(Outcome.INTERRUPTED)
        if has_all_bytes and self._is_whole:
            self._final = metered
        self._exchange.checkpoint(self._status, metered, is_whole=is_whole)

    @property
    def _status(self) -> int:
        return self._exchange.upstream_status or 200

    def close(self) -> None:
        """End the request: the server calls this after the last chunk, and when the client has left.

        The server also does so when the worker's end finds it waiting for a client that reads slowly.
        """
        if self._exchange.is_settled:
            return
        cause = sys.exception()
        if cause is not None and not isinstance(cause, Exception) and not self._has_all:
            self._settle(Outcome.INTERRUPTED, "interrupted")
            self._cut()
            return
        self._watch.depart()
        try:
            if not self._has_all:
                self._drain()
        finally:
            self._settle_departed()

    def _read_next(self) -> bytes:
        watch = self._watch
        if self._ends_by is not None and self._exchange.clock.monotonic() >= self._ends_by:
            # An upstream that never pauses gives the watch nothing to interrupt.
            self._failure = "timeout"
            self._at_end = True
            return self._path.flush()
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
        except StillSilent:
            return self._sign_of_life()
        finally:
            watch.working()
        if data is None:
            self._wait_for_client()
            return b""
        self._last_read_at = self._exchange.clock.monotonic()
        # Before it is metered: an upstream that is faster than this need never be waited for.
        self._exchange.call.pace.rest()
        if not data:
            self._at_end = True
            return self._path.flush()
        return self._metered(data)

    def _pass_on(self, data: bytes) -> Passed:
        """Send what needs no reading, while the upstream is waited for; perhaps called from the event loop.

        The server has sent all that came before, for it has asked for more.
        """
        exchange, client = self._exchange, self._client
        events = self._meter.passable(data)
        if client is None or not events or self._watch.departed or not self._is_clean(data):
            return _NOT_PASSED
        passed = client.offer(data)
        if passed is not _NOT_PASSED:
            size = len(data)
            self._meter.note_passed(events, size)
            self._last_read_at = exchange.clock.monotonic()
            if passed is _PASSED_ON:
                exchange.bytes_out += size
            else:
                self._in_flight = size
        return passed

    def _last_sign(self) -> float:
        return max(self._last_read_at, self._last_sign_at)

    def _sign_of_life(self) -> bytes:
        """Return what to send while the upstream is silent: a comment, unless it would be within an event."""
        now = self._exchange.clock.monotonic()
        self._last_sign_at = now
        assert self._keep_alive is not None  # noqa: S101
        if now - self._last_read_at >= self._keep_alive.longest_silence_s:
            self._failure = "timeout"
            self._at_end = True
            return self._path.flush()
        is_over = self._watch.departed or self._meter.is_terminated
        return KEEP_ALIVE if self._meter.is_between_events and not is_over else b""

    def _wait_for_client(self) -> None:
        """Wait until the client has taken what it was offered; a client that does not take it has left."""
        assert self._client is not None  # noqa: S101
        try:
            self._client.flush()
        except OSError:
            self.close()
            raise self._cut() from None
        self._exchange.bytes_out += self._in_flight
        self._in_flight = 0

    def _metered(self, data: bytes) -> bytes:
        """Return the bytes to forward for these upstream bytes."""
        try:
            chunk = self._path.feed(data)
        except CodingError:
            self._failure = "garbled"
            self._at_end = True
            return b""
        self._note_content()
        return chunk

    def _note_content(self) -> None:
        if self._exchange.first_content_at is None and self._is_stream and self._meter.has_content:
            self._exchange.first_content_at = self._last_read_at
        if not self._is_learnt and (told := self._meter.told) is not None:
            # Before the client has the id: it may use it at once, and elsewhere.
            self._is_learnt = True
            self._exchange.learn(told)

    def _finish(self) -> None:
        """Settle when the upstream's side is over; whether its answer was whole is for the meter to say."""
        meter = self._meter
        departed = self._watch.departed and not self._has_all
        # What could not be decoded was not sent on, the terminator in it perhaps included.
        has_stream = self._is_stream and meter.is_terminated
        has_stream = has_stream and (self._has_all or self._failure != "garbled")
        if departed:
            self._settle(Outcome.CLIENT_ABORT, "client_abort")
        elif meter.error is not None:
            self._settle_told_error(meter.error)
        elif self._failure is not None and not has_stream:
            self._settle(_BROKEN_OFF.get(self._failure, Outcome.UPSTREAM_TRUNCATED), self._failure)
        elif self._is_stream and not meter.is_complete:
            self._settle(Outcome.UPSTREAM_TRUNCATED, "truncated")
            raise self._cut()
        elif not self._is_stream and BAD_JSON in meter.flags:
            # Relayed as it came and to its end, but no client can read it.
            self._settle(Outcome.UPSTREAM_ERROR, BAD_JSON)
        else:
            self._settle(Outcome.OK, None)
        # A cut after `[DONE]` or `message_stop` takes nothing from the client; but one that was promised a
        # length would wait for the rest.
        if departed or (self._failure is not None and not (has_stream and self._length is None)):
            raise self._cut()

    def _drain(self) -> None:
        """Read the rest for the meter's sake, as long as the watch's grace lasts."""
        if self._drain_s <= 0 or self._at_end:
            return
        watch = self._watch
        watch.waiting()
        try:
            while not self._is_read_enough and (data := self._reply.read()):
                self._path.feed(data)
                self._exchange.call.pace.rest()
            self._path.flush()
            self._at_end = True
        except (UpstreamFailure, ClientGone, CodingError):
            return  # the cap, or the upstream's own end: what was seen until here is what is booked
        finally:
            watch.working()

    @property
    def _is_read_enough(self) -> bool:
        """Whether nothing more has to be read: it is over, or tells later what it used."""
        meter = self._meter
        return meter.is_terminated or (self._exchange.is_background and meter.told is not None)

    def _settle_departed(self) -> None:
        """Settle when the client is gone: as a success if it had all it waited for."""
        if self._has_all:
            self._meter.flush()
        if self._has_all and self._meter.error is None:
            self._settle(Outcome.OK, None)
        elif self._has_all and self._meter.error is not None:
            self._settle_told_error(self._meter.error)
        else:
            self._settle(Outcome.CLIENT_ABORT, "client_abort")

    def _settle_told_error(self, error: StreamError) -> None:
        """Settle an error that was told inside a 200: within a stream, or as the whole body."""
        self._settle(Outcome.STREAM_ERROR if self._is_stream else Outcome.UPSTREAM_ERROR, error.type)

    def _settle(self, outcome: Outcome, error_type: str | None) -> None:
        exchange = self._exchange
        if exchange.is_settled:
            return
        status = self._status
        if outcome is Outcome.CLIENT_ABORT and exchange.bytes_out == 0:
            status = CLIENT_CLOSED_REQUEST
        if self._path.mask.has_found:
            logger.warning(
                "the upstream repeated the key %s within its answer to request %s: the client did not get it",
                exchange.factory_key_id,
                exchange.call.request_id,
            )
        try:
            self._reply.close()
            self._on_end(self._finding(outcome))
        finally:
            exchange.settle(
                outcome,
                status,
                metered=self._result(outcome),
                error_type=error_type,
                error_message=self._reason(outcome, error_type) if error_type else None,
                ended_at=self._last_read_at,
            )

    def _reason(self, outcome: Outcome, error_type: str) -> str | None:
        """Say why the answer was not a good one: in the upstream's words, where it gave a reason."""
        error = self._meter.error
        if error is not None and outcome in (Outcome.STREAM_ERROR, Outcome.UPSTREAM_ERROR):
            return self._scrubbed(error.message) or _BREAKS.get(error_type)
        return _BREAKS.get(error_type)

    def _finding(self, outcome: Outcome) -> Finding | None:
        """Say what the answer's end means for the key; nothing where a client or a worker has ended it."""
        if outcome is Outcome.OK:
            return SERVED
        if outcome is Outcome.UPSTREAM_TRUNCATED:
            return of_failure(self._failure or "truncated")
        if outcome not in (Outcome.UPSTREAM_TIMEOUT, Outcome.UPSTREAM_ERROR, Outcome.STREAM_ERROR):
            return None
        if (error := self._meter.error) is not None:
            return of_told_error(error.codes, is_requests_fault=error.is_requests_fault)
        return None if self._failure is None else of_failure(self._failure)

    def _result(self, outcome: Outcome) -> Metered:
        if self._final is not None and outcome is Outcome.OK:
            return self._final
        meter = self._meter
        usage = meter.usage
        flags = meter.flags | {KEY_ECHOED} if self._path.mask.has_found else meter.flags
        is_whole = self._is_whole or outcome is Outcome.OK
        if is_whole and meter.is_usage_final:
            source = UsageSource.UPSTREAM
        elif is_whole and meter.is_unfinished and not self._is_stream:
            source = UsageSource.NONE  # what it will use is told when it is asked for again
        elif (is_whole and self._exchange.is_billed) or outcome is Outcome.CLIENT_ABORT:
            # A whole answer that does not tell all it used; or the upstream was closed before it told: what
            # it generated until then is charged all the same.
            usage = self._exchange.estimated(usage, meter.output_estimate)
            flags |= usage.flags
            is_exact = is_whole and not meter.has_content and usage.quantities
            known = UsageSource.UPSTREAM if is_exact else UsageSource.PARTIAL
            source = UsageSource.ESTIMATE if ESTIMATED in usage.flags else known
        else:
            source = UsageSource.PARTIAL if usage else UsageSource.NONE
        exchange = self._exchange
        is_told = exchange.is_kept or exchange.target is not None or meter.has_parts
        told = meter.told if is_told else None
        return Metered(usage, meter.usage_raw, source, meter.upstream_model, meter.service_tier, flags, told)

    @property
    def _is_whole(self) -> bool:
        """Whether all of a good answer was seen."""
        meter = self._meter
        return meter.error is None and (meter.is_terminated or (self._at_end and meter.is_complete))


_BROKEN_OFF = {"timeout": Outcome.UPSTREAM_TIMEOUT, "garbled": Outcome.UPSTREAM_ERROR}
"""Outcomes of an answer that broke off after its first byte; any other kind is a truncation."""

_BREAKS = {
    "timeout": "The upstream fell silent within its answer.",
    "reset": "The upstream closed the connection within its answer.",
    "truncated": "The upstream's answer ended before its end.",
    "garbled": "The upstream's answer could not be read to its end.",
    BAD_JSON: "The upstream's answer is not JSON.",
    NO_ANSWER: "The upstream answered nothing, and told no error.",
    CHOICES_MISSING: "Fewer answers came than were asked for.",
    "error": "The upstream told an error without a reason.",
    "internal_error": "The proxy failed while it relayed the answer.",
}
"""What is said of an answer that the client did not get whole, by the error's type."""
