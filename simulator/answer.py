"""The content of an answer before it has a format: words, thinking, tool calls and what they cost."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from simulator.call import ANTHROPIC, Call
from simulator.tokens import Tokens

FIXED_CREATED = 1_790_000_000
"""`created` of every answer (Unix seconds, 21 September 2026) unless a clock is injected."""

_PROSE = (
    "water flows over the weir and every drop is counted once while the river keeps its pace under a pale "
    "sky where herons wait beside slow green pools for silver fish that never hurry past old stone walls "
    "built by patient hands long before anyone thought to measure what went by"
)
_WORDS = tuple(_PROSE.split())
_ODD = ("é", "😀", "line\u2028sep", "next\u0085line", "漢字", 'tab\tquote"back\\slash')
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_BAIT = '"usage":{"prompt_tokens":999999,"completion_tokens":999999}'


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call; ``arguments`` is JSON text, ``fragments`` the same cut for streaming."""

    id: str
    name: str
    arguments: str
    fragments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. ``pieces`` and ``thinking`` are what streaming sends one by one."""

    tag: str
    model: str
    created: int
    pieces: tuple[str, ...]
    thinking: tuple[str, ...]
    signature: str
    calls: tuple[ToolCall, ...]
    choices: int
    tokens: Tokens
    length_cut: bool


def make_answer(call: Call, created: int = FIXED_CREATED) -> Answer:
    """Make the answer to a call: the same call gives the same answer."""
    options = call.options
    calls = _tool_calls(call)
    tokens, length_cut = _tokens(call)
    visible = tokens.output - tokens.reasoning
    chunks = options.chunks if options.chunks >= 0 else (0 if calls else min(max(visible, 1), 64))
    thoughts = min(tokens.reasoning, 16)
    return Answer(
        tag=call.seed.hex()[:24],
        model=call.options.model or call.model,
        created=created,
        pieces=_pieces(call, chunks),
        thinking=tuple(_word(call.seed[::-1], i) for i in range(thoughts)),
        signature=base64.b64encode(hashlib.sha512(call.seed).digest()).decode(),
        calls=calls,
        choices=_choices(call),
        tokens=tokens,
        length_cut=length_cut,
    )


def count_prompt(call_size: int) -> int:
    """Count the tokens of a request body of `call_size` bytes, as this simulator counts."""
    return max(1, call_size // 4)


def _tokens(call: Call) -> tuple[Tokens, bool]:
    options, body, cut = call.options, call.body, False
    cached, write = max(options.cached, 0), max(options.write, 0)
    prompt = options.prompt
    if prompt < 0:
        fresh = count_prompt(call.size)
        if call.format == ANTHROPIC and options.cached < 0 and options.write < 0 and call.uses_cache:
            part = fresh // 2
            fresh -= part
            cached, write = (part, 0) if call.seed[0] % 2 else (0, part)
        prompt = fresh + cached + write
    reasoning = options.reasoning
    if reasoning < 0:
        reasoning = 8 + call.seed[2] % 8 if _wants_thinking(body) else 0
    out = _longest(body) if options.longest else options.out
    if out < 0:
        visible = options.chunks if options.chunks >= 0 else 12 + call.seed[1] % 24
        out = visible + reasoning
        limit = next((body[name] for name in _LIMITS if body.get(name)), None)
        if isinstance(limit, int) and out > limit > 0:
            out, cut = limit, True
            reasoning = min(reasoning, out)
    reasoning = min(reasoning, out)
    spent = Tokens(
        fresh=prompt - cached - write,
        cache_read=cached,
        cache_write_5m=write - options.write_1h,
        cache_write_1h=options.write_1h,
        output=out,
        reasoning=reasoning,
    )
    return spent, cut


def _longest(body: dict[str, Any]) -> int:
    limits = [body.get(name) for name in _LIMITS]
    count = body.get("n")
    return max((limit for limit in limits if isinstance(limit, int)), default=100_000) * (
        count if isinstance(count, int) else 1
    )


def _pieces(call: Call, chunks: int) -> tuple[str, ...]:
    options = call.options
    if options.text or options.echo:
        return () if chunks == 0 else _split(options.text or _last_text(call.body), max(chunks, 1))
    pieces = [_word(call.seed, i) for i in range(chunks)]
    if options.unicode:
        pieces[: len(_ODD)] = [f"{odd} " for odd in _ODD]
    if options.bait:
        pieces.insert(0, _BAIT)
    if options.size:
        pieces = [(piece * (options.size // len(piece) + 1))[: options.size] for piece in pieces]
    return tuple(pieces)


def _word(seed: bytes, index: int) -> str:
    word = _WORDS[(seed[3] + index * (1 + seed[4] % 7) + seed[5 + index % 16]) % len(_WORDS)]
    return f"{word} "


def _tool_calls(call: Call) -> tuple[ToolCall, ...]:
    names = _tool_names(call.body)
    if call.options.call:
        name, _, arguments = call.options.call.partition(":")
        wanted = name in names and not _results(call.body)
        return (_tool_call(call, 0, name, arguments or _arguments(0, 0)),) if wanted else ()
    count = call.options.tools
    if count < 0:
        forced = call.body.get("tool_choice")
        kind = forced.get("type") if isinstance(forced, dict) else forced
        count = 1 if names and kind in ("required", "any", "tool", "function") else 0
    return tuple(
        _tool_call(
            call,
            index,
            names[index % len(names)] if names else "lookup",
            _arguments(call.options.args, index),
        )
        for index in range(count)
    )


def _tool_call(call: Call, index: int, name: str, arguments: str) -> ToolCall:
    prefix = "toolu_" if call.format == ANTHROPIC else "call_"
    parts = _split(arguments, max(3, len(arguments) // 4096))
    return ToolCall(f"{prefix}{call.seed.hex()[:20]}{index:02d}", name, arguments, parts)


def _arguments(size: int, index: int) -> str:
    text = msgspec.json.encode({"query": "weir", "limit": 5 + index, "exact": True}).decode()
    if size <= len(text):
        return text
    filler = "abcdefghijklmnopqrstuvwxyz012345" * (size // 32 + 1)
    frame = '{"text":""}'
    return f'{{"text":"{filler[: size - len(frame)]}"}}'


def _tool_names(body: dict[str, Any]) -> list[str]:
    forced = body.get("tool_choice")
    tools = body.get("tools")
    names = []
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict):
            inner = tool.get("function")
            names.append(str((inner if isinstance(inner, dict) else tool).get("name", "tool")))
    if isinstance(forced, dict):
        inner = forced.get("function")
        name = (inner if isinstance(inner, dict) else forced).get("name")
        if name:
            return [str(name)]
    return names


def _wants_thinking(body: dict[str, Any]) -> bool:
    thinking = body.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive"):
        return True
    reasoning = body.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else body.get("reasoning_effort")
    return effort not in (None, "none", "minimal")


def _choices(call: Call) -> int:
    count = call.body.get("n")
    is_counted = call.format != ANTHROPIC and not call.endpoint.startswith("responses")
    return count if is_counted and isinstance(count, int) and 1 <= count <= 16 else 1


def _last_text(body: dict[str, Any]) -> str:
    """Return the text of the results of tools that came last, or else of the last message."""
    return "".join(_texts(_results(body) or _said(body)[-1:]))


def _said(body: dict[str, Any]) -> list[Any]:
    """Return the messages of a conversation; of a request for a response, its input items."""
    said = body.get("messages") or body.get("input")
    return said if isinstance(said, list) else [{"role": "user", "content": said}]


def _results(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of tools that were sent since the last answer, whatever else came with them."""
    found: list[dict[str, Any]] = []
    for message in reversed(_said(body)):
        if not isinstance(message, dict) or message.get("role") == "assistant":
            break
        if message.get("type") in ("function_call", "reasoning"):
            break
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        found[:0] = [part for part in (message, *parts) if _is_result(part)]
    return found


_RESULTS = ("tool_result", "function_call_output")


def _is_result(part: object) -> bool:
    return isinstance(part, dict) and (part.get("role") == "tool" or part.get("type") in _RESULTS)


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        yield from _texts(content.get("text") or content.get("content") or content.get("output"))
    elif isinstance(content, list):
        for part in content:
            yield from _texts(part)


def _split(text: str, parts: int) -> tuple[str, ...]:
    step = max(1, -(-len(text) // parts))
    return tuple(text[start : start + step] for start in range(0, len(text), step)) or ("",)
