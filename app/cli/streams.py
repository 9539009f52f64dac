"""Standard streams of commands, whatever their encoding and whoever reads them."""

import codecs
import io
import re
import sys

_ERRORS = "weir-escape"
# Signs of our own; of what others wrote every character is told.
_SIGNS = {"✓": "+", "✗": "x", "–": "-", "…": "...", "→": "->", "�": "?"}
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


def prepare_streams() -> None:
    """Have UTF-8 written and read where the encoding is ASCII, and escapes written for what another lacks.

    For click ASCII is a mistake in the environment, and what it prints is UTF-8: so is all the rest.
    """
    for stream in (sys.stdout, sys.stderr, sys.stdin):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        is_ascii = codecs.lookup(stream.encoding).name == "ascii"
        errors = "strict" if stream is sys.stdin else _ERRORS
        stream.reconfigure(encoding="utf-8" if is_ascii else None, errors=errors)


def flush_output() -> None:
    """Write what is left, while click is there to end quietly if the pipe is closed: Python would tell."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def fit_json(text: str) -> str:
    """Return the JSON as it is, or with its own escapes where standard output cannot hold it."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return _BEYOND_ASCII.sub(lambda found: _json_escape(found[0]), text)
    return text


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_SIGNS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end


codecs.register_error(_ERRORS, _escape)
