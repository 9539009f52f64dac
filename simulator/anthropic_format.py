"""Answers in the Anthropic Messages format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from simulator.answer import Answer
from simulator.call import Call
from simulator.events import Event
from simulator.tokens import Tokens
from simulator.usage import announces, anthropic_usage

encode = msgspec.json.encode

PING = b'event: ping\ndata: {"type":"ping"}\n\n'


def stream_events(answer: Answer, call: Call) -> list[Event]:
    """Return every event of a streamed message, `message_stop` last."""
    options = call.options
    events = [_start(answer, call)]
    pings = options.pings
    for block_index, (opening, deltas) in enumerate(_blocks(answer)):
        events.append(
            _named("content_block_start", b'"index":%d,"content_block":%b' % (block_index, encode(opening)))
        )
        if pings and block_index == 0:
            events += [Event(PING)] * pings
        prefix = b'"index":%d,"delta":' % block_index
        events += [_named("content_block_delta", prefix + delta) for delta in deltas]
        events.append(_named("content_block_stop", b'"index":%d' % block_index))
    events.append(_delta(answer, call))
    events.append(_named("message_stop", b""))
    return events


def plain_body(answer: Answer, call: Call) -> bytes:
    """Return a message in one piece."""
    content: list[dict[str, Any]] = []
    if answer.thinking:
        thinking = "".join(answer.thinking)
        content.append({"type": "thinking", "thinking": thinking, "signature": answer.signature})
    if answer.pieces:
        content.append({"type": "text", "text": "".join(answer.pieces)})
    content += [
        {"type": "tool_use", "id": item.id, "name": item.name, "input": msgspec.json.decode(item.arguments)}
        for item in answer.calls
    ]
    message = _message(answer, content, _stop_reason(answer, call))
    if call.options.usage != "never":
        message["usage"] = _usage(answer.tokens, call)
    return encode(message)


def _message(answer: Answer, content: list[dict[str, Any]], stop_reason: str | None) -> dict[str, Any]:
    return {
        "id": f"msg_{answer.tag}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
    }


def _start(answer: Answer, call: Call) -> Event:
    options, tokens = call.options, answer.tokens
    told = replace(tokens, output=min(1, tokens.output), reasoning=0)
    if options.usage == "estimate":
        told = Tokens(fresh=tokens.prompt, output=1)
    message = _message(answer, [], None)
    if options.usage == "never":
        return _named("message_start", b'"message":' + encode(message))
    message["usage"] = _usage(told, call)
    return _named("message_start", b'"message":' + encode(message), announces(told, options.shape))


def _delta(answer: Answer, call: Call) -> Event:
    options, tokens = call.options, answer.tokens
    delta = {"stop_reason": _stop_reason(answer, call), "stop_sequence": None}
    body = b'"delta":' + encode(delta)
    if options.usage == "never":
        return _named("message_delta", body)
    usage = _usage(tokens, call)
    if isinstance(usage, dict):
        usage = _delta_usage(usage, options.usage, options.shape)
    return _named("message_delta", body + b',"usage":' + encode(usage), announces(tokens, options.shape))


def _usage(tokens: Tokens, call: Call) -> Any:
    """Return the usage in the shape that is asked for, with the tier and the searches of this answer."""
    usage, options = anthropic_usage(tokens, call.options.shape), call.options
    if isinstance(usage, dict):
        if options.tier:
            usage["service_tier"] = options.tier
        if options.searches:
            usage["server_tool_use"] = {"web_search_requests": options.searches, "web_fetch_requests": 0}
    return usage


def _delta_usage(usage: dict[str, Any], placement: str, shape: str) -> dict[str, Any]:
    if placement in ("repeat", "estimate", "always") or shape == "zero_native":
        return usage
    kept = ("output_tokens", "output_tokens_details", "server_tool_use", "iterations")
    short = {name: value for name, value in usage.items() if name in kept}
    if placement == "zeros":
        zeros = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        return dict.fromkeys(zeros, 0) | short
    return short


def _blocks(answer: Answer) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
    if answer.thinking:
        deltas = [b'{"type":"thinking_delta","thinking":%b}' % encode(thought) for thought in answer.thinking]
        deltas.append(encode({"type": "signature_delta", "signature": answer.signature}))
        yield {"type": "thinking", "thinking": "", "signature": ""}, deltas
    if answer.pieces:
        pieces = [b'{"type":"text_delta","text":%b}' % encode(piece) for piece in answer.pieces]
        yield {"type": "text", "text": ""}, pieces
    for call in answer.calls:
        fragments = ("", *call.fragments)
        parts = [b'{"type":"input_json_delta","partial_json":%b}' % encode(part) for part in fragments]
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}, parts


def _named(name: str, rest: bytes, told: Tokens | None = None) -> Event:
    kind = name.encode()
    comma = b"," if rest else b""
    return Event(b'event: %b\ndata: {"type":"%b"%b%b}\n\n' % (kind, kind, comma, rest), told)


def _stop_reason(answer: Answer, call: Call) -> str:
    if call.options.finish:
        return call.options.finish
    if answer.length_cut:
        return "max_tokens"
    return "tool_use" if answer.calls else "end_turn"
