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
         "the form has more than 256 parts"),
        (form(("model", "a"), GOOD)[:-10], "the request body is not a whole multipart/form-data form"),
        (b"--" + b"y" * 300_000, "the request body is not a whole multipart/form-data form"),
        (b"", "the request body is not a whole multipart/form-data form"),
        (b"--%b\r\nX: y\r\n\r\nz\r\n--%b--" % ((BOUNDARY.encode(),) * 2),
         "a part of the form has no name, or one that can be read in several ways"),
        (form(("model", "a")).replace(b'name="model"', b"nobody"),
         "a part of the form has no name, or one that can be read in several ways"),
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
    "kind",
    [
        *("", "application/json", "multipart/form-data", f"multipart/form-data; boundary={'x' * 201}"),
        *("multipart/form-data; boundary=a; boundary=b", "multipart/form-data; boundary*=utf-8''a"),
        *('multipart/form-data; boundary="a\\b"', "multipart/form-data; boundary=a, application/json"),
    ],
)
def test_what_is_no_form_is_refused(kind: str) -> None:
    with pytest.raises(Refusal, match="must be multipart/form-data"):
        FormReader(kind)


B = BOUNDARY.encode()
MODEL = b'Content-Disposition: form-data; name="model"'
NOTE = b'Content-Disposition: form-data; name="note"'


def raw(*parts: bytes, begin: bytes = b"", end: bytes = b"--\r\n") -> bytes:
    """A form of a model and of these parts, each with its headers."""
    every = (MODEL + b"\r\n\r\ncheap", *parts)
    return begin + b"\r\n".join(b"--%b\r\n%b" % (B, part) for part in every) + b"\r\n--" + B + end


@pytest.mark.parametrize(
    "data",
    [
        # What is a part for one reader is text, or headers, for another.
        raw(NOTE + b"\r\n\r\nx\n--%b\n%b\n\ndear\n" % (B, MODEL)),
        raw(NOTE + b"\r\n\r\nx\r--%b\r%b\r\rdear\r" % (B, MODEL)),
        raw(NOTE + b"\r\n\r\nx\n--%b\r\n%b\r\n\r\ndear" % (B, MODEL)),
        raw(NOTE + b"\r\n\r\nx\r\n--%b \r\n%b\r\n\r\ndear" % (B, MODEL)),
        raw(NOTE + b"\r\n\r\nx\r\n--%bmore\r\n%b\r\n\r\ndear" % (B, MODEL)),
        raw(NOTE + b"; a=\r\n--%b\r\n%b\r\n\r\ndear" % (B, MODEL)),
        raw(NOTE + b"\r\nX: \n\n" + MODEL + b"\r\n\r\ndear"),
        raw(NOTE + b"\n\ndear"),
        raw(NOTE + b"\r\n" + MODEL + b"\r\n\r\ndear"),
        raw(NOTE + b';\r\n name="model"\r\n\r\ndear'),
        raw(NOTE + b"\0" + b"\r\n\r\ndear"),
        raw(b"Content-Disposition : form-data; name=model\r\n\r\ndear"),
        raw(begin=b"--%b\n%b\n\ndear\n" % (B, MODEL)),
        raw(begin=b"text\r\n"),
        raw(end=b"--\r\n--%b\r\n%b\r\n\r\ndear\r\n--%b--\r\n" % (B, MODEL, B)),
        raw(end=b"-- \r\n"),
        # Names that readers differ about.
        raw(NOTE + b'; name="model"\r\n\r\ndear'),
        raw(NOTE + b"; name*=utf-8''model\r\n\r\ndear"),
        raw(b"Content-Disposition: form-data; name*=utf-8''model\r\n\r\ndear"),
        raw(b'Content-Disposition: form-data; name*0="mo"; name*1="del"\r\n\r\ndear'),
        raw(b'Content-Disposition: form-data; name="mo\\del"\r\n\r\ndear'),
        raw(b'Content-Disposition: form-data; name="note\\"; name="model"\r\n\r\ndear'),
        raw(NOTE + b'; filename="a\\"; name="model"\r\n\r\ndear'),
        raw(b'Content-Disposition: attachment; name="note"\r\n\r\ndear'),
        raw(NOTE + b"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nde=61r"),
        raw(
            b'Content-Disposition: form-data; name="size"\r\n\r\n1',
            NOTE.replace(b"note", b"size") + b"\r\n\r\n2",
        ),
    ],
    ids=range(26),
)
@pytest.mark.parametrize("step", [1, 10_000])
def test_what_two_readers_may_read_in_two_ways_is_refused(data: bytes, step: int) -> None:
    with pytest.raises(Refusal) as caught:
        read(data, cuts=list(range(0, len(data), step)))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "data",
    [
        raw(begin=b"\r\n"),
        raw(end=b"--"),
        raw(end=b"--\r\n\r\n"),
        raw(b"content-disposition: form-data; name=file; filename=a.mp3; filename*=utf-8''a.mp3\r\n\r\nx"),
        raw(b'X: y\r\nContent-Disposition: form-data; filename="C:\\a.wav"; name="file"\r\n\r\nx'),
        raw(b"Content-Disposition: form-data; name=\"file\"; filename*=utf-8''%C3%A4\r\n\r\nx"),
        raw(NOTE + b"\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: 8bit\r\n\r\nx"),
        raw(NOTE + b"\r\n\r\n", 'Content-Disposition: form-data; name="größe"\r\n\r\nx'.encode()),
    ],
    ids=range(8),
)  # fmt: skip
def test_forms_as_clients_write_them_are_read(data: bytes) -> None:
    for cuts in ([], list(range(len(data)))):
        body = read(data, cuts=cuts)
        assert body.model == "cheap"
        assert sent(body, "dear") == data.replace(b"cheap", b"dear")


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data; boundary={}",
        'Multipart/Form-Data;boundary="{}"',
        "multipart/form-data; boundary={}; charset=utf-8",
    ],
)
def test_boundaries_as_clients_tell_them(kind: str) -> None:
    reader = FormReader(kind.format(BOUNDARY))
    reader.feed(raw())
    assert reader.finish().texts == {"model": "cheap"}


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=4))
def test_anything_may_come(noise: bytes, cuts: list[int]) -> None:
    for data in (noise, form(("model", "a"), ("x", noise)), form(("model", "a"))[:40] + noise):
        with suppress(Refusal):
            body = read(data, cuts=cuts)
            assert sent(body, body.model) == data
