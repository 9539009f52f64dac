"""Meters: what an answer used and how it ended, read off the bytes while they pass.

A meter never changes, delays or withholds a byte, with one exception that is asked for: a usage-only chunk
the client did not order is removed. What it cannot read it flags; it never raises for what an upstream sent.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

from app.wires.endpoints import Answers
from app.wires.estimate import stream_tokens, tokens_of
from app.wires.event_pattern import EventPattern
from app.wires.formats.answer import generated_bytes, read_answer
from app.wires.formats.anthropic import AnthropicReader
from app.wires.formats.batches import BatchResult, ResultLines
from app.wires.formats.documents import read_document
from app.wires.formats.media import MediaReader, last_cue_s, read_media
from app.wires.formats.openai import OpenAIReader
from app.wires.formats.responses import ResponsesReader
from app.wires.readings import BAD_JSON, BODY_TOO_LONG, LINE_TOO_LONG, Readings, StreamError, ToldObject
from app.wires.slim_body import SlimBody, from_ends
from app.wires.sse import BOM, Oversized, SseSplitter, ends_event, parse_event
from app.wires.units import SECOND, clean_quantity
from app.wires.usage import INPUT_MISSING, Usage, counted_tokens
from app.wires.wire_format import WireFormat

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_HELD_BYTES",
    "AnswerMeter",
    "DocumentMeter",
    "Meter",
    "StreamError",
    "StreamMeter",
]

# While stripping, an unfinished event is held back up to this size: no usage-only chunk is longer.
MAX_HELD_BYTES: Final = 64 * 1024
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""A non-streamed body is kept for reading up to this size."""
MAX_ESTIMATED_BYTES: Final = 8 * 1024 * 1024
"""How long a body may be in which generated text is looked for: what is longer is not so for its text."""
_END_BYTES: Final = 32 * 1024
"""How much is kept of both ends of a body that is not kept: usage is told at the end."""
_LONGEST_TOKEN: Final = 2048
"""In bytes, with the logprobs of twenty others beside it: a longer body has as many tokens at least."""

SLIM = (Answers.LIST, Answers.IMAGES, Answers.SPEECH, Answers.TRANSCRIPT)
"""Whose answers hold results rather than text."""

_LINE_ENDS = b"\r\n"
_BLANK_LINE = b"\n\n"

# How often a stream's pattern is learned: some streams have none.
_MAX_LESSONS = 16
# How often within one read events are looked for that fit the pattern: comparing must not cost more.
_MAX_TURNS = 4
# This many events may follow the usage without bringing anything: finish reasons, closed blocks.
_LATE_EVENTS = 4
# Without a pattern, this many bytes of a long read are parsed before there may be a pattern for the rest.
_FIRST_PIECE = 512


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
    def service_tier(self) -> str | None:
        """The tier the upstream says it served."""

    @property
    def told(self) -> ToldObject | None:
        """What is told of something the upstream keeps, if it has an id."""

    @property
    def has_parts(self) -> bool:
        """Whether ids were told of what the upstream keeps beside the answer."""

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
    def is_between_events(self) -> bool:
        """Whether what has been forwarded ends where an event ends, so that a comment may follow."""

    @property
    def is_unfinished(self) -> bool:
        """Whether a body calls itself an answer that is still being made: it tells no usage yet."""

    @property
    def is_usage_final(self) -> bool:
        """Whether the counts are those of the whole of what was seen: neither missing nor placeholders."""

    @property
    def output_estimate(self) -> int:
        """How many tokens were probably generated, as far as was seen."""

    @property
    def error(self) -> StreamError | None:
        """The error told inside the answer, if any."""

    @property
    def flags(self) -> frozenset[str]:
        """What was odd: about the framing, the JSON or the counts."""

    def feed(self, data: bytes) -> bytes:
        """Take upstream bytes; the bytes to forward now."""

    def passable(self, data: bytes) -> int:
        """Count the events in these bytes if they need only be forwarded and noted, not fed; else 0."""

    def note_passed(self, events: int, size: int) -> None:
        """Note that `events` passable events, of `size` bytes together, have been forwarded."""

    def flush(self) -> bytes:
        """Read what is pending, the upstream having ended, and return what was held back. Idempotent."""


class _MeterBase:
    """The results, which both meters keep in `Readings`."""

    __slots__ = ("_content_events", "_content_size", "_readings", "_wire_format")

    def __init__(self, wire_format: WireFormat) -> None:
        self._wire_format = wire_format
        # How many events came since the first that held generated content, and their bytes; 0 for a body.
        self._content_events = 0
        self._content_size = 0
        self._readings = Readings()

    @property
    def usage(self) -> Usage | None:
        """Canonical counts of what was seen so far, None while unknown."""
        readings = self._readings
        if readings.counted_tokens is not None:
            return counted_tokens(readings.counted_tokens)
        merger = readings.usage
        return merger.known or merger.usage(self._wire_format)

    @property
    def usage_raw(self) -> dict[str, Any] | None:
        """The last usage object as received, with the one of `message_start` under that name."""
        return self._readings.counted_tokens or self._readings.usage.raw

    @property
    def upstream_model(self) -> str | None:
        """The model the upstream named."""
        return self._readings.upstream_model

    @property
    def service_tier(self) -> str | None:
        """The tier the upstream says it served."""
        return self._readings.service_tier

    @property
    def told(self) -> ToldObject | None:
        """What is told of something the upstream keeps, if it has an id."""
        return self._readings.told

    @property
    def has_parts(self) -> bool:
        """Whether ids were told of what the upstream keeps beside the answer."""
        return bool(self._readings.parts)

    @property
    def has_content(self) -> bool:
        """Whether generated content was seen: text, reasoning or tool arguments."""
        return self._readings.has_content

    @property
    def is_terminated(self) -> bool:
        """Whether the format's own end was seen, after which nothing of interest follows."""
        return self._readings.is_terminated

    @property
    def is_between_events(self) -> bool:
        """Return False: a body has no events."""
        return False

    @property
    def is_unfinished(self) -> bool:
        """Whether a body calls itself an answer that is still being made: it tells no usage yet."""
        return self._readings.is_unfinished

    @property
    def is_usage_final(self) -> bool:
        """Whether the counts are those of the whole of what was seen: neither missing nor placeholders."""
        usage = self.usage
        if usage is None or self._readings.usage.is_output_open:
            return False
        if usage.counted_input_tokens is not None or not self._readings.has_content:
            return True
        is_input_told = bool(usage.total_input_tokens) or INPUT_MISSING not in usage.flags
        return is_input_told and (usage.output_tokens > 0 or not self.output_estimate)

    @property
    def output_estimate(self) -> int:
        """How many tokens were probably generated, as far as was seen."""
        return stream_tokens(self._content_events, self._content_size)

    def passable(self, data: bytes) -> int:
        """Return 0: all bytes are to be fed."""
        return 0

    def note_passed(self, events: int, size: int) -> None:
        """Note that `events` passable events, of `size` bytes together, have been forwarded."""
        self._content_events += events
        self._content_size += size

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
    held back until its blank line, and it is dropped whole if its JSON has no `choices` (or none in them), an
    object as `usage` and no `error`. Otherwise `feed` returns the very object it was given. `choices` is how
    many of them the client asked for. `answers` says whose events these are, where the format has several.
    """

    __slots__ = (
        "_dealt_with",
        "_ends",
        "_ends_in_cr",
        "_is_first",
        "_is_flushed",
        "_lessons",
        "_pattern",
        "_reader",
        "_saw_event",
        "_splitter",
        "_strip",
        "_swallow_lf",
        "_told_at",
    )

    def __init__(
        self,
        wire_format: WireFormat,
        strip_usage_chunk: bool = False,
        *,
        choices: int = 1,
        answers: Answers | None = None,
    ) -> None:
        super().__init__(wire_format)
        self._reader: AnthropicReader | OpenAIReader | ResponsesReader | MediaReader
        if wire_format is WireFormat.ANTHROPIC:
            self._reader = AnthropicReader(self._readings)
        elif answers is Answers.RESPONSES:
            self._reader = ResponsesReader(self._readings)
        elif answers in SLIM:
            self._reader = MediaReader(self._readings, answers)
        else:
            self._reader = OpenAIReader(self._readings, choices)
        self._splitter = SseSplitter()
        # Of an event that is too long to be kept: how it begins, and how it ends as far as it has come.
        self._ends: tuple[bytes, bytes] | None = None
        # What was forwarded last ends in a CR: a LF that comes next would belong to it.
        self._ends_in_cr = False
        # What events that bring nothing but text look like, and how often it may still be looked for.
        self._pattern: EventPattern | None = None
        self._lessons = _MAX_LESSONS
        self._is_first = True
        self._is_flushed = False
        self._saw_event = False
        self._strip = strip_usage_chunk
        # How many events with content had come when usage was last told.
        self._told_at = 0
        # Stripping: how many bytes of the unfinished event were already sent (or swallowed).
        self._dealt_with = 0
        # Stripping: the chunk just dropped ended in CR, so a LF that comes next was part of it.
        self._swallow_lf = False

    @property
    def is_complete(self) -> bool:
        """Whether a terminator, a finish_reason on every choice, or a stop_reason, was seen."""
        return self._reader.is_complete

    @property
    def is_between_events(self) -> bool:
        """Whether what has been forwarded ends where an event ends, so that a comment may follow."""
        splitter = self._splitter
        has_held_all = self._strip and not self._dealt_with and not splitter.is_skipping
        return not self._ends_in_cr and (has_held_all or splitter.is_between_events)

    @property
    def is_usage_final(self) -> bool:
        """Also not so old that more was generated since than it counts."""
        usage = self.usage
        since = self._content_events - self._told_at
        return super().is_usage_final and (usage is None or since <= usage.output_tokens + _LATE_EVENTS)

    def feed(self, data: bytes) -> bytes:
        """Take upstream bytes; the bytes to forward now."""
        forwarded: list[bytes] = []
        at, size = 0, len(data)
        for _ in range(_MAX_TURNS):
            count, end = self._fitting(data, at)
            if count:
                self._content_events += count
                self._content_size += end - at
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
        """Count the events of text alone these bytes are; 0 unless they are nothing but whole ones.

        They need not be fed: it is enough to `note_passed` their number once they have been forwarded.
        """
        # As `_fitting`, for live streams, of which each chunk comes here.
        pattern = self._pattern
        if pattern is None or self._swallow_lf or self._readings.is_terminated or not self._splitter.is_empty:
            return 0
        count, end = pattern.run(data)
        return count if end == len(data) else 0

    def _fitting(self, data: bytes, at: int) -> tuple[int, int]:
        """Count the events of text alone that begin at `at`, and return where they end."""
        if self._pattern is None or not self._splitter.is_empty or self._swallow_lf:
            return 0, at
        return (0, at) if self._readings.is_terminated else self._pattern.run(data, at)

    def _parse(self, data: bytes) -> bytes:
        """Take bytes and read all events that they complete; the bytes to forward now."""
        if self._strip:
            data = self._feed_stripping(data)
        else:
            for block in self._splitter.feed(data):
                self._read(block)
        if data:
            self._ends_in_cr = data.endswith(b"\r")
        return data

    def flush(self) -> bytes:
        """Read an event that lacks its blank line (its tokens were spent), return what was held back."""
        if self._is_flushed:
            return b""
        self._is_flushed = True
        pending = self._splitter.pending()
        self._read_ends()
        flags = self._readings.flags
        had_bad_json = BAD_JSON in flags
        if not self._saw_event and pending.removeprefix(BOM).lstrip().startswith(b"{") and not flags:
            read_answer(pending, self._readings)  # not a stream at all, which its first bytes did not show
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
        """Read one block; return whether it is a usage-only chunk."""
        if self._is_first:
            self._is_first = False
            if block.startswith(BOM):
                block = type(block)(block[len(BOM) :])
        if type(block) is Oversized:
            self._readings.flags.add(LINE_TOO_LONG)
            head, tail = self._ends or (block[:_END_BYTES], b"")
            self._ends = head, (tail + block[-_END_BYTES:])[-_END_BYTES:]
            if ends_event(self._ends[1]):
                self._read_ends()
            return False
        event = parse_event(block)
        return event is not None and self._read_event(event, block)

    def _read_ends(self) -> None:
        """Read what can be read of an event that was too long: the usage at its end.

        The last event of a response repeats all of it, with the logprobs of each token where those were
        asked for.
        """
        if self._ends is None:
            return
        (head, tail), self._ends = self._ends, None
        event = parse_event(head)
        if event is None:
            return
        for within in (b"", b"response"):
            data = from_ends(event[1], tail.rstrip(_LINE_ENDS), within)
            if data is not None:
                self._read_event((event[0], data), b"")
                return

    def _read_event(self, event: tuple[bytes, bytes], block: bytes) -> bool:
        if self._readings.is_terminated:
            return False
        self._saw_event = True
        readings = self._readings
        readings.is_repetition = False
        is_usage_only = self._reader.read(event[0], event[1])
        brings = not (is_usage_only or readings.is_repetition or readings.is_terminated)
        if readings.has_content and brings:
            self._content_events += 1
            self._content_size += len(block.strip(_LINE_ENDS)) + len(_BLANK_LINE)
            if self._lessons and block:
                self._learn(event, block)
        if readings.usage.is_news:
            readings.usage.is_news = False
            self._told_at = self._content_events
        return is_usage_only

    def _learn(self, event: tuple[bytes, bytes], block: bytes) -> None:
        if self._pattern is not None and self._pattern.run(block)[0]:
            return
        self._lessons -= 1
        if self._reader.is_text_only(*event):
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
    """Meters a JSON body that is not streamed: kept up to `MAX_ANSWER_BYTES`, read when it has ended.

    Of a longer one (with logprobs, say) both ends are read. `choices` is how many of them the client asked
    for.
    """

    __slots__ = ("_choices", "_ends", "_generated", "_is_complete", "_max", "_parts", "_size")

    def __init__(
        self, wire_format: WireFormat, max_bytes: int = MAX_ANSWER_BYTES, *, choices: int = 1
    ) -> None:
        super().__init__(wire_format)
        self._max = max_bytes
        self._choices = choices
        self._generated = 0
        self._ends: tuple[bytes, bytes] | None = None
        self._parts: list[bytes] | None = []
        self._size = 0
        self._is_complete = False

    @property
    def is_complete(self) -> bool:
        """Whether the body has ended and is a JSON object without an error."""
        return self._is_complete

    def feed(self, data: bytes) -> bytes:
        """Take a part of the body; returns it."""
        self._size += len(data)
        if self._parts is not None:
            self._parts.append(data)
            if self._size > self._max:
                self._ends = _both_ends(self._parts)
                self._parts = None
                self._readings.flags.add(BODY_TOO_LONG)
        elif self._ends is not None:
            head, tail = self._ends
            self._ends = head, (tail + data)[-_END_BYTES:]
        return data

    def flush(self) -> bytes:
        """Read the body. There is never anything left to return."""
        if self._parts is not None:
            body = b"".join(self._parts)
            self._parts = None
            self._read_body(body)
        elif self._ends is not None:
            is_object = self._ends[0].lstrip().startswith(b"{")
            ends = from_ends(*self._ends)
            self._ends, self._choices = None, 1
            if ends is not None:
                self._read_body(ends)
            if is_object and not self._is_told:
                self._generated = self._size // _LONGEST_TOKEN
        return b""

    def _read_body(self, body: bytes) -> None:
        self._is_complete = read_answer(body, self._readings, self._choices)
        if not self._is_told and self._readings.has_content:
            is_short = len(body) <= MAX_ESTIMATED_BYTES
            self._generated = tokens_of(generated_bytes(body)) if is_short else len(body) // _LONGEST_TOKEN

    @property
    def _is_told(self) -> bool:
        usage = self.usage
        return usage is not None and (usage.output_tokens > 0 or usage.counted_input_tokens is not None)

    @property
    def output_estimate(self) -> int:
        """How many tokens were probably generated."""
        return self._generated


def _both_ends(parts: list[bytes]) -> tuple[bytes, bytes]:
    """Return the first and the last bytes of a body without making it whole, which is large."""
    head, tail = b"", b""
    for part in parts:
        if len(head) >= _END_BYTES:
            break
        head += part[:_END_BYTES]
    for part in reversed(parts):
        if len(tail) >= _END_BYTES:
            break
        tail = part[-_END_BYTES:] + tail
    return head[:_END_BYTES], tail[-_END_BYTES:]


class DocumentMeter(AnswerMeter):
    """Meters the document of something the upstream keeps: its id is read, and an error that it tells.

    Nothing at all is a good answer as well.
    """

    __slots__ = ()

    def _read_body(self, body: bytes) -> None:
        self._is_complete = not body or read_document(body, self._readings)


class ResultsMeter(_MeterBase):
    """Meters the results of a batch: each is told to `found` as it passes, and nothing is kept."""

    __slots__ = ("_is_complete", "_lines")

    def __init__(self, wire_format: WireFormat, found: Callable[[BatchResult], None]) -> None:
        super().__init__(wire_format)
        self._lines = ResultLines(self._readings, found)
        self._is_complete = False

    @property
    def is_complete(self) -> bool:
        """Whether the results have ended, and all of them could be read."""
        return self._is_complete

    @property
    def is_between_events(self) -> bool:
        """Return False: there are none."""
        return False

    def feed(self, data: bytes) -> bytes:
        """Take a part of the results; returns it."""
        self._lines.feed(data)
        return data

    def flush(self) -> bytes:
        """Read what is left. There is never anything left to return."""
        self._lines.flush()
        self._is_complete = not self._readings.flags
        return b""


class SlimMeter(_MeterBase):
    """Meters a JSON body of results, of which what is large is not kept."""

    __slots__ = ("_answers", "_body", "_is_complete", "_size")

    def __init__(self, wire_format: WireFormat, answers: Answers) -> None:
        super().__init__(wire_format)
        self._answers = answers
        self._body: SlimBody | None = SlimBody()
        self._is_complete = False
        self._size = 0

    @property
    def is_complete(self) -> bool:
        """Whether the body has ended and is a JSON object without an error."""
        return self._is_complete

    def feed(self, data: bytes) -> bytes:
        """Take a part of the body; returns it."""
        self._size += len(data)
        if self._body is not None:
            self._body.feed(data)
        return data

    @property
    def output_estimate(self) -> int:
        """How many tokens were probably written: of transcripts, which are hardly anything but text."""
        return tokens_of(self._size) if self._answers is Answers.TRANSCRIPT else 0

    def flush(self) -> bytes:
        """Read the body. There is never anything left to return."""
        body, self._body = self._body, None
        if body is not None:
            self._is_complete = read_media(body.slim(), body.counts, self._readings, self._answers)
        return b""


_TAIL = 4096


class BytesMeter(_MeterBase):
    """Meters a body that is no JSON: audio, or a transcript as text. Nobody tells there what it took.

    What was heard is as long as the last subtitle says, where the text has any.
    """

    __slots__ = ("_is_ended", "_size", "_tail")

    def __init__(self, wire_format: WireFormat, *, is_text: bool) -> None:
        super().__init__(wire_format)
        self._tail: bytes | None = b"" if is_text else None
        self._size = 0
        self._is_ended = False

    @property
    def is_complete(self) -> bool:
        """Whether the body has ended, and was not empty."""
        return self._is_ended and self._size > 0

    def feed(self, data: bytes) -> bytes:
        """Take a part of the body; returns it."""
        self._size += len(data)
        if self._tail is not None:
            self._tail = (self._tail + data)[-_TAIL:]
        return data

    @property
    def output_estimate(self) -> int:
        """How many tokens a text probably has."""
        return 0 if self._tail is None else tokens_of(self._size)

    def flush(self) -> bytes:
        """Take note of the end. There is never anything left to return."""
        self._is_ended = True
        if self._tail:
            seconds = clean_quantity(last_cue_s(self._tail))
            if seconds is not None:
                self._readings.usage.count(SECOND, seconds)
        return b""
