"""Forms with files in them, audio, answers that are no text: passed on as they are, metered all the same."""

import gzip
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from simulator import Script, Stall
from simulator.launcher import wait_until
from tests.support.lab import Lab, Played
from tests.support.raw_http import RawConnection
from tests.support.sse import compact
from tests.support.weir_process import CLIENT_KEY

EDITS, TRANSCRIPTIONS, TRANSLATIONS = "/v1/images/edits", "/v1/audio/transcriptions", "/v1/audio/translations"
IMAGES, SPEECH, EMBEDDINGS = "/v1/images/generations", "/v1/audio/speech", "/v1/embeddings"
BOUNDARY = "-" * 10 + "b" * 60
NO_MODEL = b'form-data; name="model"\r\n\r\nnone\r\n--' + b"b" * 60
MB = 1024 * 1024

HEARD = {
    "type": "tokens",
    "input_tokens": 110,
    "input_token_details": {"text_tokens": 10, "audio_tokens": 100},
    "output_tokens": 20,
    "total_tokens": 130,
}
SUBTITLES = b"1\n00:00:00,000 --> 00:00:07,250\nhello\n\n"


def form(*parts: tuple[str, str | bytes]) -> bytes:
    """Parts of text, and of bytes as files."""
    pieces = []
    for name, value in parts:
        is_file = isinstance(value, bytes)
        file = b'; filename="a.wav"\r\nContent-Type: audio/wav' if is_file else b""
        head = b'Content-Disposition: form-data; name="%b"%b\r\n\r\n' % (name.encode(), file)
        pieces.append(b"--%b\r\n%b%b\r\n" % (BOUNDARY.encode(), head, value if is_file else value.encode()))
    return b"".join(pieces) + b"--%b--\r\n" % BOUNDARY.encode()


def headers(**more: str) -> dict[str, str]:
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return {"Authorization": f"Bearer {CLIENT_KEY}", "Content-Type": kind, **more}


def send(lab: Lab, path: str, script: Script | str, *parts: tuple[str, str | bytes]) -> tuple[Played, bytes]:
    body = form(*parts, ("user", lab.directive(script)))
    return lab.send(path, body, headers()), body


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Case:
    """An answer to a transcription; `cost` in nano-dollars, `items` what was charged for."""

    number: str
    model: str
    answer: bytes | list[bytes]
    cost: int
    items: dict[str, float] = field(default_factory=dict)
    content_type: str = "application/json"
    status: int = 200
    path: str = TRANSCRIPTIONS
    record: dict[str, Any] = field(default_factory=dict)


def event(kind: str, **members: Any) -> bytes:
    return b"data: %b\n\n" % compact({"type": kind, **members})


CASES = [
    Case("A4", "listen-test", compact({"text": "hi", "usage": HEARD}), 825_000,
         {"input": 10, "input_audio": 100, "output": 20}),
    Case("A5", "heard-test", compact({"text": "hi", "usage": {"type": "duration", "seconds": 12.5}}),
         1_250_000, {"second": 12.5}),
    Case("A6", "heard-test", SUBTITLES, 725_000, {"second": 7.25}, "application/x-subrip"),
    Case("A7", "heard-test", compact({"task": "translate", "text": "hi", "duration": 8.0, "segments": []}),
         800_000, {"second": 8}, path=TRANSLATIONS),
    Case("A9", "listen-test",
         [event("transcript.text.delta", delta="hi"), event("transcript.text.done", text="hi", usage=HEARD)],
         825_000, {"input": 10, "input_audio": 100, "output": 20}),
    Case("A10", "heard-test",
         compact({"error": {"message": "no speech", "type": "invalid_request_error"}}), 0,
         status=400, record={"outcome": "upstream_error"}),
]  # fmt: skip


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.number, marks=pytest.mark.wire(case.number)) for case in CASES]
)
def test_a_recording_is_heard_and_charged(lab: Lab, case: Case) -> None:
    if isinstance(case.answer, bytes):
        script, answer = (
            Script.body(case.answer, status=case.status, content_type=case.content_type),
            case.answer,
        )
    else:
        script, answer = Script.sse(case.answer), b"".join(case.answer)
    stream = [] if isinstance(case.answer, bytes) else [("stream", "true")]
    played, body = send(lab, case.path, script, ("model", case.model), *stream, ("file", b"RIFF" * 5000))
    record = played.record
    assert record["costNanoUsd"] == case.cost
    assert {item["unit"]: item["quantity"] for item in record.get("costItems", [])} == case.items
    assert (played.response.status, record["statusCode"]) == (case.status, case.status)
    assert record["endpoint"] == case.path.rpartition("/")[2]
    if case.status == 200:
        assert played.body == answer
        assert (record["outcome"], record["usageSource"]) == ("ok", "upstream")
    else:
        assert json.loads(played.body)["error"]["message"] == "no speech"
    assert {name: record[name] for name in case.record} == case.record
    assert played.entries[0]["body_sha256"] == digest(body)


@pytest.mark.wire("I3")
def test_the_model_is_found_behind_a_file_of_20_mb(lab: Lab) -> None:
    image = bytes(range(256)) * (20 * MB // 256)
    answer = compact({"created": 1, "data": [{}], "usage": {"input_tokens": 10, "output_tokens": 100}})
    played, body = send(
        lab, EDITS, Script.body(answer), ("image[]", image), ("prompt", "é"), ("model", "image-test")
    )
    assert played.body == answer
    assert played.entries[0]["body_sha256"] == digest(body)
    assert played.entries[0]["body_length"] == len(body) > 20 * MB
    assert (played.record["model"], played.record["costNanoUsd"]) == ("image-test", 50_000 + 3_000_000)


def test_only_the_models_name_is_changed(lab: Lab) -> None:
    parts = [("file", NO_MODEL * 50), ("model", "listen-renamed"), ("language", "en")]
    played, body = send(lab, TRANSCRIPTIONS, Script.body(compact({"text": "hi", "usage": HEARD})), *parts)
    assert played.record["model"] == "listen-renamed"
    renamed = body.replace(b"\r\n\r\nlisten-renamed\r\n", b"\r\n\r\nvendor/listen\r\n")
    assert played.entries[0]["body_sha256"] == digest(renamed)


def test_images_to_edit_may_be_named_in_json(lab: Lab) -> None:
    body = {"model": "image-test", "prompt": "x", "images": [{"image_url": "https://example.com/a.png"}]}
    answer = compact({"created": 1, "data": [{}], "usage": {"input_tokens": 10, "output_tokens": 100}})
    played = lab.send(EDITS, compact(body | {"user": lab.directive(Script.body(answer))}))
    assert (played.body, played.record["costNanoUsd"]) == (answer, 50_000 + 3_000_000)
    assert played.entries[0]["headers"]["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        pytest.param(
            [("file", NO_MODEL)], "you must provide a 'model'", id="G1", marks=pytest.mark.wire("G1")
        ),
        pytest.param(
            [("model", "heard-test"), ("file", b"x"), ("model", "listen-test")],
            "twice",
            id="G3",
            marks=pytest.mark.wire("G3"),
        ),
    ],
)
def test_a_form_without_one_model_is_refused(
    lab: Lab, parts: list[tuple[str, str | bytes]], message: str
) -> None:
    played = lab.send(TRANSCRIPTIONS, form(*parts), headers())
    assert played.response.status == 400
    assert message in json.loads(played.body)["error"]["message"]
    assert (played.record["outcome"], played.entries) == ("rejected", [])


@pytest.mark.wire("G2")
def test_a_file_that_looks_like_a_part_is_a_file(lab: Lab) -> None:
    played, body = send(
        lab, EDITS, "out=7,prompt=3", ("image", NO_MODEL), ("prompt", "x"), ("model", "image-test")
    )
    assert (played.record["model"], played.record["outputTokens"]) == ("image-test", 7)
    assert played.entries[0]["body_sha256"] == digest(body)


@pytest.mark.parametrize("number", [pytest.param(n, id=n, marks=pytest.mark.wire(n)) for n in ("A8", "G7")])
def test_a_form_that_is_too_large_is_refused_while_it_comes(lab: Lab, number: str) -> None:
    piece = b"%x\r\n%b\r\n" % (MB, bytes(MB))
    with RawConnection(lab.weir.url) as connection:
        connection.request("POST", TRANSCRIPTIONS, headers(**{"Transfer-Encoding": "chunked"}))
        start = form(("model", "heard-test"), ("file", b""))[: -len(BOUNDARY) - 8]
        connection.send(b"%x\r\n%b\r\n" % (len(start), start))
        try:
            for _ in range(40):
                connection.send(piece)
        except OSError:
            pass  # it has been answered
        response = connection.read_response()
    lab.expected_records += 1
    assert response.status == 413
    assert lab.played(response).entries == []


@pytest.mark.wire("G8")
def test_an_image_is_not_asked_for_twice(hasty_lab: Lab) -> None:
    body = {"model": "image-test", "prompt": "x", "user": hasty_lab.directive(Script.of(Stall()))}
    played = hasty_lab.send(IMAGES, compact(body))
    assert (played.response.status, len(played.entries)) == (504, 1)
    assert len(played.record["attempts"]) == 1


@pytest.mark.wire("G9")
def test_embeddings_that_are_limited_go_to_the_next_key(hasty_lab: Lab) -> None:
    hasty_lab.upstream.behave("embed-test", "fault=429", 1)
    body = {"model": "embed-test", "input": "x", "user": "sim:prompt=8"}
    played = hasty_lab.send(EMBEDDINGS, compact(body))
    assert [attempt["statusCode"] for attempt in played.record["attempts"]] == [429, 200]
    assert played.record["costNanoUsd"] == 160


@pytest.mark.wire("G11")
def test_audio_that_comes_compressed_is_passed_on_as_it_is(lab: Lab) -> None:
    sound = gzip.compress(b"\xff\xf3" + bytes(500))
    script = Script.body(sound, content_type="audio/mpeg", headers=(("Content-Encoding", "gzip"),))
    body = {"model": "spoken-test", "input": "hello", "voice": "alloy", "user": lab.directive(script)}
    played = lab.send(SPEECH, compact(body))
    assert played.body == sound
    assert played.response.headers["content-encoding"] == "gzip"
    assert (played.record["outcome"], played.record["costNanoUsd"]) == ("ok", 75_000)


@pytest.mark.wire("I8")
def test_images_are_paid_for_by_who_leaves(hasty_lab: Lab) -> None:
    lab = hasty_lab
    body = {"model": "image-test", "prompt": "x", "user": lab.directive(Script.of(Stall()))}
    with lab.open(IMAGES, compact(body)):
        wait_until(lambda: len(lab.entries()) == 1, what="the request upstream")
    record = lab.only_record()
    assert record["outcome"] == "client_abort"
    assert (record["usageSource"], record["outputTokens"]) == ("estimate", 4160)
    assert len(lab.entries()) == 1
