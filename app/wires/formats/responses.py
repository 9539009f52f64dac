"""Reading answers of OpenAI's Responses API: its events, and its whole bodies.

Usage counts where a response has ended, and nowhere else: `response.usage` of the event that ends a stream,
`usage` of a body. Events tell what they are by the `type` in their data; their names repeat it, and some
relays send none. The last event repeats all that was generated, so it may be megabytes long: like all others
it is decoded only as far as it matters.
"""

import json
from collections import Counter
from typing import Any, Final

import msgspec

from app.common.lenient_json import clean_text, loads_lenient
from app.wires.formats.failures import NO_ANSWER, named_error_in, told_error, told_error_in
from app.wires.readings import Readings
from app.wires.units import CODE_SESSION, WEB_SEARCH, clean_quantity, image_unit
from app.wires.usage import Usage, UsageMerger, normalise
from app.wires.wire_format import WireFormat

ZERO_USAGE: Final = "zero_usage"
"""All counts were zero although something was answered: they tell nothing."""
FOREIGN_REASONING: Final = "foreign_reasoning"
"""The upstream left out reasoning in the input, since another of its accounts had encrypted it."""
TOOL_COUNT_DERIVED: Final = "tool_count_derived"
"""How often the web was searched was not told, and was counted in the output."""
CONTAINER_TIME_UNKNOWN: Final = "container_time_unknown"
"""Containers were used, which are charged by their time and size: nothing tells either."""

_LONGEST_ID = 256
_PREFIX = "response."
_ENDS = frozenset(f"{_PREFIX}{status}" for status in ("completed", "incomplete", "failed", "cancelled"))
_DELTA = ".delta"
_FAILED = "failed"
_MISMATCH = "organization_mismatch"
_BESIDE_USAGE = ("tool_usage", "incomplete_details")
_EMPTY = frozenset((b"", b"[]", b"nu"))
_ITEM_DONE = f"{_PREFIX}output_item.done"
# Of more items than this, tools are not looked for.
_MOST_ITEMS = 10_000


class _Item(msgspec.Struct, gc=False):
    """What tells of an item what a tool cost, and its id."""

    id: Any = None
    type: Any = None
    action: Any = None
    container_id: Any = None
    quality: Any = None
    size: Any = None
    model: Any = None


class _Response(msgspec.Struct, gc=False):
    """What matters of a response, or of another body of the API; what was generated is not decoded."""

    id: Any = None
    object: Any = None
    model: Any = None
    status: Any = None
    service_tier: Any = None
    usage: Any = None
    tool_usage: Any = None
    incomplete_details: Any = None
    input_transformations: Any = None
    error: Any = None
    output: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    input_tokens: Any = None

    @property
    def has_output(self) -> bool:
        """Whether anything was answered."""
        return bytes(memoryview(self.output)[:2]) not in _EMPTY


class _Event(msgspec.Struct, gc=False):
    """What is read of an event until the first content was seen."""

    type: Any = None
    response: _Response | None = None
    error: Any = None
    item: _Item | None = None
    delta: Any = None


class _LateEvent(msgspec.Struct, gc=False):
    """What still matters after that; the text itself is skipped without being decoded."""

    type: Any = None
    response: _Response | None = None
    error: Any = None
    item: _Item | None = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_late = msgspec.json.Decoder(_LateEvent).decode
_decode_body = msgspec.json.Decoder(_Response).decode
_decode_items = msgspec.json.Decoder(list[_Item]).decode


class ResponsesReader:
    """Reads the events of one stream into `readings`."""

    __slots__ = ("_decode", "_items", "readings")

    def __init__(self, readings: Readings) -> None:
        self.readings = readings
        self._decode: Any = _decode
        # Those that are done: some relays leave the output of the last event empty.
        self._items: list[_Item] = []

    @property
    def is_complete(self) -> bool:
        """Whether the event was seen that ends a response."""
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
        kind = event.type if isinstance(event.type, str) else name.decode("utf-8", "replace")
        # All others repeat what deltas brought.
        readings.is_repetition = not kind.endswith(_DELTA)
        if event.error is not None:
            readings.fail(event.error)
        if kind in _ENDS:
            self._end(kind, event.response)
        elif kind == "error" or name == b"error":
            readings.fail(event.error or named_error_in(data))
        elif not kind.startswith(_PREFIX):
            readings.fail(told_error_in(data))
        elif event.response is not None:
            _identify(event.response, readings)
        elif event.item is not None and kind == _ITEM_DONE and len(self._items) < _MOST_ITEMS:
            self._items.append(event.item)
        elif type(event) is _Event and event.delta and not readings.is_repetition:
            readings.has_content = True
            self._decode = _decode_late
        return False

    def is_text_only(self, name: bytes, data: bytes) -> bool:
        """Return whether an event just read is text alone; then so are all that differ in the text alone."""
        if self._decode is not _decode_late or name == b"error":
            return False
        try:
            event = _decode_late(data)
        except (ValueError, RecursionError):
            return False
        kind = event.type
        is_delta = isinstance(kind, str) and kind.startswith(_PREFIX) and kind.endswith(_DELTA)
        return is_delta and event.response is event.error is event.item is None

    def _end(self, kind: str, response: _Response | None) -> None:
        readings = self.readings
        if kind == f"{_PREFIX}{_FAILED}":
            # An `error` event may have told the same a moment ago, with less in it.
            readings.error = None if response is not None and response.error else readings.error
            readings.fail((response and response.error) or {"type": _FAILED})
        if response is not None:
            _take(response, readings, self._items)
        is_empty = not readings.has_content and (response is None or not response.has_output)
        if is_empty and readings.usage.raw is None:
            readings.fail({"type": NO_ANSWER})
        readings.is_terminated = True

    def _recover(self, name: bytes, data: bytes) -> _Event | None:
        """Read what the typed decoder refused; None if it is no JSON object."""
        if not data.strip() or data.strip() == b"[DONE]":  # as relays end it that do so with every stream
            return None
        try:
            raw = loads_lenient(data)
        except ValueError:
            self.readings.take_broken(name, data)
            return None
        if not isinstance(raw, dict):
            self.readings.fail(named_error_in(data) if name == b"error" else told_error(raw))
            return None
        event = _Event(raw.get("type"), error=raw.get("error"), delta=raw.get("delta"))
        if isinstance(item := raw.get("item"), dict):
            event.item = _Item(**{name: item.get(name) for name in _Item.__struct_fields__})
        if isinstance(response := raw.get("response"), dict):
            event.response = _response(response)
        return event


def read_response(body: bytes, readings: Readings) -> bool | None:
    """Read a body into `readings`; return whether it is a whole answer, None where it is no response.

    A compaction is one, and a response that is still being made; a count of tokens is none.
    """
    try:
        response = _decode_body(body)
    except (ValueError, RecursionError):
        recovered = _recover_body(body)
        if recovered is None:
            return None
        response = recovered
    is_response = isinstance(response.object, str) and response.object.startswith("response")
    if response.input_tokens is not None or not (is_response or response.has_output):
        return None
    _identify(response, readings)
    if not readings.is_unfinished:
        _take(response, readings, [])
    readings.has_content = response.has_output
    readings.fail(response.error or ({"type": _FAILED} if response.status == _FAILED else None))
    readings.is_terminated = readings.error is None
    return readings.is_terminated


def _identify(response: _Response, readings: Readings) -> None:
    readings.identify(response.id, response.model, response.service_tier)
    if isinstance(response.status, str):
        readings.status = clean_text(response.status, 40)
        readings.is_unfinished = response.status in ("queued", "in_progress")


def _take(response: _Response, readings: Readings, items: list[_Item]) -> None:
    """Take what an ended response says: who answered in the end, and what that took."""
    if isinstance(response.model, str) and response.model:
        readings.upstream_model = None
    _identify(response, readings)
    if isinstance(usage := response.usage, dict):
        beside = {name: value for name in _BESIDE_USAGE if (value := getattr(response, name))}
        readings.use({**usage, **beside} if beside else usage, is_inclusive=True)
        counts = readings.usage.usage(WireFormat.OPENAI)
        is_zero = counts is not None and not (counts.total_input_tokens or counts.output_tokens)
        if is_zero and (readings.has_content or response.has_output):
            readings.flags.add(ZERO_USAGE)
    # Of a body that was too long to be kept, an item without anything in it is there for all.
    items = [item for item in _read_items(response.output) if item.type is not None] or items
    readings.parts = _parts(items)
    _count_tools(response, items, readings)
    changes = response.input_transformations
    for change in changes if isinstance(changes, list) else ():
        if isinstance(change, dict) and change.get("reason") == _MISMATCH:
            readings.flags.add(FOREIGN_REASONING)


def _count_tools(response: _Response, items: list[_Item], readings: Readings) -> None:
    """Count what tools that the vendor runs were used for; `usage` has the text model alone."""
    told = response.tool_usage if isinstance(response.tool_usage, dict) else {}
    usage = readings.usage
    usage.tells_tools = True
    searches = told.get("web_search")
    if isinstance(searches, dict) and "num_requests" in searches:
        _count(usage, WEB_SEARCH, searches["num_requests"])
    elif found := sum(item.type == "web_search_call" and _is_search(item.action) for item in items):
        usage.count(WEB_SEARCH, found)
        readings.flags.add(TOOL_COUNT_DERIVED)
    _count(usage, "file_search", sum(item.type == "file_search_call" for item in items))
    containers = {str(item.container_id) for item in items if item.type == "code_interpreter_call"}
    if containers:
        usage.count(CODE_SESSION, len(containers))
        readings.flags.add(CONTAINER_TIME_UNKNOWN)
    images = [item for item in items if item.type == "image_generation_call"]
    spent = normalise(told.get("image_gen"), WireFormat.OPENAI)
    if images or spent is not None:
        _count_images(response, images, spent, usage)


def _count_images(response: _Response, images: list[_Item], spent: Usage | None, usage: UsageMerger) -> None:
    """Count images by their tokens, where those and their model are told; else by quality and size."""
    tools = (tool.model for tool in _read_items(response.tools) if tool.type == "image_generation")
    model = next((clean_text(model) for model in tools if isinstance(model, str)), None)
    if model is not None and spent is not None and spent.output_tokens:
        parts = dict(spent.quantities)
        parts.setdefault("output_image", spent.output_tokens)
        usage.count_beside(model, msgspec.structs.replace(spent, quantities=tuple(sorted(parts.items()))))
        return
    made = Counter(image_unit(item.quality, item.size) for item in images)
    if model is not None:
        usage.count_beside(model, Usage(quantities=tuple(sorted(made.items()))))
        return
    for unit, count in made.items():
        usage.count(unit, count)


def _count(usage: UsageMerger, unit: str, value: object) -> None:
    if (quantity := clean_quantity(value)) is not None:
        usage.count(unit, quantity)


def _is_search(action: object) -> bool:
    """Return whether a call of the web tool was a search: opening a page is free, and has its own name."""
    return not isinstance(action, dict) or action.get("type", "search") == "search"


def _read_items(raw: msgspec.Raw) -> list[_Item]:
    data = bytes(raw)
    if data[:1] != b"[" or data.count(b'"type"') > _MOST_ITEMS:
        return []
    try:
        return _decode_items(data)
    except (ValueError, RecursionError):
        return []


def _parts(items: list[_Item]) -> tuple[str, ...]:
    """Return the ids of what was answered, and of the containers that it ran in."""
    ids = (value for item in items for value in (item.id, item.container_id))
    return tuple(dict.fromkeys(value for value in ids if isinstance(value, str) and _is_id(value)))


def _is_id(value: str) -> bool:
    return 0 < len(value) <= _LONGEST_ID


def _recover_body(body: bytes) -> _Response | None:
    try:
        raw = loads_lenient(body)
    except ValueError:
        return None
    return _response(raw) if isinstance(raw, dict) else None


def _response(raw: dict[str, Any]) -> _Response:
    response = _Response(**{name: raw[name] for name in _Response.__struct_fields__ if name in raw})
    for name in ("output", "tools"):
        setattr(response, name, msgspec.Raw(json.dumps(raw[name]).encode() if raw.get(name) else b""))
    return response
