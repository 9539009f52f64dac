"""Server-sent events: cutting a byte stream into event blocks, and reading one block.

The rules are those of the WHATWG HTML standard, "Server-sent events": UTF-8, lines end in CRLF, LF or CR,
mixed freely, a blank line ends an event. Everything here works on bytes: `str.splitlines` would also cut at
U+2028 and other characters that model output contains.
"""

import re

BOM = b"\xef\xbb\xbf"
# An unfinished event beyond this is not buffered any further (it is still relayed, but not read). The last
# event of a response repeats all of it, images included: some megabytes each.
MAX_EVENT_BYTES = 16 * 1024 * 1024

# A blank line with the line end before it. CRLF is one line end: neither branch can match its two bytes as
# two ends, which a plain (\r\n|\n|\r){2} would do by backtracking.
_BLANK_LINE = re.compile(rb"(?:\r\n|\n)(?:\r\n?|\n)|\r\r\n?")
_LAST_LINE = re.compile(rb"(?:(?:\r\n|\n)(?:\r\n?|\n)|\r\r\n?)\Z")
_LINE_ENDS = b"\r\n"
_LF = 0x0A
# The longest beginning of a blank line that does not complete it ("\r\n").
_OVERLAP = 2

_FIRST_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
_JSON_STARTS = b'{["'
_BLANKS = b"\r\n \t"
LONGEST_STREAM_START = 64
"""How many bytes of a body tell whether it is a stream."""


class Oversized(bytes):
    """A piece of an event that is too long to be buffered: bytes to account for, not to read."""

    __slots__ = ()


class SseSplitter:
    r"""Cuts a stream into raw event blocks, each with its terminating blank line, however it is read.

    All blocks ever returned, joined with `pending()`, are exactly the bytes fed. An event is returned as soon
    as its blank line is there: a CR that completes one does not wait for a LF that may follow, which then
    leads the next block, where it means nothing. An event longer than `max_event_bytes` comes in pieces, each
    an `Oversized`; the blank line that ends it brings the splitter back in step. Time is linear in the input.
    """

    __slots__ = ("_buffer", "_max", "_tail")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._buffer = bytearray()
        # While an oversized event is being skipped: its last bytes, in case its blank line is cut in two.
        self._tail: bytes | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is buffered or being skipped: the next byte begins a block."""
        return not self._buffer and self._tail is None

    @property
    def is_between_events(self) -> bool:
        """Whether what was fed so far ends at an event's end, give or take a leading line end."""
        return self._tail is None and len(self._buffer) <= _OVERLAP and not self._buffer.strip(_LINE_ENDS)

    @property
    def is_skipping(self) -> bool:
        """Whether the unfinished event is too long to be buffered."""
        return self._tail is not None

    @property
    def pending_size(self) -> int:
        """How many bytes of the unfinished event are buffered."""
        return len(self._buffer)

    def pending(self, start: int = 0) -> bytes:
        """Return the bytes of the unfinished event from `start` on; none while a too large one is skipped."""
        with memoryview(self._buffer) as view:
            return bytes(view[start:])

    def feed(self, data: bytes) -> list[bytes]:
        """Return the blocks that `data` completes, in order."""
        if not data:
            return []
        is_fresh = not self._buffer and self._tail is None
        if is_fresh and 0 <= data.find(b"\n\n") == len(data) - 2 and b"\r" not in data:
            # One event in one read, as live streams come.
            return [data if len(data) <= self._max else Oversized(data)]
        blocks: list[bytes] = []
        if not is_fresh:
            data = self._finish_started(data, blocks)
            if not data:
                return blocks
        rest = _split_whole(data, blocks)
        if rest:
            self._buffer += rest
            if len(rest) > self._max:
                blocks.append(self._give_up())
        if len(data) > self._max:
            blocks[:] = [b if len(b) <= self._max or type(b) is Oversized else Oversized(b) for b in blocks]
        return blocks

    def _finish_started(self, data: bytes, blocks: list[bytes]) -> bytes:
        """Complete the event begun in earlier reads; return what is left of `data` behind it."""
        buffer = self._buffer
        before = bytes(buffer[-_OVERLAP:]) if self._tail is None else self._tail
        window = before + data
        cut = _first_end(window) - len(before)
        if self._tail is not None:
            if cut < 0:
                self._tail = window[-_OVERLAP:]
                blocks.append(Oversized(data))
                return b""
            self._tail = None
            blocks.append(Oversized(data[:cut]))
            return data[cut:]
        if cut < 0:
            buffer += data
            if len(buffer) > self._max:
                blocks.append(self._give_up())
            return b""
        buffer += data[:cut]
        blocks.append(bytes(buffer) if len(buffer) <= self._max else Oversized(buffer))
        self._buffer = bytearray()
        return data[cut:]

    def _give_up(self) -> Oversized:
        piece = Oversized(self._buffer)
        self._tail = piece[-_OVERLAP:]
        self._buffer = bytearray()
        return piece


def ends_event(data: bytes) -> bool:
    """Whether a blank line is at the end of these bytes."""
    return _LAST_LINE.search(data, max(0, len(data) - 4)) is not None


def _first_end(data: bytes) -> int:
    """Return where the first blank line in `data` ends, -1 if there is none."""
    if b"\r" in data:
        match = _BLANK_LINE.search(data)
        return match.end() if match else -1
    at = data.find(b"\n\n")
    return at + 2 if at >= 0 else -1


def _split_whole(data: bytes, blocks: list[bytes]) -> bytes:
    """Append the complete blocks of `data`, which starts at a block's start; return the rest."""
    blank_line = b"\n\n"  # nearly every stream: JSON escapes its line ends, and servers write LF
    if b"\r" in data:
        blank_line = b"\r\n\r\n" if data.count(b"\r\n") == data.count(b"\r") == data.count(b"\n") else b""
    if blank_line:
        parts = data.split(blank_line)
        rest = parts.pop()
        if parts:
            blocks += [part + blank_line for part in parts]
        return rest
    start = 0
    for match in _BLANK_LINE.finditer(data):
        end = match.end()
        blocks.append(data[start:end])
        start = end
    return data[start:] if start else data


def looks_like_stream(start: bytes) -> bool | None:
    """Return whether a body that begins so is a stream: a field or a comment, after a BOM and blank lines.

    A beginning of a field's name is as good as all of it. None where the bytes do not tell: there is nothing
    but blanks yet, or neither a field nor JSON.
    """
    line = start.removeprefix(BOM).lstrip(_LINE_ENDS)
    text = line.lstrip(_BLANKS)
    if not text or BOM.startswith(start):
        return None
    if text[0] in _JSON_STARTS:
        return False
    if any(line.startswith(field) or field.startswith(line) for field in _FIRST_FIELDS):
        return True
    return None


def parse_event(block: bytes) -> tuple[bytes, bytes] | None:
    """Return the event's name (empty if it has none) and its data, None for a block that dispatches nothing.

    Lines are cut at CR and LF only; a line without a colon is a field with an empty value; one space after
    the colon goes; several `data` lines join with LF; comments and other fields are skipped. A byte order
    mark is not looked for: it is legal at the start of the stream only, where the caller removes it (`BOM`).
    """
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    # The two usual shapes, `data: …` and `event: …` + `data: …`.
    line = block.find(b"\n")
    last = len(block) - 2
    if line > 0 and block[-1] == _LF:
        if line == last and block.startswith(b"data: "):
            return b"", block[6:last]
        is_named = block.startswith(b"event: ") and block.startswith(b"data: ", line + 1)
        if is_named and block.find(b"\n", line + 1) == last:
            return block[7:line], block[line + 7 : last]
    return _parse_any_event(block)


def _parse_any_event(block: bytes) -> tuple[bytes, bytes] | None:
    name = b""
    data: list[bytes] = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return (name, b"\n".join(data)) if data else None
