"""Reading Anthropic-format streams: the events of the Messages API.

Usage is looked for in parsed JSON only, at `message.usage` (of `message_start`) and `usage`. Every event is
parsed, for the same reasons as in the OpenAI format.
"""

from typing import Any

import msgspec

from app.core.lenient_json import loads_lenient
from app.core.readings import Readings

_DELTA_MEMBERS = ("text", "partial_json", "thinking")


class _Event(msgspec.Struct, gc=False):
    """What is read of an event until the first content was seen."""

    type: Any = None
    message: Any = None
    delta: Any = None
    usage: Any = None
    error: Any = None
    content_block: Any = None
    errorType: Any = None  # noqa: N815 (named as on the wire)


class _LateEvent(msgspec.Struct, gc=False):
    """What still matters after that; the text itself is skipped without being decoded."""

    type: Any = None
    message: Any = None
    usage: Any = None
    error: Any = None
    errorType: Any = None  # noqa: N815


_decode = msgspec.json.Decoder(_Event).decode
_decode_late = msgspec.json.Decoder(_LateEvent).decode


class AnthropicReader:
    """Reads the events of one stream into `readings`."""

    __slots__ = ("_decode", "readings")

    def __init__(self, readings: Readings) -> None:
        self.readings = readings
        self._decode: Any = _decode

    @property
    def is_complete(self) -> bool:
        """Whether `message_stop` was seen."""
        return self.readings.is_terminated

    def read(self, name: bytes, data: bytes) -> bool:
        """Read one event. Always False: this format has no usage-only artefact."""
        event: _Event | _LateEvent
        try:
            event = self._decode(data)
        except (ValueError, RecursionError):
            recovered = self._recover(name, data)
            if recovered is None:
                return False
            event = recovered
        readings = self.readings
        if event.message is not None:
            self._read_message(event)
        if event.usage is not None:
            self._read_usage(event.usage)
        if event.error is not None:
            readings.fail(event.error)
        kind = event.type
        if kind == "message_stop" or (kind is None and name == b"message_stop"):
            readings.is_terminated = True
        elif kind == "error" or name == b"error":
            readings.fail(event.error or {"message": event.message})
        elif type(event) is _Event and _has_content(event):
            readings.has_content = True
            self._decode = _decode_late
        return False

    def is_mere_text(self, name: bytes, data: bytes) -> bool:
        """Whether an event that has just been read says nothing but text, as all that differ in it do."""
        if self._decode is not _decode_late or name == b"error":
            return False
        try:
            event = _decode_late(data)
        except (ValueError, RecursionError):
            return False
        is_silent = event.message is None and event.usage is None and event.error is None
        return is_silent and event.type == "content_block_delta"

    def _read_message(self, event: _Event | _LateEvent) -> None:
        if isinstance(message := event.message, dict):
            self.readings.identify(message.get("id"), message.get("model"))
            self._read_usage(message.get("usage"), is_start=True)
        elif isinstance(event.errorType, str):
            self.readings.fail({"type": event.errorType, "message": message})

    def _read_usage(self, usage: Any, *, is_start: bool = False) -> None:
        if isinstance(usage, dict):
            self.readings.usage.add(usage, is_start=is_start)
            self.readings.identify(None, None, usage.get("service_tier"))

    def _recover(self, name: bytes, data: bytes) -> _Event | None:
        """Read what the typed decoder refused; None if it is no JSON object."""
        if not data.strip() or data.strip() == b"[DONE]":  # some bridges end this format the other one's way
            return None
        try:
            raw = loads_lenient(data)
        except ValueError:
            self.readings.take_broken(name, data)
            return None
        if not isinstance(raw, dict):
            return None
        return _Event(**{name: raw[name] for name in _Event.__struct_fields__ if name in raw})


def _has_content(event: _Event) -> bool:
    """Whether the event carries something generated: text, thinking, tool arguments."""
    if event.type == "content_block_delta":
        part = event.delta
    elif event.type == "content_block_start":
        part = event.content_block
    else:
        return False
    return isinstance(part, dict) and any(part.get(name) for name in _DELTA_MEMBERS)
