"""Meters: what an answer used and how it ended, read off the bytes while they pass.

A meter never changes, delays or withholds a byte, with one exception that is asked for: a usage-only chunk
the client did not order is removed. What it cannot read it flags; it never raises for what an upstream sent.
"""

from typing import Any, Final, Protocol

from app.core.event_pattern import EventPattern
from app.core.formats.answer import read_answer
from app.core.formats.anthropic import AnthropicReader
from app.core.formats.openai import OpenAIReader
from app.core.readings import BAD_JSON, BODY_TOO_LONG, LINE_TOO_LONG, Readings, StreamError
from app.core.sse import BOM, Oversized, SseSplitter, parse_event
from app.core.usage import Usage, counted_tokens
from app.core.wire_format import WireFormat

__all__ = ["MAX_ANSWER_BYTES", "MAX_HELD_BYTES", "AnswerMeter", "Meter", "StreamError", "StreamMeter"]

MAX_HELD_BYTES: Final = 64 * 1024
"""While stripping, an unfinished event is held back up to this size: no usage-only chunk is longer."""
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""A non-streamed body is kept for reading up to this size."""

_LINE_ENDS = b"\r\n"
_BLANK_LINE = b"\n\n"

_MAX_LESSONS = 16
"""How often a stream's pattern is learned: some streams have none."""
_MAX_TURNS = 4
"""How often within one read events are looked for that fit the pattern: comparing must not cost more."""
_FIRST_PIECE = 512
"""Without a pattern, so many bytes of a long read are parsed before there may be one for the rest."""


class Meter(Protocol):
    """What the relay needs of a meter. Results may be read at any time; they are final after `flush`."""

    @property
    def usage(self) -> Usage | None:
        """Canonical counts of what was seen so far, None while unknown."""

    @property
    def usage_raw(self) -> dict[str, Any] | None:
        """The last usage object as received, with the one of `message_start` under that name."""

    @property
    def upstream_model(self) -> str | None:
        """The model the upstream named."""

    @property
    def response_id(self) -> str | None:
        """The upstream's id of the answer."""

    @property
    def service_tier(self) -> str | None:
        """The tier the upstream says it served."""

    @property
    def has_content(self) -> bool:
        """Whether generated content was seen: text, reasoning or tool arguments."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole."""

    @property
    def is_terminated(self) -> bool:
        """Whether the format's own end was seen, after which nothing of interest follows."""

    @property
    def at_event_boundary(self) -> bool:
        """Whether the bytes returned so far end where an event may be added."""

    @property
    def content_events(self) -> int:
        """How many events came since the first that held generated content; 0 for a plain body."""

    @property
    def error(self) -> StreamError | None:
        """The error told inside the answer, if any."""

    @property
    def flags(self) -> frozenset[str]:
        """What was odd: about the framing, the JSON or the counts."""

    def feed(self, data: bytes) -> bytes:
        """Take upstream bytes; the bytes to forward now."""

    def passable(self, data: bytes) -> int:
        """How many events these bytes are that need not be fed, only forwarded and noted; else 0."""

    def note_passed(self, events: int) -> None:
        """So many passable events have been forwarded."""

    def flush(self) -> bytes:
        """The upstream has ended: read what is pending, return what was held back. Idempotent."""


class _MeterBase:
    """The results, which both meters keep in `Readings`."""

    __slots__ = ("_content_events", "_readings", "_wire_format")

    def __init__(self, wire_format: WireFormat) -> None:
        self._wire_format = wire_format
        self._content_events = 0
        self._readings = Readings()

    @property
    def usage(self) -> Usage | None:
        """Canonical counts of what was seen so far, None while unknown."""
        readings = self._readings
        if readings.counted_tokens is not None:
            return counted_tokens(readings.counted_tokens)
        return readings.usage.usage(self._wire_format)

    @property
    def usage_raw(self) -> dict[str, Any] | None:
        """The last usage object as received, with the one of `message_start` under that name."""
        return self._readings.counted_tokens or self._readings.usage.raw

    @property
    def upstream_model(self) -> str | None:
        """The model the upstream named."""
        return self._readings.upstream_model

    @property
    def response_id(self) -> str | None:
        """The upstream's id of the answer."""
        return self._readings.response_id

    @property
    def service_tier(self) -> str | None:
        """The tier the upstream says it served."""
        return self._readings.service_tier

    @property
    def has_content(self) -> bool:
        """Whether generated content was seen: text, reasoning or tool arguments."""
        return self._readings.has_content

    @property
    def is_terminated(self) -> bool:
        """Whether the format's own end was seen, after which nothing of interest follows."""
        return self._readings.is_terminated

    @property
    def content_events(self) -> int:
        """How many events came since the first that held generated content; 0 for a plain body."""
        return self._content_events

    def passable(self, data: bytes) -> int:
        """None: all bytes are to be fed."""
        return 0

    def note_passed(self, events: int) -> None:
        """So many passable events have been forwarded."""
        self._content_events += events

    @property
    def error(self) -> StreamError | None:
        """The error told inside the answer, if any."""
        return self._readings.error

    @property
    def flags(self) -> frozenset[str]:
        """What was odd: about the framing, the JSON or the counts."""
        usage = self.usage
        flags = usage.flags if usage else self._readings.usage.flags
        return frozenset(self._readings.flags) | flags


class StreamMeter(_MeterBase):
    """Meters a server-sent event stream.

    With `strip_usage_chunk` the usage-only chunk is taken out of an OpenAI stream: the bytes of an event are
    held back until its blank line, and it is dropped whole if its JSON has `choices` equal to `[]`, an object
    as `usage` and no `error`. Otherwise `feed` returns the very object it was given.
    """

    __slots__ = (
        "_dealt_with",
        "_is_first",
        "_is_flushed",
        "_lessons",
        "_pattern",
        "_reader",
        "_saw_event",
        "_splitter",
        "_strip",
        "_swallow_lf",
    )

    def __init__(self, wire_format: WireFormat, strip_usage_chunk: bool = False) -> None:
        super().__init__(wire_format)
        reader = AnthropicReader if wire_format is WireFormat.ANTHROPIC else OpenAIReader
        self._reader: AnthropicReader | OpenAIReader = reader(self._readings)
        self._splitter = SseSplitter()
        # What events that bring nothing but text look like, and how often it may still be looked for.
        self._pattern: EventPattern | None = None
        self._lessons = _MAX_LESSONS
        self._is_first = True
        self._is_flushed = False
        self._saw_event = False
        self._strip = strip_usage_chunk
        # Stripping: how many bytes of the unfinished event were already sent (or swallowed).
        self._dealt_with = 0
        # Stripping: the chunk just dropped ended in CR, so a LF that comes next was part of it.
        self._swallow_lf = False

    @property
    def is_complete(self) -> bool:
        """Whether a terminator, or for OpenAI a finish_reason on every choice, was seen."""
        return self._reader.is_complete

    @property
    def at_event_boundary(self) -> bool:
        """Whether the bytes returned so far end where an event may be added."""
        if self._splitter.is_between_events:
            return True
        if not self._strip or self._splitter.is_skipping or self._dealt_with > len(_LINE_ENDS):
            return False
        return not self._splitter.pending()[: self._dealt_with].strip(_LINE_ENDS)

    def feed(self, data: bytes) -> bytes:
        """Take upstream bytes; the bytes to forward now."""
        forwarded: list[bytes] = []
        at, size = 0, len(data)
        for _ in range(_MAX_TURNS):
            count, end = self._fitting(data, at)
            if count:
                self._content_events += count
                if end - at == size:
                    return data
                forwarded.append(data[at:end])
                at = end
            # What does not fit is parsed; behind it, events may fit again.
            cut = data.find(_BLANK_LINE, at if self._pattern is not None else at + _FIRST_PIECE)
            if cut < 0:
                break
            forwarded.append(self._parse(data[at : cut + 2]))
            at = cut + 2
        if at < size:
            forwarded.append(self._parse(data[at:] if at else data))
        if not self._strip:
            return data
        return forwarded[0] if len(forwarded) == 1 else b"".join(forwarded)

    def passable(self, data: bytes) -> int:
        """How many events of mere text these bytes are; 0 unless they are nothing but whole ones.

        They need not be fed: it is enough to `note_passed` their number once they have been forwarded.
        """
        count, end = self._fitting(data, 0)
        return count if end == len(data) else 0

    def _fitting(self, data: bytes, at: int) -> tuple[int, int]:
        """How many events of mere text begin at `at`, and where they end."""
        if self._pattern is None or not self._splitter.is_empty or self._swallow_lf:
            return 0, at
        return (0, at) if self._readings.is_terminated else self._pattern.run(data, at)

    def _parse(self, data: bytes) -> bytes:
        """Take bytes and read all events that they complete; the bytes to forward now."""
        if self._strip:
            return self._feed_stripping(data)
        for block in self._splitter.feed(data):
            self._read(block)
        return data

    def flush(self) -> bytes:
        """Read an event that lacks its blank line (its tokens were spent), return what was held back."""
        if self._is_flushed:
            return b""
        self._is_flushed = True
        pending = self._splitter.pending()
        flags = self._readings.flags
        had_bad_json = BAD_JSON in flags
        if not self._saw_event and pending.removeprefix(BOM).lstrip().startswith(b"{") and not flags:
            # Not a stream at all but a JSON body, most likely an error told with status 200.
            read_answer(pending, self._readings)
        elif pending:
            self._read(pending)
        if not had_bad_json:
            flags.discard(BAD_JSON)  # what was cut off is truncated, not broken
        if not self._strip:
            return b""
        held = pending[self._dealt_with :]
        self._dealt_with = len(pending)
        return held

    def _read(self, block: bytes) -> bool:
        """Read one block; whether it is a usage-only chunk."""
        if self._is_first:
            self._is_first = False
            if block.startswith(BOM):
                block = type(block)(block[len(BOM) :])
        if type(block) is Oversized:
            self._readings.flags.add(LINE_TOO_LONG)
            return False
        event = parse_event(block)
        if event is None or self._readings.is_terminated:
            return False
        self._saw_event = True
        is_usage_only = self._reader.read(event[0], event[1])
        if self._readings.has_content and not is_usage_only:
            self._content_events += 1
            if self._lessons:
                self._learn(event, block)
        return is_usage_only

    def _learn(self, event: tuple[bytes, bytes], block: bytes) -> None:
        if self._pattern is not None and self._pattern.run(block)[0]:
            return
        self._lessons -= 1
        if self._reader.is_mere_text(*event):
            self._pattern = EventPattern.of(block) or self._pattern

    def _feed_stripping(self, data: bytes) -> bytes:
        splitter = self._splitter
        if self._swallow_lf and data:
            self._swallow_lf = False
            self._dealt_with = int(data.startswith(b"\n"))
        out: list[bytes] = []
        is_dropped = False
        for block in splitter.feed(data):
            start, self._dealt_with = self._dealt_with, 0
            is_dropped = self._read(block) and len(block) <= MAX_HELD_BYTES
            if is_dropped:
                # Line ends before the event are not part of it; they may have been sent already.
                out.append(block[start : len(block) - len(block.lstrip(_LINE_ENDS))])
                self._swallow_lf = block.endswith(b"\r")
            else:
                out.append(block[start:])
                self._swallow_lf = False
        size = splitter.pending_size
        if size:
            self._swallow_lf = False
            if size > MAX_HELD_BYTES or splitter.is_between_events:
                out.append(splitter.pending(self._dealt_with))
                self._dealt_with = size
        return b"".join(out)


class AnswerMeter(_MeterBase):
    """Meters a JSON body that is not streamed: kept up to `MAX_ANSWER_BYTES`, read when it has ended."""

    __slots__ = ("_is_complete", "_max", "_parts", "_size")

    def __init__(self, wire_format: WireFormat, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        super().__init__(wire_format)
        self._max = max_bytes
        self._parts: list[bytes] | None = []
        self._size = 0
        self._is_complete = False

    @property
    def is_complete(self) -> bool:
        """Whether the body has ended and is a JSON object without an error."""
        return self._is_complete

    @property
    def at_event_boundary(self) -> bool:
        """Whether nothing was forwarded yet: there is nowhere to add to within a body."""
        return self._size == 0

    def feed(self, data: bytes) -> bytes:
        """Take a part of the body; returns it."""
        self._size += len(data)
        if self._parts is not None:
            self._parts.append(data)
            if self._size > self._max:
                self._parts = None
                self._readings.flags.add(BODY_TOO_LONG)
        return data

    def flush(self) -> bytes:
        """Read the body. There is never anything left to return."""
        if self._parts is not None:
            body = b"".join(self._parts)
            self._parts = None
            self._is_complete = read_answer(body, self._readings)
        return b""
