"""What the proxy needs to know of a request body, and the few edits it makes to it.

The body is decoded at its top level only: member names with the place of each value. All but
`model`, `stream_options` and, for want of credit, limits on the output goes out as the very bytes that came.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from app.upstream.transport import LargeBody
from app.wires.endpoints import Endpoint, Members, Metering
from app.wires.errors import Refusal, invalid_body
from app.wires.json_pairs import MAX_MEMBERS, Key, TooManyMembers, read_pairs
from app.wires.member_names import MATTERING, refuse_lookalikes
from app.wires.orders import (
    Input,
    ordered_calls,
    ordered_quantities,
    ordered_units,
    reachable_tiers,
    read_input,
    token_count,
)
from app.wires.output_limit import is_said, output_limit, whole_number
from app.wires.units import Quantity

MAX_MODEL_LENGTH = 256
# No upstream gives more answers to one request.
MAX_CHOICES = 128

# From here on a body is worth a turn of its own.
LARGE: Final = 256 * 1024
# Commas, colons, opening brackets and backslashes of a body: each costs a decoder some nanoseconds. The
# largest context of any model has room for about half of them, if it is nothing but JSON within strings.
MOST_PARTS: Final = 4_000_000
_PARTS = b",:[{\\"
# This much is decoded in some milliseconds, whatever it is.
_FEW_BYTES: Final = 1024 * 1024
_WINDOW: Final = 256 * 1024
_LONGEST_ESCAPE: Final = 6

# What is looked at piece by piece: the most items of a list, as many as a vendor takes of messages, and the
# most parts of an input. Python needs a microsecond for some of them.
MAX_ITEMS: Final = 100_000
_MOST_LOOKED_AT: Final = 250_000
_LISTS: Final = ("messages", "input", "items", "tools", "documents")
# Members that are read whole, and are a word or a few of them wherever they make sense.
_WORDS: Final = (
    *("service_tier", "speed", "inference_geo", "modalities", "quality", "size"),
    *("cache_control", "prompt_cache_options"),
)
_MAX_WORDS: Final = 1024

_OF_TOKENS: Final = Metering.TOKENS
_TRUE = msgspec.Raw(b"true")
_EVENTS = b'"sse"'
_SWITCH = frozenset((b"true", b"false", b"null"))
_NEW_LIMIT = re.compile(r"(?:.*/)?(?:gpt-|chatgpt|codex|o\d)", re.IGNORECASE)
"""Models whose output is limited by `max_completion_tokens`; all others know `max_tokens`."""
_TEXT = msgspec.json.Decoder(str)
_KEY = re.compile(rb'[ \t\n\r]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\n\r]*:[ \t\n\r]*')
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_NEXT = re.compile(rb"[ \t\n\r]*,")
_STRUCTURE = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_STRIDE: Final = 1000


class Form(LargeBody, Protocol):
    """The bytes of a form."""

    def named(self, model: str) -> LargeBody:
        """Return the same form for a model of that name."""


class RequestBody(msgspec.Struct, frozen=True):
    """A checked body: the asked-for model, whether it streams, and its members as they came.

    `usage_wanted` is what the client said of `stream_options.include_usage`; `stream_options` has its members
    as they came. `members` were read from `readable`, in which everything stands where it stands in `data`;
    `names` says what is what among them.
    `output_limit` is the most tokens the client lets the model generate for an answer, None where it does not
    say; `choices` how many answers it asks for; `units` what it orders beside tokens, and `quantities` how
    much of it, where that is said. `input_tokens` is how many tokens its input has, where that shows, and
    `parts` of how many commas, brackets and the like a large body consists.

    Of a form (`app.wires.form_body`), `data` is the text in it, `form` its bytes, and `media_bytes` what its
    files count for.
    """

    data: bytes
    model: str
    stream: bool
    usage_wanted: bool
    stream_options: Mapping[str, msgspec.Raw]
    members: dict[str, msgspec.Raw]
    readable: bytes
    names: Members
    output_limit: int | None = None
    choices: int = 1
    units: frozenset[str] = frozenset()
    quantities: tuple[tuple[str, Quantity], ...] = ()
    input_tokens: int | None = None
    parts: int = 0
    form: Form | None = None
    media_bytes: int = 0

    @property
    def shape(self) -> int:
        """The same number for requests with the same members, whatever is in them; within one process."""
        return hash(frozenset(self.members))

    @property
    def can_inject_usage(self) -> bool:
        """Whether `include_usage` is to be added: streamed, and not asked for."""
        return self.stream and not self.usage_wanted

    def read_input(self) -> Input:
        """Return what the input may amount to; that takes looking at every part of every message.

        Where there are more than can be looked at in no time, it is open.
        """
        if self.parts > _MOST_LOOKED_AT:
            return Input()
        return read_input(self.members, len(self.data), self.names)

    def reachable_tiers(self) -> Sequence[tuple[str, ...]]:
        """Return in which tiers, at which speeds and where it may be answered."""
        return reachable_tiers(self.units, is_auto=self.says("service_tier", b'"auto"'))

    def ordered_calls(self) -> Mapping[str, int]:
        """Return how often it may have tools of the vendor called at most, by unit."""
        return ordered_calls(self.units, self.members)

    def says(self, name: str, value: bytes) -> bool:
        """Return whether a member is there with exactly this value."""
        return name in self.members and bytes(memoryview(self.members[name])[: len(value) + 1]) == value

    @property
    def predicted_tokens(self) -> int:
        """How many tokens of output are predicted: those that prove wrong are charged, too."""
        return len(memoryview(self.members["prediction"])) if "prediction" in self.members else 0

    @property
    def thinking_budget(self) -> int:
        """The tokens of thinking that the limit on output has to leave room for."""
        if "thinking" not in self.members:
            return 0
        try:
            return max(0, _THINKING.decode(self.members["thinking"]).budget_tokens)
        except _UNREADABLE:
            return 0

    def to_send(
        self, upstream_model: str, inject_usage: bool, output_cap: int | None = None
    ) -> bytes | LargeBody:
        """Return what is sent upstream: of a form its bytes, else as `forwarded`."""
        if self.form is None:
            return self.forwarded(upstream_model, inject_usage, output_cap)
        return self.form if upstream_model == self.model else self.form.named(upstream_model)

    def forwarded(self, upstream_model: str, inject_usage: bool, output_cap: int | None = None) -> bytes:
        """Return the bytes to send upstream: unchanged but for the model's upstream id and `include_usage`.

        With `output_cap`, limits on the output that are higher, or none at all, are lowered to it.
        """
        if upstream_model == self.model and not inject_usage and output_cap is None:
            return self.data
        edits: list[tuple[int, int, bytes]] = []
        if upstream_model != self.model:
            name = msgspec.json.encode(upstream_model)
            is_named = "model" in self.members
            edits.append((*self._place("model"), name) if is_named else self._added(b'"model":%b,' % name))
        if inject_usage:
            edits.append(self._usage_edit())
        if output_cap is not None:
            edits += self._limit_edits(upstream_model, output_cap)
        pieces: list[bytes] = []
        position = 0
        for start, end, replacement in sorted(edits):
            pieces += (self.data[position:start], replacement)
            position = end
        pieces.append(self.data[position:])
        return b"".join(pieces)

    def _usage_edit(self) -> tuple[int, int, bytes]:
        if "stream_options" not in self.members:
            return self._added(b'"stream_options":{"include_usage":true},')
        options = {**self.stream_options, "include_usage": _TRUE}
        return (*self._place("stream_options"), msgspec.json.encode(options))

    def _limit_edits(self, upstream_model: str, cap: int) -> list[tuple[int, int, bytes]]:
        names = self.names.output_limits
        said = [name for name in names if is_said(self.members, name)]
        if not said:
            name = names[0] if _NEW_LIMIT.match(upstream_model) is not None else names[-1]
            if name not in self.members:
                return [self._added(b'"%b":%d,' % (name.encode(), cap))]
            said = [name]
        limits = {name: whole_number(self.members[name]) for name in said}
        return [
            (*self._place(name), b"%d" % cap)
            for name, limit in limits.items()
            if limit is None or limit > cap
        ]

    def _added(self, member: bytes) -> tuple[int, int, bytes]:
        # Splicing right after the opening brace keeps every other byte; a member always follows.
        begin = self.readable.index(b"{") + 1
        return (begin, begin, member)

    def _place(self, wanted: str) -> tuple[int, int]:
        members = _members(self.readable, self.members)
        return next((start, end) for _, name, start, end in members if name == wanted)


def parse_body(data: bytes, endpoint: Endpoint, rest: Callable[[], None] = lambda: None) -> RequestBody:
    """Check a request body; raises a 400 `Refusal` whose message says what is wrong and where.

    `rest` is called again and again, so that a large body holds up nobody for longer than decoding it once.
    """
    parts = refuse_many_parts(data, rest)
    readable, members = _read_members(data, rest)
    values = _distinct(members)
    refuse_lookalikes(values)
    if b"\\" in readable:
        _refuse_escaped_names(readable, values)
    names = endpoint.members
    model = _model(values, names)
    if names.required is not None:
        _refuse_without(names.required, values)
    _refuse_long(values, endpoint, rest)
    options = _stream_options(values)
    wanted = bytes(options.get("include_usage", b""))
    choices = 1 if names.choices is None else _choices(values, names.choices)
    is_streamed = _is_streamed(values) and endpoint.may_stream
    return RequestBody(
        data=data,
        model=model,
        stream=is_streamed or bytes(values.get("stream_format", b"")) == _EVENTS,
        usage_wanted=not endpoint.takes_usage_option or wanted == b"true",
        stream_options=options,
        members=values,
        readable=readable,
        names=names,
        output_limit=output_limit(values, names.output_limits),
        choices=choices,
        units=ordered_units(values),
        quantities=() if endpoint.metering is _OF_TOKENS else _quantities(values, endpoint, choices),
        input_tokens=_input_tokens(values, endpoint, rest) if endpoint.takes_tokens else None,
        parts=parts,
    )


def parse_state(data: bytes, endpoint: Endpoint, rest: Callable[[], None]) -> Mapping[str, msgspec.Raw]:
    """Return the members of a body that asks no model; raises a 400 `Refusal` as `parse_body` does."""
    refuse_many_parts(data, rest)
    readable, members = _read_members(data, rest)
    values = _distinct(members)
    refuse_lookalikes(values)
    if b"\\" in readable:
        _refuse_escaped_names(readable, values)
    _refuse_long(values, endpoint, rest)
    return values


def _quantities(
    values: Mapping[str, msgspec.Raw], endpoint: Endpoint, choices: int
) -> tuple[tuple[str, Quantity], ...]:
    def read(name: str) -> Any:
        decode = _RAW_LIST.decode if name == "documents" else msgspec.json.decode
        try:
            return decode(values[name]) if name in values else None
        except _UNREADABLE:
            return None

    return ordered_quantities(endpoint.metering, read, choices)


def _input_tokens(
    values: Mapping[str, msgspec.Raw], endpoint: Endpoint, rest: Callable[[], None]
) -> int | None:
    """Return how many tokens the input has, where it is given as tokens."""
    name = endpoint.members.prompt[0]
    return token_count(bytes(values[name]), rest) if name in values else None


def read_object(data: bytes | msgspec.Raw, names: tuple[str, ...], where: str) -> dict[str, msgspec.Raw]:
    """Return the members of an object that has exactly these; raises a 400 `Refusal` that says `where`."""
    try:
        members = _distinct(read_pairs(data))
    except _UNREADABLE as error:
        raise _unreadable(error) from None
    for name in names:
        if name not in members:
            shown = f"{where}.{name}".lstrip(".")
            raise invalid_body(f"{shown}: this member is missing", shown)
    if others := members.keys() - set(names):
        shown = f"{where}.{min(others)[:80]}".lstrip(".")
        raise invalid_body(f"{shown}: there is no such member", shown)
    return members


def asks_for_stream(query: str) -> bool:
    """Return whether a query asks for events, as a body would by its `stream`."""
    return any(part in ("stream=true", "stream=True", "stream=1") for part in query.split("&"))


class _Thinking(msgspec.Struct, gc=False):
    budget_tokens: int = 0


_THINKING = msgspec.json.Decoder(_Thinking)


def refuse_many_parts(data: bytes, rest: Callable[[], None]) -> int:
    """Refuse a large body that is hardly anything but structure: no decoder can be interrupted.

    Returns how many parts it has; 0 for one that is not large.
    """
    parts = 0
    if len(data) <= _FEW_BYTES:
        return parts
    for start in range(0, len(data), _WINDOW):
        window = data[start : start + _WINDOW]
        parts += len(window) - len(window.translate(None, _PARTS))
        if parts > MOST_PARTS:
            raise invalid_body("the request body consists of too many values")
        rest()
    return parts


def _read_members(data: bytes, rest: Callable[[], None]) -> tuple[bytes, dict[Key, msgspec.Raw]]:
    """Return the members, and the text they were read from: the body, or one as long that can be read.

    An emoji cut in half by a client leaves an unpaired surrogate, which JSON's grammar allows (RFC 8259 §8.2)
    and the decoder does not. It is for the upstream to judge.
    """
    try:
        return data, _decode_body(data, rest)
    except Refusal:
        readable = _without_surrogates(data, rest)
        if readable == data:
            raise
        return readable, _decode_body(readable, rest)


def _without_surrogates(data: bytes, rest: Callable[[], None]) -> bytes:
    pieces = []
    start = 0
    while start < len(data):
        end = start + _WINDOW
        # No escape is cut: the next window begins with it.
        cut = data.rfind(b"\\", end - _LONGEST_ESCAPE + 1, end)
        end = cut if cut > start and end < len(data) else end
        pieces.append(_SURROGATE.sub(rb"\\ufffd", data[start:end]))
        start = end
        rest()
    return b"".join(pieces)


def _decode_body(data: bytes, rest: Callable[[], None]) -> dict[Key, msgspec.Raw]:
    try:
        rest()
        return read_pairs(data)
    except _UNREADABLE as error:
        raise _unreadable(error) from None


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TooManyMembers)


def _unreadable(error: Exception) -> Refusal:
    if isinstance(error, TooManyMembers):
        return invalid_body(f"the request body has more than {MAX_MEMBERS} members")
    if isinstance(error, msgspec.ValidationError):
        return invalid_body("the request body must be a JSON object")
    if isinstance(error, RecursionError):
        return invalid_body("the request body is nested too deeply")
    return invalid_body(f"the request body is not valid JSON: {error}"[:300])


def _distinct(members: dict[Key, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """Return the members by name; refuses a name that occurs twice.

    Two readers of `{"model":"a","model":"b"}` may disagree about which one counts, and then the wrong model
    is billed.
    """
    values = {key.name: value for key, value in members.items()}
    if len(values) < len(members):
        names = [key.name for key in members]
        name = next(name for name in names if names.count(name) > 1)
        raise invalid_body(f"the request body has the member {name[:80]!r} twice", name[:80])
    return values


def _members(data: bytes, values: Mapping[str, msgspec.Raw]) -> Iterator[tuple[bytes, str, int, int]]:
    """Yield each member once: its name as written and as it reads, and where its value begins and ends."""
    position = data.index(b"{") + 1
    while key := _KEY.match(data, position):
        name = _TEXT.decode(key[1])
        start, end = key.end(), key.end() + len(memoryview(values[name]))
        yield key[1], name, start, end
        following = _NEXT.match(data, end)
        if following is None:
            return
        position = following.end()


def _refuse_escaped_names(data: bytes, values: Mapping[str, msgspec.Raw]) -> None:
    """Refuse a name that matters and is spelled with escapes: not every reader looks behind them."""
    for key, name, _, _ in _members(data, values):
        if b"\\" in key and name in MATTERING:
            raise invalid_body(f"the name of the member {name!r} is spelled with escapes", name)


def _is_streamed(values: dict[str, msgspec.Raw]) -> bool:
    """Return whether `stream` is true; refuses what is no switch: some take a number or a text for true."""
    value = values.get("stream")
    if value is None:
        return False
    text = bytes(memoryview(value)[:6])
    if text not in _SWITCH:
        raise invalid_body("'stream' must be true or false", "stream")
    return text == b"true"


def _stream_options(values: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """Return the members of `stream_options`, none for null; refuses what is no object.

    Their values stay as they came: one that cannot be decoded is not the proxy's to judge.
    """
    value = values.get("stream_options")
    if value is None or bytes(value) == b"null":
        return {}
    if bytes(memoryview(value)[:1]) != b"{":
        raise invalid_body("'stream_options' must be an object", "stream_options")
    try:
        options = _distinct(read_pairs(value))
    except _UNREADABLE as error:
        raise _unreadable(error) from None
    refuse_lookalikes(options)
    _refuse_escaped_names(bytes(value), options)
    return options


def _refuse_without(name: str, values: dict[str, msgspec.Raw]) -> None:
    value = values.get(name)
    if value is None:
        raise invalid_body(f"you must provide the {name!r} parameter", name)
    if bytes(memoryview(value)[:1]) != b"[":
        raise invalid_body(f"{name!r} must be an array", name)


def _refuse_long(values: dict[str, msgspec.Raw], endpoint: Endpoint, rest: Callable[[], None]) -> None:
    """Refuse lists of so many items that looking at each would take long, and words of any length."""
    for name in _LISTS:
        if name not in values or (endpoint.takes_tokens and name in endpoint.members.prompt):
            continue
        if len(memoryview(values[name])) > 2 * MAX_ITEMS and has_more_items(bytes(values[name]), rest):
            raise invalid_body(f"{name!r} has more than {MAX_ITEMS:,} items", name)
    for name in _WORDS:
        if name in values and len(memoryview(values[name])) > _MAX_WORDS:
            raise invalid_body(f"{name!r} is too long", name)


def has_more_items(raw: bytes, rest: Callable[[], None]) -> bool:
    """Return whether a list has more than `MAX_ITEMS`: without making an object of each to count them."""
    if raw.count(b",") < MAX_ITEMS:
        return False
    depth, commas = 0, 0
    for number, found in enumerate(_STRUCTURE.finditer(raw)):
        mark = found[0]
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b"]", b"}"):
            depth -= 1
        elif mark == b"," and depth == 1:
            commas += 1
        if number % _STRIDE == 0:
            if commas >= MAX_ITEMS:
                return True
            rest()
    return commas >= MAX_ITEMS


def _choices(values: dict[str, msgspec.Raw], name: str) -> int:
    """Return how many answers are ordered, 1 if nothing is said; refuses what no upstream would take."""
    if not is_said(values, name):
        return 1
    number = whole_number(values[name])
    if number is None or number > MAX_CHOICES:
        raise invalid_body(f"{name!r} must be a whole number from 1 to {MAX_CHOICES}", name)
    return number


def _model(values: dict[str, msgspec.Raw], names: Members) -> str:
    if "model" not in values:
        if names.default_model is not None:
            return names.default_model
        is_stored = "prompt" in values and "prompt" in names.elsewhere
        why = ": a stored prompt does not tell the proxy whose prices to charge" if is_stored else ""
        raise invalid_body(f"you must provide a 'model' parameter{why}", "model")
    try:
        model = _TEXT.decode(values["model"])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid_body("'model' must be a string", "model") from None
    if not model or len(model) > MAX_MODEL_LENGTH:
        raise invalid_body(f"'model' must have 1 to {MAX_MODEL_LENGTH} characters", "model")
    return model
