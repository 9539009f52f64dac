"""Answers in the format of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from simulator.answer import Answer
from simulator.call import Call
from simulator.events import Event
from simulator.usage import announces, responses_usage

encode = msgspec.json.encode

_REASONS = {"length": "max_output_tokens", "max_output_tokens": "max_output_tokens"}
_NOT_INCOMPLETE = ("", "stop", "tool_calls", "completed", "failed", "cancelled")
_OBFUSCATION = ("aZ3", "kQ9xW", "m", "Tt0bLw2", "")
_IMAGE = "iVBORw0KGgo" + "A" * 500


class _Events:
    """Numbers the events of one stream."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._sent = 0

    def event(self, kind: str, members: dict[str, Any], told: Any = None) -> Event:
        """Make the next event, named as its type says."""
        document = {"type": kind, "sequence_number": self._sent, **members}
        if self._call.obfuscation and kind.endswith(".delta"):
            document["obfuscation"] = _OBFUSCATION[self._sent % len(_OBFUSCATION)]
        self._sent += 1
        return Event(b"event: %b\ndata: %b\n\n" % (kind.encode(), encode(document)), told)


def stream_events(answer: Answer, call: Call) -> list[Event]:
    """Return every event of a streamed response; the one that ends it is last, and tells the usage."""
    events = _Events(call)
    begun = _response(answer, call, "in_progress", [], usage=None)
    made = [events.event(f"response.{kind}", {"response": begun}) for kind in ("created", "in_progress")]
    items = _items(answer, call)
    for index, item in enumerate(items):
        place = {"output_index": index, "item_id": item["id"]}
        empty = {**item, "status": "in_progress", **_EMPTIED.get(item["type"], {})}
        made.append(events.event("response.output_item.added", {"output_index": index, "item": empty}))
        made += [events.event(kind, {**place, **members}) for kind, members in _parts(item, answer)]
        made.append(events.event("response.output_item.done", {"output_index": index, "item": item}))
    ended = _ended(answer, call, items)
    told = None if ended["usage"] is None else announces(answer.tokens, call.options.shape)
    made.append(events.event(f"response.{ended['status']}", {"response": ended}, told))
    return made


_EMPTIED: dict[str, dict[str, Any]] = {
    "message": {"content": []},
    "reasoning": {"summary": []},
    "function_call": {"arguments": ""},
    "image_generation_call": {"result": None},
}


def _parts(item: dict[str, Any], answer: Answer) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = item["type"]
    if kind == "reasoning":
        part = {"summary_index": 0}
        text = item["summary"][0]["text"]
        yield "response.reasoning_summary_part.added", {**part, "part": {"type": "summary_text", "text": ""}}
        for thought in answer.thinking:
            yield "response.reasoning_summary_text.delta", {**part, "delta": thought}
        yield "response.reasoning_summary_text.done", {**part, "text": text}
        yield "response.reasoning_summary_part.done", {**part, "part": item["summary"][0]}
    elif kind == "message":
        part = {"content_index": 0}
        whole = item["content"][0]
        yield "response.content_part.added", {**part, "part": {**whole, "text": ""}}
        for piece in answer.pieces:
            yield "response.output_text.delta", {**part, "delta": piece, "logprobs": []}
        yield "response.output_text.done", {**part, "text": whole["text"], "logprobs": []}
        yield "response.content_part.done", {**part, "part": whole}
    elif kind == "function_call":
        call = next(call for call in answer.calls if call.id == item["call_id"])
        for fragment in call.fragments:
            yield "response.function_call_arguments.delta", {"delta": fragment}
        yield "response.function_call_arguments.done", {"arguments": call.arguments}
    else:
        for step in _STEPS[kind]:
            yield f"response.{kind}.{step}", {}


_STEPS = {
    "web_search_call": ("in_progress", "searching", "completed"),
    "image_generation_call": ("in_progress", "generating", "completed"),
}


def plain_body(answer: Answer, call: Call) -> bytes:
    """Return a response, or a compaction, in one piece."""
    if call.endpoint == "responses/compact":
        return encode(_compaction(answer, call))
    return encode(_ended(answer, call, _items(answer, call)))


def _ended(answer: Answer, call: Call, items: list[dict[str, Any]]) -> dict[str, Any]:
    finish = call.options.finish
    status = finish if finish in ("failed", "cancelled") else "completed"
    reason = None
    if answer.length_cut or finish not in _NOT_INCOMPLETE:
        status, reason = "incomplete", {"reason": _REASONS.get(finish or "length", finish)}
    usage = responses_usage(answer.tokens, call.options.shape)
    if call.options.usage == "never" or status == "failed":
        usage = None
    return _response(answer, call, status, items if status != "failed" else [], usage, reason)


def _response(
    answer: Answer,
    call: Call,
    status: str,
    output: list[dict[str, Any]],
    usage: Any,
    reason: dict[str, Any] | None = None,
) -> dict[str, Any]:
    error = {"code": "server_error", "message": "The model failed"} if status == "failed" else None
    limit = call.body.get("max_output_tokens")
    response = {
        "id": f"resp_{answer.tag}",
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "background": False,
        "error": error,
        "incomplete_details": reason,
        "instructions": call.body.get("instructions"),
        "max_output_tokens": limit if isinstance(limit, int) else None,
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": call.body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "auto" if status == "in_progress" else call.options.tier or "default",
        "store": call.body.get("store", True),
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": call.body.get("tool_choice", "auto"),
        "tools": call.body.get("tools", []),
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
        "metadata": {},
    }
    if call.options.searches and status != "in_progress":
        response["tool_usage"] = {"web_search": {"num_requests": call.options.searches}}
    return response


def _items(answer: Answer, call: Call) -> list[dict[str, Any]]:
    tag, options = answer.tag, call.options
    items: list[dict[str, Any]] = []
    if answer.thinking:
        summary = [{"type": "summary_text", "text": "".join(answer.thinking)}]
        reasoning = {"id": f"rs_{tag}", "type": "reasoning", "summary": summary}
        include = call.body.get("include")
        if isinstance(include, list) and "reasoning.encrypted_content" in include:
            reasoning["encrypted_content"] = answer.signature
        items.append(reasoning)
    done = {"status": "completed"}
    for index in range(options.searches):
        action = {"type": "search", "query": "weir", "sources": []}
        items.append({"id": f"ws_{tag}{index}", "type": "web_search_call", **done, "action": action})
    for index in range(options.pages):
        action = {"type": "open_page", "url": "https://example.com/weir"}
        items.append({"id": f"wp_{tag}{index}", "type": "web_search_call", **done, "action": action})
    for index in range(options.images):
        looks = {"quality": "high", "size": "1024x1024", "output_format": "png", "result": _IMAGE}
        items.append({"id": f"ig_{tag}{index}", "type": "image_generation_call", **done, **looks})
    for item in answer.calls:
        call_members = {"call_id": item.id, "name": item.name, "arguments": item.arguments}
        items.append({"id": f"fc_{item.id}", "type": "function_call", **done, **call_members})
    if answer.pieces or not items:
        text = {"type": "output_text", "annotations": [], "logprobs": [], "text": "".join(answer.pieces)}
        message = {"id": f"msg_{tag}", "type": "message", **done, "role": "assistant", "content": [text]}
        items.append(message)
    return items


def _compaction(answer: Answer, call: Call) -> dict[str, Any]:
    kept = call.body.get("input")
    messages = [item for item in kept if isinstance(item, dict)] if isinstance(kept, list) else []
    item = {"id": f"cmp_{answer.tag}", "type": "compaction", "encrypted_content": answer.signature}
    return {
        "id": f"resp_{answer.tag}",
        "object": "response.compaction",
        "created_at": answer.created,
        "output": [*messages, item],
        "usage": None
        if call.options.usage == "never"
        else responses_usage(answer.tokens, call.options.shape),
    }
