"""The requests of the load: both formats, streamed and plain, each with a body of its own."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from drill.prices import CHAT_MODEL, MESSAGES_MODEL

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"

_SPLICE = b'{"stream_options":{"include_usage":true},'
"""What the proxy puts in place of the opening brace when a chat client streams without asking for usage."""

_numbers = itertools.count(1)


def next_number() -> int:
    """Return a number that no other request of this drill has."""
    return next(_numbers)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a user's name, the client key, and the id under which records show the key.

    `granted_nano` is the credit given, None for the fixed key, which has no user.
    """

    name: str
    key: str
    key_id: str
    granted_nano: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """One request as bytes; `sha256` is that of the body which the upstream is to get."""

    caller: Caller
    model: str
    path: str
    is_stream: bool
    wire: bytes
    sha256: str


def make_request(
    caller: Caller,
    path: str,
    play: str,
    *,
    is_stream: bool,
    asks_usage: bool = True,
    model: str | None = None,
    max_tokens: int = 400,
    is_all_needed: bool = False,
) -> Request:
    """Make a request whose answer is `play` (what the simulator takes as options, or `script:NAME`).

    `is_all_needed`: it is thought about so much that the limit on its output cannot be lowered.
    """
    is_chat = path == CHAT
    model = model or (CHAT_MODEL if is_chat else MESSAGES_MODEL)
    content = f"drill {next_number()}"
    document: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}]}
    document |= {"user": f"sim:{play}"} if is_chat else {"metadata": {"user_id": f"sim:{play}"}}
    document["max_tokens"] = max_tokens
    if is_all_needed:
        document["thinking"] = {"type": "enabled", "budget_tokens": max_tokens - 1}
    if is_stream:
        document["stream"] = True
        if is_chat and asks_usage:
            document["stream_options"] = {"include_usage": True}
    body = json.dumps(document, separators=(",", ":")).encode()
    is_spliced = is_chat and is_stream and not asks_usage
    forwarded = _SPLICE + body[1:] if is_spliced else body
    head = (
        f"POST {path} HTTP/1.1\r\nHost: weir.drill\r\nAuthorization: Bearer {caller.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return Request(
        caller, model, path, is_stream, head.encode() + body, hashlib.sha256(forwarded).hexdigest()
    )


class Mix:
    """An endless mixture of requests, the same for the same seed (but for a number in each)."""

    def __init__(self, callers: Sequence[Caller], random: Random) -> None:
        self._callers = callers
        self._random = random

    def next(self) -> Request:
        """Make the next request: two thirds streams, most of them slow enough to be hit by something."""
        random = self._random
        path = random.choice((CHAT, MESSAGES))
        is_stream = random.random() < 0.67
        prompt = random.randrange(50, 3000)
        counts = (
            f"prompt={prompt},cached={random.randrange(prompt // 2)},write={random.randrange(prompt // 3)}"
        )
        counts += f",out={random.randrange(12, 300)},reasoning={random.randrange(12)}"
        if not is_stream:
            pace = f"first_ms={random.randrange(80)}"
        elif random.random() < 0.2:
            pace = f"chunks={random.randrange(2, 9)}"
        else:
            pace = f"chunks={random.randrange(3, 9)},delay_ms={random.randrange(5, 60)}"
        return make_request(
            random.choice(self._callers),
            path,
            f"{counts},{pace}",
            is_stream=is_stream,
            asks_usage=random.random() < 0.6,
        )

    def steady(self) -> Request:
        """Make a request that always takes the same time upstream, for comparing latencies."""
        random = self._random
        is_stream = random.random() < 0.5
        pace = "chunks=4,delay_ms=10" if is_stream else "first_ms=30"
        play = f"prompt={random.randrange(50, 900)},out={random.randrange(10, 90)},{pace}"
        path = random.choice((CHAT, MESSAGES))
        return make_request(random.choice(self._callers), path, play, is_stream=is_stream)
