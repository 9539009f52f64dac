"""Reading the results of a message batch: a line of JSON for each request, in any order.

A line may be as long as a message; what is longer than is kept is flagged, and not charged until somebody
reads it who can.
"""

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from app.common.lenient_json import clean_text
from app.wires.readings import BAD_JSON, LINE_TOO_LONG, Readings

MAX_LINE: Final = 8 * 1024 * 1024
_SUCCEEDED: Final = "succeeded"


class BatchResult(msgspec.Struct, frozen=True, gc=False):
    """What came of one request: who answered, and what that used; only of those that are charged."""

    custom_id: str
    model: str | None
    usage: dict[str, Any] | None


class _Message(msgspec.Struct, gc=False):
    model: Any = None
    usage: Any = None


class _Result(msgspec.Struct, gc=False):
    type: Any = None
    message: _Message | None = None


class _Line(msgspec.Struct, gc=False):
    custom_id: Any = None
    result: _Result | None = None


_decode = msgspec.json.Decoder(_Line).decode
_text = msgspec.json.Decoder(str).decode


class ResultLines:
    """Splits the bytes of results into lines, and tells each result to `found`."""

    __slots__ = ("_found", "_is_skipping", "_pieces", "_readings", "_size")

    def __init__(self, readings: Readings, found: Callable[[BatchResult], None]) -> None:
        self._readings = readings
        self._found = found
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_skipping = False

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._add(data[start:end])
            self._end_line()
            start = end + 1
        self._add(data[start:])

    def flush(self) -> None:
        """Read a last line that has no end."""
        self._end_line()

    def _add(self, piece: bytes) -> None:
        if not piece or self._is_skipping:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > MAX_LINE:
            self._readings.flags.add(LINE_TOO_LONG)
            self._pieces, self._is_skipping = [], True

    def _end_line(self) -> None:
        line = b"".join(self._pieces)
        self._pieces, self._size, self._is_skipping = [], 0, False
        if line.strip():
            self._read(line)

    def _read(self, line: bytes) -> None:
        try:
            read = _decode(line)
        except (ValueError, RecursionError):
            self._readings.flags.add(BAD_JSON)
            return
        result = read.result
        if result is None or result.type != _SUCCEEDED or not isinstance(read.custom_id, str):
            return
        message = result.message or _Message()
        model = clean_text(message.model) if isinstance(message.model, str) else None
        usage = message.usage if isinstance(message.usage, dict) else None
        self._found(BatchResult(clean_text(read.custom_id, 64), model, usage))


MAX_BATCH_DOCUMENT: Final = 1024 * 1024

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_RESULTS_URL = re.compile(rb'("results_url"\s*:\s*)"((?:[^"\\]|\\.)*)"')
_RESULTS_OF = re.compile(r"/v1/messages/batches/([^/?#]+)/results$")


def with_results_url(document: bytes, scheme: str, host: str | None) -> bytes:
    """Return a batch's document with the URL of its results at the proxy; nothing else of it changes.

    `host` is what the client calls the proxy; without one that can be, the URL is a path alone.
    """
    base = f"{scheme}://{host}" if host is not None and _HOST.fullmatch(host) else ""

    def own(found: re.Match[bytes]) -> bytes:
        told = _text(b'"%b"' % found[2])
        path = _RESULTS_OF.search(told)
        url = f"{base}/v1/messages/batches/{path[1]}/results" if path else ""
        return found[1] + msgspec.json.encode(url)

    return _RESULTS_URL.sub(own, document)
