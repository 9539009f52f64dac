"""Error answers in the client's own format, and safe messages taken from upstream ones."""

import re
from collections.abc import Iterable

import msgspec

from app.core.errors import MAX_RETRY_AFTER_S, GatewayError
from app.core.wire_format import WireFormat

MAX_MESSAGE = 2000
_MAX_SCRUBBED = 4 * MAX_MESSAGE

_URL = re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://[^\s\"'<>]+", re.IGNORECASE)
_HOST = re.compile(
    r"\b(?:(?:[a-z0-9-]{1,63}\.){1,8}(?:com|net|org|io|ai|dev|app|cn|cc|co|me|xyz|top|internal|local)|localhost"
    r"|\d{1,3}(?:\.\d{1,3}){3})\b(?::\d+)?(?:/[^\s\"'<>]*)?",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"\b(?:(?:sk|pk|ak|omg|key)[-_][a-z0-9_*.-]{6,}|Bearer\s+[^\s\"'<>]{6,})"
    # Without a prefix of its own: a long word with digits or stars in it, after "key" or the like.
    r"|\b(?<=key )(?=[a-z_.-]*[0-9*])[a-z0-9_*.-]{6,}",
    re.IGNORECASE,
)
_UPSTREAM_NAME = re.compile(r"oh[\s_-]?my[\s_-]?(?:gpt|cdn)", re.IGNORECASE)


def render_error(error: GatewayError, wire_format: WireFormat, request_id: str) -> bytes:
    """The JSON body of an error, in the shape that is native to the endpoint."""
    kind = error.kind
    if wire_format is WireFormat.ANTHROPIC:
        inner = {"type": kind.anthropic_type, "message": error.message, **error.extra}
        return msgspec.json.encode({"type": "error", "error": inner, "request_id": request_id})
    body: dict[str, object] = {
        "message": error.message,
        "type": kind.openai_type,
        "param": error.param,
        "code": kind.openai_code,
        **error.extra,
    }
    return msgspec.json.encode({"error": body})


def error_headers(error: GatewayError) -> list[tuple[str, str]]:
    """The headers that go with it: content type, a capped `Retry-After`, `x-should-retry`."""
    headers = [("Content-Type", "application/json")]
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(max(1, min(error.retry_after_s, MAX_RETRY_AFTER_S)))))
    if error.kind.should_retry is not None:
        headers.append(("x-should-retry", "true" if error.kind.should_retry else "false"))
    return headers


def scrub(message: str, secrets: Iterable[str] = ()) -> str:
    """The message without upstream hosts, URLs, names and anything that looks like a key, bounded."""
    for secret in secrets:
        if secret:
            message = message.replace(secret, "[key]")
    # Bounded before the patterns: they are not linear in what an upstream may send.
    message = message[:_MAX_SCRUBBED]
    message = _URL.sub("[url]", message)
    message = _HOST.sub("[host]", message)
    message = _KEY.sub("[key]", message)
    message = _UPSTREAM_NAME.sub("upstream", message)
    return message[:MAX_MESSAGE]


def upstream_message(body: bytes, content_type: str) -> str | None:
    """The human-readable message of an upstream's error body; None when there is none (HTML, empty)."""
    if "html" in content_type.lower():
        return None
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if not isinstance(parsed, dict):
        return None
    error = parsed.get("error")
    for holder in (error, parsed):
        if isinstance(holder, dict) and isinstance(holder.get("message"), str):
            return str(holder["message"])
    return error if isinstance(error, str) else None


def retry_after_seconds(headers: Iterable[tuple[str, str]]) -> int | None:
    """An upstream's `retry-after(-ms)` in whole seconds, capped; None when absent."""
    found = {name.lower(): value.strip() for name, value in headers}
    milliseconds = found.get("retry-after-ms", "")
    if re.fullmatch(r"\d{1,12}", milliseconds):
        return min(-(-int(milliseconds) // 1000), MAX_RETRY_AFTER_S)
    seconds = found.get("retry-after", "")
    if re.fullmatch(r"\d{1,12}(\.\d+)?", seconds):
        return min(-(-int(float(seconds) * 1000) // 1000), MAX_RETRY_AFTER_S)
    # An HTTP date needs a clock to mean anything; the cap is what a client would get for most of them.
    return MAX_RETRY_AFTER_S if seconds else None
