"""What the proxy needs to know of a request body, and the few edits it makes to it.

The body is decoded at its top level only: member names with the place of each value. All that is not
`model` or `stream_options` is forwarded as the very bytes that came.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import msgspec

from app.core.credit_policy import output_limit
from app.core.errors import Refusal, invalid_body
from app.core.wire_format import WireFormat

MAX_MODEL_LENGTH = 256
MAX_MEMBERS = 256
"""Members of the body's top level: real requests have a dozen or two; a million would hold up all streams."""

_MANY_COLONS = 20_000
"""Up to here a body is decoded without asking what its colons belong to."""

_TRUE = msgspec.Raw(b"true")
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_KEY = re.compile(rb'[ \t\n\r]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\n\r]*:[ \t\n\r]*')
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_NEXT = re.compile(rb"[ \t\n\r]*([,}])")


class Endpoint(Enum):
    """The endpoints whose requests go upstream: path there, wire format, whether it generates."""

    CHAT = ("/v1/chat/completions", WireFormat.OPENAI)
    MESSAGES = ("/v1/messages", WireFormat.ANTHROPIC)
    COUNT_TOKENS = ("/v1/messages/count_tokens", WireFormat.ANTHROPIC)

    def __init__(self, path: str, wire_format: WireFormat) -> None:
        self.path = path
        self.wire_format = wire_format


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A checked body: the asked-for model, whether it streams, and where the editable members are.

    `usage_wanted` is what the client said of `stream_options.include_usage`; `stream_options` has its members
    as they came, and is None where it is something that cannot be added to. `output_limit` is the most tokens
    the client lets the model generate, None where it does not say.
    """

    data: bytes
    model: str
    stream: bool
    usage_wanted: bool
    stream_options: Mapping[str, msgspec.Raw] | None
    model_at: tuple[int, int]
    stream_options_at: tuple[int, int] | None
    members_at: int
    output_limit: int | None = None

    @property
    def can_inject_usage(self) -> bool:
        """Whether `include_usage` is to be added: streamed, not asked for, and `stream_options` editable."""
        return self.stream and not self.usage_wanted and self.stream_options is not None

    def forwarded(self, upstream_model: str, inject_usage: bool) -> bytes:
        """The bytes to send upstream: unchanged but for the model's upstream id and `include_usage`."""
        edits: list[tuple[int, int, bytes]] = []
        if upstream_model != self.model:
            edits.append((*self.model_at, msgspec.json.encode(upstream_model)))
        if inject_usage:
            edits.append(self._usage_edit())
        if not edits:
            return self.data
        pieces: list[bytes] = []
        position = 0
        for start, end, replacement in sorted(edits):
            pieces += (self.data[position:start], replacement)
            position = end
        pieces.append(self.data[position:])
        return b"".join(pieces)

    def _usage_edit(self) -> tuple[int, int, bytes]:
        if self.stream_options_at is None:
            # Splicing right after the opening brace keeps every other byte; `model` always follows.
            return (self.members_at, self.members_at, b'"stream_options":{"include_usage":true},')
        options = {**(self.stream_options or {}), "include_usage": _TRUE}
        return (*self.stream_options_at, msgspec.json.encode(options))


def parse_body(data: bytes, endpoint: Endpoint) -> RequestBody:
    """Check a request body; raises a 400 `Refusal` whose message says what is wrong and where."""
    readable, values = _read_members(data)
    places, members_at = _locate(readable, values)
    model = _model(values)
    messages = values.get("messages")
    if messages is None:
        raise invalid_body("you must provide the 'messages' parameter", "messages")
    if bytes(memoryview(messages)[:1]) != b"[":
        raise invalid_body("'messages' must be an array", "messages")
    options = _stream_options(values) if endpoint is Endpoint.CHAT else None
    return RequestBody(
        data=data,
        model=model,
        stream=endpoint is not Endpoint.COUNT_TOKENS and bytes(values.get("stream", b"")) == b"true",
        usage_wanted=endpoint is not Endpoint.CHAT
        or (options is not None and bytes(options.get("include_usage", b"")) == b"true"),
        stream_options=options,
        model_at=places["model"],
        stream_options_at=places.get("stream_options"),
        members_at=members_at,
        output_limit=output_limit(values),
    )


def _read_members(data: bytes) -> tuple[bytes, dict[str, msgspec.Raw]]:
    """The members, and the text they were read from: the body, or one of the same length that can be read.

    An emoji cut in half by a client leaves an unpaired surrogate, which JSON's grammar allows (RFC 8259 §8.2)
    and the decoder does not. It is for the upstream to judge.
    """
    try:
        return data, _decode_members(data)
    except Refusal:
        readable = _SURROGATE.sub(rb"\\ufffd", data)
        if readable == data:
            raise
        return readable, _decode_members(readable)


class _Bulky(msgspec.Struct, gc=False):
    """The members that may rightly be large and deep."""

    messages: msgspec.Raw = msgspec.Raw(b"")
    system: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")
    functions: msgspec.Raw = msgspec.Raw(b"")
    response_format: msgspec.Raw = msgspec.Raw(b"")


_BULKY = msgspec.json.Decoder(_Bulky)


def _refuse_many_members(data: bytes) -> None:
    """Refuse a body of very many members before each of them becomes an object.

    A member needs a colon. Colons are counted first, which takes next to no time, and where there are many,
    those inside the members that may have many are taken off.
    """
    colons = data.count(b":")
    if colons <= _MANY_COLONS:
        return
    bulky = _BULKY.decode(data)
    inside = sum(bytes(getattr(bulky, name)).count(b":") for name in _Bulky.__struct_fields__)
    if colons - inside > _MANY_COLONS:
        raise invalid_body(f"the request body has more than {MAX_MEMBERS} members")


def _decode_members(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    try:
        if isinstance(data, bytes):
            _refuse_many_members(data)
        return _MEMBERS.decode(data)
    except msgspec.ValidationError:
        raise invalid_body("the request body must be a JSON object") from None
    except RecursionError:
        raise invalid_body("the request body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid_body(f"the request body is not valid JSON: {error}"[:300]) from None


def _locate(data: bytes, values: dict[str, msgspec.Raw]) -> tuple[dict[str, tuple[int, int]], int]:
    """Where each member's value stands; refuses a name that occurs twice.

    Two readers of `{"model":"a","model":"b"}` may disagree about which one counts, and then the wrong model
    is billed. The decoder keeps the last value of a name, so walking the members in order and comparing
    finds the first of a pair without parsing the values again.
    """
    if len(values) > MAX_MEMBERS:
        raise invalid_body(f"the request body has more than {MAX_MEMBERS} members")
    view = memoryview(data)
    position = members_at = data.index(b"{") + 1
    places: dict[str, tuple[int, int]] = {}
    while key := _KEY.match(data, position):
        name = msgspec.json.decode(key[1], type=str)
        value = memoryview(values[name])
        start, end = key.end(), key.end() + len(value)
        following = _NEXT.match(data, end)
        if name in places or view[start:end] != value or following is None:
            raise invalid_body(f"the request body has the member {name[:80]!r} twice", name[:80])
        places[name] = (start, end)
        position = following.end()
        if following[1] == b"}":
            break
    return places, members_at


def _stream_options(values: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw] | None:
    """The members of `stream_options`, none for null; None for what is no object (the upstream refuses it).

    Their values stay as they came: one that cannot be decoded is not the proxy's to judge either.
    """
    value = values.get("stream_options")
    if value is None or bytes(value) == b"null":
        return {}
    return _decode_members(value) if bytes(memoryview(value)[:1]) == b"{" else None


def _model(values: dict[str, msgspec.Raw]) -> str:
    if "model" not in values:
        raise invalid_body("you must provide a 'model' parameter", "model")
    try:
        model = msgspec.json.decode(values["model"], type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid_body("'model' must be a string", "model") from None
    if not model or len(model) > MAX_MODEL_LENGTH:
        raise invalid_body(f"'model' must have 1 to {MAX_MODEL_LENGTH} characters", "model")
    return model
