"""What a request used: one canonical count from the many shapes in which upstreams report it.

`input_tokens` is fresh input throughout: cache reads and writes are counted beside it, never in it (the
meaning Anthropic's API reference gives it). OpenAI's `prompt_tokens` includes them, and so does the Responses
API's `input_tokens`; resellers mix both families in one object. `normalise` sorts that out without ever
counting a token twice, and nothing it returns is negative or above `MAX_COUNT`.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from app.core.usage_fields import (
    INCLUSIVE,
    MAX_COUNT,
    READ_ALIASES,
    REASONING_ALIASES,
    TOTAL,
    WRITE_1H_ALIASES,
    WRITE_5M_ALIASES,
    WRITE_ALIASES,
    clean_count,
    clean_fields,
    highest,
    merge_fields,
)
from app.core.wire_format import WireFormat

BAD_USAGE: Final = "bad_usage"
"""A count was no count and was left out."""
EXCLUSIVE_PROMPT: Final = "exclusive_prompt"
"""An OpenAI-style prompt count turned out not to include the cache tokens."""
AMBIGUOUS: Final = "ambiguous"
"""Prompt and input count are equal beside cache tokens: taken as inclusive, which may bill too little."""
INPUT_MISSING: Final = "input_missing"
"""Only the output, or only cache tokens, were reported."""
REASONING_EXCEEDS_OUTPUT: Final = "reasoning_exceeds_output"
"""More reasoning than output was reported and no total explains it: reasoning is cut to the output."""
COMPACTION: Final = "compaction"
"""There were compaction iterations, whose tokens are not in the counts (see `Usage.extras`)."""

_EXTRAS = ("server_tool_use", "iterations", "service_tier", "speed", "inference_geo", "usage_semantic")


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one request, each between 0 and `MAX_COUNT`; the whole input is the sum of the first four.

    `reasoning_tokens` are part of `output_tokens`. `counted_input_tokens` is what a token-counting call
    answered: noted, not billed. `flags` say what was doubtful about the numbers. `extras` holds, as received,
    what may cost something beside tokens: server tools used, compaction and other iterations, tier, speed,
    region.
    """

    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_5m_input_tokens: int = 0
    cache_creation_1h_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    counted_input_tokens: int | None = None
    flags: frozenset[str] = frozenset()
    extras: dict[str, Any] = {}

    @property
    def cache_creation_input_tokens(self) -> int:
        """Cache writes of both lifetimes together."""
        return self.cache_creation_5m_input_tokens + self.cache_creation_1h_input_tokens

    @property
    def total_input_tokens(self) -> int:
        """All input: fresh, read from a cache and written to one."""
        return self.input_tokens + self.cache_read_input_tokens + self.cache_creation_input_tokens


class UsageMerger:
    """Gathers the usage objects of one answer, in the order they arrive."""

    __slots__ = ("_extras", "_fields", "_is_clean", "_last", "_start", "_usage")

    def __init__(self) -> None:
        self._fields: dict[str, int] = {}
        self._is_clean = True
        self._extras: dict[str, Any] = {}
        self._last: dict[str, Any] | None = None
        self._start: dict[str, Any] | None = None
        # What `usage` has worked out, until something is added.
        self._usage: Usage | None = None

    def add(self, raw: object, *, is_start: bool = False) -> None:
        """Take one usage object as decoded; anything but a JSON object is no usage.

        `is_start` marks the one of Anthropic's `message_start`, which `raw` keeps apart.
        """
        if not isinstance(raw, dict):
            return
        self._usage = None
        if is_start:
            self._start = raw
        else:
            self._last = raw
        fields, is_clean = clean_fields(raw)
        self._is_clean &= is_clean
        merge_fields(self._fields, fields)
        self._extras.update({name: raw[name] for name in _EXTRAS if raw.get(name) is not None})

    @property
    def raw(self) -> dict[str, Any] | None:
        """The last usage as received, with that of `message_start` under this name where both exist."""
        if self._last is None or self._start is None:
            return self._last if self._start is None else self._start
        return {**self._last, "message_start": self._start}

    @property
    def flags(self) -> frozenset[str]:
        """What can be said of the numbers even where they tell no counts."""
        return frozenset() if self._is_clean else frozenset({BAD_USAGE})

    def usage(self, wire_format: WireFormat) -> Usage | None:
        """The canonical counts; None as long as nothing usable was seen, because unknown is not zero."""
        if self._usage is None:
            self._usage = self._worked_out(wire_format)
        return self._usage

    def _worked_out(self, wire_format: WireFormat) -> Usage | None:
        counts = _Counts(self._fields, wire_format)
        if not counts.is_known:
            return None
        flags = counts.flags | self.flags
        if _has_compaction(self._extras.get("iterations")):
            flags |= {COMPACTION}
        return Usage(
            input_tokens=counts.fresh,
            cache_read_input_tokens=counts.read,
            cache_creation_5m_input_tokens=counts.write - counts.write_1h,
            cache_creation_1h_input_tokens=counts.write_1h,
            output_tokens=counts.output,
            reasoning_tokens=min(counts.reasoning, counts.output),
            flags=frozenset(flags),
            extras=dict(self._extras),
        )


def normalise(raw: object, wire_format: WireFormat) -> Usage | None:
    """The canonical counts of a single usage object of an answer in `wire_format`, None if it tells none."""
    merger = UsageMerger()
    merger.add(raw)
    return merger.usage(wire_format)


def counted_tokens(answer: Mapping[str, Any]) -> Usage | None:
    """The usage of a token-counting answer, `{"input_tokens": 42}`: nothing to bill, the value noted."""
    count = clean_count(answer.get("input_tokens"))
    return None if count is None else Usage(counted_input_tokens=count)


class _Counts:
    """The arithmetic: which family counts, what is inside what."""

    def __init__(self, fields: Mapping[str, int], wire_format: WireFormat) -> None:
        self._fields = fields
        self._is_anthropic = wire_format is WireFormat.ANTHROPIC
        self.flags: set[str] = set()
        self.read = highest(fields, READ_ALIASES)
        write_1h = highest(fields, WRITE_1H_ALIASES)
        split = highest(fields, WRITE_5M_ALIASES) + write_1h
        self.write = min(max(highest(fields, WRITE_ALIASES), split), MAX_COUNT)
        self.write_1h = min(write_1h, self.write)
        self.reasoning = highest(fields, REASONING_ALIASES)
        native, alias = self._by_family("completion_tokens", "output_tokens")
        output = native or alias or 0
        base, is_inclusive = self._base(is_native_output=bool(native))
        self.is_known = not (base is None and native is None and alias is None and not self.read + self.write)
        self.fresh, self.output = self._resolve(
            base or 0, output, is_inclusive=is_inclusive and base is not None
        )
        if base is None:
            self.flags.add(INPUT_MISSING)
        if self.reasoning > self.output:
            self.flags.add(REASONING_EXCEEDS_OUTPUT)

    def _by_family(self, openai: str, anthropic: str) -> tuple[int | None, int | None]:
        """The endpoint's own field first, then the other family's."""
        values = self._fields.get(openai), self._fields.get(anthropic)
        return (values[1], values[0]) if self._is_anthropic else values

    def _base(self, *, is_native_output: bool) -> tuple[int | None, bool]:
        """The input number to start from, and whether the cache tokens are inside it.

        The endpoint's family decides; where that is missing or zero and the other one is not, the other is
        used with its own meaning. Only a Messages answer may rightly say zero: all of its input was cached.
        """
        native, other = self._by_family("prompt_tokens", "input_tokens")
        is_all_cached = self._is_anthropic and native == 0 and is_native_output and self.read + self.write > 0
        is_native = bool(native) or is_all_cached or (not other and native is not None)
        is_prompt = is_native is not self._is_anthropic
        return (native if is_native else other), is_prompt or INCLUSIVE in self._fields

    def _resolve(self, base: int, output: int, *, is_inclusive: bool) -> tuple[int, int]:
        """Fresh input and output, each token in one of them at most.

        A total proves what is outside of what. It is explained once: where reasoning and cache tokens are
        equally many, reasoning that does not fit into the output is what lies outside.
        """
        cached = self.read + self.write
        total = self._fields.get(TOTAL)
        is_exclusive = cached > base or (cached > 0 and total == base + cached + output)
        is_reasoning_outside = self.reasoning > 0 and total == base + output + self.reasoning
        if is_inclusive and is_exclusive and is_reasoning_outside and cached <= base:
            is_reasoning_outside = self.reasoning > output
            is_exclusive = not is_reasoning_outside
        if is_reasoning_outside:
            output += self.reasoning
        if not is_inclusive:
            return base, output
        if is_exclusive:
            self.flags.add(EXCLUSIVE_PROMPT)
            return base, output
        if cached and self._fields.get("prompt_tokens") == self._fields.get("input_tokens"):
            self.flags.add(AMBIGUOUS)
        return base - cached, output


def _has_compaction(iterations: object) -> bool:
    return isinstance(iterations, list) and any(
        isinstance(item, dict) and item.get("type") == "compaction" for item in iterations
    )
