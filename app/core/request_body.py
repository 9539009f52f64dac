"""What the proxy needs to know of a request body, and the few edits it makes to it.

The body is decoded at its top level only: member names with the place of each value. All that is not
`model` or `stream_options` is forwarded as the very bytes that came.
"""

import re
from collections.abc import Iterator, Mapping
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
_TEXT = msgspec.json.Decoder(str)
_KEY = re.compile(rb'[ \t\n\r]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\n\r]*:[ \t\n\r]*')
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_NEXT = re.compile(rb"[ \t\n\r]*,")


class Endpoint(Enum):
    """The endpoints whose requests go upstream: path there, wire format, whether it generates."""

    CHAT = ("/v1/chat/completions", WireFormat.OPENAI)
    MESSAGES = ("/v1/messages", WireFormat.ANTHROPIC)
    COUNT_TOKENS = ("/v1/messages/count_tokens", WireFormat.ANTHROPIC)

    def __init__(self, path: str, wire_format: WireFormat) -> None:
        self.path = path
        self.wire_format = wire_format


_CHAT, _COUNT_TOKENS = Endpoint.CHAT, Endpoint.COUNT_TOKENS


class RequestBody(msgspec.Struct, frozen=True):
    """A checked body: the asked-for model, whether it streams, and its members as they came.

    `usage_wanted` is what the client said of `stream_options.include_usage`; `stream_options` has its members
    as they came, and is None where it is something that cannot be added to. `members` were read from
    `readable`, in which everything stands where it stands in `data`. `output_limit` is the most tokens the
    client lets the model generate, None where it does not say.
    """

    data: bytes
    model: str
    stream: bool
    usage_wanted: bool
    stream_options: Mapping[str, msgspec.Raw] | None
    members: dict[str, msgspec.Raw]
    readable: bytes
    output_limit: int | None = None

    @property
    def can_inject_usage(self) -> bool:
        """Whether `include_usage` is to be added: streamed, not asked for, and `stream_options` editable."""
        return self.stream and not self.usage_wanted and self.stream_options is not None

    def forwarded(self, upstream_model: str, inject_usage: bool) -> bytes:
        """The bytes to send upstream: unchanged but for the model's upstream id and `include_usage`."""
        if upstream_model == self.model and not inject_usage:
            return self.data
        edits: list[tuple[int, int, bytes]] = []
        if upstream_model != self.model:
            edits.append((*self._place("model"), msgspec.json.encode(upstream_model)))
        if inject_usage:
            edits.append(self._usage_edit())
        pieces: list[bytes] = []
        position = 0
        for start, end, replacement in sorted(edits):
            pieces += (self.data[position:start], replacement)
            position = end
        pieces.append(self.data[position:])
        return b"".join(pieces)

    def _usage_edit(self) -> tuple[int, int, bytes]:
        if "stream_options" not in self.members:
            # Splicing right after the opening brace keeps every other byte; `model` always follows.
            begin = self.readable.index(b"{") + 1
            return (begin, begin, b'"stream_options":{"include_usage":true},')
        options = {**(self.stream_options or {}), "include_usage": _TRUE}
        return (*self._place("stream_options"), msgspec.json.encode(options))

    def _place(self, wanted: str) -> tuple[int, int]:
        places = _places(self.readable, self.members)
        return next((start, end) for name, start, end in places if name == wanted)


def parse_body(data: bytes, endpoint: Endpoint) -> RequestBody:
    """Check a request body; raises a 400 `Refusal` whose message says what is wrong and where."""
    readable, members = _read_members(data)
    values = _distinct(members)
    model = _model(values)
    messages = values.get("messages")
    if messages is None:
        raise invalid_body("you must provide the 'messages' parameter", "messages")
    if bytes(memoryview(messages)[:1]) != b"[":
        raise invalid_body("'messages' must be an array", "messages")
    is_chat = endpoint is _CHAT
    options = _stream_options(values) if is_chat else None
    return RequestBody(
        data=data,
        model=model,
        stream=endpoint is not _COUNT_TOKENS and bytes(values.get("stream", b"")) == b"true",
        usage_wanted=not is_chat
        or (options is not None and bytes(options.get("include_usage", b"")) == b"true"),
        stream_options=options,
        members=values,
        readable=readable,
        output_limit=output_limit(values),
    )


class _Key:
    """A member's name in one place: no other is equal to it, so that none takes another's place."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


_PAIRS = msgspec.json.Decoder(dict[_Key, msgspec.Raw], dec_hook=lambda _type, name: _Key(name))


def _read_members(data: bytes) -> tuple[bytes, dict[_Key, msgspec.Raw]]:
    """The members, and the text they were read from: the body, or one of the same length that can be read.

    An emoji cut in half by a client leaves an unpaired surrogate, which JSON's grammar allows (RFC 8259 §8.2)
    and the decoder does not. It is for the upstream to judge.
    """
    try:
        return data, _decode_body(data)
    except Refusal:
        readable = _SURROGATE.sub(rb"\\ufffd", data)
        if readable == data:
            raise
        return readable, _decode_body(readable)


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


def _decode_body(data: bytes) -> dict[_Key, msgspec.Raw]:
    try:
        _refuse_many_members(data)
        return _PAIRS.decode(data)
    except _UNREADABLE as error:
        raise _unreadable(error) from None


def _decode_members(data: msgspec.Raw) -> dict[str, msgspec.Raw]:
    try:
        return _MEMBERS.decode(data)
    except _UNREADABLE as error:
        raise _unreadable(error) from None


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _unreadable(error: Exception) -> Refusal:
    if isinstance(error, msgspec.ValidationError):
        return invalid_body("the request body must be a JSON object")
    if isinstance(error, RecursionError):
        return invalid_body("the request body is nested too deeply")
    return invalid_body(f"the request body is not valid JSON: {error}"[:300])


def _distinct(members: dict[_Key, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """The members by name; refuses a name that occurs twice.

    Two readers of `{"model":"a","model":"b"}` may disagree about which one counts, and then the wrong model
    is billed.
    """
    values = {key.name: value for key, value in members.items()}
    if len(values) > MAX_MEMBERS:
        raise invalid_body(f"the request body has more than {MAX_MEMBERS} members")
    if len(values) < len(members):
        names = [key.name for key in members]
        name = next(name for name in names if names.count(name) > 1)
        raise invalid_body(f"the request body has the member {name[:80]!r} twice", name[:80])
    return values


def _places(data: bytes, values: Mapping[str, msgspec.Raw]) -> Iterator[tuple[str, int, int]]:
    """The name of each member, and where its value begins and ends; no name occurs twice."""
    position = data.index(b"{") + 1
    while key := _KEY.match(data, position):
        name = _TEXT.decode(key[1])
        start, end = key.end(), key.end() + len(memoryview(values[name]))
        yield name, start, end
        following = _NEXT.match(data, end)
        if following is None:
            return
        position = following.end()


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
        model = _TEXT.decode(values["model"])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid_body("'model' must be a string", "model") from None
    if not model or len(model) > MAX_MODEL_LENGTH:
        raise invalid_body(f"'model' must have 1 to {MAX_MODEL_LENGTH} characters", "model")
    return model
