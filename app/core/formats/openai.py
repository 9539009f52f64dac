"""Reading OpenAI-format streams: Chat Completions and Completions chunks, and Responses events.

Meaning is looked for in parsed JSON only, at `usage`, `choices[0].usage` and `response.usage`: a model may
well write `"usage":` into its answer. Searching the bytes for it would not pay, as chunks carry
`"usage":null` once usage was asked for, and it would miss keys written with JSON escapes. Every event is
parsed, but for those that differ from a parsed one in their text alone (`app.core.event_pattern`).
"""

from typing import Any, Final

import msgspec

from app.core.lenient_json import loads_lenient
from app.core.readings import Readings

DONE: Final = b"[DONE]"
_RESPONSE_ENDS = frozenset(("response.completed", "response.incomplete", "response.failed"))
_CONTENT_MEMBERS = ("content", "reasoning_content", "reasoning", "refusal", "reasoning_details")


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: Any = None
    text: Any = None
    finish_reason: Any = None
    usage: Any = None


class _Chunk(msgspec.Struct, gc=False):
    """What is read of a chunk until it is known who answers and the first content was seen."""

    id: Any = None
    model: Any = None
    service_tier: Any = None
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    type: Any = None
    delta: Any = None
    response: Any = None
    code: Any = None
    message: Any = None
    errorType: Any = None  # noqa: N815 (named as on the wire)


class _LateChoice(msgspec.Struct, gc=False):
    index: int = 0
    finish_reason: Any = None
    usage: Any = None


class _LateChunk(msgspec.Struct, gc=False):
    """What still matters after that; the text itself is skipped without being decoded."""

    service_tier: Any = None
    choices: list[_LateChoice] | None = None
    usage: Any = None
    error: Any = None
    type: Any = None
    response: Any = None
    code: Any = None
    message: Any = None
    errorType: Any = None  # noqa: N815


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_late = msgspec.json.Decoder(_LateChunk).decode


class OpenAIReader:
    """Reads the events of one stream into `readings`."""

    __slots__ = ("_decode", "_finished", "_tier", "readings")

    def __init__(self, readings: Readings) -> None:
        self.readings = readings
        self._decode: Any = _decode
        # Choice index → whether its finish_reason was seen.
        self._finished: dict[int, bool] = {}
        self._tier: Any = None

    @property
    def is_complete(self) -> bool:
        """Whether `[DONE]`, a Responses end, or a finish_reason on every choice was seen."""
        finished = self._finished
        return self.readings.is_terminated or (bool(finished) and all(finished.values()))

    def read(self, name: bytes, data: bytes) -> bool:
        """Read one event; whether it is a usage-only chunk, the artefact of asking for usage."""
        chunk: _Chunk | _LateChunk
        try:
            chunk = self._decode(data)
        except (ValueError, RecursionError):
            recovered = self._recover(name, data)
            if recovered is None:
                return False
            chunk = recovered
        choices = chunk.choices
        if choices:
            finished = self._finished
            for choice in choices:
                if choice.finish_reason:
                    finished[choice.index] = True
                elif choice.index not in finished:
                    finished[choice.index] = False
            if choices[0].usage is not None:
                self.readings.usage.add(choices[0].usage)
        elif choices is None:
            self._read_other(name, chunk)
        if chunk.usage is not None:
            self.readings.usage.add(chunk.usage)
        if chunk.error is not None:
            self.readings.fail(chunk.error)
        if type(chunk) is _Chunk:
            self._read_early(chunk)
        elif chunk.service_tier != self._tier:
            self._tier = chunk.service_tier
            self.readings.identify(None, None, chunk.service_tier)
        return not choices and choices is not None and type(chunk.usage) is dict and chunk.error is None

    def is_mere_text(self, _name: bytes, data: bytes) -> bool:
        """Whether an event that has just been read says nothing but text, as all that differ in it do."""
        if self._decode is not _decode_late:
            return False
        try:
            chunk = _decode_late(data)
        except (ValueError, RecursionError):
            return False
        if not chunk.choices or chunk.usage is not None or chunk.error is not None:
            return False
        return not any(choice.finish_reason or choice.usage is not None for choice in chunk.choices)

    def _read_early(self, chunk: _Chunk) -> None:
        readings = self.readings
        readings.identify(chunk.id, chunk.model, chunk.service_tier)
        if not readings.has_content:
            readings.has_content = _has_content(chunk)
        if readings.has_content and readings.upstream_model and readings.response_id:
            self._decode = _decode_late

    def _read_other(self, name: bytes, chunk: _Chunk | _LateChunk) -> None:
        """A Responses event, or an error that is not in an `error` member."""
        readings = self.readings
        kind = chunk.type if isinstance(chunk.type, str) else ""
        if kind in _RESPONSE_ENDS:
            readings.is_terminated = True
        if isinstance(response := chunk.response, dict):
            readings.identify(response.get("id"), response.get("model"), response.get("service_tier"))
            readings.usage.add(response.get("usage"))
            readings.fail(response.get("error"))
        if isinstance(chunk.errorType, str):
            readings.fail({"type": chunk.errorType, "message": chunk.message})
        elif chunk.error is None and (kind == "error" or name == b"error"):
            readings.fail({"code": chunk.code, "message": chunk.message})

    def _recover(self, name: bytes, data: bytes) -> _Chunk | None:
        """Read what the typed decoder refused, member by member; None if it is no JSON object."""
        text = data.strip()
        if text == DONE:
            self.readings.is_terminated = True
        if not text or text == DONE:
            return None
        try:
            raw = loads_lenient(data)
        except ValueError:
            self.readings.take_broken(name, data)
            return None
        if not isinstance(raw, dict):
            return None
        chunk = _Chunk(**{name: raw[name] for name in _Chunk.__struct_fields__ if name in raw})
        choices = raw.get("choices")
        if isinstance(choices, list):
            known = [_choice(item) for item in choices if isinstance(item, dict)]
            chunk.choices = known if known or not choices else None
        else:
            chunk.choices = None
        return chunk


def _choice(raw: dict[str, Any]) -> _Choice:
    choice = _Choice(**{name: raw[name] for name in _Choice.__struct_fields__ if name in raw})
    if type(choice.index) is not int:
        choice.index = 0
    return choice


def _has_content(chunk: _Chunk) -> bool:
    """Whether the chunk carries something generated: text, reasoning, refusal, tool arguments."""
    if chunk.choices:
        return any(choice.text or _is_delta_content(choice.delta) for choice in chunk.choices)
    kind = chunk.type
    return (
        isinstance(kind, str)
        and kind.startswith("response.")
        and kind.endswith(".delta")
        and bool(chunk.delta)
    )


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
