"""Reading what upstreams say when they refuse: error bodies in all their envelopes, and `Retry-After`.

There is one reader. What it finds decides about the key (`app.keys.upstream_outcome`), and is what the client
hears and the record keeps. What it returns is bounded in number and depth, and as long as the body at most:
it is cut only once it has been scrubbed, or half a key might be left.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import chain, islice
from typing import Any

from app.common.lenient_json import loads_lenient

MAX_BODY = 64 * 1024
"""How much of an error body is looked at, in bytes."""

_MAX_CODE = 100
_MAX_NODES = 400
_MAX_DEPTH = 8
_MAX_ITEMS = 8

_CODE_NAMES = ("type", "code", "errorType", "error_type", "error_code", "status", "reason")
# Where vendors put the reason, the most telling place first. `error` comes last where it is a mere code.
_TEXT_NAMES = (
    "message", "msg", "Message", "detail", "error_description", "error_message", "error_msg", "errorMessage",
    "errors", "details", "description", "metadata", "raw", "innererror", "inner_error", "reason", "title",
    "error", "data", "cause", "fault", "faultstring",
)  # fmt: skip
# What clients sent stands there, not what the upstream says.
_ECHOES = frozenset({"input", "body", "request", "ctx", "received", "messages", "prompt"})
_PASSED_ON = ("type", "code", "param", "details", "innererror", "metadata")
# What such a message means is said one level further down.
_VOID = re.compile(
    r"(?:provider returned (?:an )?error|(?:an )?(?:upstream |unknown )?error(?: occurred)?|bad request"
    r"|unprocessable (?:entity|content)|(?:request )?validation (?:error|failed)|invalid request|forbidden"
    r"|(?:the )?request failed|unauthorized|too many requests)\W*",
    re.IGNORECASE,
)
_CODE_LIKE = re.compile(r"[A-Za-z0-9_.-]+")
_EVENT_DATA = re.compile(rb"^data:\s*([\[{].*)$", re.MULTILINE)
_HEADER_PARTS = re.compile(r"(?<=GMT),\s*|(?<=\d),\s*")
_STATUSES = range(400, 600)
_NUMBER = re.compile(r"-?\d{1,12}(?:\.\d{0,9})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """What an error body says.

    `codes` are from the places where vendors put their codes, `nested_codes` from anywhere deeper, where a
    vendor may repeat what the client sent; both in snake case. `names` are the names of all members.
    `members` are the error object's own (`type`, `code`, `param`, …), as they came.
    """

    message: str = ""
    codes: frozenset[str] = frozenset()
    nested_codes: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    members: Mapping[str, Any] = field(default_factory=dict)
    is_page: bool = False


NO_ERROR = UpstreamError()


def read_error(body: bytes, content_type: str = "") -> UpstreamError:
    """Read the (start of an uncompressed) error body.

    JSON that does not parse is not searched: it may be anything, with the client's text in it.
    """
    start = body[:MAX_BODY]
    if "html" in content_type.lower() or _is_markup(start):
        return UpstreamError(is_page=True)
    event = _EVENT_DATA.search(start)
    try:
        parsed = loads_lenient(event[1] if event else start)
    except ValueError:
        text = start.decode("utf-8-sig", "replace").strip()
        return NO_ERROR if text[:1] in ("{", "[", "") else UpstreamError(_one_line(text))
    holders = list(islice(_holders(parsed), _MAX_ITEMS))
    nodes = list(islice(_nodes(parsed), _MAX_NODES))
    codes = frozenset(_codes(holders))
    return UpstreamError(
        message=message_of(parsed),
        codes=codes,
        nested_codes=frozenset(_codes(nodes)) - codes,
        names=frozenset(_normal(name) for name in islice(chain.from_iterable(nodes), _MAX_NODES)),
        members={name: holders[0][name] for name in _PASSED_ON if name in holders[0]} if holders else {},
    )


def retry_after(headers: Iterable[tuple[str, str]], now: datetime) -> float | None:
    """Read how long an upstream wants to be left alone, in seconds; None when it does not say, or unreadably.

    A date in the past and a negative number are 0. Of several values the longest counts.
    """
    values: dict[str, list[str]] = {"retry-after-ms": [], "retry-after": []}
    for name, value in headers:
        if name.lower() in values:
            values[name.lower()].append(value.strip()[:200])
    for name, factor in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        parts = (part for value in values[name] for part in _HEADER_PARTS.split(value))
        waits = [wait for part in parts if (wait := _wait_s(part.strip(), factor, now)) is not None]
        if waits:
            return max(0.0, *waits)
    return None


def _wait_s(value: str, factor: float, now: datetime) -> float | None:
    if _NUMBER.fullmatch(value):
        return float(value) * factor
    if not value or value.isdigit():
        return float("inf") if value else None
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()


def codes_of(error: object) -> frozenset[str]:
    """Return the codes of an error object in snake case, numbers among them."""
    if not isinstance(error, dict):
        return frozenset()
    numbers = {
        str(value) for name in _CODE_NAMES if type(value := error.get(name)) is int and value in _STATUSES
    }
    return frozenset(_codes([error])) | numbers


def _holders(parsed: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects in which vendors put codes, the innermost that is common first."""
    if isinstance(parsed, list):  # Google wraps its errors in one
        parsed = parsed[0] if parsed else None
    if not isinstance(parsed, dict):
        return
    error, errors = parsed.get("error"), parsed.get("errors")
    if isinstance(error, dict):
        yield error
        yield from (
            item for item in (error.get("details"), error.get("innererror")) if isinstance(item, dict)
        )
    yield parsed
    if isinstance(detail := parsed.get("detail"), dict):
        yield detail
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        yield errors[0]


def _nodes(parsed: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yield all objects, but for those that repeat a request."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(parsed, str):
        parsed = _json_inside(parsed)
    if isinstance(parsed, dict):
        yield parsed
        inner: Iterable[Any] = [value for name, value in islice(parsed.items(), 50) if name not in _ECHOES]
    else:
        inner = parsed[:50] if isinstance(parsed, list) else ()
    for value in inner:
        yield from _nodes(value, depth + 1)


def _codes(holders: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for holder in holders:
        for name in _CODE_NAMES:
            if isinstance(code := holder.get(name), str):
                yield _normal(code)
        if isinstance(error := holder.get("error"), str) and _CODE_LIKE.fullmatch(error[: _MAX_CODE + 1]):
            yield _normal(error)


def message_of(parsed: Any) -> str:
    """Return what an error, in any envelope, says to a person; an empty text if it says nothing."""
    texts = list(islice(_texts(parsed, 0), _MAX_ITEMS))
    if not texts:
        return ""
    first = texts[0]
    if _VOID.fullmatch(first):
        further = next((text for text in texts[1:] if not _VOID.fullmatch(text)), "")
        first = f"{first.rstrip('.: ')}: {further}" if further else first
    return first


def _texts(node: Any, depth: int) -> Iterator[str]:
    """Yield what a person would read, the most telling first."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(node, str):
        inside = _json_inside(node)
        if inside is not None:
            yield from _texts(inside, depth + 1)
        elif text := _one_line(node):
            yield text
    elif isinstance(node, list):
        found = [next(_texts(item, depth + 1), "") for item in node[:_MAX_ITEMS]]
        if any(found):
            yield "; ".join(text for text in found if text)
    elif isinstance(node, dict):
        yield from _texts_of_object(node, depth)


def _texts_of_object(node: dict[str, Any], depth: int) -> Iterator[str]:
    place, msg = node.get("loc"), node.get("msg")
    if isinstance(place, list) and isinstance(msg, str):  # what validators of Python's services say
        yield f"{'.'.join(str(part) for part in place[:_MAX_ITEMS])}: {_one_line(msg)}"
        return
    if isinstance(error := node.get("error"), dict | list):
        yield from _texts(error, depth + 1)
    for name in _TEXT_NAMES:
        value = node.get(name)
        if name != "error" or isinstance(value, str):
            yield from _texts(value, depth + 1)


def _json_inside(text: str) -> Any:
    """Decode a text that is JSON itself, as resellers pass on what they were told; None if it is not."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        parsed = loads_lenient(text[:MAX_BODY].encode("utf-8", "replace"))
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict | list) else None


def _is_markup(body: bytes) -> bool:
    return body[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _normal(code: str) -> str:
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code[:_MAX_CODE])
    return re.sub(r"[ .-]", "_", snake).lower()


def _one_line(text: str) -> str:
    return " ".join(text.split())
