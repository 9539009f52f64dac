"""Why a request failed, in words: what its record says of it, and that the client may have been told less."""

import json
from typing import Any

import pytest
from exchange_world import (
    ANSWER,
    CHUNK,
    FakeReply,
    World,
    close,
    consume,
    error_of,
    error_reply,
    failure,
    json_reply,
    stream_reply,
)

from app.exchange.relay import AnswerCut
from app.records.records import MAX_MESSAGE

ACCOUNT = "Your credit balance is too low, key secret-of-a at api.ohmygpt.com"


def words(world: World) -> tuple[str | None, str | None]:
    document = world.record.to_document()
    return document.get("errorMessage"), document.get("toldMessage")


def page(status: int) -> FakeReply:
    return FakeReply(status, {"content-type": "text/html"}, b"<html>host.example.com</html>")


def test_a_refusal_of_ours_is_what_the_client_was_told() -> None:
    world = World()
    told = error_of(world.forward(raw=b"no json"))["message"]
    assert words(world) == (told, None)


def test_a_message_that_passes_is_kept_as_it_was_told() -> None:
    world = World(keys=("a",))
    told = error_of(world.forward(error_reply(400, "no tool named 'x'")))["message"]
    assert words(world) == (told, None) == ("no tool named 'x'", None)


@pytest.mark.parametrize("status", [402, 500])
def test_the_reason_is_kept_where_the_client_hears_a_general_one(status: int) -> None:
    world = World(keys=("a",))
    told = error_of(world.forward(error_reply(status, ACCOUNT)))["message"]
    assert words(world) == ("Your credit balance is too low, key [key] at [host]", told)
    assert "balance" not in told


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (page(503), "The upstream answered with a web page."),
        (json_reply(b"", status=500), "The upstream failed to answer the request."),
        (failure("unreachable"), "The upstream could not be reached (scripted)."),
        (failure("timeout"), "The upstream did not answer in time (scripted)."),
    ],
)
def test_what_failed_without_words_has_some(reply: FakeReply | BaseException, reason: str) -> None:
    world = World(keys=("a",))
    consume(world.forward(reply))
    assert words(world)[0] == reason


ERROR: dict[str, Any] = {
    "message": "boom at https://api.ohmygpt.com/v1 for secret-of-a",
    "type": "overloaded",
}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (
            stream_reply(CHUNK, f"data: {json.dumps({'error': ERROR})}\n\n".encode()),
            "boom at [url] for [key]",
        ),
        (json_reply(json.dumps({"error": ERROR}).encode()), "boom at [url] for [key]"),
        (stream_reply(CHUNK, failure("timeout")), "The upstream fell silent within its answer."),
        (stream_reply(CHUNK), "The upstream's answer ended before its end."),
        (json_reply(b"no json"), "The upstream's answer is not JSON."),
        (json_reply(b'{"choices":[]}'), "The upstream answered nothing, and told no error."),
    ],
)
def test_an_answer_that_breaks_off_is_explained(reply: FakeReply, reason: str) -> None:
    world = World(keys=("a",))
    answer = world.forward(reply, stream="stream" in reply.headers["content-type"])
    try:
        consume(answer)
    except AnswerCut:
        close(answer)
    assert words(world) == (reason, None)


def test_a_success_and_a_client_that_left_need_no_words() -> None:
    world = World(keys=("a",))
    answer = world.forward(stream_reply(CHUNK, b"data: [DONE]\n\n"), stream=True)
    close(answer)
    assert words(world) == (None, None)
    world = World(keys=("a",))
    consume(world.forward(json_reply(ANSWER)))
    assert world.record.is_success
    assert words(world) == (None, None)


def test_a_long_message_is_cut_and_fit_for_a_database() -> None:
    world = World(keys=("a",))
    consume(world.forward(error_reply(400, "x \ud800" * 500)))
    message = words(world)[0]
    assert message is not None
    assert len(message.encode()) == MAX_MESSAGE


def test_messages_are_left_out_where_they_are_not_wanted() -> None:
    world = World(keys=("a",))
    world.gateway.keeps_messages = False
    consume(world.forward(error_reply(402, ACCOUNT)))
    assert words(world) == (None, None)
    assert world.record.error_type
