"""Answers that hold results: what they used is found, however they are cut, and whatever else is in them."""

import json
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wires.endpoints import Answers
from app.wires.estimate import of_quantities, of_tokens
from app.wires.formats.media import last_cue_s
from app.wires.meter import BytesMeter, SlimMeter, StreamMeter
from app.wires.usage import Usage
from app.wires.wire_format import WireFormat

OAI = WireFormat.OPENAI


def body(answers: Answers, content: Any, step: int = 10**6) -> SlimMeter:
    meter, data = SlimMeter(OAI, answers), json.dumps(content).encode()
    for start in range(0, len(data), step):
        assert meter.feed(data[start : start + step]) == data[start : start + step]
    assert meter.flush() == b""
    return meter


def quantities(meter: SlimMeter | StreamMeter | BytesMeter) -> dict[str, Any]:
    assert meter.usage is not None
    return dict(meter.usage.quantities)


HEARD = {
    "type": "tokens",
    "input_tokens": 110,
    "input_token_details": {"text_tokens": 10, "audio_tokens": 100},
    "output_tokens": 20,
    "total_tokens": 130,
}


@pytest.mark.parametrize(
    ("answers", "content", "wanted"),
    [
        (Answers.LIST, {"results": [], "meta": {"billed_units": {"search_units": 2}}}, {"search_unit": 2}),
        (Answers.LIST, {"results": [], "usage": {"search_units": 3, "cost": 0.1}}, {"search_unit": 3}),
        (Answers.IMAGES, {"data": [{}, {}], "quality": "low", "size": "64x64"}, {"image:low:64x64": 2}),
        (Answers.IMAGES, {"data": [{}], "usage": {"output_tokens": 7}}, {"output_image": 7}),
        (Answers.TRANSCRIPT, {"text": "hi", "usage": {"type": "duration", "seconds": 12.5}},
         {"second": Decimal("12.5")}),
        (Answers.TRANSCRIPT, {"text": "hi", "duration": 8}, {"second": 8}),
        (Answers.TRANSCRIPT, {"text": "hi", "duration": "8.470000267028809"},
         {"second": Decimal("8.470000267028809")}),
        (Answers.TRANSCRIPT, {"text": "hi", "usage": HEARD}, {"input_audio": 100}),
        (Answers.SPEECH, {"audio_data": "x", "usage": {"input_tokens": 4, "output_tokens": 5}},
         {"output_audio": 5}),
    ],
)  # fmt: skip
def test_what_a_body_used(answers: Answers, content: Any, wanted: dict[str, Any]) -> None:
    for step in (1, 5, 10**6):
        meter = body(answers, content, step)
        assert (meter.is_complete, meter.error, quantities(meter)) == (True, None, wanted)


def test_bodies_that_tell_nothing_or_errors() -> None:
    told = body(Answers.LIST, {"object": "list", "data": [], "model": "m"})
    assert (told.usage, told.is_complete, told.upstream_model) == (None, True, "m")
    failed = body(Answers.IMAGES, {"error": {"message": "no", "type": "server_error"}})
    assert failed.error is not None
    assert (failed.is_complete, failed.error.type) == (False, "server_error")
    assert body(Answers.IMAGES, {"created": 1}).error is not None
    meter = SlimMeter(OAI, Answers.LIST)
    meter.feed(b"<html>")
    meter.flush()
    assert "bad_json" in meter.flags


def test_further_usage_is_charged_to_its_own_model() -> None:
    svg = {"model": "svg", "input_tokens": 3, "output_tokens": 4}
    usage = body(Answers.IMAGES, {"data": [{}], "usage": {"input_tokens": 1}, "svg_usage": svg}).usage
    assert usage is not None
    assert usage.beside == (("svg", Usage(input_tokens=3, output_tokens=4)),)


def event(kind: str, **members: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps({"type": kind, **members}).encode()


ONE = {"input_tokens": 10, "input_tokens_details": {"text_tokens": 10}, "output_tokens": 100}
DRAWN, EDITED = "image_generation.completed", "image_edit.completed"
PIECE = {"quality": "low", "size": "9x9"}
STREAMS = [
    (
        Answers.IMAGES,
        [event("image_generation.partial_image", b64_json="x" * 50), event(DRAWN, usage=ONE)],
        (10, 100, {"output_image": 100}),
    ),
    (Answers.IMAGES, [event(EDITED, usage=ONE)] * 2, (20, 200, {"output_image": 200})),
    (Answers.IMAGES, [event(EDITED, **PIECE)] * 2, (0, 0, {"image:low:9x9": 2})),
    (
        Answers.SPEECH,
        [event("speech.audio.delta", audio="x"), event("speech.audio.done", usage=ONE)],
        (10, 100, {"output_audio": 100}),
    ),
    (
        Answers.TRANSCRIPT,
        [
            event("transcript.text.delta", delta='"usage":{}'),
            event("transcript.text.done", usage=HEARD),
            b"data: [DONE]\n\n",
        ],
        (110, 20, {"input_audio": 100}),
    ),
]


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 10**4), max_size=6))
def test_what_a_stream_used_however_it_is_cut(case: Any, cuts: list[int]) -> None:
    answers, events, (fresh, output, units) = case
    data = b"".join(events)
    meter = StreamMeter(OAI, answers=answers)
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    passed = b"".join(meter.feed(data[start:end]) for start, end in pairwise(places))
    assert passed + meter.flush() == data
    assert (meter.is_complete, meter.error) == (True, None)
    assert meter.usage is not None
    assert (meter.usage.input_tokens, meter.usage.output_tokens) == (fresh, output)
    assert quantities(meter) == units


def test_a_stream_that_ends_early_or_tells_an_error() -> None:
    cut = StreamMeter(OAI, answers=Answers.SPEECH)
    cut.feed(event("speech.audio.delta", audio="x"))
    cut.flush()
    assert not cut.is_complete
    failed = StreamMeter(OAI, answers=Answers.IMAGES)
    failed.feed(event("error", error={"code": "moderation_blocked", "message": "no"}))
    assert failed.error is not None


@given(st.binary(max_size=200), st.sampled_from([Answers.IMAGES, Answers.SPEECH, Answers.TRANSCRIPT]))
def test_whatever_comes_is_read_without_a_crash(data: bytes, answers: Answers) -> None:
    for meter in (StreamMeter(OAI, answers=answers), SlimMeter(OAI, answers)):
        meter.feed(b"data: " + data + b"\n\n")
        meter.feed(data)
        meter.flush()


def test_bytes_are_whole_when_they_end_and_subtitles_tell_how_long_they_are() -> None:
    sound = BytesMeter(OAI, is_text=False)
    assert not sound.is_complete
    sound.feed(b"1\n00:00:00,000 --> 00:00:12,500\n")
    sound.flush()
    assert (sound.is_complete, sound.usage) == (True, None)
    text = BytesMeter(OAI, is_text=True)
    text.feed(b"1\n00:00:00,000 --> 00:00:02,000\nhi\n\n2\n00:00:02,000 --> 01:0")
    text.feed(b"0:12,500\nho\n\n")
    text.flush()
    assert quantities(text) == {"second": Decimal("3612.5")}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"WEBVTT\n\n00:00.000 --> 00:04.250\nhi", Decimal("4.25")),
        (b"no cue at all", None),
        (b"", None),
        (b"--> 00:00:01", None),
    ],
)
def test_the_last_subtitle(text: bytes, seconds: Decimal | None) -> None:
    assert last_cue_s(text) == seconds


def test_estimates_by_what_was_ordered() -> None:
    assert of_quantities((("character", 5),)).flags == frozenset()
    assert of_quantities((("image", 2),)).flags == {"estimated"}
    for unit, count, tokens in (("character", 10, 14), ("image:low", 2, 8320), ("second", 3, 30)):
        found = of_tokens(((unit, count),))
        assert found is not None
        assert found.output_tokens + found.input_tokens == tokens
    assert of_tokens((("search_unit", 1),)) is None
