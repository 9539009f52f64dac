"""Requests that are forms with files in them (`multipart/form-data`, RFC 7578), read as they come.

What matters (the model, how many images, how audio is to be answered) is in small parts of text, before or
behind the files. `FormReader` takes the bytes in pieces of any size and keeps nothing of the files; whoever
stores the bytes gives them back to `FormBytes`, which sends them on unchanged, but for the model's name where
the upstream calls it otherwise.
"""

from collections.abc import Iterator
from typing import Final, Protocol

import msgspec
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from app.wires.endpoints import Endpoint, Metering
from app.wires.errors import invalid_body
from app.wires.estimate import BYTES_PER_TOKEN, TOKENS_PER_MEDIUM
from app.wires.member_names import MATTERING, refuse_lookalikes
from app.wires.orders import ordered_quantities
from app.wires.request_body import MAX_CHOICES, MAX_MODEL_LENGTH, RequestBody
from app.wires.units import MAX_QUANTITY, SECOND, Quantity

MAX_PARTS: Final = 256
MAX_TEXT: Final = 64 * 1024
"""A part of text is read up to this size, in bytes; a larger one counts as a file."""
_MAX_BOUNDARY: Final = 200
_SLICE: Final = 64 * 1024
# A part's headers, or a boundary that does not come, may not be longer than this.
_MAX_BUFFERED: Final = 4 * _SLICE
_BYTES_PER_SECOND: Final = 8000
"""Of recordings: 64 kbit/s. Where nobody tells how long one is, its size has to."""
_TRUE: Final = ("true", "True", "1")
_FALSE: Final = ("", "false", "False", "0")


class Store(Protocol):
    """Where the bytes of a body are."""

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to `end` in pieces of bounded size."""

    def __len__(self) -> int:
        """Return how many there are."""


class FormFields(msgspec.Struct):
    """What a form says: each part of text by name, and how large its files are together.

    `names` are those of all parts, as often as they occur; `model_at` is where the value of `model` stands.
    """

    names: list[str] = []
    texts: dict[str, str] = {}
    file_count: int = 0
    file_bytes: int = 0
    model_at: tuple[int, int] | None = None


class FormReader:
    """Takes a form's bytes; raises a 400 `Refusal` for what is none."""

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get("boundary", "")
        if kind.lower() != "multipart/form-data" or not 0 < len(boundary) <= _MAX_BOUNDARY:
            raise invalid_body("the request body must be multipart/form-data, with a boundary")
        # More than one slice is buffered only while a boundary, or the end of a part's headers, is missing.
        self._decoder = MultipartDecoder(
            boundary.encode("utf-8", "replace"), max_form_memory_size=_MAX_BUFFERED, max_parts=MAX_PARTS
        )
        self._fed = 0
        self._fields = FormFields()
        self._name = ""
        self._is_file = False
        self._text: bytearray | None = None
        self._begins_at = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        for start in range(0, len(data), _SLICE):
            piece = data[start : start + _SLICE]
            self._fed += len(piece)
            self._advance(piece)

    def finish(self) -> FormFields:
        """Return what the form says, which is over."""
        self._advance(None)
        return self._fields

    def _advance(self, data: bytes | None) -> None:
        try:
            self._decoder.receive_data(data)
            while not isinstance(event := self._decoder.next_event(), NeedData | Epilogue):
                if isinstance(event, Field | File):
                    self._begin(event)
                elif isinstance(event, Data):
                    self._take(event)
        except RequestEntityTooLarge:
            raise invalid_body(f"the form has more than {MAX_PARTS} parts, or one without an end") from None
        except ValueError:
            raise invalid_body("the request body is not a whole multipart/form-data form") from None

    def _begin(self, event: Field | File) -> None:
        name = event.name
        if not isinstance(name, str):
            raise invalid_body("a part of the form has no name")
        self._name, self._is_file = name, isinstance(event, File)
        self._fields.names.append(name)
        self._fields.file_count += self._is_file
        self._text = None if self._is_file else bytearray()
        # The line break that ends the headers is still there.
        buffer = self._decoder.buffer
        self._begins_at = self._fed - len(buffer) + (2 if buffer.startswith(b"\r\n") else 1)

    def _take(self, event: Data) -> None:
        if self._text is None:
            self._fields.file_bytes += len(event.data)
            return
        self._text += event.data
        if len(self._text) > MAX_TEXT:
            if self._name in MATTERING:
                raise invalid_body(f"the field {self._name!r} is too long", self._name)
            self._fields.file_bytes += len(self._text)
            self._text = None
        elif not event.more_data:
            self._end(bytes(self._text))

    def _end(self, value: bytes) -> None:
        try:
            self._fields.texts.setdefault(self._name, value.decode("utf-8"))
        except UnicodeDecodeError:
            raise invalid_body(f"the field {self._name[:80]!r} is not UTF-8", self._name[:80]) from None
        if self._name == "model" and self._fields.model_at is None:
            self._fields.model_at = (self._begins_at, self._begins_at + len(value))


class FormBytes:
    """A form to send: the stored bytes, with another name of the model where one is given.

    It is the `LargeBody` of a request to the upstream, and can be sent more than once.
    """

    __slots__ = ("_at", "_model", "_store", "words")

    def __init__(self, store: Store, words: bytes, at: tuple[int, int], model: bytes | None = None) -> None:
        self._store = store
        self.words = words
        self._at = at
        self._model = model

    def __len__(self) -> int:
        start, end = self._at
        return len(self._store) + (0 if self._model is None else len(self._model) - (end - start))

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it, in pieces of bounded size."""
        if self._model is None:
            yield from self._store.read(0, len(self._store))
            return
        start, end = self._at
        yield from self._store.read(0, start)
        yield self._model
        yield from self._store.read(end, len(self._store))

    def named(self, model: str) -> "FormBytes":
        """Return the same form for a model of that name."""
        return FormBytes(self._store, self.words, self._at, model.encode())


def parse_form(fields: FormFields, store: Store, endpoint: Endpoint) -> RequestBody:
    """Check what a form says; raises a 400 `Refusal` that tells what is wrong with it."""
    refuse_lookalikes(fields.names)
    for name in MATTERING.intersection(fields.names):
        if fields.names.count(name) > 1:
            raise invalid_body(f"the form has the field {name!r} twice", name)
        if name not in fields.texts:
            raise invalid_body(f"the field {name!r} must be a text", name)
    if fields.model_at is None:
        raise invalid_body("you must provide a 'model' parameter", "model")
    model = fields.texts["model"]
    if not 0 < len(model) <= MAX_MODEL_LENGTH:
        raise invalid_body(f"'model' must have 1 to {MAX_MODEL_LENGTH} characters", "model")
    if b"".join(store.read(*fields.model_at)) != model.encode():
        raise invalid_body("the request body is not a whole multipart/form-data form")
    choices = _choices(fields.texts.get("n", "1"))
    words = "\n".join(fields.texts.values()).encode()
    return RequestBody(
        data=words,
        model=model,
        stream=_is_streamed(fields.texts.get("stream", "")) and endpoint.may_stream,
        usage_wanted=True,
        stream_options={},
        members={},
        readable=words,
        names=endpoint.members,
        choices=choices,
        quantities=_quantities(fields, endpoint, choices),
        form=FormBytes(store, words, fields.model_at),
        media_bytes=_media_bytes(fields, endpoint),
    )


def _quantities(fields: FormFields, endpoint: Endpoint, choices: int) -> tuple[tuple[str, Quantity], ...]:
    if endpoint.metering is Metering.RECORDINGS:
        seconds = min(max(1, -(-fields.file_bytes // _BYTES_PER_SECOND)), MAX_QUANTITY)
        return ((SECOND, seconds),)
    return ordered_quantities(endpoint.metering, fields.texts.get, choices)


def _media_bytes(fields: FormFields, endpoint: Endpoint) -> int:
    """Return what the files count for, as bytes of text: an image much the same, however large its file."""
    if endpoint.metering is Metering.IMAGES:
        return fields.file_count * TOKENS_PER_MEDIUM * BYTES_PER_TOKEN
    return 0


def _is_streamed(text: str) -> bool:
    if text not in (*_TRUE, *_FALSE):
        raise invalid_body("'stream' must be true or false", "stream")
    return text in _TRUE


def _choices(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    if not 0 < number <= MAX_CHOICES:
        raise invalid_body(f"'n' must be a whole number from 1 to {MAX_CHOICES}", "n")
    return number
