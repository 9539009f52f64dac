"""Reading OpenAI-format streams: Chat Completions and Completions chunks.

Meaning is looked for in parsed JSON only, at `usage` and `choices[0].usage`: a model may well write
`"usage":` into its answer. Searching the bytes for it would not pay, as chunks carry `"usage":null` once
usage was asked for, and it would miss keys written with JSON escapes. Every event is parsed, but for those
that differ from a parsed one in their text alone (`app.wires.event_pattern`).
"""

from typing import Any, Final

import msgspec

from app.common.lenient_json import loads_lenient
from app.wires.formats.failures import CHOICES_MISSING, NO_ANSWER, named_error_in, told_error, told_error_in
from app.wires.formats.responses import ResponsesReader
from app.wires.readings import Readings

DONE: Final = b"[DONE]"
_CONTENT_MEMBERS = ("content", "reasoning_content", "reasoning", "refusal", "reasoning_details")


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: Any = None
    text: Any = None
    finish_reason: Any = None
    usage: Any = None
    error: Any = None


class _Chunk(msgspec.Struct, gc=False):
    """What is read of a chunk until it is known who answers and the first content was seen."""

    id: Any = None
    model: Any = None
    service_tier: Any = None
    choices: list[_Choice] | None = None
    usage: Any = None
    x_groq: Any = None
    error: Any = None
    type: Any = None


class _LateChoice(msgspec.Struct, gc=False):
    index: int = 0
    finish_reason: Any = None
    usage: Any = None
    error: Any = None


class _LateChunk(msgspec.Struct, gc=False):
    """What still matters after that; the text itself is skipped without being decoded."""

    service_tier: Any = None
    choices: list[_LateChoice] | None = None
    usage: Any = None
    x_groq: Any = None
    error: Any = None
    type: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_late = msgspec.json.Decoder(_LateChunk).decode


class OpenAIReader:
    """Reads the events of one stream into `readings`."""

    __slots__ = ("_choices", "_decode", "_finished", "_tier", "readings")

    def __init__(self, readings: Readings, choices: int = 1) -> None:
        self.readings = readings
        # How many were asked for.
        self._choices = choices
        self._decode: Any = _decode
        # Choice index → whether its finish_reason was seen.
        self._finished: dict[int, bool] = {}
        self._tier: Any = None

    @property
    def is_complete(self) -> bool:
        """Whether `[DONE]`, a Responses end, or a finish_reason on every choice was seen."""
        return self.readings.is_terminated or self._has_all_choices

    @property
    def _has_all_choices(self) -> bool:
        finished = self._finished
        return len(finished) >= self._choices and all(finished.values())

    def read(self, name: bytes, data: bytes) -> bool:
        """Read one event; return whether it is a usage-only chunk, the artefact of asking for usage."""
        chunk: _Chunk | _LateChunk
        try:
            chunk = self._decode(data)
        except (ValueError, RecursionError):
            recovered = self._recover(name, data)
            if recovered is None:
                return False
            chunk = recovered
        readings = self.readings
        choices = chunk.choices
        if chunk.error is not None:  # before a choice that ends for a reason told here
            readings.fail(chunk.error)
        if choices:
            finished = self._finished
            for choice in choices:
                if choice.finish_reason:
                    self._finish(choice)
                elif choice.index not in finished:
                    finished[choice.index] = False
                if choice.usage is not None or choice.error is not None:
                    readings.use(choice.usage)
                    readings.fail(choice.error)
        elif chunk.usage is None and not chunk.error:
            self._read_other(name, data, chunk)
        if chunk.x_groq is not None:
            self._read_groq(chunk.x_groq)
        if chunk.usage is not None:
            readings.use(chunk.usage)
        if type(chunk) is _Chunk:
            self._read_early(chunk)
        elif chunk.service_tier != self._tier:
            self._tier = chunk.service_tier
            readings.identify(None, None, chunk.service_tier)
        return not choices and type(chunk.usage) is dict and chunk.error is None and chunk.type is None

    def _finish(self, choice: _Choice | _LateChoice) -> None:
        self._finished[choice.index] = True
        if choice.finish_reason == "error":
            self.readings.fail(choice.error or {"type": "error"})

    def is_text_only(self, _name: bytes, data: bytes) -> bool:
        """Return whether an event just read is text alone; then so are all that differ in the text alone."""
        if self._decode is not _decode_late:
            return False
        try:
            chunk = _decode_late(data)
        except (ValueError, RecursionError):
            return False
        if not chunk.choices or not (chunk.usage is chunk.x_groq is chunk.error is None):
            return False
        return all(
            choice.usage is choice.error is None and not choice.finish_reason for choice in chunk.choices
        )

    def _read_early(self, chunk: _Chunk) -> None:
        readings = self.readings
        readings.identify(chunk.id, chunk.model, chunk.service_tier)
        if not readings.has_content:
            readings.has_content = _has_content(chunk)
        if readings.has_content and readings.upstream_model and readings.response_id:
            self._decode = _decode_late

    def _read_other(self, name: bytes, data: bytes, chunk: _Chunk | _LateChunk) -> None:
        """Read a Responses event, which some relays answer with, or an error that is not in an `error`."""
        kind = chunk.type if isinstance(chunk.type, str) else ""
        if kind.startswith("response."):
            ResponsesReader(self.readings).read(name, data)
        elif kind == "error" or name == b"error":
            self.readings.fail(named_error_in(data))
        else:
            self.readings.fail(told_error_in(data))

    def _read_groq(self, told: Any) -> None:
        """Read what Groq puts into a member of its own."""
        if isinstance(told, dict):
            self.readings.use(told.get("usage"))
            self.readings.fail(told.get("error"))

    def _end(self) -> None:
        """Note that the stream says that it is over, and whether it brought what was asked for."""
        readings = self.readings
        readings.is_terminated = True
        if not (self._finished or readings.has_content or readings.flags):
            readings.fail({"type": NO_ANSWER})
        elif self._choices > 1 and not self._has_all_choices:
            readings.fail({"type": CHOICES_MISSING})

    def _recover(self, name: bytes, data: bytes) -> _Chunk | None:
        """Read what the typed decoder refused, member by member; None if it is no JSON object."""
        text = data.strip()
        if text == DONE:
            self._end()
        if not text or text == DONE:
            return None
        try:
            raw = loads_lenient(data)
        except ValueError:
            self.readings.take_broken(name, data)
            return None
        if not isinstance(raw, dict):
            self.readings.fail(named_error_in(data) if name == b"error" else told_error(raw))
            return None
        chunk = _Chunk(**{name: raw[name] for name in _Chunk.__struct_fields__ if name in raw})
        choices = raw.get("choices")
        if isinstance(choices, list):
            known = [_choice(item) for item in choices if isinstance(item, dict)]
            chunk.choices = known if known or not choices else None
        else:
            chunk.choices = None
        if choices is not None and chunk.choices is None:
            chunk.type = chunk.type or "odd"  # whatever it is, it is more than usage
        return chunk


def _choice(raw: dict[str, Any]) -> _Choice:
    choice = _Choice(**{name: raw[name] for name in _Choice.__struct_fields__ if name in raw})
    if type(choice.index) is not int:
        choice.index = 0
    return choice


def _has_content(chunk: _Chunk) -> bool:
    """Return whether the chunk carries something generated: text, reasoning, refusal, tool arguments."""
    return any(choice.text or _is_delta_content(choice.delta) for choice in chunk.choices or ())


def _is_delta_content(delta: Any) -> bool:
    if not isinstance(delta, dict):
        return False
    if any(delta.get(name) for name in _CONTENT_MEMBERS) or _has_arguments(delta, "function_call"):
        return True
    if delta.get("audio"):
        return True
    calls = delta.get("tool_calls")
    return isinstance(calls, list) and any(
        _has_arguments(call, "function") or _has_arguments(call, "custom") for call in calls
    )


def _has_arguments(call: Any, member: str) -> bool:
    inner = call.get(member) if isinstance(call, dict) else None
    return isinstance(inner, dict) and bool(inner.get("arguments") or inner.get("input"))
