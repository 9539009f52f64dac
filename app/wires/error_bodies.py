"""Error answers in the client's own format, and what of the upstream's own goes into them."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, repeat
from math import isfinite
from typing import Any

import msgspec

from app.common.lenient_json import clean_text
from app.wires.errors import MAX_RETRY_AFTER_S, GatewayError
from app.wires.upstream_errors import UpstreamError
from app.wires.wire_format import WireFormat

_MAX_WORD = 200
_MAX_VALUE = 500
_MAX_ITEMS = 20
_MAX_DEPTH = 4
_MAX_TEXTS = 200
_MAX_INT = 2**53
_SAID_TYPES: dict[str, Any] = {"type": str, "code": str | None, "param": str | None}
_ANTHROPIC_TYPES = frozenset(
    {
        "invalid_request_error",
        "authentication_error",
        "billing_error",
        "permission_error",
        "not_found_error",
        "conflict_error",
        "request_too_large",
        "rate_limit_error",
        "api_error",
        "timeout_error",
        "overloaded_error",
    }
)


def render_error(error: GatewayError, wire_format: WireFormat, request_id: str) -> bytes:
    """Return the JSON body of an error, in the shape that is native to the endpoint."""
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


def id_headers(request_id: str) -> list[tuple[str, str]]:
    """Return the headers that tell a request's id, under the names that either SDK looks for."""
    return [("x-request-id", request_id), ("request-id", request_id)]


def error_headers(error: GatewayError) -> list[tuple[str, str]]:
    """Return the headers of an error's answer: content type, `Retry-After`, `x-should-retry`.

    `Retry-After` is capped for clients that go by it.
    """
    headers = [("Content-Type", "application/json")]
    if error.retry_after_s is not None:
        most = error.retry_after_s if error.kind.should_retry is False else MAX_RETRY_AFTER_S
        headers.append(("Retry-After", str(max(1, min(error.retry_after_s, most)))))
    if error.kind.should_retry is not None:
        headers.append(("x-should-retry", "true" if error.kind.should_retry else "false"))
    return headers


def as_said(error: UpstreamError, wire_format: WireFormat, scrubbed: Callable[[str], str]) -> dict[str, Any]:
    """Return what clients act on of the upstream's error, scrubbed, bounded, in the endpoint's shape.

    Members of the wrong type, or not of this format, are left out, and the error has those of its kind.
    """
    members, bounded = error.members, partial(_bounded, scrubs=repeat(scrubbed, _MAX_TEXTS))
    if wire_format is WireFormat.ANTHROPIC:
        kind = members.get("type")
        known = {"type": kind} if isinstance(kind, str) and kind in _ANTHROPIC_TYPES else {}
        details = members.get("details")
        return {**known, "details": bounded(details)} if isinstance(details, dict) else known
    said: dict[str, Any] = {
        name: bounded(members[name])[:_MAX_WORD] if members[name] else None
        for name, types in _SAID_TYPES.items()
        if name in members and isinstance(members[name], types) and (members[name] or name != "type")
    }
    said |= {name: bounded(members[name]) for name in ("details", "innererror") if members.get(name)}
    metadata = members.get("metadata")
    # The rest of it is about whom the upstream asked.
    told = metadata if isinstance(metadata, dict) else {}
    reasons = {name: told[name] for name in ("reasons", "flagged_input") if name in told}
    return said | ({"metadata": bounded(reasons)} if reasons else {})


def _bounded(value: Any, *, scrubs: Iterator[Callable[[str], str]], depth: int = 0) -> Any:
    """Scrub the value's texts; what is too long, too deep, too much or of no JSON type is cut."""
    if isinstance(value, str):
        scrubbed = next(scrubs, None)
        return clean_text(scrubbed(value), _MAX_VALUE) if scrubbed else ""
    if value is None or isinstance(value, bool | float):
        return value if not isinstance(value, float) or isfinite(value) else None
    if isinstance(value, int):
        return value if abs(value) < _MAX_INT else None
    if depth >= _MAX_DEPTH:
        return None
    inner = partial(_bounded, scrubs=scrubs, depth=depth + 1)
    if isinstance(value, dict):
        return {inner(name): inner(item) for name, item in islice(value.items(), _MAX_ITEMS)}
    return [inner(item) for item in value[:_MAX_ITEMS]] if isinstance(value, list) else None
