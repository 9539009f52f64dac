"""Forms: what matters in them is found however they are cut, and their bytes go on as they came."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wires.endpoints import EDIT_IMAGES, TRANSCRIPTIONS, Endpoint
from app.wires.errors import Refusal
from app.wires.form_body import FormBytes, FormReader, parse_form
from app.wires.request_body import RequestBody

BOUNDARY = "x" * 70


class Kept:
    """A store in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def read(self, start: int, end: int) -> Iterator[bytes]:
        for at in range(start, end, 7):
            yield self._data[at : min(at + 7, end)]


def form(*parts: tuple[str, str | bytes], boundary: str = BOUNDARY) -> bytes:
    """Parts of text, and of bytes as files."""
    pieces = []
    for name, value in parts:
        file = b'; filename="f.bin"\r\nContent-Type: audio/wav' if isinstance(value, bytes) else b""
        data = value if isinstance(value, bytes) else value.encode()
        head = b'Content-Disposition: form-data; name="%b"%b\r\n\r\n' % (name.encode(), file)
        pieces.append(b"--%b\r\n%b%b\r\n" % (boundary.encode(), head, data))
    return b"".join(pieces) + b"--%b--\r\n" % boundary.encode()


def read(
    data: bytes, endpoint: Endpoint = EDIT_IMAGES, cuts: list[int] | None = None, boundary: str = BOUNDARY
) -> RequestBody:
    reader = FormReader(f"multipart/form-data; boundary={boundary}")
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts or ())})
    for start, end in pairwise(places):
        reader.feed(data[start:end])
    return parse_form(reader.finish(), Kept(data), endpoint)


def sent(body: RequestBody, model: str) -> bytes:
    out = body.to_send(model, inject_usage=False)
    assert isinstance(out, FormBytes)
    data = b"".join(out.pieces())
    assert len(data) == len(out)
    return data


FILE = b'--\r\n\r\nname="model"\r\n\r\nother\r\n--' + b"x" * 69 + b"\r\n" + bytes(range(256))


@given(st.lists(st.integers(0, 5000), max_size=8), st.booleans(), st.text(max_size=9), st.binary(max_size=99))
def test_a_form_is_read_however_it_is_cut(cuts: list[int], is_first: bool, prompt: str, noise: bytes) -> None:
    model = ("model", "image-test")
    parts = [("image[]", FILE + noise), ("n", "2"), ("prompt", prompt), ("stream", "true")]
    parts.insert(0 if is_first else len(parts), model)
    data = form(*parts)
    body = read(data, cuts=cuts)
    assert (body.model, body.stream, body.choices, body.quantities) == (
        "image-test",
        True,
        2,
        (("image", 2),),
    )
    assert sent(body, "image-test") == data
    renamed = form(*(("model", "vendor/é") if part is model else part for part in parts))
    assert sent(body, "vendor/é") == renamed
    assert prompt.encode() in body.data


def test_every_single_cut_gives_the_same() -> None:
    data = form(("file", FILE), ("model", "m"), ("response_format", "srt"))
    for cut in range(len(data)):
        assert read(data, TRANSCRIPTIONS, [cut]).model == "m"
    byte_by_byte = read(data, TRANSCRIPTIONS, list(range(len(data))))
    assert (byte_by_byte.model, byte_by_byte.quantities) == ("m", (("second", 1),))


def test_recordings_are_as_long_as_their_size_says_until_somebody_tells() -> None:
    body = read(form(("model", "m"), ("file", bytes(80_001))), TRANSCRIPTIONS)
    assert body.quantities == (("second", 11),)
    assert body.media_bytes == 0
    assert read(form(("model", "m"), ("image", b"x"), ("image", b"y"))).media_bytes == 2 * 1600 * 4


GOOD = ("file", b"x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (form(GOOD), "you must provide a 'model' parameter"),
        (form(("model", "a"), GOOD, ("model", "b")), "the form has the field 'model' twice"),
        (form(("model", b"a"), GOOD), "the field 'model' must be a text"),
        (form(("Model", "a"), GOOD), "the member 'Model' is not spelled 'model': remove or rename it"),
        (form(("model", "a"), ("model[]", "b")),
         "the member 'model[]' is not spelled 'model': remove or rename it"),
        (form(("model", "")), "'model' must have 1 to 256 characters"),
        (form(("model", "a"), ("n", "0")), "'n' must be a whole number from 1 to 128"),
        (form(("model", "a"), ("stream", "yes")), "'stream' must be true or false"),
        (form(("model", "x" * 70_000)), "the field 'model' is too long"),
        (form(("model", "a"), *[("tag", "x")] * 256),
         "the form has more than 256 parts, or one without an end"),
        (form(("model", "a"), GOOD)[:-10], "the request body is not a whole multipart/form-data form"),
        (b"--" + b"y" * 300_000, "the form has more than 256 parts, or one without an end"),
        (b"", "the request body is not a whole multipart/form-data form"),
        (b"--%b\r\nX: y\r\n\r\nz\r\n--%b--" % ((BOUNDARY.encode(),) * 2),
         "the request body is not a whole multipart/form-data form"),
        (form(("model", "a")).replace(b'name="model"', b"nobody"), "a part of the form has no name"),
        (form(("model", "a"), ("prompt", "é")).replace("é".encode(), b"\xff\xfe"),
         "the field 'prompt' is not UTF-8"),
    ],
    ids=range(16),
)  # fmt: skip
def test_what_is_wrong_is_told(data: bytes, message: str) -> None:
    with pytest.raises(Refusal) as caught:
        read(data)
    assert (caught.value.status, caught.value.message) == (400, message)


@pytest.mark.parametrize(
    "kind", ["", "application/json", "multipart/form-data", f"multipart/form-data; boundary={'x' * 201}"]
)
def test_what_is_no_form_is_refused(kind: str) -> None:
    with pytest.raises(Refusal, match="must be multipart/form-data"):
        FormReader(kind)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=4))
def test_anything_may_come(noise: bytes, cuts: list[int]) -> None:
    for data in (noise, form(("model", "a"), ("x", noise)), form(("model", "a"))[:40] + noise):
        with suppress(Refusal):
            body = read(data, cuts=cuts)
            assert sent(body, body.model) == data
