"""Built-in faults that replace the whole answer: refusals, foreign envelopes, silence."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from simulator.call import ANTHROPIC, Call
from simulator.errors import enveloped, error_body
from simulator.grammar import GrammarError, Options
from simulator.plan import JSON, SSE, base_headers
from simulator.script import Close, Data, End, Head, Raw, Reset, Script, Stall

Refuser = Callable[[Call, str], Script | None]

REFUSALS: dict[str, tuple[str, Refuser]] = {}


def _refusal(doc: str, name: str) -> Callable[[Refuser], Refuser]:
    def register(function: Refuser) -> Refuser:
        REFUSALS[name] = (doc, function)
        return function

    return register


def refuse(call: Call, key: str) -> Script | None:
    """Return the script of a replacing fault; None when the call's fault is none (or does not apply)."""
    name = call.options.fault
    if name.isdigit():
        if not 400 <= int(name) <= 599:
            raise GrammarError("simulator: fault takes a status from 400 to 599, or a name")
        return status_script(call.format, int(name), call.options)
    return REFUSALS[name][1](call, key) if name in REFUSALS else None


def status_script(
    wire_format: str, status: int, options: Options | None = None, message: str = "", kind: str = ""
) -> Script:
    """Make an error answer, with ``retry_after``, ``should_retry`` and ``envelope`` as the options say."""
    options = options or Options()
    body, content_type = enveloped(options.envelope, wire_format, status, message, kind)
    headers = list(base_headers(wire_format, content_type))
    if options.retry_after:
        headers.append(("Retry-After", options.retry_after))
    if options.should_retry:
        headers.append(("x-should-retry", options.should_retry))
    return _body(status, headers, body)


def _body(status: int, headers: list[tuple[str, str]], body: bytes) -> Script:
    head = Head(status, tuple(headers), "length", len(body), flush=False)
    return Script((head, Data(body), End()))


def _named(name: str, status: int, doc: str, **defaults: str) -> None:
    def refuser(call: Call, key: str) -> Script:
        options = call.options
        values = {item: getattr(options, item) for item in ("retry_after", "should_retry", "envelope")}
        for item, value in defaults.items():
            if values[item] in ("", "native"):
                values[item] = value
        return status_script(call.format, status, Options(**values))

    REFUSALS[name] = (doc, refuser)


_named("unauthorized", 401, "401, native")
_named("no_balance", 402, "402 in OhMyGPT's own envelope", envelope="ohmygpt")
_named("banned", 403, "403, native")
_named("rate_limited", 429, "429 with Retry-After (default 1)", retry_after="1")
_named("unavailable", 503, "503, native")
_named("overloaded", 529, "529, native")
_named("html_502", 502, "502 with an HTML page", envelope="html")
_named("html_524", 524, "524 with an HTML page", envelope="html")


def _resellers(call: Call, status: int, message: str, metadata: dict[str, object]) -> Script:
    error = {"code": status, "message": message, "metadata": metadata}
    body = msgspec.json.encode({"error": error, "user_id": "user_sim"})
    wait = call.options.retry_after
    return _body(status, [("Content-Type", JSON), *([("Retry-After", wait)] if wait else [])], body)


@_refusal("403 of a reseller's content check", "flagged")
def _flagged(call: Call, key: str) -> Script:
    message = f"{call.model} requires moderation. Your input was flagged for: violence"
    return _resellers(call, 403, message, {"reasons": ["violence"], "flagged_input": "drill"})


@_refusal("429 of a provider that a reseller asked, without Retry-After unless given", "model_busy")
def _model_busy(call: Call, key: str) -> Script:
    raw = f"{call.model} is temporarily rate-limited upstream"
    return _resellers(call, 429, "Provider returned error", {"provider_name": "Sim", "raw": raw})


@_refusal("429 that no key would spare a request of this size", "over_limit")
def _over_limit(call: Call, key: str) -> Script:
    message = f"Request too large for {call.model} on tokens per min (TPM): Limit 30000, Requested 500000."
    return status_script(call.format, 429, None, message, "tokens")


@_refusal("404, native", "model_not_found")
def _model_not_found(call: Call, key: str) -> Script:
    kind = "not_found_error" if call.format == ANTHROPIC else "invalid_request_error"
    return status_script(call.format, 404, None, f"The model '{call.model}' does not exist", kind)


@_refusal("429 of a spent account (`insufficient_quota`), which retrying cannot help", "insufficient_quota")
def _insufficient_quota(call: Call, key: str) -> Script:
    message = "You exceeded your current quota, please check your plan and billing details."
    return status_script(call.format, 429, call.options, message, "insufficient_quota")


@_refusal("400 when the request has `stream_options`, else a normal answer", "stream_options_400")
def _stream_options_400(call: Call, key: str) -> Script | None:
    if "stream_options" not in call.body:
        return None
    message = "Unrecognized request argument supplied: stream_options"
    return status_script(call.format, 400, call.options, message)


@_refusal("400 when the request has max_tokens above 8192, else a normal answer", "max_tokens_400")
def _max_tokens_400(call: Call, key: str) -> Script | None:
    limit = call.body.get("max_tokens")
    if not isinstance(limit, int) or limit <= 8192:
        return None
    return status_script(call.format, 400, call.options, "max_tokens is too large")


@_refusal("400 whose message names the upstream key and host", "leak_400")
def _leak_400(call: Call, key: str) -> Script:
    return status_script(call.format, 400, call.options, _leak(key))


@_refusal("401 whose message names the upstream key and host", "leak_401")
def _leak_401(call: Call, key: str) -> Script:
    return status_script(call.format, 401, call.options, _leak(key))


def _leak(key: str) -> str:
    return f"Request with key {key} to https://apic1.ohmycdn.com/api/v1/ai/openai/cc-omg failed"


@_refusal("200 application/json with an error body, whatever was asked", "error_200")
def _error_200(call: Call, key: str) -> Script:
    body = error_body(call.format, 500)
    return _body(200, base_headers(call.format, JSON), body)


@_refusal("200 with an empty body", "empty_200")
def _empty_200(call: Call, key: str) -> Script:
    return _body(200, base_headers(call.format, SSE if call.stream else JSON), b"")


@_refusal("200 with a body that is no JSON", "bad_json_200")
def _bad_json_200(call: Call, key: str) -> Script:
    return _body(200, base_headers(call.format, JSON), b'{"id": "chatcmpl-')


@_refusal("200 with an HTML page", "html_200")
def _html_200(call: Call, key: str) -> Script:
    body, content_type = enveloped("html", call.format, 200, "Welcome")
    return _body(200, base_headers(call.format, content_type), body)


@_refusal("307 to another place on the same host", "redirect")
def _redirect(call: Call, key: str) -> Script:
    headers = [*base_headers(call.format, JSON), ("Location", "/elsewhere/v1/models")]
    return _body(307, headers, msgspec.json.encode({"moved": True}))


@_refusal("204 without a body", "no_content")
def _no_content(call: Call, key: str) -> Script:
    head = Head(204, tuple(base_headers(call.format, JSON)), "none", flush=True)
    return Script((head, End()), keep_alive=True)


@_refusal("closes without a byte", "no_answer")
def _no_answer(call: Call, key: str) -> Script:
    return Script((Close(),), cut=True)


@_refusal("resets without a byte", "reset_early")
def _reset_early(call: Call, key: str) -> Script:
    return Script((Reset(),), cut=True)


@_refusal("never answers; the connection stays open until the client leaves", "stall_early")
def _stall_early(call: Call, key: str) -> Script:
    return Script((Stall(),), cut=True)


_HALF_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Half: "


@_refusal("half the headers, then close", "half_headers")
def _half_headers(call: Call, key: str) -> Script:
    return Script((Raw(_HALF_HEAD), Close()), cut=True)


@_refusal("half the headers, then silence", "stall_headers")
def _stall_headers(call: Call, key: str) -> Script:
    return Script((Raw(_HALF_HEAD), Stall()), cut=True)


@_refusal("a status line that is not HTTP", "bad_status_line")
def _bad_status_line(call: Call, key: str) -> Script:
    return Script((Raw(b"GARBAGE 9000 what\r\n\r\n"), Close()), cut=True)
