"""Reading Anthropic-format streams: the events of the Messages API.

Usage is looked for in parsed JSON only, at `message.usage` (of `message_start`) and `usage`. Every event is
parsed, for the same reasons as in the OpenAI format.
"""

from typing import Any

import msgspec

from app.common.lenient_json import loads_lenient
from app.wires.formats.failures import NO_ANSWER, named_error_in, told_error, told_error_in
from app.wires.readings import Readings

_DELTA_MEMBERS = ("text", "partial_json", "thinking")
_KNOWN = frozenset(
    (
        *("message_start", "message_delta", "message_stop", "ping"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
    )
)


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

    __slots__ = ("_decode", "_has_stopped", "readings")

    def __init__(self, readings: Readings) -> None:
        self.readings = readings
        self._decode: Any = _decode
        # Whether a stop_reason was seen: some gateways leave out what comes after it.
        self._has_stopped = False

    @property
    def is_complete(self) -> bool:
        """Whether `message_stop`, or at least a reason to stop, was seen."""
        return self.readings.is_terminated or self._has_stopped

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
            readings.use(event.usage)
        if event.error is not None:
            readings.fail(event.error)
        kind = event.type
        if kind == "message_stop" or (kind is None and name == b"message_stop"):
            self._end()
        elif kind == "message_delta":
            self._read_stop(data)
        elif kind == "error" or name == b"error":
            readings.fail(event.error or named_error_in(data))
        elif not isinstance(kind, str) or kind not in _KNOWN:
            readings.fail(told_error_in(data))
        elif type(event) is _Event and _has_content(event):
            readings.has_content = True
            self._decode = _decode_late
        return False

    def _end(self) -> None:
        readings = self.readings
        readings.is_terminated = True
        is_begun = (
            readings.has_content or readings.response_id or readings.upstream_model or self._has_stopped
        )
        if not is_begun and readings.usage.raw is None:
            readings.fail({"type": NO_ANSWER})

    def _read_stop(self, data: bytes) -> None:
        """Look for the reason to stop; late events are read without their delta."""
        try:
            delta = _decode(data).delta
        except (ValueError, RecursionError):
            event = self._recover(b"", data)
            delta = event.delta if event is not None else None
        if isinstance(delta, dict):
            self._has_stopped |= bool(delta.get("stop_reason"))
            self.readings.contain(delta.get("container"))

    def is_text_only(self, name: bytes, data: bytes) -> bool:
        """Return whether an event just read is text alone; then so are all that differ in the text alone."""
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
            self.readings.use(message.get("usage"), is_start=True)
            self.readings.contain(message.get("container"))
        elif isinstance(event.errorType, str):
            self.readings.fail({"type": event.errorType, "message": message})

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
            self.readings.fail(named_error_in(data) if name == b"error" else told_error(raw))
            return None
        return _Event(**{name: raw[name] for name in _Event.__struct_fields__ if name in raw})


def _has_content(event: _Event) -> bool:
    """Return whether the event carries something generated: text, thinking, tool arguments."""
    if event.type == "content_block_delta":
        part = event.delta
    elif event.type == "content_block_start":
        part = event.content_block
    else:
        return False
    return isinstance(part, dict) and any(part.get(name) for name in _DELTA_MEMBERS)
