"""Files that are made while they are sent."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from flask import Response

CSV = "text/csv; charset=utf-8"
JSON_LINES = "application/x-ndjson"

_CHUNK_LINES = 50
"""How many lines are sent at once."""


def download(
    lines: Iterator[str], name: str, media_type: str, end: str, source: Iterator[Any] | None = None
) -> Response:
    """Return a file of these lines; `source` is closed with it, also if the file was never begun."""
    # What fails before the first lines is still an answer with a status.
    first = list(islice(lines, 2))
    chunks = _Chunks(chain(first, lines), end, source)
    response = Response(chunks, content_type=media_type, direct_passthrough=True)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["X-Accel-Buffering"] = "no"
    return response


def csv_download(lines: Iterator[str], name: str, source: Iterator[Any] | None = None) -> Response:
    """Return a CSV file of these lines."""
    return download(lines, f"{name}.csv", CSV, "\r\n", source)


class _Chunks:
    """Lines in pieces. `close()`, also of one that was never begun, ends the reading."""

    def __init__(self, lines: Iterator[str], end: str, source: Iterator[Any] | None) -> None:
        self._lines = lines
        self._end = end
        self._source = source

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        lines = list(islice(self._lines, _CHUNK_LINES))
        if not lines:
            raise StopIteration
        return "".join(f"{line}{self._end}" for line in lines).encode()

    def close(self) -> None:
        """End the reading."""
        close = getattr(self._source, "close", None)
        if close is not None:
            close()
