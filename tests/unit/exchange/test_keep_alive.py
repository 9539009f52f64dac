"""Comments that keep a silent stream from being taken for an ended one: where they are, what they change."""

from typing import Any

import pytest
from exchange_world import (
    ANSWER,
    CHUNK,
    DONE,
    STREAM,
    USAGE,
    FakeReply,
    FakeStream,
    World,
    close,
    consume,
    gone,
    gzipped,
    header,
    json_reply,
    stream_reply,
)

from app.exchange.exchange import KeepAlive
from app.exchange.relay import KEEP_ALIVE
from app.records.records import Outcome, UsageSource
from app.upstream.transport import StillSilent

WANTED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
EVERY_S, LONGEST_S = 15.0, 300.0
HALF = len(CHUNK) // 2


@pytest.fixture
def calm() -> World:
    return World(keep_alive=KeepAlive(EVERY_S, LONGEST_S))


def silence() -> StillSilent:
    return StillSilent()


def test_a_silent_stream_gets_comments_between_events(calm: World) -> None:
    answer = calm.forward(stream_reply(CHUNK, silence(), silence(), CHUNK, silence(), USAGE + DONE), **WANTED)
    assert list(answer.body) == [CHUNK, KEEP_ALIVE, KEEP_ALIVE, CHUNK, KEEP_ALIVE, USAGE + DONE]
    close(answer)
    record = calm.record
    assert (record.outcome, record.usage_source) == (Outcome.OK, UsageSource.UPSTREAM)
    assert record.bytes_out == len(CHUNK + CHUNK + USAGE + DONE)
    assert calm.watch.silences[-1] == EVERY_S


def test_there_is_none_within_an_event(calm: World) -> None:
    steps = CHUNK[:HALF], silence(), CHUNK[HALF:-1], silence(), CHUNK[-1:], silence(), USAGE + DONE
    answer = calm.forward(stream_reply(*steps), **WANTED)
    assert list(answer.body) == [CHUNK[:HALF], CHUNK[HALF:-1], CHUNK[-1:], KEEP_ALIVE, USAGE + DONE]


def test_an_event_that_is_held_back_lets_one_pass(calm: World) -> None:
    """The chunk of usage that the client did not ask for is kept until it is whole: nobody has seen it."""
    answer = calm.forward(
        stream_reply(CHUNK, USAGE[:HALF], silence(), USAGE[HALF:], silence(), DONE), stream=True
    )
    assert list(answer.body) == [CHUNK, KEEP_ALIVE, KEEP_ALIVE, DONE]
    close(answer)
    assert calm.record.usage_source is UsageSource.UPSTREAM


def test_there_is_none_between_cr_and_lf(calm: World) -> None:
    crlf = CHUNK.replace(b"\n", b"\r\n")
    steps = crlf[:-1], silence(), crlf[-1:], silence(), crlf, silence(), USAGE + DONE
    answer = calm.forward(stream_reply(*steps), **WANTED)
    assert list(answer.body) == [crlf[:-1], crlf[-1:], KEEP_ALIVE, crlf, KEEP_ALIVE, USAGE + DONE]


def test_there_is_none_behind_the_end_of_the_stream(calm: World) -> None:
    answer = calm.forward(stream_reply(CHUNK, USAGE + DONE, silence()), **WANTED)
    assert list(answer.body) == [CHUNK, USAGE + DONE]


def test_a_stream_that_has_begun_with_nothing_begins_with_one(calm: World) -> None:
    answer = calm.forward(stream_reply(silence(), silence(), CHUNK, USAGE + DONE), **WANTED)
    assert (answer.status, header(answer, "content-type")) == (200, STREAM["content-type"])
    chunks = answer.body.__iter__()
    assert [next(chunks), next(chunks), next(chunks)] == [KEEP_ALIVE, KEEP_ALIVE, CHUNK]  # type: ignore[call-overload]
    assert consume(answer) == USAGE + DONE
    record = calm.record
    assert (record.outcome, record.bytes_out) == (Outcome.OK, len(CHUNK + USAGE + DONE))
    assert [(attempt.status_code, attempt.error) for attempt in record.attempts] == [(200, None)]


def test_a_client_that_leaves_with_comments_alone_has_got_nothing(calm: World) -> None:
    answer = calm.forward(stream_reply(silence(), gone()), **WANTED)
    assert next(iter(answer.body)) == KEEP_ALIVE
    close(answer)
    record = calm.record
    assert (record.outcome, record.bytes_out, record.status_code) == (Outcome.CLIENT_ABORT, 0, 499)


def test_the_longest_silence_is_what_it_was(calm: World) -> None:
    def pass_time() -> bytes:
        calm.clock.now += LONGEST_S / 2
        raise silence()

    answer = calm.forward(stream_reply(CHUNK, pass_time, pass_time, CHUNK), **WANTED)
    chunks = iter(answer.body)
    assert [next(chunks), next(chunks)] == [CHUNK, KEEP_ALIVE]
    with pytest.raises(ConnectionResetError):
        next(chunks)
    assert (calm.record.outcome, calm.record.error_type) == (Outcome.UPSTREAM_TIMEOUT, "timeout")


def test_a_comment_is_no_sign_of_the_first_token(calm: World) -> None:
    def later() -> bytes:
        calm.clock.now += 40
        return CHUNK

    answer = calm.forward(stream_reply(silence(), silence(), later, USAGE + DONE), **WANTED)
    consume(answer)
    assert calm.record.ttft_ms == 40_000


@pytest.mark.parametrize(
    "reply",
    [
        stream_reply(gzipped(CHUNK + USAGE + DONE), content_encoding="gzip"),
        stream_reply(CHUNK + USAGE + DONE, content_length=str(len(CHUNK + USAGE + DONE))),
    ],
)
def test_answers_that_are_coded_or_have_a_length_get_none(calm: World, reply: FakeReply) -> None:
    consume(calm.forward(reply, **WANTED))
    assert calm.watch.silences == []


def test_answers_that_are_no_streams_get_none(calm: World) -> None:
    consume(calm.forward(json_reply(ANSWER)))
    assert calm.watch.silences == []


def test_without_it_nobody_listens_for_silence() -> None:
    world = World()
    assert consume(world.forward(stream_reply(CHUNK, USAGE + DONE), **WANTED)) == CHUNK + USAGE + DONE
    assert world.watch.silences == []


def test_chunks_that_pass_within_the_event_loop_put_it_off(calm: World) -> None:
    calm.stream = FakeStream()
    seen: list[float] = []

    def look() -> bytes:
        seen.append(calm.watch.heard_at())
        calm.clock.now += 10
        return CHUNK

    answer = calm.forward(stream_reply(CHUNK, look, look, look, USAGE + DONE), **WANTED)
    consume(answer)
    assert calm.stream.taken, "nothing passed that way"
    assert seen == sorted(set(seen))
