"""Events as upstreams send them, small and exact."""

import json
from typing import Any

DONE = b"data: [DONE]\n\n"
USAGE_9_2 = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}

_HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-upstream"}


def compact(value: object) -> bytes:
    """JSON without spaces, non-ASCII characters as they are."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def data(value: object) -> bytes:
    """An event without a name."""
    return b"data: " + compact(value) + b"\n\n"


def named(name: str, value: object) -> bytes:
    """An event with a name."""
    return b"event: " + name.encode() + b"\ndata: " + compact(value) + b"\n\n"


def chunk(text: str | None = None, *, finish: str | None = None, **members: Any) -> bytes:
    """A chat chunk with one choice; `members` go beside `choices`."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return data(_HEAD | {"choices": [choice]} | members)


def usage_chunk(usage: object) -> bytes:
    """The chunk without choices that carries the usage."""
    return data(_HEAD | {"choices": [], "usage": usage})


def chat(usage: object = USAGE_9_2) -> list[bytes]:
    """A whole chat stream: a word, the finish, the usage, the end."""
    return [chunk("hi"), chunk(finish="stop"), usage_chunk(usage), DONE]


def message_start(usage: object) -> bytes:
    """The first event of a Messages stream."""
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-upstream",
        "content": [],
    }
    return named("message_start", {"type": "message_start", "message": message | {"usage": usage}})


def text_block(text: str = "hi") -> list[bytes]:
    """A block of text."""
    opening = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    return [
        named("content_block_start", opening),
        named("content_block_delta", delta),
        named("content_block_stop", {"type": "content_block_stop", "index": 0}),
    ]


def message_delta(usage: object) -> bytes:
    """The event with the stop reason and the final usage."""
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    return named("message_delta", {"type": "message_delta", "delta": delta, "usage": usage})


MESSAGE_STOP = named("message_stop", {"type": "message_stop"})


def messages(start: object, end: object) -> list[bytes]:
    """A whole Messages stream with these two usages."""
    return [message_start(start), *text_block(), message_delta(end), MESSAGE_STOP]


def chat_answer(usage: object, **members: Any) -> bytes:
    """A chat answer in one piece."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    document = {"id": "c1", "object": "chat.completion", "model": "gpt-upstream", "choices": [choice]}
    return compact(document | {"usage": usage} | members)


def message_answer(usage: object, **members: Any) -> bytes:
    """A message in one piece."""
    content = [{"type": "text", "text": "hi"}]
    document = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-upstream"}
    return compact(document | {"content": content, "stop_reason": "end_turn", "usage": usage} | members)
