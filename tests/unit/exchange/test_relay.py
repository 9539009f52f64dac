"""Every way in which an answer under way can end: settled once, with the truth about it."""

import json
import logging
import zlib
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from typing import Any

import pytest
from exchange_world import (
    ANSWER,
    CHUNK,
    COST,
    DONE,
    STREAM,
    USAGE,
    FakeReply,
    FakeStream,
    World,
    close,
    consume,
    failure,
    gone,
    gzipped,
    header,
    json_reply,
    stream_reply,
)
from gevent import GreenletExit

from app.exchange.exchange import Answer
from app.exchange.ports import NoPace
from app.exchange.relay import LINGER_S, MOST_METERED, AnswerCut, AnswerPath
from app.keys.key_mask import KeyMask
from app.keys.upstream_outcome import KeyOutcome
from app.records.records import Outcome, UsageSource
from app.upstream.transport import Passed, UpstreamFailure
from app.wires.endpoints import CHAT, COUNT_TOKENS, MESSAGES, Endpoint

WANTED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
ERROR_EVENT = b'data: {"error":{"message":"boom","type":"overloaded"}}\n\n'
FINISHED = b'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'


def settled(
    world: World,
    outcome: Outcome,
    *,
    status: int = 200,
    source: UsageSource = UsageSource.NONE,
    bytes_out: int | None = None,
    events: int | None = None,
) -> None:
    """The one record says this. `events`: the output is estimated by so many events."""
    record = world.record
    assert (record.outcome, record.status_code, record.usage_source) == (outcome, status, source)
    assert bytes_out is None or record.bytes_out == bytes_out
    tokens, cost = ((9, 2), COST) if source is not UsageSource.NONE else ((0, 0), 0)
    if events is not None:
        sent = len(world.upstream.sent[0][0].body)
        tokens = (record.input_tokens, events)
        assert 0 < record.input_tokens <= sent
        cost = record.input_tokens * 1_000 + events * 10_000
    assert (record.input_tokens, record.output_tokens, record.cost_nano_usd) == (*tokens, cost)
    assert ("estimated" in record.usage_flags) is (source is UsageSource.ESTIMATE)
    assert world.directory.charges == ([("ann", cost)] if cost else [])
    assert world.keys.leased == 0
    assert world.watch.stops >= 1
    assert not world.watch.is_waiting


def cut(answer: Answer) -> bytes:
    """Consume an answer that must end in a broken connection; what came before."""
    got: list[bytes] = []
    with pytest.raises(AnswerCut) as caught:
        got.extend(answer.body)
    assert caught.value.errno
    close(answer)
    return b"".join(got)


def take(answer: Answer, count: int) -> list[bytes]:
    """The first chunks, the last of them not yet known to be sent."""
    body = iter(answer.body)
    return [next(body) for _ in range(count)]


def test_a_whole_answer_is_relayed_and_booked(world: World) -> None:
    reply = json_reply(ANSWER[:30], ANSWER[30:], content_length=str(len(ANSWER)))
    answer = world.forward(reply)
    assert header(answer, "content-length") == str(len(ANSWER))
    assert consume(answer) == ANSWER
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM, bytes_out=len(ANSWER))
    assert world.record.upstream_model == "up-model"
    assert world.record.ttft_ms is None
    assert world.keys.reports == [("k1", KeyOutcome.OK, "ok")] * 2  # its beginning and its end
    assert world.keys.leased == 0
    assert reply.closes == 1


def test_a_stream_is_relayed_chunk_by_chunk_and_booked(world: World) -> None:
    def later() -> bytes:
        world.clock.now += 0.25
        return CHUNK

    answer = world.forward(stream_reply(b": hello\n\n", later, USAGE, DONE), **WANTED)
    world.clock.now += 0.5
    assert list(answer.body) == [b": hello\n\n", CHUNK, USAGE, DONE]
    close(answer)
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM, bytes_out=9 + len(CHUNK + USAGE + DONE))
    assert world.record.ttft_ms == 750
    assert world.record.latency_ms == 750
    assert header(answer, "x-accel-buffering") == "no"
    assert header(answer, "cache-control") == "no-cache"
    assert header(answer, "content-length") is None


def test_an_upstream_that_says_how_to_cache_is_heard(world: World) -> None:
    answer = world.forward(stream_reply(DONE, cache_control="no-store"), **WANTED)
    assert header(answer, "cache-control") == "no-store"
    consume(answer)


def test_a_stream_without_a_terminator_but_with_every_choice_finished_is_whole(world: World) -> None:
    assert consume(world.forward(stream_reply(FINISHED, USAGE), **WANTED)) == FINISHED + USAGE
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


def test_an_answer_that_names_no_type_is_called_json(world: World) -> None:
    answer = world.forward(FakeReply(200, {}, ANSWER))
    assert header(answer, "content-type") == "application/json"
    consume(answer)


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ({"content-length": "5", "transfer-encoding": "chunked"}, None),
        ({"content-length": "x"}, None),
        ({"content-length": "²"}, None),
        ({"content-length": str(len(ANSWER))}, str(len(ANSWER))),
    ],
)
def test_only_a_sound_length_is_promised(world: World, headers: dict[str, str], length: str | None) -> None:
    answer = world.forward(FakeReply(200, headers, ANSWER))
    assert header(answer, "content-length") == length
    consume(answer)


@pytest.mark.wire(56)
def test_a_clean_end_without_a_terminator_drops_the_connection(world: World) -> None:
    assert cut(world.forward(stream_reply(CHUNK, USAGE), **WANTED)) == CHUNK + USAGE
    settled(world, Outcome.UPSTREAM_TRUNCATED, source=UsageSource.PARTIAL, bytes_out=len(CHUNK + USAGE))
    assert world.record.error_type == "truncated"


@pytest.mark.wire(14)
def test_usage_in_a_last_event_without_its_blank_line_is_read(world: World) -> None:
    assert cut(world.forward(stream_reply(CHUNK, USAGE.rstrip()), **WANTED)) == CHUNK + USAGE.rstrip()
    settled(world, Outcome.UPSTREAM_TRUNCATED, source=UsageSource.PARTIAL)


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("truncated", Outcome.UPSTREAM_TRUNCATED),
        ("reset", Outcome.UPSTREAM_TRUNCATED),
        ("timeout", Outcome.UPSTREAM_TIMEOUT),
    ],
)
@pytest.mark.parametrize("is_stream", [True, False])
def test_an_answer_that_breaks_off_drops_the_connection(
    world: World, kind: str, outcome: Outcome, is_stream: bool
) -> None:
    if is_stream:
        answer = world.forward(stream_reply(CHUNK, failure(kind)), **WANTED)
        assert cut(answer) == CHUNK
    else:
        answer = world.forward(json_reply(ANSWER[:20], failure(kind), content_length="500"))
        assert cut(answer) == ANSWER[:20]
    settled(world, outcome)
    assert world.record.error_type == kind


@pytest.mark.wire(55)
def test_a_cut_after_the_terminator_takes_nothing_from_the_client(world: World) -> None:
    assert consume(world.forward(stream_reply(CHUNK, USAGE + DONE, failure("truncated")), **WANTED))
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


def test_a_cut_after_the_terminator_of_a_promised_length_drops_the_connection(world: World) -> None:
    reply = stream_reply(CHUNK, USAGE + DONE, failure("truncated"), content_length="9999")
    assert cut(world.forward(reply, **WANTED)) == CHUNK + USAGE + DONE
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


def test_a_whole_body_shorter_than_its_promised_length_is_truncated(world: World) -> None:
    answer = world.forward(json_reply(ANSWER, failure("truncated"), content_length="9999"))
    assert cut(answer) == ANSWER
    settled(world, Outcome.UPSTREAM_TRUNCATED, source=UsageSource.UPSTREAM)


@pytest.mark.wire(54)
def test_an_error_event_is_relayed_and_booked_as_one(world: World) -> None:
    assert consume(world.forward(stream_reply(CHUNK, ERROR_EVENT), **WANTED)) == CHUNK + ERROR_EVENT
    settled(world, Outcome.STREAM_ERROR)
    assert world.record.error_type == "overloaded"


def test_an_error_event_before_a_cut_is_still_the_reason(world: World) -> None:
    assert cut(world.forward(stream_reply(CHUNK, ERROR_EVENT, failure("reset")), **WANTED))
    settled(world, Outcome.STREAM_ERROR)


@pytest.mark.wire(53)
def test_an_error_event_of_the_other_format_is_booked_with_what_was_seen(world: World) -> None:
    start = (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","model":"x",'
        b'"usage":{"input_tokens":9,"output_tokens":2}}}\n\n'
    )
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n'
    answer = world.forward(stream_reply(start, error), endpoint=MESSAGES, stream=True)
    assert consume(answer) == start + error
    settled(world, Outcome.STREAM_ERROR, source=UsageSource.PARTIAL)
    assert world.record.error_type == "overloaded_error"


@pytest.mark.wire(52)
def test_an_error_body_under_status_200_is_relayed_and_booked_as_an_error(world: World) -> None:
    body = b'{"error":{"message":"no","type":"quota"}}'
    assert consume(world.forward(json_reply(body), **WANTED)) == body
    settled(world, Outcome.UPSTREAM_ERROR, bytes_out=len(body))
    assert world.record.error_type == "quota"


def test_a_body_that_is_no_json_is_relayed_but_is_no_success(world: World) -> None:
    assert consume(world.forward(json_reply(ANSWER[:40]))) == ANSWER[:40]
    settled(world, Outcome.UPSTREAM_ERROR)
    assert world.record.error_type == "bad_json"


@pytest.mark.wire(57)
def test_a_client_that_leaves_mid_stream_is_charged_what_the_drain_shows(world: World) -> None:
    reply = stream_reply(CHUNK, CHUNK, USAGE, DONE, b"never read")
    answer = world.forward(reply, **WANTED)
    take(answer, 2)
    close(answer)
    settled(world, Outcome.CLIENT_ABORT, source=UsageSource.UPSTREAM, bytes_out=len(CHUNK))
    assert world.watch.grace == [20.0]
    assert world.watch.departed
    assert (reply.reads, reply.closes) == (4, 1)


def test_a_client_that_was_seen_to_leave_is_sent_nothing_more(world: World) -> None:
    answer = world.forward(stream_reply(CHUNK, CHUNK, USAGE, DONE), **WANTED)
    take(answer, 1)
    world.watch.departed = True
    with pytest.raises(AnswerCut):
        next(iter(answer.body))
    close(answer)
    settled(world, Outcome.CLIENT_ABORT, source=UsageSource.UPSTREAM, bytes_out=len(CHUNK))


@pytest.mark.parametrize("is_whole_at_once", [True, False])
def test_a_client_that_leaves_before_the_first_byte_got_nothing(world: World, is_whole_at_once: bool) -> None:
    steps = [CHUNK + USAGE + DONE] if is_whole_at_once else [CHUNK, USAGE, DONE]
    answer = world.forward(stream_reply(*steps), **WANTED)
    take(answer, 1)
    close(answer)
    settled(world, Outcome.CLIENT_ABORT, status=499, source=UsageSource.UPSTREAM, bytes_out=0)


def test_a_client_seen_to_leave_before_the_first_byte_got_nothing(world: World) -> None:
    answer = world.forward(stream_reply(CHUNK + USAGE + DONE), **WANTED)
    world.watch.departed = True
    assert cut(answer) == b""
    settled(world, Outcome.CLIENT_ABORT, status=499, source=UsageSource.UPSTREAM, bytes_out=0)


@pytest.mark.parametrize("reply", [stream_reply(CHUNK, USAGE + DONE), stream_reply(CHUNK + USAGE + DONE)])
def test_a_body_that_is_never_iterated_is_settled_by_close(reply: FakeReply) -> None:
    world = World()
    answer = world.forward(reply, **WANTED)
    close(answer)
    settled(world, Outcome.CLIENT_ABORT, status=499, source=UsageSource.UPSTREAM, bytes_out=0)
    assert reply.closes == 1


@pytest.mark.wire(58)
def test_a_client_that_leaves_right_after_the_terminator_succeeded(world: World) -> None:
    answer = world.forward(stream_reply(CHUNK, USAGE, DONE, gone()), **WANTED)
    assert cut(answer) == CHUNK + USAGE + DONE
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM, bytes_out=len(CHUNK + USAGE + DONE))


@pytest.mark.wire(58)
def test_a_client_seen_to_leave_right_after_the_terminator_succeeded(world: World) -> None:
    def leaves() -> bytes:
        world.watch.departed = True
        return b""

    assert consume(world.forward(stream_reply(CHUNK, USAGE, DONE, leaves), **WANTED))
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


MESSAGE = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","model":"x",'
    b'"usage":{"input_tokens":9,"output_tokens":1}}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":2}}\n\n'
)
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
LATE = b": still here\n\n"


@pytest.mark.parametrize(("whole", "endpoint"), [(CHUNK + USAGE + DONE, CHAT), (MESSAGE + STOP, MESSAGES)])
@pytest.mark.parametrize("pause_s", [0.0, 0.4, LINGER_S])
def test_an_upstream_that_goes_on_after_the_terminator_is_left(
    world: World, whole: bytes, endpoint: Endpoint, pause_s: float
) -> None:
    """What came in time is passed on; then the answer ends as it should, however the upstream goes on."""

    def trickles() -> bytes:
        world.clock.now += max(pause_s, 0.1)
        return LATE

    reply = stream_reply(whole, *[trickles] * 100)
    answer = world.forward(reply, endpoint=endpoint, **(WANTED if endpoint is CHAT else {"stream": True}))
    body = consume(answer)

    late = ceil(LINGER_S / max(pause_s, 0.1) - 1e-9)
    assert body == whole + LATE * late
    assert world.watch.ends == [LINGER_S]
    assert reply.closes == 1
    record = world.record
    assert (record.outcome, record.usage_source, record.bytes_out) == (
        Outcome.OK,
        UsageSource.UPSTREAM,
        len(body),
    )
    assert (record.input_tokens, record.output_tokens) == (9, 2)
    assert world.keys.reports == [("k1", KeyOutcome.OK, "ok")] * 2
    assert world.watch.resets == 0


def test_an_upstream_that_is_silent_after_the_terminator_is_left(world: World) -> None:
    """The watch breaks the wait off with the failure of a silent upstream."""
    answer = world.forward(stream_reply(CHUNK, USAGE + DONE, failure("timeout")), **WANTED)
    assert consume(answer) == CHUNK + USAGE + DONE
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM, bytes_out=len(CHUNK + USAGE + DONE))


def test_an_error_and_the_terminator_end_an_answer_cleanly(world: World) -> None:
    answer = world.forward(stream_reply(ERROR_EVENT, DONE, failure("timeout")), **WANTED)
    assert consume(answer) == ERROR_EVENT + DONE
    settled(world, Outcome.STREAM_ERROR)


def test_no_end_is_set_for_an_answer_that_ends_by_its_length(world: World) -> None:
    assert consume(world.forward(json_reply(ANSWER, content_length=str(len(ANSWER))))) == ANSWER
    assert world.watch.ends == []


def test_no_end_is_set_before_the_terminator_has_gone_to_the_client(world: World) -> None:
    def is_unlimited() -> bytes:
        assert world.watch.ends == []
        return USAGE + DONE

    def is_limited() -> bytes:
        assert world.watch.ends == [LINGER_S]
        return b""

    assert consume(world.forward(stream_reply(CHUNK, is_unlimited, is_limited), **WANTED))


def test_a_client_seen_to_leave_before_the_upstream_broke_off_is_what_is_booked(world: World) -> None:
    def leaves() -> bytes:
        world.watch.departed = True
        raise failure("reset")

    assert cut(world.forward(stream_reply(CHUNK, leaves), **WANTED)) == CHUNK
    settled(world, Outcome.CLIENT_ABORT, source=UsageSource.ESTIMATE, bytes_out=len(CHUNK), events=1)


def test_a_close_after_all_that_was_promised_is_a_success_and_is_metered(world: World) -> None:
    reply = json_reply(ANSWER, lambda: b"\n", content_length=str(len(ANSWER)))
    answer = world.forward(reply)
    take(answer, 2)
    close(answer)
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


def test_a_client_that_leaves_while_the_upstream_is_silent_is_drained_within_the_grace(world: World) -> None:
    answer = world.forward(stream_reply(CHUNK, gone()), **WANTED)
    assert cut(answer) == CHUNK
    settled(world, Outcome.CLIENT_ABORT, source=UsageSource.ESTIMATE, bytes_out=len(CHUNK), events=1)


def test_what_was_seen_until_the_drain_is_over_is_booked(world: World) -> None:
    answer = world.forward(stream_reply(CHUNK, CHUNK, USAGE, gone()), **WANTED)
    take(answer, 1)
    close(answer)
    settled(world, Outcome.CLIENT_ABORT, status=499, source=UsageSource.PARTIAL)


@pytest.mark.parametrize("step", [failure("truncated"), failure("timeout"), b""])
def test_an_upstream_that_ends_during_the_drain_is_booked_with_what_was_seen(
    world: World, step: bytes | UpstreamFailure
) -> None:
    answer = world.forward(stream_reply(CHUNK, CHUNK, USAGE, step), **WANTED)
    take(answer, 2)
    close(answer)
    settled(world, Outcome.CLIENT_ABORT, source=UsageSource.PARTIAL, bytes_out=len(CHUNK))


def test_a_whole_answer_is_drained_as_well(world: World) -> None:
    answer = world.forward(json_reply(ANSWER[:20], ANSWER[20:]))
    take(answer, 1)
    close(answer)
    settled(world, Outcome.CLIENT_ABORT, status=499, source=UsageSource.UPSTREAM)


def test_under_the_policy_cancel_the_upstream_is_closed_at_once(world: World) -> None:
    world.gateway.on_client_abort = "cancel"
    reply = stream_reply(CHUNK, CHUNK, USAGE, DONE)
    answer = world.forward(reply, **WANTED)
    take(answer, 2)
    close(answer)
    assert world.watch.grace == [0.0]
    assert (reply.reads, reply.closes) == (2, 1)
    settled(world, Outcome.CLIENT_ABORT, source=UsageSource.ESTIMATE, bytes_out=len(CHUNK), events=2)


def test_closing_twice_settles_once(world: World) -> None:
    reply = stream_reply(CHUNK, DONE)
    answer = world.forward(reply, **WANTED)
    for _ in range(3):
        close(answer)
    settled(world, Outcome.CLIENT_ABORT, status=499, source=UsageSource.ESTIMATE, events=1)
    assert reply.closes == 1


def test_asking_on_after_the_end_settles_once(world: World) -> None:
    answer = world.forward(stream_reply(CHUNK, DONE), **WANTED)
    consume(answer)
    with pytest.raises(StopIteration):
        next(iter(answer.body))
    settled(world, Outcome.OK, source=UsageSource.ESTIMATE, events=1)
    assert world.keys.leased == 0


def test_a_worker_that_is_stopped_while_waiting_leaves_a_record(world: World) -> None:
    answer = world.forward(stream_reply(CHUNK, USAGE, GreenletExit()), **WANTED)
    with pytest.raises(GreenletExit):
        list(answer.body)
    close(answer)
    settled(world, Outcome.INTERRUPTED, source=UsageSource.PARTIAL, bytes_out=len(CHUNK + USAGE))


def _stop() -> None:
    raise GreenletExit


def test_a_worker_that_is_stopped_while_its_client_reads_slowly_leaves_a_record(world: World) -> None:
    """The server closes the body on its way out; the rest of the upstream's answer is not read any more."""
    reply = stream_reply(CHUNK, CHUNK, USAGE, DONE)
    answer = world.forward(reply, **WANTED)
    take(answer, 1)

    def serve() -> None:
        try:
            _stop()
        finally:
            close(answer)

    with pytest.raises(GreenletExit):
        serve()
    settled(world, Outcome.INTERRUPTED, source=UsageSource.NONE)
    assert world.record.error_type == "interrupted"
    assert reply.closes == 1


def test_a_worker_that_is_stopped_while_draining_leaves_a_record(world: World) -> None:
    answer = world.forward(stream_reply(CHUNK, CHUNK, GreenletExit()), **WANTED)
    take(answer, 1)
    with pytest.raises(GreenletExit):
        close(answer)
    settled(world, Outcome.CLIENT_ABORT, status=499, source=UsageSource.ESTIMATE, events=2)


@pytest.mark.parametrize("is_departed", [False, True])
def test_a_bug_while_relaying_leaves_a_record(
    world: World, is_departed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    reply = stream_reply(CHUNK, ValueError("bug"))
    answer = world.forward(reply, **WANTED)
    if is_departed:
        with pytest.raises(ValueError, match="bug"):
            close(answer)
        settled(world, Outcome.CLIENT_ABORT, status=499, source=UsageSource.ESTIMATE, events=1)
    else:
        with caplog.at_level(logging.CRITICAL):
            assert cut(answer) == CHUNK
        settled(world, Outcome.INTERNAL_ERROR)
    assert reply.closes == 1


def test_the_first_ending_wins(world: World) -> None:
    answer = world.forward(stream_reply(CHUNK, failure("timeout")), **WANTED)
    cut(answer)
    close(answer)
    settled(world, Outcome.UPSTREAM_TIMEOUT)


# Compressed answers


def deflated_events(*events: bytes) -> list[bytes]:
    deflater = zlib.compressobj(wbits=31)
    return [deflater.compress(event) + deflater.flush(zlib.Z_SYNC_FLUSH) for event in events]


@pytest.mark.wire(63)
def test_a_compressed_answer_is_metered_and_relayed_as_it_came(world: World) -> None:
    packed = gzipped(ANSWER)
    answer = world.forward(json_reply(packed[:9], packed[9:], content_encoding="GZIP"))
    assert header(answer, "content-encoding") == "gzip"
    assert consume(answer) == packed
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM, bytes_out=len(packed))


@pytest.mark.wire(63)
def test_a_compressed_stream_is_relayed_decoded_when_a_chunk_must_be_taken_out(world: World) -> None:
    parts = deflated_events(CHUNK, USAGE, DONE)
    answer = world.forward(stream_reply(*parts, content_encoding="gzip"), stream=True)
    assert header(answer, "content-encoding") is None
    assert list(answer.body) == [CHUNK, DONE]
    close(answer)
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


@pytest.mark.wire(64)
@pytest.mark.parametrize(
    "reply",
    [
        lambda: json_reply(ANSWER, content_encoding="gzip"),
        lambda: json_reply(ANSWER, content_encoding="rot13"),
        lambda: json_reply(gzipped(ANSWER), content_encoding="gzip, br"),
    ],
)
def test_an_answer_that_cannot_be_read_is_never_relayed(world: World, reply: Callable[[], FakeReply]) -> None:
    scripted = reply()
    answer = world.forward(scripted, json_reply(ANSWER))
    assert answer.status == 502
    assert b"could not be read" in consume(answer)
    assert world.record.outcome is Outcome.UPSTREAM_ERROR
    assert world.record.upstream_status_code == 200
    assert world.keys.reports == [("k1", KeyOutcome.OK, "ok"), ("k1", KeyOutcome.FAILED, "garbled")]
    assert world.keys.leased == 0
    assert scripted.closes == 1
    assert len(world.upstream.sent) == 1


ECHO = CHUNK.replace(b"hi", b"secret-of-k1")


@pytest.mark.parametrize("rest", [[gzipped(ECHO), gzipped(DONE)], [gzipped(ECHO + USAGE + DONE)]])
def test_a_coded_answer_that_repeats_the_key_is_cut_before_it(world: World, rest: list[bytes]) -> None:
    """Also where the same read brings the stream's end: the client does not get it."""
    answer = world.forward(stream_reply(gzipped(CHUNK), *rest, content_encoding="gzip"), **WANTED)
    assert cut(answer) == gzipped(CHUNK)
    assert world.record.outcome is Outcome.UPSTREAM_ERROR
    assert "key_echoed" in world.record.usage_flags
    assert world.keys.leased == 0


def test_coded_bytes_wait_until_they_show_to_be_no_key(world: World) -> None:
    first, second = gzipped(b"data: {}\n\n: secret-of-"), gzipped(b"nobody\n\n" + CHUNK + USAGE + DONE)
    body = world.forward(stream_reply(first, second, content_encoding="gzip"), **WANTED).body
    assert list(body) == [first + second]
    assert world.record.outcome is Outcome.OK


def test_coded_bytes_do_not_wait_for_ever(world: World) -> None:
    empty = [gzipped(b"") * 1000] * 10
    reply = stream_reply(gzipped(CHUNK + b": secret-"), *empty, content_encoding="gzip")
    cut(world.forward(reply, **WANTED))
    assert world.record.outcome is Outcome.UPSTREAM_ERROR


@pytest.mark.parametrize("end", [b"", failure("truncated"), failure("timeout")])
def test_what_looked_like_a_key_is_sent_when_the_answer_ends(world: World, end: Any) -> None:
    whole = CHUNK + USAGE + DONE
    with suppress(AnswerCut):
        body = world.forward(stream_reply(whole, b": secret-of", end), **WANTED).body
        assert b"".join(body) == whole + b": secret-of"
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


def test_an_answer_that_turns_to_garbage_is_cut(world: World) -> None:
    first, _ = deflated_events(CHUNK, USAGE)
    answer = world.forward(stream_reply(first, b"garbage" * 10, DONE, content_encoding="gzip"), **WANTED)
    assert cut(answer) == first
    settled(world, Outcome.UPSTREAM_ERROR)
    assert world.record.error_type == "garbled"


def test_garbage_during_the_drain_ends_it(world: World) -> None:
    first, _ = deflated_events(CHUNK + USAGE, b"")
    answer = world.forward(stream_reply(first, b"garbage" * 10, content_encoding="gzip"), **WANTED)
    take(answer, 1)
    close(answer)
    settled(world, Outcome.CLIENT_ABORT, status=499, source=UsageSource.PARTIAL)


# Taking out the usage chunk


@pytest.mark.wire(43)
def test_usage_the_client_did_not_ask_for_is_metered_and_taken_out(world: World) -> None:
    answer = world.forward(
        stream_reply(CHUNK, USAGE[:20], USAGE[20:], DONE, content_length="999"), stream=True
    )
    assert header(answer, "content-length") is None
    assert b"".join(answer.body) == CHUNK + DONE
    close(answer)
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM, bytes_out=len(CHUNK + DONE))
    assert world.upstream.bodies[0]["stream_options"] == {"include_usage": True}


@pytest.mark.wire(44)
@pytest.mark.parametrize(("wanted", "expected"), [(True, CHUNK + USAGE + DONE), (False, CHUNK + DONE)])
def test_what_the_client_said_of_usage_holds(world: World, wanted: bool, expected: bytes) -> None:
    options = {"include_usage": wanted}
    reply = stream_reply(CHUNK, USAGE, DONE)
    assert consume(world.forward(reply, stream=True, stream_options=options)) == expected
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM, bytes_out=len(expected))


def test_bytes_held_back_are_sent_when_the_answer_breaks_off(world: World) -> None:
    answer = world.forward(stream_reply(CHUNK + CHUNK[:30], failure("reset")), stream=True)
    assert cut(answer) == CHUNK + CHUNK[:30]
    settled(world, Outcome.UPSTREAM_TRUNCATED, bytes_out=len(CHUNK) + 30)


def test_a_json_answer_to_a_stream_request_is_left_alone(world: World) -> None:
    reply = FakeReply(200, {"content-type": "application/json", "content-length": str(len(ANSWER))}, ANSWER)
    answer = world.forward(reply, stream=True)
    assert header(answer, "content-length") == str(len(ANSWER))
    assert consume(answer) == ANSWER
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


def test_a_user_may_have_his_own_policy(world: World) -> None:
    from app.accounts.principal import Principal

    world.directory.principals["sk-ann"] = Principal("ann", "wk_ann", on_client_abort="cancel")
    consume(world.forward(stream_reply(DONE), **WANTED))
    assert world.watch.grace == [0.0]

    other = World()
    other.gateway.on_client_abort = "cancel"
    other.directory.principals["sk-ann"] = Principal("ann", "wk_ann", on_client_abort="drain")
    consume(other.forward(FakeReply(200, STREAM, DONE), **WANTED))
    assert other.watch.grace == [20.0]


def test_a_caller_without_a_balance_is_not_charged(world: World) -> None:
    from app.accounts.principal import Principal

    world.directory.principals["sk-ann"] = Principal("env", "env", is_metered=False)
    consume(world.forward(stream_reply(CHUNK, USAGE, DONE), **WANTED))
    assert world.record.cost_nano_usd == COST
    assert world.directory.charges == []


# What is noted in case the process dies


def test_a_stream_is_foreseen_at_its_first_chunk_and_before_its_last(world: World) -> None:
    answer = world.forward(stream_reply(CHUNK, CHUNK, USAGE, DONE), **WANTED)
    assert [request.request_id for request in world.sink.opened] == ["request-1"]
    assert world.sink.checkpointed == []
    take(answer, 1)
    (begun,) = world.sink.checkpointed
    assert (begun.outcome, begun.usage_source, begun.factory_key_id) == (
        Outcome.INTERRUPTED,
        UsageSource.NONE,
        "k1",
    )
    take(answer, 2)
    assert len(world.sink.checkpointed) == 1
    take(answer, 1)
    whole = world.sink.checkpointed[1]
    assert (whole.usage_source, whole.cost_nano_usd, whole.status_code) == (UsageSource.UPSTREAM, COST, 200)
    consume(answer)
    assert len(world.sink.checkpointed) == 2
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


def test_a_stream_that_arrives_in_one_piece_is_foreseen_once_and_whole(world: World) -> None:
    answer = world.forward(stream_reply(CHUNK + USAGE + DONE), **WANTED)
    take(answer, 1)
    assert [record.cost_nano_usd for record in world.sink.checkpointed] == [COST]


def test_a_plain_answer_is_foreseen_before_its_last_byte_leaves(world: World) -> None:
    answer = world.forward(json_reply(ANSWER[:20], ANSWER[20:], content_length=str(len(ANSWER))))
    take(answer, 1)
    assert world.sink.checkpointed == []
    take(answer, 1)
    assert [record.cost_nano_usd for record in world.sink.checkpointed] == [COST]
    consume(answer)
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


def test_what_is_not_forwarded_is_not_opened(world: World) -> None:
    world.sink.is_full = True
    world.gateway.refuses_when_full = True
    answer = world.forward(stream_reply(DONE), **WANTED)
    assert answer.status == 503
    assert world.sink.opened == []
    assert world.record.error_type == "journal_full"


# Clients whose answers end by the closing of the connection


def internal_bug() -> bytes:
    raise KeyError("bug")


@pytest.mark.parametrize("last", [None, failure("truncated"), failure("timeout"), gone(), internal_bug])
@pytest.mark.parametrize("ends_by_close", [True, False])
def test_a_cut_is_a_reset_for_a_client_that_would_take_it_for_the_end(
    ends_by_close: bool, last: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    world.ends_by_close = ends_by_close
    steps = [CHUNK] if last is None else [CHUNK, last]
    with caplog.at_level(logging.CRITICAL):
        assert cut(world.forward(stream_reply(*steps), **WANTED)) == CHUNK
    assert world.watch.resets == int(ends_by_close)


def test_a_worker_that_is_stopped_resets_such_a_client(world: World) -> None:
    world.ends_by_close = True
    answer = world.forward(stream_reply(CHUNK, GreenletExit()), **WANTED)
    with pytest.raises(GreenletExit):
        list(answer.body)
    close(answer)
    assert world.watch.resets == 1


def test_a_worker_that_is_stopped_while_it_writes_resets_such_a_client(world: World) -> None:
    world.ends_by_close = True
    answer = world.forward(stream_reply(CHUNK, CHUNK), **WANTED)
    take(answer, 1)

    def write() -> None:
        try:
            raise GreenletExit
        finally:
            close(answer)

    with pytest.raises(GreenletExit):
        write()
    assert world.watch.resets == 1


def test_a_whole_answer_resets_nobody(world: World) -> None:
    world.ends_by_close = True
    assert consume(world.forward(stream_reply(CHUNK, USAGE, DONE), **WANTED))
    assert world.watch.resets == 0


def test_a_cut_of_a_promised_length_shows_by_itself(world: World) -> None:
    world.ends_by_close = True
    assert (
        cut(world.forward(stream_reply(CHUNK, failure("truncated"), content_length="999"), **WANTED)) == CHUNK
    )
    assert world.watch.resets == 0


# Streams that do not say that they are one

UNTYPED: list[dict[str, str]] = [
    {}, {"content-type": "text/plain; charset=utf-8"}, {"content-type": "application/octet-stream"},
]  # fmt: skip


@pytest.mark.parametrize("headers", UNTYPED)
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b": hello\n\n", b"\r\n", b"retry: 3\n\n"])
@pytest.mark.parametrize("first_size", [1, 2, 1000])
def test_a_stream_without_its_type_is_metered_as_one(
    headers: dict[str, str], start: bytes, first_size: int
) -> None:
    world = World()
    data = start + CHUNK + USAGE + DONE
    answer = world.forward(FakeReply(200, headers, data[:first_size], data[first_size:]), stream=True)
    assert header(answer, "content-type") == headers.get("content-type", "text/event-stream")
    assert consume(answer) == start + CHUNK + DONE
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)
    assert header(answer, "x-accel-buffering") == "no"


@pytest.mark.parametrize("is_stripped", [True, False])
def test_a_coded_stream_without_its_type_is_metered_as_one(world: World, is_stripped: bool) -> None:
    data = CHUNK + USAGE + DONE
    reply = FakeReply(200, {"content-encoding": "gzip"}, gzipped(data)[:12], gzipped(data)[12:])
    answer = world.forward(reply, **({"stream": True} if is_stripped else WANTED))
    assert consume(answer) == (CHUNK + DONE if is_stripped else gzipped(data))
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


@pytest.mark.parametrize("headers", [*UNTYPED, {"content-type": "application/json"}])
def test_an_answer_that_is_no_stream_is_none_though_one_was_asked_for(headers: dict[str, str]) -> None:
    world = World()
    assert consume(world.forward(FakeReply(200, headers, ANSWER), **WANTED)) == ANSWER
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
@pytest.mark.parametrize("asked", [WANTED, {}], ids=["asked", "not asked"])
def test_a_stream_is_known_by_its_bytes(world: World, content_type: str, asked: dict[str, Any]) -> None:
    """Whatever it is called, and whether or not it was asked for."""
    reply = FakeReply(200, {"content-type": content_type}, CHUNK, USAGE, DONE)
    assert consume(world.forward(reply, **asked)) == CHUNK + USAGE + DONE
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", ""])
@pytest.mark.parametrize("asked", [WANTED, {}], ids=["asked", "not asked"])
def test_a_cut_is_a_cut_under_every_label(world: World, content_type: str, asked: dict[str, Any]) -> None:
    reply = FakeReply(200, {"content-type": content_type}, CHUNK, USAGE)
    assert cut(world.forward(reply, **asked)) == CHUNK + USAGE
    settled(world, Outcome.UPSTREAM_TRUNCATED, source=UsageSource.PARTIAL)


@pytest.mark.parametrize("behind", [b"", b"\n", b"\n\n"])
def test_json_under_an_event_streams_label_is_json(world: World, behind: bytes) -> None:
    assert consume(world.forward(stream_reply(ANSWER + behind), **WANTED)) == ANSWER + behind
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


@pytest.mark.parametrize(
    "body", [b'{"error":{"message":"no"}}\n\n', b'{"detail":"no"}', b"{}", b'{"choices":null}']
)
@pytest.mark.parametrize("make", [stream_reply, json_reply])
def test_a_body_without_an_answer_is_an_error_and_its_keys_failure(
    world: World, make: Callable[..., FakeReply], body: bytes
) -> None:
    assert consume(world.forward(make(body), **WANTED)) == body
    settled(world, Outcome.UPSTREAM_ERROR)
    assert world.keys.reports[-1] == ("k1", KeyOutcome.FAILED, "told_error")


def test_an_error_about_the_request_is_not_its_keys_failure(world: World) -> None:
    body = b'{"error":{"message":"no","type":"invalid_request_error"}}'
    consume(world.forward(json_reply(body)))
    settled(world, Outcome.UPSTREAM_ERROR)
    assert [outcome for _, outcome, _ in world.keys.reports] == [KeyOutcome.OK, KeyOutcome.CLIENT_FAULT]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({"type": "invalid_request_error", "code": "invalid_api_key"}, KeyOutcome.SUSPECT),
        ({"code": 401, "message": "x"}, KeyOutcome.SUSPECT),
        ({"type": "authentication_error"}, KeyOutcome.SUSPECT),
        ({"code": "insufficient_quota"}, KeyOutcome.EXHAUSTED),
        ({"code": 402}, KeyOutcome.EXHAUSTED),
        ({"code": "account_deactivated"}, KeyOutcome.BANNED),
        ({"code": 403}, KeyOutcome.CLIENT_FAULT),
        ({"code": "content_filter"}, KeyOutcome.CLIENT_FAULT),
        ({"code": 429}, KeyOutcome.MODEL_LIMITED),
        ({"type": "rate_limit_error"}, KeyOutcome.MODEL_LIMITED),
        ({"type": "overloaded_error"}, KeyOutcome.FAILED),
        ({"message": "Your account is banned: invalid_api_key, insufficient_quota"}, KeyOutcome.FAILED),
    ],
)
@pytest.mark.parametrize("is_stream", [True, False])
def test_an_error_under_status_200_says_of_its_key_what_its_codes_say(
    world: World, error: dict[str, object], told: KeyOutcome, is_stream: bool
) -> None:
    body = json.dumps({"error": error}).encode()
    reply = stream_reply(b"data: " + body + b"\n\n") if is_stream else json_reply(body)
    consume(world.forward(reply, **(WANTED if is_stream else {})))
    assert [outcome for _, outcome, _ in world.keys.reports] == [KeyOutcome.OK, told]


def test_fewer_choices_than_asked_for_are_not_the_keys_failure(world: World) -> None:
    finish = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    consume(world.forward(stream_reply(CHUNK, finish, USAGE, DONE), **WANTED, n=2))
    settled(world, Outcome.STREAM_ERROR, source=UsageSource.PARTIAL)
    assert [outcome for _, outcome, _ in world.keys.reports] == [KeyOutcome.OK, KeyOutcome.CLIENT_FAULT]


def test_usage_after_an_error_is_not_that_of_a_whole_answer(world: World) -> None:
    error = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}\n\n'
    consume(world.forward(stream_reply(CHUNK, error, USAGE, DONE), **WANTED))
    settled(world, Outcome.STREAM_ERROR, source=UsageSource.PARTIAL)
    assert world.keys.reports[-1] == ("k1", KeyOutcome.FAILED, "told_error")


def test_a_client_that_leaves_after_an_error_and_its_end_was_told_the_error(world: World) -> None:
    error = b'data: {"error":{"message":"no"}}\n\n'
    answer = world.forward(stream_reply(error + DONE, b": late\n\n"), **WANTED)
    body = iter(answer.body)
    next(body)
    next(body)
    close(answer)
    settled(world, Outcome.STREAM_ERROR)


@pytest.mark.parametrize("body", [[CHUNK, DONE], [FINISHED, DONE], [FINISHED], [FINISHED, USAGE]])
def test_fewer_choices_than_were_asked_for_are_no_success(world: World, body: list[bytes]) -> None:
    with suppress(ConnectionResetError):
        consume(world.forward(stream_reply(*body), **WANTED, n=2))
    assert world.record.outcome in (Outcome.STREAM_ERROR, Outcome.UPSTREAM_TRUNCATED)


def test_as_many_choices_as_were_asked_for_are_a_success(world: World) -> None:
    other = FINISHED.replace(b'"index":0', b'"index":1')
    assert consume(world.forward(stream_reply(FINISHED, other, USAGE, DONE), **WANTED, n=2))
    settled(world, Outcome.OK, source=UsageSource.UPSTREAM)


# Whole answers that do not tell what they used


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}])
def test_a_whole_answer_without_usage_is_charged_by_estimate(world: World, usage: Any) -> None:
    body = {"choices": [{"message": {"content": "word " * 80}, "finish_reason": "stop"}], "usage": usage}
    consume(world.forward(json_reply(json.dumps(body).encode())))
    settled(world, Outcome.OK, source=UsageSource.ESTIMATE, events=100)
    assert {"input_missing", "output_missing"} <= set(world.record.usage_flags)


def test_a_stream_of_large_events_is_estimated_by_its_size(world: World) -> None:
    large = CHUNK.replace(b'"hi"', b'"' + b"word " * 800 + b'"')
    consume(world.forward(stream_reply(large, large, FINISHED, DONE), **WANTED))
    assert world.record.usage_source is UsageSource.ESTIMATE
    assert world.record.output_tokens > 1500


def test_usage_that_is_older_than_the_content_is_not_final(world: World) -> None:
    early = CHUNK.replace(b'"usage":null', b'"usage":{"prompt_tokens":9,"completion_tokens":1}')
    consume(world.forward(stream_reply(early, *[CHUNK] * 20, FINISHED, DONE), **WANTED))
    assert (world.record.usage_source, world.record.input_tokens) == (UsageSource.ESTIMATE, 9)
    assert world.record.output_tokens >= 21


def test_a_count_of_tokens_that_is_none_is_not_estimated(world: World) -> None:
    consume(world.forward(json_reply(b'{"input_tokens":"x"}'), endpoint=COUNT_TOKENS))
    settled(world, Outcome.OK)


# Answers that come to nothing before they are relayed


@pytest.mark.wire(64)
@pytest.mark.parametrize("coding", ["gzip", "rot13"])
@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json", "text/plain"])
def test_an_answer_that_is_garbled_from_the_start_is_so_in_its_attempt(
    coding: str, content_type: str
) -> None:
    world = World()
    reply = FakeReply(200, {"content-encoding": coding, "content-type": content_type}, CHUNK)
    assert world.forward(reply, stream=True).status == 502
    assert [attempt.error for attempt in world.record.attempts] == ["garbled"]
    assert [reason for _, _, reason in world.keys.reports] == ["ok", "garbled"]
    assert (world.keys.leased, reply.closes) == (0, 1)


@pytest.mark.parametrize(
    ("error", "kind"), [(KeyError("bug"), "internal_error"), (GreenletExit(), "interrupted")]
)
def test_a_bug_before_the_relay_begins_leaves_nothing_open(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    kind: str,
) -> None:
    def fail(*_args: object, **_terms: object) -> None:
        raise error

    monkeypatch.setattr("app.exchange.handler.RelayStream", fail)
    reply = stream_reply(CHUNK)
    with caplog.at_level(logging.CRITICAL):
        if kind == "internal_error":
            assert world.forward(reply, **WANTED).status == 500
        else:
            with pytest.raises(GreenletExit):
                world.forward(reply, **WANTED)
    assert [reason for _, _, reason in world.keys.reports] == ["ok", kind]
    assert (world.keys.leased, reply.closes) == (0, 1)
    assert world.record.error_type == kind
    assert world.record.attempts[0].error == kind


def test_a_length_of_too_many_digits_is_none(world: World) -> None:
    answer = world.forward(json_reply(ANSWER, content_length="9" * 5000))
    assert header(answer, "content-length") is None
    assert consume(answer) == ANSWER


class TestPassing:
    """Chunks of text alone that go to the client past the server's loop."""

    def passing(self, world: World, *steps: Any, client: FakeStream, **body: Any) -> Answer:
        world.stream = client
        return world.forward(stream_reply(CHUNK, *steps), **(body or WANTED))

    def test_they_are_sent_and_counted(self, world: World) -> None:
        stream = FakeStream()
        answer = self.passing(world, CHUNK, CHUNK * 2, USAGE, DONE, client=stream)
        assert list(answer.body) == [CHUNK, USAGE, DONE]
        assert stream.taken == [CHUNK, CHUNK * 2]
        close(answer)
        settled(world, Outcome.OK, source=UsageSource.UPSTREAM, bytes_out=4 * len(CHUNK) + len(USAGE + DONE))

    def test_the_usage_chunk_is_still_removed(self, world: World) -> None:
        stream = FakeStream()
        answer = self.passing(world, CHUNK, USAGE, CHUNK, DONE, client=stream, stream=True)
        assert list(answer.body) == [CHUNK, DONE]
        assert stream.taken == [CHUNK, CHUNK]
        close(answer)
        settled(world, Outcome.OK, source=UsageSource.UPSTREAM, bytes_out=3 * len(CHUNK) + len(DONE))

    def test_what_the_connection_refuses_goes_the_usual_way(self, world: World) -> None:
        stream = FakeStream(Passed.NOT)
        answer = self.passing(world, CHUNK, CHUNK, USAGE, DONE, client=stream)
        assert list(answer.body) == [CHUNK, CHUNK, USAGE, DONE]
        assert stream.taken == [CHUNK]
        close(answer)
        settled(world, Outcome.OK, source=UsageSource.UPSTREAM, bytes_out=3 * len(CHUNK) + len(USAGE + DONE))

    def test_a_slow_client_is_waited_for(self, world: World) -> None:
        stream = FakeStream(Passed.PARTLY)
        answer = self.passing(world, CHUNK, USAGE, DONE, client=stream)
        assert list(answer.body) == [CHUNK, USAGE, DONE]
        assert stream.flushed == 1
        close(answer)
        settled(world, Outcome.OK, source=UsageSource.UPSTREAM, bytes_out=2 * len(CHUNK) + len(USAGE + DONE))

    def test_a_client_that_leaves_meanwhile_is_charged_what_was_generated(self, world: World) -> None:
        stream = FakeStream(Passed.ON, Passed.PARTLY)
        stream.flushes = [ConnectionResetError()]
        answer = self.passing(world, CHUNK, CHUNK, USAGE, DONE, client=stream)
        assert cut(answer) == CHUNK
        settled(world, Outcome.CLIENT_ABORT, source=UsageSource.UPSTREAM, bytes_out=2 * len(CHUNK))

    def test_nothing_is_passed_to_a_client_that_has_left(self, world: World) -> None:
        def leave() -> bytes:
            world.watch.departed = True
            return CHUNK

        stream = FakeStream()
        answer = self.passing(world, leave, USAGE, DONE, client=stream)
        cut(answer)
        assert stream.taken == []
        settled(world, Outcome.CLIENT_ABORT, source=UsageSource.UPSTREAM, bytes_out=len(CHUNK))

    def test_an_estimate_counts_what_was_passed(self, world: World) -> None:
        stream = FakeStream()
        world.gateway.abort_drain_s = 0.0
        answer = self.passing(world, CHUNK, CHUNK * 2, gone(), client=stream)
        body = iter(answer.body)
        assert next(body) == CHUNK
        with pytest.raises(AnswerCut):
            next(body)
        close(answer)
        settled(world, Outcome.CLIENT_ABORT, source=UsageSource.ESTIMATE, events=4)

    @pytest.mark.parametrize("headers", [{"content_length": "999"}, {"content_encoding": "gzip"}])
    def test_answers_of_known_length_or_coding_take_the_usual_way(
        self, world: World, headers: dict[str, str]
    ) -> None:
        world.stream = FakeStream()
        body = CHUNK * 3 + DONE
        reads = [CHUNK] * 3 + [DONE] if "content_length" in headers else [gzipped(body)]
        consume_all(world.forward(stream_reply(*reads, **headers), **WANTED))
        assert world.stream.taken == []


def consume_all(answer: Answer) -> None:
    """Take everything, whole or cut."""
    with suppress(AnswerCut):
        consume(answer)


@pytest.mark.parametrize("event", [b":\n\n", CHUNK, b"data: " + b"x" * 20_000 + b"\n\n", b"\r\n"])
def test_much_at_once_passes_the_meter_in_pieces_and_as_it_was(event: bytes) -> None:
    class Pieces:
        """A meter that notes what it is fed."""

        def __init__(self) -> None:
            self.sizes: list[int] = []

        def feed(self, data: bytes) -> bytes:
            self.sizes.append(len(data))
            return data

    class Counted(NoPace):
        rests = queued = 0

        def rest(self) -> None:
            self.rests += 1

        def queue(self) -> None:
            self.queued += 1

    meter, pace = Pieces(), Counted()
    data = event * (64 * 1024 // len(event))
    path = AnswerPath(meter, KeyMask("sk-upstream-0123456789"), pace=pace)  # type: ignore[arg-type]
    assert path.feed(data) + path.mask.flush() == data
    assert max(meter.sizes) <= MOST_METERED + 64
    assert event != b":\n\n" or max(meter.sizes) <= 1024 + 64
    assert pace.queued == 1
    assert pace.rests == len(meter.sizes)
