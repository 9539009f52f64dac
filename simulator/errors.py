"""Error answers: the envelopes of both formats, OhMyGPT's own, and what a front proxy puts in their place."""

from __future__ import annotations

import msgspec

from simulator.call import ANTHROPIC

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_OPENAI_TYPES = {
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    403: ("invalid_request_error", "permission_denied"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    529: ("server_error", "overloaded"),
}

_MESSAGES = {
    400: "Invalid request",
    401: "Incorrect API key provided",
    402: "Your credit balance is too low",
    403: "This key may not use this resource",
    404: "The model does not exist or you do not have access to it",
    408: "Request timed out",
    409: "Conflict",
    413: "Request exceeds the maximum size",
    422: "Unprocessable entity",
    429: "Rate limit reached for requests",
    500: "The server had an error while processing your request",
    502: "Bad gateway",
    503: "The engine is currently overloaded, please try again later",
    504: "Gateway timeout",
    529: "Overloaded",
}

_HTML = (
    "<!DOCTYPE html>\n<html><head><title>{status}: {message}</title></head>"
    "<body><center><h1>{status} {message}</h1></center><hr><center>cloudflare</center></body></html>\n"
)


def message_of(status: int) -> str:
    """Return the usual message of a status."""
    return _MESSAGES.get(status, f"Upstream error {status}")


def anthropic_type(status: int) -> str:
    """Return the error type of a status in the Anthropic format."""
    return _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def error_body(
    wire_format: str, status: int, message: str = "", kind: str = "", param: str | None = None
) -> bytes:
    """Make a native error body of the format."""
    message = message or message_of(status)
    if wire_format == ANTHROPIC:
        error = {"type": kind or anthropic_type(status), "message": message}
        return msgspec.json.encode({"type": "error", "error": error, "request_id": "req_sim"})
    default = ("server_error", None) if status >= 500 else ("invalid_request_error", None)
    error_type, code = _OPENAI_TYPES.get(status, default)
    return msgspec.json.encode(
        {"error": {"message": message, "type": kind or error_type, "param": param, "code": code}}
    )


def enveloped(
    envelope: str, wire_format: str, status: int, message: str = "", kind: str = ""
) -> tuple[bytes, str]:
    """Return body and content type of an error in an envelope: native, ohmygpt, html, empty, text."""
    message = message or message_of(status)
    if envelope == "ohmygpt":
        kind = kind or ("insufficient_balance_error" if status == 402 else "api_error")
        document = {"statusCode": status, "message": message, "errorType": kind, "data": None}
        return msgspec.json.encode(document), "application/json"
    if envelope == "html":
        return _HTML.format(status=status, message=message).encode(), "text/html; charset=UTF-8"
    if envelope == "empty":
        return b"", "text/plain"
    if envelope == "text":
        return f"upstream error: {message}\n".encode(), "text/plain"
    return error_body(wire_format, status, message, kind), "application/json"
