"""What a request used: one canonical count from the many shapes in which upstreams report it.

`input_tokens` is fresh input throughout: cache reads and writes are counted beside it, never in it (the
meaning Anthropic's API reference gives it). OpenAI's `prompt_tokens` includes them, and so does the Responses
API's `input_tokens`; resellers mix both families in one object. `normalise` sorts that out without ever
counting a token twice, and nothing it returns is negative or above `MAX_COUNT`.
"""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any, Final

import msgspec

from app.common.lenient_json import clean_text
from app.wires.units import CODE_SESSION, PART_OF, Quantity, tool_counts
from app.wires.usage_fields import (
    AUDIO_INPUT_ALIASES,
    INCLUSIVE,
    MAX_COUNT,
    OTHER_TOKENS,
    READ_ALIASES,
    REASONING_ALIASES,
    TOTAL,
    WRITE_1H_ALIASES,
    WRITE_5M_ALIASES,
    WRITE_ALIASES,
    clean_count,
    clean_fields,
    highest,
    highest_of_each,
    merge_fields,
    tells_output,
)
from app.wires.wire_format import WireFormat

BAD_USAGE: Final = "bad_usage"
"""A count was no count and was left out."""
EXCLUSIVE_PROMPT: Final = "exclusive_prompt"
"""An OpenAI-style prompt count turned out not to include the cache tokens."""
AMBIGUOUS: Final = "ambiguous"
"""Prompt and input count are equal beside cache tokens: taken as inclusive, which may bill too little."""
INPUT_MISSING: Final = "input_missing"
"""Only the output, or only cache tokens, were reported."""
OUTPUT_MISSING: Final = "output_missing"
"""Of what was generated only the placeholder was reported that a message begins with."""
REASONING_EXCEEDS_OUTPUT: Final = "reasoning_exceeds_output"
"""More reasoning than output was reported and no total explains it: reasoning is cut to the output."""
READ_AND_WRITTEN: Final = "read_and_written"
"""The same tokens were reported as read from the cache and as written to it; both are charged."""
AUDIO_OUTSIDE_PROMPT: Final = "audio_outside_prompt"
"""The total proved that the prompt count does not include the audio."""
TOTAL_EXCEEDS_PARTS: Final = "total_exceeds_parts"
"""The total is larger than all that was reported; a difference above one per cent is taken for output."""
COMPACTION: Final = "compaction"
"""There were compaction iterations, whose tokens are not in the counts: they are in the cost."""
ADVISOR: Final = "advisor"
"""There were iterations of an advising model, whose tokens are not in the counts: they are in the cost."""
ITERATIONS_INSIDE: Final = "iterations_inside"
"""Such iterations were in the counts already."""

_EXTRAS = (
    *("server_tool_use", "iterations", "service_tier", "speed", "inference_geo", "usage_semantic"),
    *("cost", "cost_in_usd_ticks"),
)
_EXTRA_NAMES = frozenset(_EXTRAS)
UNKNOWN_ITERATION: Final = "unknown_iteration"
"""There were iterations of an unknown kind, whose tokens are not in the counts: they are in the cost."""
_FLAGS = {"compaction": COMPACTION, "advisor_message": ADVISOR}
_MESSAGE, _FALLBACK = "message", "fallback_message"
"""The types of iterations that are what the counts count."""
# Iterations of more models than this are charged as the request's.
MAX_BESIDE: Final = 8
_NOISE = 100
"""A difference between a total and its parts counts from this part of the total on."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one request, each between 0 and `MAX_COUNT`; the whole input is the sum of the first four.

    `reasoning_tokens` are part of `output_tokens`. `counted_input_tokens` is what a token-counting call
    answered: noted, not billed. `flags` say what was doubtful about the numbers. `extras` holds, as received,
    what may cost something beside tokens: server tools used, compaction and other iterations, tier, speed,
    region; and what the upstream says it cost.

    `stray_reasoning_tokens` is reasoning that was reported and not proven to lie outside the output. `beside`
    are tokens that are in none of the counts, with the models that used them (None: that of the answer).
    `fallback_model` is the model that stepped in for the one asked for.

    `context_tokens` is the whole input of the largest of several passes, where they are told: each is a
    request of its own to the model. 0: there was one.

    `quantities` is what is charged beside tokens of text, by unit (`app.wires.units`): tokens of other kinds,
    which are part of the counts, and units that are in none. Each is above 0, each unit there once.
    `tells_tools` says that all that tools of the vendor were used for is in there.
    """

    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_5m_input_tokens: int = 0
    cache_creation_1h_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    counted_input_tokens: int | None = None
    stray_reasoning_tokens: int = 0
    flags: frozenset[str] = frozenset()
    extras: dict[str, Any] = {}
    beside: tuple[tuple[str | None, "Usage"], ...] = ()
    fallback_model: str | None = None
    quantities: tuple[tuple[str, Quantity], ...] = ()
    tells_tools: bool = False
    context_tokens: int = 0

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

    __slots__ = (
        *("_beside", "_extras", "_fields", "_is_clean", "_last", "_quantities", "_start"),
        *("is_news", "is_output_open", "known", "tells_tools"),
    )

    def __init__(self) -> None:
        self._quantities: dict[str, Quantity] | None = None
        self._beside: tuple[tuple[str | None, Usage], ...] = ()
        self._fields: dict[str, int] = {}
        self._is_clean = True
        self._extras: dict[str, Any] = {}
        self._last: dict[str, Any] | None = None
        self._start: dict[str, Any] | None = None
        self.known: Usage | None = None
        """What `usage` has worked out, until something is added."""
        self.is_news = False
        """Set when something is added, for a caller who wants to know and takes it back."""
        self.is_output_open = False
        """Whether all that is known of the output is the placeholder of `message_start`."""
        self.tells_tools = False
        """Whether what `count` and `count_beside` took is all that tools of the vendor were used for."""

    def add(self, raw: object, *, is_start: bool = False, is_inclusive: bool = False) -> None:
        """Take one usage object as decoded; anything but a JSON object is no usage.

        `is_start` marks the one of Anthropic's `message_start`, which `raw` keeps apart; `is_inclusive` one
        whose input count has cache tokens in it whatever it is called (Responses API).
        """
        if not isinstance(raw, dict):
            return
        self.known = None
        if is_start:
            self._start = raw
        else:
            self._last = raw
        fields, is_clean = clean_fields(raw)
        if is_inclusive:
            fields[INCLUSIVE] = 1
        self._is_clean &= is_clean
        merge_fields(self._fields, fields, is_output_open=self.is_output_open)
        if is_start or tells_output(fields):
            self.is_output_open = is_start
        self.is_news = True
        if not _EXTRA_NAMES.isdisjoint(raw):
            self._extras.update({name: raw[name] for name in _EXTRAS if raw.get(name) is not None})

    def count(self, unit: str, quantity: Quantity) -> None:
        """Take a quantity that no usage object tells (`app.wires.units`); of several the last counts."""
        self.known = None
        self._quantities = {**(self._quantities or {}), unit: quantity}
        self.is_news = True

    def count_beside(self, model: str | None, usage: Usage) -> None:
        """Take what another model used for the answer; None: the answer's own."""
        self.known = None
        self._beside = (*self._beside, (model, usage))
        self.is_news = True

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
        """Return the canonical counts; None as long as nothing usable was seen, as unknown is not zero."""
        if self.known is None:
            self.known = self._worked_out(wire_format)
        return self.known

    def _worked_out(self, wire_format: WireFormat) -> Usage | None:
        counts = _Counts(self._fields, wire_format)
        if not counts.is_known:
            # A quantity may be all that there is to tell.
            own = self._quantities
            if not (own or self._beside):
                return None
            return Usage(
                quantities=tuple(sorted((own or {}).items())),
                flags=self.flags,
                beside=self._beside,
                tells_tools=self.tells_tools,
                extras=dict(self._extras),
            )
        flags = counts.flags | self.flags
        if self.is_output_open:
            flags.add(OUTPUT_MISSING)
        usage = counts.usage(frozenset(flags), dict(self._extras), self._all_quantities(counts))
        if self._beside or self.tells_tools:
            usage = msgspec.structs.replace(usage, beside=self._beside, tells_tools=self.tells_tools)
        iterations = self._extras.get("iterations")
        return _with_iterations(usage, iterations) if isinstance(iterations, list) else usage

    def _all_quantities(self, counts: "_Counts") -> tuple[tuple[str, Quantity], ...]:
        used = self._extras.get("server_tool_use")
        if used is None and self._quantities is None and OTHER_TOKENS.keys().isdisjoint(self._fields):
            return ()
        tools = tool_counts(used)
        tools.pop(CODE_SESSION, None)  # it tells how often code ran, not in how many sessions
        return tuple(sorted({**counts.other_tokens(), **tools, **(self._quantities or {})}.items()))


def normalise(raw: object, wire_format: WireFormat) -> Usage | None:
    """Return the canonical counts of an answer's usage object in `wire_format`, None if it tells none."""
    merger = UsageMerger()
    merger.add(raw)
    return merger.usage(wire_format)


def counted_tokens(answer: Mapping[str, Any]) -> Usage | None:
    """Return the usage of a token-counting answer, `{"input_tokens": 42}`: value noted, nothing to bill."""
    count = clean_count(answer.get("input_tokens"))
    return None if count is None else Usage(counted_input_tokens=count)


class _Counts:
    """The arithmetic: which family counts, what is inside what."""

    def __init__(self, fields: Mapping[str, int], wire_format: WireFormat) -> None:
        self._fields = fields
        self._is_anthropic = wire_format is WireFormat.ANTHROPIC
        self.flags: set[str] = set()
        told = highest_of_each(fields).get
        self.read = told(READ_ALIASES, 0)
        write_1h = told(WRITE_1H_ALIASES, 0)
        split = told(WRITE_5M_ALIASES, 0) + write_1h
        self.write = min(max(told(WRITE_ALIASES, 0), split), MAX_COUNT)
        self.write_1h = min(write_1h, self.write)
        self.reasoning = told(REASONING_ALIASES, 0)
        self.is_reasoning_placed = not self.reasoning
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

    def usage(
        self, flags: frozenset[str], extras: dict[str, Any], quantities: tuple[tuple[str, Quantity], ...]
    ) -> Usage:
        """Return the result, with these flags and quantities."""
        return Usage(
            input_tokens=self.fresh,
            cache_read_input_tokens=self.read,
            cache_creation_5m_input_tokens=self.write - self.write_1h,
            cache_creation_1h_input_tokens=self.write_1h,
            output_tokens=self.output,
            reasoning_tokens=min(self.reasoning, self.output),
            stray_reasoning_tokens=0 if self.is_reasoning_placed else self.reasoning,
            flags=flags,
            extras=extras,
            quantities=quantities,
        )

    def other_tokens(self) -> dict[str, int]:
        """Return the tokens of other kinds than text that are part of the counts, by unit."""
        told: dict[str, int] = {}
        for name, count in self._fields.items():
            unit = OTHER_TOKENS.get(name)
            if unit is not None and count:
                told[unit] = max(told.get(unit, 0), count)
        if not told:
            return told
        # What is told of the input includes what was read from the cache, where that is told apart.
        for kind in ("audio", "image"):
            told[f"input_{kind}"] = told.get(f"input_{kind}", 0) - told.get(f"cache_hit_{kind}", 0)
        left = {"cache_hit": self.read, "input": self.fresh, "output": self.output}
        parts: dict[str, int] = {}
        for unit, whole in PART_OF.items():
            count = min(told.get(unit, 0), left[whole])
            if count > 0:
                parts[unit] = count
                left[whole] -= count
        return parts

    def _by_family(self, openai: str, anthropic: str) -> tuple[int | None, int | None]:
        """Return the endpoint's own field first, then the other family's."""
        values = self._fields.get(openai), self._fields.get(anthropic)
        return (values[1], values[0]) if self._is_anthropic else values

    def _base(self, *, is_native_output: bool) -> tuple[int | None, bool]:
        """Return the input number to start from, and whether the cache tokens are inside it.

        The endpoint's family decides; where that is missing or zero and the other one is not, the other is
        used with its own meaning. Only a Messages answer may rightly say zero: all of its input was cached.
        """
        native, other = self._by_family("prompt_tokens", "input_tokens")
        is_all_cached = self._is_anthropic and native == 0 and is_native_output and self.read + self.write > 0
        is_native = bool(native) or is_all_cached or (not other and native is not None)
        is_prompt = is_native is not self._is_anthropic
        return (native if is_native else other), is_prompt or INCLUSIVE in self._fields

    def _resolve(self, base: int, output: int, *, is_inclusive: bool) -> tuple[int, int]:
        """Return fresh input and output, each token in one of them at most."""
        cached = self.read + self.write
        total = self._fields.get(TOTAL, 0)
        if is_inclusive and cached > base >= self.read == self.write and total in (0, base + output):
            # They cannot both be inside it, and nothing is outside: the same tokens, told twice.
            self.flags.add(READ_AND_WRITTEN)
            return base - self.read, output
        outside = self._outside(total - base - output, output)
        if _REASONING in outside:
            self.is_reasoning_placed = True
            output += self.reasoning
        if _AUDIO in outside:
            self.flags.add(AUDIO_OUTSIDE_PROMPT)
            base += highest(self._fields, AUDIO_INPUT_ALIASES)
        if _UNKNOWN in outside:
            output += self._unexplained(total, total - base - output)
        if not is_inclusive:
            return base, output
        if cached > base or _CACHE in outside:
            self.flags.add(EXCLUSIVE_PROMPT)
            return base, output
        if cached and self._fields.get("prompt_tokens") == self._fields.get("input_tokens"):
            self.flags.add(AMBIGUOUS)
        return base - cached, output

    def _outside(self, excess: int, output: int) -> frozenset[str]:
        """Return what a total proves to be outside of prompt and output: the parts that make up its excess.

        It is explained once: where reasoning and cache tokens are equally many, reasoning that does not fit
        into the output is what lies outside.
        """
        if excess <= 0:
            return frozenset()
        parts = {
            _CACHE: self.read + self.write,
            _REASONING: self.reasoning,
            _AUDIO: highest(self._fields, AUDIO_INPUT_ALIASES),
        }
        names = sorted((name for name in parts if parts[name]), key=list(parts).index)
        if self.reasoning > output:
            names.sort(key=_REASONING.__ne__)
        for size in range(1, len(names) + 1):
            for chosen in combinations(names, size):
                if sum(parts[name] for name in chosen) == excess:
                    return frozenset(chosen)
        return frozenset({_UNKNOWN})

    def _unexplained(self, total: int, excess: int) -> int:
        """Return how much of a total's unexplained excess is output: reasoning that nothing else tells of."""
        self.flags.add(TOTAL_EXCEEDS_PARTS)
        if excess * _NOISE <= total:
            return 0
        self.is_reasoning_placed = True
        return excess


_CACHE, _REASONING, _AUDIO, _UNKNOWN = "cache", "reasoning", "audio", "unknown"


def _with_iterations(usage: Usage, iterations: list[Any]) -> Usage:
    """Add to the usage what its iterations tell: tokens of other passes, another model that answered."""
    told = [(item, item.get("type")) for item in iterations if isinstance(item, dict)]
    fallback = next((_model_of(item) for item, kind in reversed(told) if kind == _FALLBACK), None)
    flags = {_flag_of(kind) for _, kind in told if kind not in (_MESSAGE, _FALLBACK)}
    beside: dict[str | None, Usage] = {}
    if flags:
        beside = _passes_beside(told)
        inside = _sum(_tokens_of(item) for item, kind in told if kind == _MESSAGE)
        if _counts(inside) != _counts(usage) == _counts(_sum([inside, *beside.values()])):
            flags, beside = {ITERATIONS_INSIDE}, {}
    passes = [_tokens_of(item) for item, kind in told if kind == _MESSAGE] if fallback is None else []
    return msgspec.structs.replace(
        usage,
        flags=usage.flags | flags,
        beside=tuple(beside.items()),
        fallback_model=fallback,
        context_tokens=_largest(passes) if len(passes) > 1 else 0,
    )


def _flag_of(kind: object) -> str:
    return _FLAGS.get(kind, UNKNOWN_ITERATION) if isinstance(kind, str) else UNKNOWN_ITERATION


def _passes_beside(iterations: list[tuple[dict[str, Any], Any]]) -> dict[str | None, Usage]:
    """Return the tokens of passes that are not in the counts, by model."""
    beside: dict[str | None, Usage] = {}
    for item, kind in iterations:
        if kind in (_MESSAGE, _FALLBACK):
            continue
        model = _model_of(item)
        if model not in beside and len(beside) >= MAX_BESIDE:
            model = None
        tokens = _tokens_of(item)
        before = beside.get(model)
        beside[model] = tokens if before is None else _sum([before, tokens])
    return beside


def _tokens_of(iteration: dict[str, Any]) -> Usage:
    return normalise(iteration, WireFormat.ANTHROPIC) or Usage()


def _model_of(iteration: dict[str, Any]) -> str | None:
    model = iteration.get("model")
    return clean_text(model) or None if isinstance(model, str) else None


_COUNTS = (
    *("input_tokens", "cache_read_input_tokens", "cache_creation_5m_input_tokens"),
    *("cache_creation_1h_input_tokens", "output_tokens"),
)


def _counts(usage: Usage) -> list[int]:
    return [getattr(usage, name) for name in _COUNTS]


def _sum(passes: Iterable[Usage]) -> Usage:
    """Add up the tokens of several passes."""
    passes = list(passes)
    columns = zip(_COUNTS, zip(*map(_counts, passes), strict=True), strict=False)
    sums = {name: min(sum(column), MAX_COUNT) for name, column in columns}
    return Usage(**sums, context_tokens=_largest(passes))


def _largest(passes: Iterable[Usage]) -> int:
    """Return the whole input of the largest pass, which decides by what prices all are charged."""
    sizes = (each.context_tokens or each.total_input_tokens for each in passes)
    return min(max(sizes, default=0), MAX_COUNT)
