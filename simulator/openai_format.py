"""Answers in the OpenAI Chat Completions format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from simulator.answer import Answer
from simulator.call import Call
from simulator.events import DONE, Event
from simulator.tokens import Tokens
from simulator.usage import announces, openai_usage

encode = msgspec.json.encode

_ALWAYS = ("always", "twice")
_OBFUSCATION = ("aZ3", "kQ9xW", "m", "Tt0bLw2", "")


class _Chunks:
    """Builds `chat.completion.chunk` events around parts that never change."""

    def __init__(self, answer: Answer, call: Call) -> None:
        options = call.options
        head = encode(
            {
                "id": f"chatcmpl-{answer.tag}",
                "object": "chat.completion.chunk",
                "created": answer.created,
                "model": answer.model,
                "service_tier": options.tier or "default",
                "system_fingerprint": "fp_sim",
            }
        )
        self._prefix = b"data: " + head[:-1] + b',"choices":['
        self._null_usage = b',"usage":null' if call.include_usage or options.usage in _ALWAYS else b""
        self._cumulative = options.usage == "every"
        self._shape = options.shape
        self._pads = _OBFUSCATION if call.obfuscation else ()
        self._sent = 0
        self._tokens = answer.tokens

    def delta(self, index: int, delta: bytes, finish: bytes = b"null", counts: int = 0) -> Event:
        """Make one choice's delta; ``counts`` adds to the running output of cumulative usage."""
        self._sent = min(self._sent + counts, self._tokens.output)
        usage, told = self._null_usage, None
        if self._cumulative:
            now = self._tokens if finish != b"null" else _with_output(self._tokens, self._sent)
            usage = b',"usage":' + encode(openai_usage(now, self._shape))
            told = announces(now, self._shape)
        pad = b""
        if self._pads:
            pad = b',"obfuscation":"%b"' % self._pads[self._sent % len(self._pads)].encode()
        choice = b'{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}]' % (index, delta, finish)
        return Event(self._prefix + choice + usage + pad + b"}\n\n", told)

    def tail(self, usage: Any, told: Tokens | None) -> Event:
        """Make the chunk without choices."""
        return Event(self._prefix + b'],"usage":' + encode(usage) + b"}\n\n", told)

    def finish(self, index: int, reason: bytes, where: str, usage: Any, told: Tokens | None) -> Event:
        """Make the finish chunk with a usage, at the top (``finish``) or inside the choice (``choice``)."""
        value = encode(usage)
        inner = b',"usage":' + value if where == "choice" else b""
        outer = b',"usage":' + value if where == "finish" else self._null_usage
        choice = b'{"index":%d,"delta":{},"finish_reason":%b%b}]' % (index, reason, inner)
        return Event(self._prefix + choice + outer + b"}\n\n", told)


def stream_events(answer: Answer, call: Call) -> list[Event]:
    """Return every event of a streamed chat answer, `[DONE]` last."""
    chunks = _Chunks(answer, call)
    opening = b'{"role":"assistant","content":"","refusal":null}'
    events = [chunks.delta(index, opening) for index in range(answer.choices)]
    for delta, counts in _deltas(answer):
        events += [chunks.delta(index, delta, counts=counts) for index in range(answer.choices)]
    events += _ending(answer, call, chunks)
    return events


def _deltas(answer: Answer) -> Iterator[tuple[bytes, int]]:
    for thought in answer.thinking:
        yield b'{"reasoning_content":%b}' % encode(thought), 1
    for piece in answer.pieces:
        yield b'{"content":%b}' % encode(piece), 1
    for index, call in enumerate(answer.calls):
        opening = {
            "index": index,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        yield encode({"tool_calls": [opening]}), 0
        for fragment in call.fragments:
            yield encode({"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}), 0


def _ending(answer: Answer, call: Call, chunks: _Chunks) -> list[Event]:
    placement, shape = call.options.usage, call.options.shape
    usage = openai_usage(answer.tokens, shape)
    told = announces(answer.tokens, shape)
    reason = encode(_finish_reason(answer, call))
    last = range(answer.choices)
    if placement in ("finish", "finish_only", "choice"):
        where = "choice" if placement == "choice" else "finish"
        events = [chunks.finish(index, reason, where, usage, told) for index in last]
        if placement == "finish":
            events.append(chunks.tail(None, told))
    else:
        events = [chunks.delta(index, b"{}", reason) for index in last]
        asked = bool(call.include_usage) and placement not in ("never", "every")
        if asked or placement in _ALWAYS:
            events += [chunks.tail(usage, told)] * (2 if placement == "twice" else 1)
    return [*events, Event(DONE)]


def plain_body(answer: Answer, call: Call) -> bytes:
    """Return a chat answer in one piece."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if answer.calls and not answer.pieces else "".join(answer.pieces),
        "refusal": None,
        "annotations": [],
    }
    if answer.thinking:
        message["reasoning_content"] = "".join(answer.thinking)
    if answer.calls:
        message["tool_calls"] = [
            {"id": item.id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
            for item in answer.calls
        ]
    reason = _finish_reason(answer, call)
    choices: list[dict[str, Any]] = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
        for index in range(answer.choices)
    ]
    document: dict[str, Any] = {
        "id": f"chatcmpl-{answer.tag}",
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.model,
        "choices": choices,
        "service_tier": call.options.tier or "default",
        "system_fingerprint": "fp_sim",
    }
    usage = openai_usage(answer.tokens, call.options.shape)
    if call.options.usage == "choice":
        choices[0]["usage"] = usage
    elif call.options.usage != "never":
        document["usage"] = usage
    return encode(document)


def _finish_reason(answer: Answer, call: Call) -> str:
    if call.options.finish:
        return call.options.finish
    if answer.length_cut:
        return "length"
    return "tool_calls" if answer.calls else "stop"


def _with_output(tokens: Tokens, output: int) -> Tokens:
    return Tokens(
        tokens.fresh,
        tokens.cache_read,
        tokens.cache_write_5m,
        tokens.cache_write_1h,
        output,
        min(tokens.reasoning, output),
    )
