"""Running a meter over bytes cut in any way, and comparing what it found."""

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from app.wires.meter import Meter, StreamMeter
from app.wires.usage import Usage, UsageMerger
from app.wires.wire_format import WireFormat

OAI, ANT = WireFormat.OPENAI, WireFormat.ANTHROPIC

RESULTS = (
    "usage",
    "usage_raw",
    "upstream_model",
    "service_tier",
    "has_content",
    "is_complete",
    "is_terminated",
    "is_usage_final",
    "output_estimate",
    "error",
    "flags",
)


def results(meter: Meter) -> dict[str, Any]:
    return {name: getattr(meter, name) for name in RESULTS}


def run(reads: list[bytes], wire_format: WireFormat, *, strip: bool = False) -> tuple[bytes, dict[str, Any]]:
    meter = StreamMeter(wire_format, strip)
    out = b"".join([meter.feed(read) for read in reads]) + meter.flush()
    assert meter.flush() == b""
    return out, results(meter)


def stream(*objects: Any, done: bool = True) -> bytes:
    events = [o if isinstance(o, bytes) else json.dumps(o).encode() for o in objects]
    return b"".join(b"data: " + event + b"\n\n" for event in events) + (b"data: [DONE]\n\n" if done else b"")


def counts(usage: Usage | None) -> tuple[int, int, int, int] | None:
    if usage is None:
        return None
    cached = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
    return usage.input_tokens, *cached, usage.output_tokens


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in at), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def comparable(found: dict[str, Any]) -> str:
    found = dict(found)
    usage = found.pop("usage")
    flags = sorted(found.pop("flags"))
    plain = usage and {**msgspec.structs.asdict(usage), "flags": sorted(usage.flags)}
    return repr((sorted(found.items(), key=lambda item: item[0]), plain, flags))


def merged(wire_format: WireFormat, *raws: Any) -> Usage | None:
    merger = UsageMerger()
    for raw in raws:
        merger.add(raw)
    return merger.usage(wire_format)


def prompt(p: int, o: int, total: int | None = None, **more: Any) -> dict[str, Any]:
    raw = {"prompt_tokens": p, "completion_tokens": o, **more}
    return raw if total is None else {**raw, "total_tokens": total}


def wire(number: int, *values: Any, id: str | None = None) -> Any:
    return pytest.param(*values, marks=pytest.mark.wire(number), id=id or f"case-{number}")
