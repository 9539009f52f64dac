"""Stream events, and the ways one and the same event can look on the wire."""

from __future__ import annotations

from typing import NamedTuple

from simulator.grammar import Options
from simulator.tokens import Tokens

DONE = b"data: [DONE]\n\n"

_BOM = b"\xef\xbb\xbf"

# (line ending, ending of the blank line): never a CR before an LF that begins the blank line.
_MIXED = ((b"\n", b"\r\n"), (b"\r\n", b"\r"), (b"\r", b"\r\n"), (b"\r\n", b"\n"), (b"\n", b"\r"))
_ENDINGS = {"lf": (b"\n", b"\n"), "crlf": (b"\r\n", b"\r\n"), "cr": (b"\r", b"\r")}


class Event(NamedTuple):
    """One event, LF endings and blank line included; ``announces`` is the usage known after it."""

    data: bytes
    announces: Tokens | None = None


def dress(events: list[Event], options: Options) -> list[Event]:
    """Rewrite events as the options say; the same data for any reader that follows the standard."""
    plain = options.eol == "lf" and not (
        options.multiline or options.nospace or options.nocolon or options.comments or options.fields
    )
    if not plain:
        events = [event._replace(data=_dressed(event.data, i, options)) for i, event in enumerate(events)]
    if options.bom and events:
        events = [events[0]._replace(data=_BOM + events[0].data), *events[1:]]
    return events


def _dressed(data: bytes, index: int, options: Options) -> bytes:
    if not data.endswith(b"\n\n"):
        return data
    lines = data[:-2].split(b"\n")
    if options.multiline:
        lines = [part for line in lines for part in _three_lines(line)]
    if options.nospace:
        lines = [line.replace(b": ", b":", 1) for line in lines]
    if options.fields:
        lines = [b"id: %d" % index, b"retry: 3000", b"x-unknown: 1", *lines]
    line_end, blank_end = _ENDINGS.get(options.eol) or _MIXED[index % len(_MIXED)]
    blocks = [[b": keep-alive"]] if options.comments else []
    blocks += [[b"data"]] if options.nocolon else []
    return b"".join(line_end.join(block) + line_end + blank_end for block in [*blocks, lines])


def _three_lines(line: bytes) -> list[bytes]:
    """Break a JSON object's line after its first brace and before its last, which is allowed."""
    if not line.startswith(b"data: {"):
        return [line]
    return [b"data: {", b"data: " + line[7:-1], b"data: }"]
