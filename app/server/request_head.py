"""Reading the head of a request that is written as nearly every client writes it (RFC 9112), without any I/O.

Not a parser of its own standing: what it takes is a part of what gunicorn's parser takes, and means the same
by it, so that there is one reading of every request. Whatever is rare, odd or wrong is left to gunicorn:
each `None` here means "let gunicorn read these bytes".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote_to_bytes

_END = b"\r\n\r\n"
_METHODS: Final = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
# A token, but without an underscore: WSGI could not tell it from a hyphen.
_NAME = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]+")
_LEFT_TO_GUNICORN: Final = frozenset(("EXPECT", "TRANSFER-ENCODING", "UPGRADE"))
_MAX_LENGTH_DIGITS: Final = 18
_NAMES_KNOWN: Final = 512
# Longer names are not remembered: they are the client's to choose, and no header has one.
_LONGEST_NAME: Final = 64
_HEADERS: Final = "weir.headers"
_UNPREFIXED: Final = ("CONTENT_TYPE", "CONTENT_LENGTH")


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """What the server's configuration says of heads, for one connection.

    A head of at most `max_bytes` keeps gunicorn's limits on request line and fields whatever is in it.
    `scheme_headers` are those that this client may say the scheme with: the key in the environment, and the
    value that stands for https.
    """

    max_bytes: int
    max_fields: int
    scheme_headers: tuple[tuple[str, str], ...] = ()


def read_head(data: bytes, environ: dict[str, Any], terms: HeadOptions) -> tuple[int, int] | None:
    """Put a request's head into a WSGI environment; return where the body begins in `data`, and its length.

    The headers are put there once more, as `headers_of` returns them: some two dozen are looked up a request.
    None when the head is not complete or not of the usual form; `environ` is spoilt then.
    """
    end = data.find(_END)
    if not 0 < end <= terms.max_bytes:
        return None
    text = data[:end].decode("latin-1")
    request_line, *fields = lines = text.split("\r\n")
    # Printable leaves no tab, no other control character and no CR or LF by itself.
    if not text.isascii() or not "".join(lines).isprintable() or len(fields) > terms.max_fields:
        return None
    if not _read_request_line(request_line, environ) or not _read_fields(fields, environ):
        return None
    if terms.scheme_headers and not _read_scheme(environ, terms.scheme_headers):
        return None
    length = environ.get("CONTENT_LENGTH", "0")
    if not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS:
        return None
    return end + len(_END), int(length)


def headers_of(environ: Mapping[str, Any]) -> Mapping[str, str]:
    """Return a request's headers by lower-case name, however its head was read."""
    read: Mapping[str, str] | None = environ.get(_HEADERS)
    if read is not None:
        return read
    return {
        key.removeprefix("HTTP_").lower().replace("_", "-"): str(value)
        for key, value in environ.items()
        if key.startswith("HTTP_") or key in _UNPREFIXED
    }


def _read_request_line(line: str, environ: dict[str, Any]) -> bool:
    method, _, rest = line.partition(" ")
    target, _, version = rest.partition(" ")
    if version != "HTTP/1.1" or method not in _METHODS or target[:1] != "/" or target[:2] == "//":
        return False
    if "#" in target:
        return False
    path, _, query = target.partition("?")
    environ["SERVER_PROTOCOL"] = version
    environ["REQUEST_METHOD"] = method
    environ["RAW_URI"] = target
    environ["QUERY_STRING"] = query
    environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
    return True


def _read_fields(fields: list[str], environ: dict[str, Any]) -> bool:
    headers: dict[str, str] = {}
    for field in fields:
        name, colon, value = field.partition(":")
        known = _known_name(name) if len(name) <= _LONGEST_NAME else None
        if known is None or not colon:
            return False
        key, lower = known
        # A name that comes twice would have to be joined, or refused.
        if key in environ:
            return False
        environ[key] = headers[lower] = value.strip(" ")
    environ[_HEADERS] = headers
    return True


def _read_scheme(environ: dict[str, Any], scheme_headers: tuple[tuple[str, str], ...]) -> bool:
    is_secure = None
    for key, secure in scheme_headers:
        value = environ.get(key)
        if value is not None:
            if is_secure is not None:
                return False
            is_secure = value == secure
    if is_secure is not None:
        environ["wsgi.url_scheme"] = "https" if is_secure else "http"
    return True


@lru_cache(_NAMES_KNOWN)
def _known_name(name: str) -> tuple[str, str] | None:
    """Return where WSGI keeps a header of this name, and the name in lower case; None: not to be read."""
    upper = name.upper()
    if upper in _LEFT_TO_GUNICORN or not _NAME.fullmatch(name):
        return None
    key = upper.replace("-", "_")
    return key if key in _UNPREFIXED else f"HTTP_{key}", name.lower()
