"""Usage objects: the two official shapes, and the deviations seen at resellers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from simulator.tokens import Tokens

_LITERALS: dict[str, Any] = {"null": None, "list": [], "text": "x"}

_NUMBERS: dict[str, Callable[[int], str]] = {
    "strings": lambda n: f'"{n}"',
    "floats": lambda n: f"{n}.0",
    "fraction": lambda n: f"{n}.5",
    "negative": lambda n: f"-{n or 3}",
    "bool": lambda n: "true",
    "nan": lambda n: "NaN",
    "huge": lambda n: "1000000000000000",
}

_MEANINGLESS = frozenset({*_LITERALS, "all_zero", "fraction", "negative", "bool", "nan", "huge"})


def announces(tokens: Tokens, shape: str) -> Tokens | None:
    """Return what a usage object of this shape tells a reader; None when it tells nothing usable."""
    return None if shape in _MEANINGLESS else tokens


def openai_usage(tokens: Tokens, shape: str = "std") -> Any:
    """Return the `usage` value of a chat answer: prompt and completion include their details."""
    if shape in _LITERALS:
        return _LITERALS[shape]
    if shape in _NUMBERS:
        return _renumbered(_openai_bare(tokens), shape)
    return _OPENAI_SHAPES.get(shape, _openai_full)(tokens)


def responses_usage(tokens: Tokens, shape: str = "std") -> Any:
    """Return the `usage` value of a response: input includes what was read from and written to a cache."""
    if shape in _LITERALS:
        return _LITERALS[shape]
    if shape in _NUMBERS:
        return _renumbered(_responses_bare(tokens), shape)
    return _RESPONSES_SHAPES.get(shape, _responses_full)(tokens)


def anthropic_usage(tokens: Tokens, shape: str = "std") -> Any:
    """Return the `usage` value of a message: input excludes both cache counts."""
    if shape in _LITERALS:
        return _LITERALS[shape]
    if shape in _NUMBERS:
        return _renumbered(_anthropic_bare(tokens), shape)
    return _ANTHROPIC_SHAPES.get(shape, _anthropic_full)(tokens)


def _renumbered(usage: dict[str, Any], shape: str) -> dict[str, Any]:
    write = _NUMBERS[shape]
    return {name: msgspec.Raw(write(value).encode()) for name, value in usage.items()}


def _openai_bare(tokens: Tokens) -> dict[str, Any]:
    total = tokens.prompt + tokens.output
    return {"prompt_tokens": tokens.prompt, "completion_tokens": tokens.output, "total_tokens": total}


def _openai_full(tokens: Tokens) -> dict[str, Any]:
    return {
        **_openai_bare(tokens),
        "prompt_tokens_details": {
            "cached_tokens": tokens.cache_read,
            "cache_write_tokens": tokens.cache_write,
            "audio_tokens": 0,
            "image_tokens": 0,
            "text_tokens": tokens.prompt,
        },
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning,
            "audio_tokens": 0,
            "text_tokens": tokens.output - tokens.reasoning,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _openai_both(tokens: Tokens) -> dict[str, Any]:
    aliases = {
        "cache_read_input_tokens": tokens.cache_read,
        "cache_creation_input_tokens": tokens.cache_write,
    }
    return _openai_full(tokens) | aliases


def _openai_exclusive(tokens: Tokens) -> dict[str, Any]:
    changes = {"prompt_tokens": tokens.fresh, "total_tokens": tokens.fresh + tokens.output}
    return _openai_full(tokens) | changes


def _openai_exclusive_total(tokens: Tokens) -> dict[str, Any]:
    return _openai_full(tokens) | {"prompt_tokens": tokens.fresh}


def _openai_reasoning_outside(tokens: Tokens) -> dict[str, Any]:
    return _openai_full(tokens) | {"completion_tokens": tokens.output - tokens.reasoning}


def _zero_native(tokens: Tokens) -> dict[str, Any]:
    return _openai_full(tokens) | {"input_tokens": 0, "output_tokens": 0}


def _null_details(tokens: Tokens) -> dict[str, Any]:
    details = {"prompt_tokens_details": None, "completion_tokens_details": None}
    return _openai_bare(tokens) | details


def _responses_bare(tokens: Tokens) -> dict[str, Any]:
    total = tokens.prompt + tokens.output
    return {"input_tokens": tokens.prompt, "output_tokens": tokens.output, "total_tokens": total}


def _responses_full(tokens: Tokens) -> dict[str, Any]:
    details: dict[str, Any] = {"cached_tokens": tokens.cache_read, "cache_write_tokens": tokens.cache_write}
    if tokens.cache_write_1h:
        split = {"ttl_30m_tokens": tokens.cache_write_5m, "ttl_12h_tokens": tokens.cache_write_1h}
        details["cache_write_tokens_details"] = split
    return {
        **_responses_bare(tokens),
        "input_tokens_details": details,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
    }


def _responses_null_details(tokens: Tokens) -> dict[str, Any]:
    return _responses_bare(tokens) | {"input_tokens_details": None, "output_tokens_details": None}


def _all_zero(tokens: Tokens) -> dict[str, Any]:
    return dict.fromkeys(_responses_full(tokens), 0) | {"input_tokens_details": {"cached_tokens": 0}}


def _anthropic_bare(tokens: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": tokens.fresh,
        "cache_read_input_tokens": tokens.cache_read,
        "cache_creation_input_tokens": tokens.cache_write,
        "output_tokens": tokens.output,
    }


def _anthropic_full(tokens: Tokens) -> dict[str, Any]:
    usage: dict[str, Any] = {
        **_anthropic_bare(tokens),
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_write_5m,
            "ephemeral_1h_input_tokens": tokens.cache_write_1h,
        },
        "service_tier": "standard",
    }
    if tokens.reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": tokens.reasoning}
    return usage


def _server_tools(tokens: Tokens) -> dict[str, Any]:
    tools = {"web_search_requests": 2, "web_fetch_requests": 0}
    return _anthropic_full(tokens) | {"server_tool_use": tools, "speed": "fast", "inference_geo": "us"}


def _iterations(tokens: Tokens) -> dict[str, Any]:
    """Return iterations in which compaction spends 2000/50 beyond the top-level counts."""
    steps = [
        {"type": "compaction", "input_tokens": 2000, "output_tokens": 50},
        {"type": "message", "input_tokens": tokens.fresh, "output_tokens": tokens.output},
    ]
    return _anthropic_full(tokens) | {"iterations": steps}


def _anthropic_null_details(tokens: Tokens) -> dict[str, Any]:
    return _anthropic_bare(tokens) | {"cache_creation": None, "output_tokens_details": None}


_OPENAI_SHAPES: dict[str, Callable[[Tokens], dict[str, Any]]] = {
    "bare": _openai_bare,
    "both": _openai_both,
    "exclusive": _openai_exclusive,
    "exclusive_total": _openai_exclusive_total,
    "reasoning_outside": _openai_reasoning_outside,
    "zero_native": _zero_native,
    "anthropic": _anthropic_bare,
    "null_details": _null_details,
}

_RESPONSES_SHAPES: dict[str, Callable[[Tokens], dict[str, Any]]] = {
    "bare": _responses_bare,
    "null_details": _responses_null_details,
    "all_zero": _all_zero,
}

_ANTHROPIC_SHAPES: dict[str, Callable[[Tokens], dict[str, Any]]] = {
    "bare": _anthropic_bare,
    "nosplit": _anthropic_bare,
    "zero_native": _zero_native,
    "server_tools": _server_tools,
    "iterations": _iterations,
    "null_details": _anthropic_null_details,
}
