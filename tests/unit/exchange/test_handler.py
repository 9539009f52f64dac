"""A request from its credential to its answer: ids, records, refusals, the fallback without usage."""

import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from exchange_world import (
    ANSWER,
    CHUNK,
    COST,
    DONE,
    USAGE,
    FakeReply,
    World,
    consume,
    error_of,
    error_reply,
    header,
    json_reply,
    stream_reply,
)

from app.accounts.principal import Principal
from app.exchange.exchange import STILL_KNOWN_S
from app.records.records import Outcome, UsageSource
from app.wires import errors
from app.wires.endpoints import CHAT, COUNT_TOKENS, FORWARDED, LIST_MODELS, MESSAGES, Body, Endpoint
from app.wires.errors import Refusal
from app.wires.wire_format import WireFormat

NOT_FOUND = Refusal(errors.UNKNOWN_PATH, "There is no GET /v1/x here.")
BAD_OPTION = "Unrecognized request argument supplied: stream_options"


def usage_options(world: World) -> list[Any]:
    return [body.get("stream_options") for body in world.upstream.bodies]


# Credentials


@pytest.mark.wire(71)
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"authorization": "Bearer sk-ann", "x-api-key": "sk-bob"}, "conflicting_api_keys"),
        ({"x-api-key": "sk-unknown"}, "invalid_api_key"),
    ],
)
@pytest.mark.parametrize("endpoint", FORWARDED)
def test_an_unauthenticated_request_leaves_no_record_but_is_counted(
    world: World, headers: dict[str, str], code: str, endpoint: Endpoint
) -> None:
    answer = world.forward(headers=headers, endpoint=endpoint)
    assert answer.status == 401
    error = error_of(answer)
    if endpoint.wire_format is WireFormat.OPENAI:
        assert error["code"] == code
    else:
        assert error["type"] == "authentication_error"
    assert world.sink.records == []
    assert world.observer.refusals == {code: 1}
    assert header(answer, "x-request-id") == "request-1"
    assert world.watch.stops == 1
    assert world.limiter.hits == []


def test_a_directory_that_cannot_answer_is_a_503_and_counted(world: World) -> None:
    world.directory.is_down = True
    answer = world.forward()
    assert (answer.status, header(answer, "retry-after")) == (503, "5")
    assert error_of(answer)["code"] == "store_unavailable"
    assert world.sink.records == []
    assert world.observer.refusals == {"store_unavailable": 1}


def test_a_bug_in_the_directory_is_a_native_500_and_counted(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.directory.is_broken = True
    with caplog.at_level(logging.CRITICAL):
        answer = world.forward(endpoint=MESSAGES)
    assert answer.status == 500
    assert error_of(answer)["type"] == "api_error"
    assert world.sink.records == []
    assert world.observer.refusals == {"internal_error": 1}


# Ids, headers, records


def some_answer(world: World, ending: str) -> Any:
    if ending == "answer":
        return world.forward(json_reply(ANSWER))
    if ending == "stream":
        return world.forward(stream_reply(DONE), stream=True)
    if ending == "refusal":
        return world.forward(model="nope")
    if ending == "failure":
        return world.forward(error_reply(400))
    if ending == "bug":
        return world.forward(KeyError("bug"))
    if ending == "local":
        return world.gateway.answer_locally(world.call(), LIST_MODELS, lambda _: b"[]")
    return world.gateway.refuse_unrouted(world.call(), NOT_FOUND)


@pytest.mark.parametrize("endpoint", [row for row in FORWARDED if row.body is Body.JSON])
@pytest.mark.parametrize("late_s", [2 * STILL_KNOWN_S, 3600.0])
def test_a_key_that_was_revoked_while_the_body_came_is_refused(
    world: World, endpoint: Endpoint, late_s: float
) -> None:
    is_batch = endpoint.body is Body.BATCH

    def body(_limit: int, _took: object) -> bytes:
        world.clock.now += late_s
        del world.directory.principals["sk-ann"]
        one = b'{"model": "gpt", "max_tokens": 5, "messages": []}'
        return b'{"requests": [{"custom_id": "a", "params": %b}]}' % one if is_batch else one

    answer = world.gateway.forward(
        replace(world.call(wire_format=endpoint.wire_format), read_body=body), endpoint
    )
    assert answer.status == 401
    assert world.upstream.sent == []
    assert (world.record.outcome, world.record.status_code) == (Outcome.REJECTED, 401)
    assert world.observer.refusals == {}
    assert len(world.credit.reserved) == len(world.credit.released)


def test_a_key_is_looked_up_once_for_a_request_that_came_at_once(world: World) -> None:
    def body(_limit: int, _took: object) -> bytes:
        world.clock.now += STILL_KNOWN_S / 2
        world.directory.is_broken = True
        return b'{"model": "gpt", "messages": []}'

    world.upstream.script.append(json_reply(ANSWER))
    assert consume(world.gateway.forward(replace(world.call(), read_body=body), CHAT)) == ANSWER


@pytest.mark.parametrize("ending", ["answer", "stream", "refusal", "failure", "bug", "local", "unrouted"])
def test_every_answer_carries_its_id_and_the_rate(world: World, ending: str) -> None:
    answer = some_answer(world, ending)
    body = consume(answer)
    assert header(answer, "x-request-id") == header(answer, "request-id") == world.record.request_id
    assert header(answer, "x-ratelimit-limit") == "100"
    assert header(answer, "x-ratelimit-remaining") == "99"
    assert header(answer, "x-ratelimit-reset") == "1234"
    assert header(answer, "content-type")
    assert world.record.bytes_out == len(body)
    assert world.record.status_code == answer.status
    counted = "free:wk_ann" if ending in ("local", "unrouted") else "wk_ann"
    assert world.limiter.hits == [(counted, 100)]


@pytest.mark.parametrize("ending", ["refusal", "failure", "bug", "unrouted"])
def test_an_error_names_its_length(world: World, ending: str) -> None:
    answer = some_answer(world, ending)
    assert header(answer, "content-length") == str(len(consume(answer)))


def test_a_record_says_who_asked_for_what(world: World) -> None:
    world.clock.now += 0.005
    headers = {"x-api-key": "sk-ann", "x-stainless-retry-count": "2"}
    call = world.call(
        json.dumps({"model": "gpt", "messages": [], "stream": True}).encode(), WireFormat.ANTHROPIC, headers
    )
    world.clock.now += 0.02
    world.upstream.script = [error_reply(400)]
    consume(world.gateway.forward(call, MESSAGES))
    record = world.record
    assert (record.user_id, record.user_key_id, record.api_format) == ("ann", "wk_ann", "anthropic")
    assert (record.endpoint, record.stream, record.client_retry_count) == ("messages", True, 2)
    assert record.overhead_ms == 20


@pytest.mark.parametrize("count", ["-1", "x", "²", "10000", ""])
def test_a_retry_count_that_is_none_is_left_out(world: World, count: str) -> None:
    headers = {"x-api-key": "sk-ann", "x-stainless-retry-count": count}
    consume(world.forward(json_reply(ANSWER), headers=headers))
    assert world.record.client_retry_count is None


def test_a_request_goes_upstream_with_path_query_and_without_the_clients_credentials(world: World) -> None:
    headers = {"x-api-key": "sk-ann", "anthropic-beta": "b", "cookie": "c"}
    consume(world.forward(json_reply(ANSWER), endpoint=MESSAGES, headers=headers))
    request, _ = world.upstream.sent[0]
    assert (request.method, request.path, request.query) == ("POST", "/v1/messages", "beta=true")
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert request.headers["anthropic-beta"] == "b"
    assert not {"x-api-key", "authorization", "cookie"} & set(request.headers)


@pytest.mark.wire(40)
def test_counting_tokens_is_recorded_and_costs_nothing(world: World) -> None:
    body = b'{"input_tokens":42}'
    answer = world.forward(json_reply(body), endpoint=COUNT_TOKENS)
    assert consume(answer) == body
    record = world.record
    assert (record.outcome, record.endpoint, record.cost_nano_usd) == (Outcome.OK, "count_tokens", 0)
    assert record.usage_raw == {"input_tokens": 42}


def test_a_bug_after_the_credential_leaves_a_record(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.limiter.fails = ValueError("bug")
    with caplog.at_level(logging.CRITICAL):
        answer = world.forward()
    assert answer.status == 500
    assert error_of(answer)["code"] == "internal_error"
    record = world.record
    assert (record.outcome, record.error_type) == (Outcome.INTERNAL_ERROR, "internal_error")


# What the proxy answers itself


def test_a_local_answer_leaves_a_record(world: World) -> None:
    answer = world.gateway.answer_locally(world.call(), LIST_MODELS, lambda _: b'{"data":[]}')
    assert (answer.status, consume(answer)) == (200, b'{"data":[]}')
    assert (world.record.outcome, world.record.endpoint) == (Outcome.OK, "models")
    assert world.record.latency_ms == 0
    assert world.watch.stops == 1


def test_a_local_refusal_leaves_a_record(world: World) -> None:
    def make(_caller: Principal) -> bytes:
        raise Refusal(errors.UNKNOWN_MODEL, "no such model")

    assert world.gateway.answer_locally(world.call(), LIST_MODELS, make).status == 404
    assert world.record.outcome is Outcome.REJECTED


def test_a_local_answer_counts_against_the_rate(world: World) -> None:
    world.limiter.is_over = True
    assert world.gateway.answer_locally(world.call(), LIST_MODELS, lambda _: b"").status == 429


def test_an_unknown_path_of_a_known_caller_leaves_a_record(world: World) -> None:
    answer = world.gateway.refuse_unrouted(world.call(), NOT_FOUND)
    assert answer.status == 404
    assert error_of(answer)["message"] == "There is no GET /v1/x here."
    record = world.record
    assert (record.outcome, record.endpoint, record.error_type) == (Outcome.REJECTED, "unknown", "not_found")
    assert record.user_id == "ann"


def test_an_unknown_path_counts_against_the_rate(world: World) -> None:
    world.limiter.is_over = True
    assert world.gateway.refuse_unrouted(world.call(), NOT_FOUND).status == 429


def test_an_unknown_path_of_an_unknown_caller_is_a_404_without_a_record_and_counted(world: World) -> None:
    answer = world.gateway.refuse_unrouted(world.call(headers={}), NOT_FOUND)
    assert answer.status == 404
    assert world.sink.records == []
    assert world.observer.refusals == {"missing_api_key": 1}


# Upstreams that refuse to be asked for usage


def refused_once(world: World, **body: Any) -> None:
    consume(world.forward(error_reply(400, BAD_OPTION), stream_reply(CHUNK, DONE), stream=True, **body))


def asked_then(world: World, **body: Any) -> bool:
    """Whether the next request is asked for its usage, which is told."""
    consume(world.forward(stream_reply(CHUNK, USAGE, DONE), stream=True, **body))
    return usage_options(world)[-1] == {"include_usage": True}


@pytest.mark.wire(45)
def test_a_refused_usage_option_is_left_out_for_a_while(world: World) -> None:
    answer = world.forward(error_reply(400, BAD_OPTION), stream_reply(CHUNK, DONE), stream=True)
    assert consume(answer) == CHUNK + DONE
    assert usage_options(world) == [{"include_usage": True}, None]
    record = world.record
    assert (record.outcome, record.usage_source) == (Outcome.OK, UsageSource.ESTIMATE)
    assert [attempt.status_code for attempt in record.attempts] == [400, 200]
    assert world.observer.refused_options == 1

    assert not asked_then(world)
    assert world.sink.records[-1].cost_nano_usd == COST
    world.clock.now += 1.5
    assert asked_then(world)
    assert asked_then(world)


@pytest.mark.wire(45)
@pytest.mark.parametrize("other", [{"model": "other"}, {"data_sources": []}, {"tools": []}])
def test_requests_of_another_kind_are_asked_all_the_same(world: World, other: dict[str, Any]) -> None:
    refused_once(world)
    assert asked_then(world, **other)
    assert not asked_then(world)


@pytest.mark.wire(45)
@pytest.mark.parametrize("status", [400, 404, 422, 500, 501])
@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": BAD_OPTION}},
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Not permitted"}]},
        {"message": {"detail": [{"loc": ["body", "stream_options", "include_usage"]}]}},
        [{"error": {"code": 400, "message": 'Unknown name "streamOptions": no such field'}}],
        {"error": {"message": "no", "param": "stream_options.include_usage"}},
        {"detail": "#/stream_options is not allowed"},
    ],
    ids=["words", "FastAPI", "Mistral", "Google", "param", "Azure"],
)
def test_refusals_are_known_in_every_vendors_words(status: int, body: Any) -> None:
    world = World(max_attempts=1)
    reply = json_reply(json.dumps(body).encode(), status=status)
    assert consume(world.forward(reply, stream_reply(CHUNK, DONE), stream=True)) == CHUNK + DONE
    assert world.record.outcome is Outcome.OK


def test_usage_that_comes_unasked_from_such_a_model_is_left_in(world: World) -> None:
    consume(world.forward(error_reply(400, BAD_OPTION), stream_reply(DONE), stream=True))
    assert consume(world.forward(stream_reply(CHUNK, USAGE, DONE), stream=True)) == CHUNK + USAGE + DONE


def test_a_clients_own_mistake_does_not_turn_off_the_metering_of_a_model(world: World) -> None:
    mistaken = error_reply(400, "stream_options.bogus is unknown")
    answer = world.forward(mistaken, error_reply(400, "stream_options.bogus is unknown"), stream=True)
    assert answer.status == 400
    assert len(world.sink.records) == 1
    consume(world.forward(stream_reply(DONE), stream=True))
    assert usage_options(world)[-1] == {"include_usage": True}


@pytest.mark.parametrize(
    "refusal", [error_reply(400, "max_tokens is too large"), error_reply(413, BAD_OPTION)]
)
def test_another_refusal_is_not_taken_for_that_one(refusal: FakeReply) -> None:
    world = World()
    answer = world.forward(refusal, stream_reply(DONE), stream=True)
    assert answer.status in (400, 413)
    assert len(world.upstream.sent) == 1


def test_a_client_that_asked_for_usage_hears_of_the_refusal(world: World) -> None:
    answer = world.forward(error_reply(400, BAD_OPTION), stream=True, stream_options={"include_usage": True})
    assert answer.status == 400
    assert len(world.upstream.sent) == 1
