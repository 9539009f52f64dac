"""Asking for usage on the client's behalf, and taking the artefact out again."""

import json
from typing import Any

import pytest

from simulator import Script
from tests.support import sse
from tests.support.lab import CHAT, COUNT, ESTIMATE, MESSAGES, UNKNOWN, Lab, Played, check
from tests.support.raw_http import Ending
from tests.support.sse import DONE, chunk, data
from tests.support.users import add_user

KEPT = [chunk("hi"), chunk(finish="stop"), DONE]


def _sent(lab: Lab, played: Played, number: int = 0) -> dict[str, Any]:
    """The body the upstream got with the given request of the test."""
    seq = played.entries[number]["seq"]
    (seen,) = [item for item in lab.upstream.requests(seq - 1) if item["seq"] == seq]
    body: dict[str, Any] = json.loads(seen["body"])
    return body


def _stripped(events: list[bytes], ending: bytes) -> tuple[bytes, bytes]:
    """A stream in other line ends, and the same without its usage chunk."""
    whole = [event.replace(b"\n", ending) for event in events]
    return b"".join(whole), b"".join(event for event in whole if b'"choices":[]' not in event)


@pytest.mark.wire(43)
@pytest.mark.parametrize("per_read", [0, 1, 7, 64], ids=["whole events", "1 byte", "7 bytes", "64 bytes"])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_silent_client(lab: Lab, ending: bytes, per_read: int) -> None:
    """The usage chunk is asked for, read, and gone; everything else is there."""
    sent, wanted = _stripped(sse.chat(), ending)
    size = per_read or len(sent)
    pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
    played = lab.stream(CHAT, pieces, usage=None)

    assert played.body == wanted
    assert played.response.ending is Ending.FINAL_CHUNK
    check(played.record, "9/0/0/2")
    assert played.record["bytesOut"] == len(wanted)
    assert _sent(lab, played)["stream_options"] == {"include_usage": True}


@pytest.mark.wire(43)
def test_injection_changes_nothing_else(lab: Lab) -> None:
    """The option is spliced into the text: spaces, order and escapes of the client's body stay."""
    directive = lab.directive(Script.sse(sse.chat()))
    rest = (
        f'  "model" : "gpt-test", "stream":true,"user":"{directive}", "messages":[{{"content":"\\u00e9"}}] }}'
    )
    played = lab.send(CHAT, ("{" + rest).encode())

    (seen,) = lab.upstream.requests(played.entries[0]["seq"] - 1)
    assert seen["body"] == ('{"stream_options":{"include_usage":true},' + rest).encode()
    assert played.body == b"".join(KEPT)


@pytest.mark.wire(44)
def test_client_that_wants_usage(lab: Lab) -> None:
    body = lab.stream_body(CHAT, Script.sse(sse.chat()))
    played = lab.send(CHAT, body)

    assert played.body == b"".join(sse.chat())
    check(played.record, "9/0/0/2")
    (seen,) = lab.upstream.requests(played.entries[0]["seq"] - 1)
    assert seen["body"] == body


@pytest.mark.wire(44)
@pytest.mark.parametrize(
    "options",
    [{"include_usage": False}, {"include_usage": None}, {"include_obfuscation": False}, {}],
    ids=["false", "null", "only something else", "empty"],
)
def test_client_that_declines_usage(lab: Lab, options: dict[str, Any]) -> None:
    """It looks as if it had been declined, and is metered all the same; other options stay."""
    played = lab.stream(CHAT, sse.chat(), stream_options=options)

    assert played.body == b"".join(KEPT)
    check(played.record, "9/0/0/2")
    assert _sent(lab, played)["stream_options"] == options | {"include_usage": True}


@pytest.mark.wire(45)
@pytest.mark.parametrize("envelope", ["native", "ohmygpt"])
def test_upstream_that_refuses_the_option(lab: Lab, envelope: str) -> None:
    """One retry without it, one record; requests of that kind are not asked again for a moment."""
    model = {"native": "gpt-plain", "ohmygpt": "gpt-plain-2"}[envelope]
    options = f"fault=stream_options_400,envelope={envelope},usage=never"
    first = lab.stream(CHAT, options, usage=None, model=model)

    assert first.body.endswith(DONE)
    check(first.record, ESTIMATE)
    assert [entry["status"] for entry in first.entries] == [400, 200]
    assert [attempt["statusCode"] for attempt in first.record["attempts"]] == [400, 200]
    assert "stream_options" not in _sent(lab, first, 1)

    second = lab.stream(CHAT, options, usage=None, model=model)
    assert [entry["status"] for entry in second.entries[2:]][-1] == 200
    check(second.record, ESTIMATE)


@pytest.mark.wire(106)
def test_a_refusal_to_one_user_leaves_others_alone(lab: Lab) -> None:
    """Refusals can be brought about; they must not switch off the metering of anybody else."""
    refused = "fault=stream_options_400,usage=never"
    for _ in range(2):
        check(lab.stream(CHAT, refused, usage=None, model="gpt-plain").record, ESTIMATE)
    other = add_user(lab.weir, credits="5")
    body = lab.stream_body(CHAT, "prompt=9,out=2,chunks=2", usage=None, model="gpt-plain")
    played = lab.send(CHAT, body, lab.headers(Authorization=f"Bearer {other.key}"))
    check(played.record, "9/0/0/2")
    assert _sent(lab, played, -1)["stream_options"] == {"include_usage": True}


@pytest.mark.wire(85)
@pytest.mark.parametrize("status", [400, 422])
def test_refusals_in_other_words(lab: Lab, status: int) -> None:
    detail = [{"type": "extra_forbidden", "loc": ["body", "stream_options", "include_usage"], "msg": "no"}]
    body = sse.compact({"detail": detail})
    lab.stream(CHAT, Script.body(body, status=status), usage=None, model="gpt-renamed")
    (first, *_) = lab.entries()
    assert first["status"] == status
    assert [entry["status"] for entry in lab.entries()] == [status, status]


@pytest.mark.wire(45)
def test_client_that_asked_for_the_option_hears_the_refusal(lab: Lab) -> None:
    """Dropping what the client itself asked for would be a lie."""
    played = lab.stream(CHAT, "fault=stream_options_400", model="gpt-renamed")

    assert played.response.status == 400
    assert json.loads(played.body)["error"]["type"] == "invalid_request_error"
    check(played.record, UNKNOWN, "upstream_error", status=400)
    assert len(played.entries) == 1


@pytest.mark.wire(46)
@pytest.mark.parametrize(
    "events",
    [
        [chunk("hi"), chunk(finish="stop", usage=sse.USAGE_9_2), DONE],
        [chunk("hi", usage=sse.USAGE_9_2), DONE],
        [chunk("hi"), data({"choices": [], "usage": sse.USAGE_9_2, "error": {"message": "no"}})],
        [chunk("hi"), data({"choices": [], "usage": None}), chunk(finish="stop"), DONE],
        [chunk("hi"), data({"choices": [], "prompt_filter_results": []}), chunk(finish="stop"), DONE],
        [chunk("hi"), b': {"choices":[],"usage":{}}\n\n', chunk(finish="stop"), DONE],
    ],
    ids=[
        "usage with the finish",
        "usage with text",
        "beside an error",
        "usage null",
        "no usage",
        "a comment",
    ],
)
def test_chunks_that_are_not_the_artefact_stay(lab: Lab, events: list[bytes]) -> None:
    played = lab.stream(CHAT, events, usage=None)

    assert played.body == b"".join(events)
    if b"error" not in played.body:
        check(played.record, "9/0/0/2" if b"prompt_tokens" in played.body else ESTIMATE)


@pytest.mark.wire(43)
def test_stripping_does_not_hold_back_what_is_complete(lab: Lab) -> None:
    """Each event leaves with its blank line, though the next one is not there yet."""
    whole = [chunk("one"), b": comment\n\n"]
    halves = [(chunk("two")[:20], b""), (chunk("two")[20:], chunk("two"))]
    rest = [(event, event if event in KEPT else b"") for event in sse.chat()]
    played = lab.in_step(CHAT, [*((event, event) for event in whole), *halves, *rest], usage=None)

    assert played.response.pieces == [*whole, chunk("two"), *KEPT]


@pytest.mark.wire(86)
@pytest.mark.parametrize("choices", [{}, {"choices": None}])
def test_artefact_without_choices(lab: Lab, choices: dict[str, Any]) -> None:
    """What is there only because it was asked for is taken out in whatever form it comes."""
    artefact = data({"id": "c1", "model": "gpt-upstream", **choices, "usage": sse.USAGE_9_2})
    played = lab.stream(CHAT, [chunk("hi"), chunk(finish="stop"), artefact, DONE], usage=None)

    assert played.body == b"".join(KEPT)
    check(played.record, "9/0/0/2")


@pytest.mark.wire(47)
@pytest.mark.parametrize(
    ("path", "members"),
    [
        (CHAT, {}),
        (CHAT, {"stream": False}),
        (CHAT, {"stream": None}),
        (CHAT, {"stream": False, "stream_options": None}),
        (MESSAGES, {}),
        (MESSAGES, {"stream": True}),
        (COUNT, {"stream": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value),
)
def test_bodies_that_are_left_alone(lab: Lab, path: str, members: dict[str, Any]) -> None:
    body = lab.body(path, Script.body(b"{}"), **members)
    played = lab.send(path, body)

    (seen,) = lab.upstream.requests(played.entries[0]["seq"] - 1)
    assert seen["body"] == body
    assert played.body == b"{}"


@pytest.mark.wire(47)
def test_only_the_models_name_changes_where_it_must(lab: Lab) -> None:
    """An alias goes upstream under the upstream's name, every other byte as it came."""
    body = lab.body(CHAT, Script.body(sse.chat_answer(sse.USAGE_9_2)), model="gpt-alias")
    played = lab.send(CHAT, body)

    (seen,) = lab.upstream.requests(played.entries[0]["seq"] - 1)
    assert seen["body"] == body.replace(b'"gpt-alias"', b'"vendor/renamed"')
    check(played.record, "9/0/0/2")
    assert (played.record["model"], played.record["requestedModel"]) == ("gpt-renamed", "gpt-alias")
