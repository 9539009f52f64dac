"""A cache of prompts for each upstream key, as vendors keep one for each account."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

BLOCK = 128
"""Tokens are cached in blocks of so many."""
LEAST = 1024
"""No shorter beginning is cached."""

_BYTES_PER_TOKEN = 4
_MOST_BLOCKS = 200_000
_BEFORE = ("tools", "system", "instructions")
_MESSAGES = ("messages", "input")


class PromptCache:
    """What each key has seen lately of prompts: their beginnings, block by block."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seen: dict[tuple[str, bytes], float] = {}
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._seen.clear()

    def read(self, key: str, model: str, body: dict[str, Any], lifetime_s: float) -> tuple[int, int]:
        """Return the tokens of a prompt, and how many of them this key has in its cache; then it has all.

        What is read lives on for another lifetime, as what is written does.
        """
        prompt = _prompt(body)
        tokens = max(1, len(prompt) // _BYTES_PER_TOKEN)
        with self._lock:
            now = self._now()
            if len(self._seen) > _MOST_BLOCKS:
                self._seen = {block: until for block, until in self._seen.items() if until > now}
            cached, is_known = 0, True
            for block in _blocks(model, prompt):
                is_known = is_known and self._seen.get((key, block), 0.0) > now
                cached += BLOCK * is_known
                self._seen[key, block] = now + lifetime_s
        return tokens, cached if cached >= LEAST else 0


def _prompt(body: dict[str, Any]) -> bytes:
    """Return what the cache goes by, in its order; marks of where to cache are none of it."""
    parts = [body.get(name) for name in _BEFORE]
    for name in _MESSAGES:
        messages = body.get(name)
        parts += messages if isinstance(messages, list) else [messages]
    return b"".join(msgspec.json.encode(_unmarked(part)) for part in parts if part is not None)


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _unmarked(inner) for name, inner in value.items() if name != "cache_control"}
    return [_unmarked(inner) for inner in value] if isinstance(value, list) else value


def _blocks(model: str, prompt: bytes) -> Iterator[bytes]:
    """Yield what stands for each beginning of a whole number of blocks."""
    digest = hashlib.blake2b(model.encode(), digest_size=16)
    size = BLOCK * _BYTES_PER_TOKEN
    for end in range(size, len(prompt) + 1, size):
        digest.update(prompt[end - size : end])
        yield digest.digest()
