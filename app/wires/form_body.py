"""Requests that are forms with files in them (`multipart/form-data`, RFC 7578), read as they come.

What matters (the model, how many images, how audio is to be answered) is in small parts of text, before or
behind the files. `FormReader` takes the bytes in pieces of any size and keeps nothing of the files; whoever
stores the bytes gives them back to `FormBytes`, which sends them on unchanged, but for the model's name where
the upstream calls it otherwise.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec

from app.wires.endpoints import Endpoint, Metering
from app.wires.errors import Refusal, invalid_body
from app.wires.estimate import BYTES_PER_TOKEN, TOKENS_PER_MEDIUM
from app.wires.member_names import MATTERING, refuse_lookalikes
from app.wires.orders import ordered_quantities
from app.wires.request_body import MAX_CHOICES, MAX_MODEL_LENGTH, RequestBody
from app.wires.units import MAX_QUANTITY, SECOND, Quantity

MAX_PARTS: Final = 256
MAX_TEXT: Final = 64 * 1024
"""A part of text is read up to this size, in bytes; a larger one counts as a file."""
_SLICE: Final = 64 * 1024
_MAX_HEADERS: Final = 8 * 1024
_LINE_END, _BLANK_LINE, _LAST = b"\r\n", b"\r\n\r\n", b"--"
_CHARSET = r"(?:;[ \t]*charset=\"?[\w-]+\"?[ \t]*)?"
_CONTENT_TYPE = re.compile(
    rf"multipart/form-data[ \t]*{_CHARSET};[ \t]*"
    rf"boundary=(?:([\w'()+./:=?-]{{1,200}})|\"([\w'()+,./:=? -]{{0,199}}[\w'()+,./:=?-])\")[ \t]*{_CHARSET}",
    re.ASCII | re.IGNORECASE,
)
_HEADER = re.compile(rb"([\w!#$%&'*+.^`|~-]+):([^\r\n\0]*)")
_PARAMETER = re.compile(
    rb";[ \t]*(?P<name>name|filename\*?)="
    rb"(?:\"(?P<quoted>(?:[^\"\\]|\\(?!\"))*)\"|(?P<token>[^\s\";\\]+))[ \t]*",
    re.IGNORECASE,
)
"""A parameter of `Content-Disposition`, without what some readers take for an escape of a quote."""
_DISPOSITION = re.compile(
    rb"[ \t]*form-data[ \t]*((?:%b)*)" % re.sub(rb"\?P<\w+>", b"?:", _PARAMETER.pattern), re.IGNORECASE
)
_PLAIN: Final = (b"binary", b"8bit", b"7bit")
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
    """Takes a form's bytes; raises a 400 `Refusal` for what is none.

    Readers differ about line ends, blanks behind a boundary, text before the first and after the last one,
    and headers that are folded or there twice: what one takes for a part, with another model perhaps, is
    text to the other. So a form is taken as every client writes it, and in no other way.
    """

    def __init__(self, content_type: str) -> None:
        found = _CONTENT_TYPE.fullmatch(content_type)
        if found is None:
            raise invalid_body("the request body must be multipart/form-data, with a boundary")
        self._delimiter = b"--" + (found[1] or found[2]).encode()
        self._fed = 0
        self._buffer = bytearray()
        self._step: Callable[[], bool] = self._start
        self._fields = FormFields()
        self._name = ""
        self._text: bytearray | None = None
        self._begins_at = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        # More than one slice is buffered only while the end of a part's headers is missing.
        for start in range(0, len(data), _SLICE):
            piece = data[start : start + _SLICE]
            self._fed += len(piece)
            self._buffer += piece
            while self._step():
                pass

    def finish(self) -> FormFields:
        """Return what the form says, which is over."""
        if self._step != self._end:
            raise _no_form()
        return self._fields

    def _start(self) -> bool:
        """Expect the first boundary, before which there may be a line end and nothing else."""
        wanted = (_LINE_END if self._buffer[:1] == _LINE_END[:1] else b"") + self._delimiter
        if not self._buffer.startswith(wanted[: len(self._buffer)]):
            raise _no_form()
        if len(self._buffer) < len(wanted):
            return False
        del self._buffer[: len(wanted)]
        self._step = self._after_boundary
        return True

    def _after_boundary(self) -> bool:
        """See whether a part comes behind a boundary, or the end."""
        if len(self._buffer) < 2:
            return False
        mark = bytes(self._buffer[:2])
        if mark not in (_LINE_END, _LAST):
            raise _no_form()
        del self._buffer[:2]
        self._step = self._headers if mark == _LINE_END else self._end
        return True

    def _headers(self) -> bool:
        """Read the headers of a part, once all of them are there."""
        end = self._buffer.find(_BLANK_LINE, 0, _MAX_HEADERS)
        if end < 0:
            if len(self._buffer) >= _MAX_HEADERS or self._delimiter in self._buffer:
                raise _no_form()
            return False
        name, is_file = self._read_headers(bytes(self._buffer[:end]))
        del self._buffer[: end + len(_BLANK_LINE)]
        fields = self._fields
        fields.names.append(name)
        if len(fields.names) > MAX_PARTS:
            raise invalid_body(f"the form has more than {MAX_PARTS} parts")
        fields.file_count += is_file
        self._name, self._text = name, None if is_file else bytearray()
        self._begins_at = self._fed - len(self._buffer)
        self._step = self._data
        return True

    def _read_headers(self, raw: bytes) -> tuple[str, bool]:
        """Return a part's name, and whether it is a file."""
        if self._delimiter in raw:
            raise _no_form()
        disposition = None
        for line in raw.split(_LINE_END):
            header = _HEADER.fullmatch(line)
            if header is None:
                raise _no_form()
            what, value = header[1].lower(), header[2]
            if what == b"content-disposition":
                if disposition is not None:
                    raise _no_form()
                disposition = value
            elif what == b"content-transfer-encoding" and value.strip().lower() not in _PLAIN:
                raise invalid_body(
                    "a part of the form has a Content-Transfer-Encoding, which forms do not have"
                )
        return _name_in(disposition or b"")

    def _data(self) -> bool:
        """Take the bytes of a part, as far as they cannot be the boundary behind it."""
        buffer, delimiter = self._buffer, self._delimiter
        at = buffer.find(delimiter)
        if at < 0:
            sure = len(buffer) - len(_LINE_END) - len(delimiter) + 1
            if sure > 0:
                self._take(bytes(buffer[:sure]))
                del buffer[:sure]
            return False
        # Boundaries are chosen so that they are nowhere else.
        if buffer[max(0, at - 2) : at] != _LINE_END:
            raise _no_form()
        self._take(bytes(buffer[: at - 2]))
        if self._text is not None:
            self._keep(bytes(self._text))
        del buffer[: at + len(delimiter)]
        self._step = self._after_boundary
        return True

    def _end(self) -> bool:
        """Expect nothing more but line ends."""
        if self._buffer.strip(_LINE_END):
            raise _no_form()
        self._buffer.clear()
        return False

    def _take(self, data: bytes) -> None:
        if self._text is None:
            self._fields.file_bytes += len(data)
            return
        self._text += data
        if len(self._text) > MAX_TEXT:
            if self._name in MATTERING:
                raise invalid_body(f"the field {self._name!r} is too long", self._name)
            self._fields.file_bytes += len(self._text)
            self._text = None

    def _keep(self, value: bytes) -> None:
        try:
            self._fields.texts.setdefault(self._name, value.decode("utf-8"))
        except UnicodeDecodeError:
            raise invalid_body(f"the field {self._name[:80]!r} is not UTF-8", self._name[:80]) from None
        if self._name == "model" and self._fields.model_at is None:
            self._fields.model_at = (self._begins_at, self._begins_at + len(value))


def _name_in(disposition: bytes) -> tuple[str, bool]:
    """Return what a part's `Content-Disposition` calls it, and whether it is a file."""
    found = _DISPOSITION.fullmatch(disposition)
    given = [] if found is None else list(_PARAMETER.finditer(found[1]))
    values = {each["name"].lower(): each["token"] or each["quoted"] for each in given}
    name = values.get(b"name", b"")
    if not name or b"\\" in name or len(values) < len(given):
        raise invalid_body("a part of the form has no name, or one that can be read in several ways")
    try:
        return name.decode("utf-8"), len(values) > 1
    except UnicodeDecodeError:
        raise invalid_body("a part of the form has a name that is not UTF-8") from None


def _no_form() -> Refusal:
    return invalid_body("the request body is not a whole multipart/form-data form")


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
