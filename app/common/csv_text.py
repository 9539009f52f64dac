"""CSV that a spreadsheet can be trusted with."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence

_END = "\r\n"

# A spreadsheet would take text that begins so for a formula, and some of the text was sent by strangers. In
# most of Europe and in Vietnam it cuts lines at semicolons, whatever is quoted behind a comma. Then a cell
# begins behind each, and behind a tab or the end of a line. The apostrophe itself is among them, so that
# taking one away at each such place gives back any text.
_GUARDED = re.compile(r"(?:(?<=[;\t\r\n])|\A)(?=[=+\-@\uff1d\uff0b\uff0d\uff20'])|\A(?=[\t\r\n])")
# An exact amount is written as text; below 0 it begins like a formula, and is none.
_NUMBER = re.compile(r"-\d+(?:\.\d+)?", re.ASCII)


def csv_lines(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Write a heading, then one line per row (RFC 4180 quoting; the caller ends the lines).

    What begins like a formula has an apostrophe before it; numbers are written as they are.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator=_END)  # of which it looks for the characters when quoting
    writer.writerow(columns)
    yield _taken(buffer)
    for row in rows:
        writer.writerow(_guarded(cell) if isinstance(cell, str) else cell for cell in row)
        yield _taken(buffer)


def previous_columns(columns: Iterable[str]) -> list[str]:
    """Name the columns that tell what these were the period before."""
    return [f"previous{name[0].upper()}{name[1:]}" for name in columns]


def _taken(buffer: io.StringIO) -> str:
    line = buffer.getvalue().removesuffix(_END)
    buffer.seek(0)
    buffer.truncate()
    return line


def _guarded(text: str) -> str:
    return text if _NUMBER.fullmatch(text) else _GUARDED.sub("'", text)
