"""Usage objects: no count is negative or absurd, told twice is told once, and all of it can be charged."""

from collections.abc import Iterator
from typing import Any

import bson
import msgspec

from app.records.bson_safe import bson_safe
from app.wires.usage import UsageMerger
from app.wires.wire_format import WireFormat
from tests.fuzz.target import Material, Target
from tests.fuzz.targets.metering import assert_bookable

FORMATS = (WireFormat.OPENAI, WireFormat.ANTHROPIC)
NAMES = (
    *("prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens"),
    *("reasoning_tokens", "thinking_tokens", "cached_tokens", "cache_read_input_tokens", "audio_tokens"),
    *("prompt_cache_hit_tokens", "num_cached_tokens", "cache_write_tokens", "cache_creation_tokens"),
    *("cached_creation_tokens", "cache_creation_input_tokens", "claude_cache_creation_5_m_tokens"),
    *("claude_cache_creation_1_h_tokens", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"),
    *("cost", "cost_in_usd_ticks", "total_cost", "service_tier", "type", "model", "x.$y\0"),
)
INNER = (
    *("prompt_tokens_details", "input_tokens_details", "completion_tokens_details", "output_tokens_details"),
    *("prompt_token_details", "input_token_details", "cache_creation", "cache_creation_token_details"),
    *("iterations", "server_tool_use", "cost"),
)
VALUES: tuple[Any, ...] = (
    *(0, 1, 2, 3, 5, 7, 10, 100, 1000, 10**6, 10**9, 10**9 + 1, 2**63, 10**30, -1, -(2**64)),
    *(0.0, 1.0, 2.5, 1e9, 1e300, float("inf"), float("nan"), 1e-9, True, False, None),
    *("7", "", "x", "1000000000", "²", "message", "fallback_message", "compaction", "advisor_message"),
    *("m", "another", "\ud83d", [], [1], {}),
)


def check(data: bytes) -> None:
    material = Material(data)
    wire_format = material.one_of(FORMATS)
    merger = UsageMerger()
    for number in range(4):
        raw, is_start = usage_object(material), not number and bool(material.byte() % 2)
        merger.add(raw, is_start=is_start)
        usage = merger.usage(wire_format)
        merger.add(raw, is_start=is_start)
        assert shown(merger.usage(wire_format)) == shown(usage)
        if usage is not None:
            assert_bookable(usage)
            for _, passed in usage.beside:
                assert_bookable(passed)
        bson.encode({"raw": bson_safe(merger.raw)})
        if material.is_over:
            break


def shown(usage: Any) -> str:
    plain = usage and {**msgspec.structs.asdict(usage), "flags": sorted(usage.flags)}
    return repr(plain)


def usage_object(material: Material, depth: int = 3) -> dict[str, Any]:
    """An object that the next bytes describe: how many members, and of each where and what it is."""
    raw: dict[str, Any] = {}
    for _ in range(material.byte() % 10):
        if material.is_over:
            break
        kind = material.byte()
        if kind % 4 or not depth:
            raw[material.one_of(NAMES)] = material.one_of(VALUES)
        elif kind % 8:
            raw[material.one_of(INNER)] = usage_object(material, depth - 1)
        else:
            raw[material.one_of(INNER)] = [usage_object(material, depth - 1) for _ in range(1 + kind // 128)]
    return raw


def seeds() -> Iterator[bytes]:
    for start in range(24):
        yield bytes((start * 37 + step * step * 11) % 256 for step in range(40))


TARGET = Target("usage", check, seeds, max_bytes=160)
