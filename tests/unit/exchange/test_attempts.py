"""Which upstream answers and failures move a request to the next key, and what is left of each try."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from exchange_world import (
    ANSWER,
    COST,
    FakeReply,
    World,
    consume,
    error_of,
    error_reply,
    failure,
    gone,
    header,
    json_reply,
)
from gevent import GreenletExit

from app.exchange.exchange import Answer
from app.exchange.ports import NoPace
from app.exchange.relay import AnswerCut
from app.keys.key_choice import NO_WISH
from app.keys.upstream_outcome import KeyOutcome
from app.records.records import AttemptRecord, Outcome, UsageSource
from app.upstream.transport import ClientGone, UpstreamFailure
from app.wires.endpoints import CHAT, COUNT_TOKENS, MESSAGES, RESPONSES, Endpoint, Retry
from app.wires.request_body import LARGE
from app.wires.wire_format import WireFormat

PASSED = (400, 404, 405, 408, 409, 410, 413, 415, 418, 422, 424, 451)


def ok() -> FakeReply:
    return json_reply(ANSWER)


def keys_used(world: World) -> list[str]:
    return [key_id for _, key_id in world.upstream.sent]


SESSION = {"authorization": "Bearer sk-ann", "x-session-id": "s-1"}


def test_all_attempts_for_a_conversation_say_which_it_is(world: World) -> None:
    consume(world.forward(error_reply(500), ok(), headers=SESSION))
    consume(world.forward(ok(), headers=SESSION, prompt_cache_key="another"))
    consume(world.forward(ok(), prompt_cache_key="another"))
    first, again, same, other = world.keys.wishes
    assert first == again == same != NO_WISH
    assert other not in (first, NO_WISH)


@pytest.mark.parametrize(
    ("world", "endpoint"),
    [
        (World(), COUNT_TOKENS),
        (World(keys=["k1"]), CHAT),
        (World(follows_conversations=False), CHAT),
    ],
)
def test_no_conversation_is_looked_for_where_it_means_nothing(world: World, endpoint: Endpoint) -> None:
    consume(world.forward(ok(), endpoint=endpoint, headers=SESSION))
    assert world.keys.wishes == [NO_WISH]


def test_each_attempt_names_the_proxy_it_went_through(world: World) -> None:
    refused, broken, answered = error_reply(500), failure("reset"), ok()
    refused.proxy_id, broken.proxy_id, answered.proxy_id = "p1", "p2", None
    consume(world.forward(refused, broken, answered))
    assert [attempt.proxy_id for attempt in world.record.attempts] == ["p1", "p2", None]


def test_an_answer_that_breaks_off_names_its_proxy_too(world: World) -> None:
    cut = json_reply(failure("truncated"))
    cut.proxy_id = "p1"
    consume(world.forward(cut, ok()))
    assert [attempt.proxy_id for attempt in world.record.attempts] == ["p1", None]


@pytest.mark.parametrize("status", [401, 402, 403, 429, 500, 502, 503, 520, 529])
def test_these_statuses_move_on_to_the_next_key(world: World, status: int) -> None:
    refused = error_reply(status)
    answer = world.forward(refused, ok())
    assert (answer.status, consume(answer)) == (200, ANSWER)
    assert keys_used(world) == ["k1", "k2"]
    record = world.record
    assert record.factory_key_id == "k2"
    assert record.upstream_status_code == 200
    assert [attempt.factory_key_id for attempt in record.attempts] == ["k1", "k2"]
    assert [attempt.status_code for attempt in record.attempts] == [status, 200]
    assert record.attempts[0].error
    assert record.attempts[1].error is None
    assert refused.closes == 1
    assert world.keys.leased == 0


@pytest.mark.parametrize("status", [*PASSED, 301, 302, 307, 407, 504, 524])
def test_these_statuses_are_the_last_word(world: World, status: int) -> None:
    answer = world.forward(error_reply(status, "too long"), ok())
    assert keys_used(world) == ["k1"]
    error = error_of(answer)
    if status in PASSED:
        assert (answer.status, error["message"]) == (status, "too long")
    else:
        assert answer.status == (504 if status in (504, 524) else 502)
        assert "too long" not in error["message"]
    record = world.record
    assert record.outcome is (Outcome.UPSTREAM_TIMEOUT if answer.status == 504 else Outcome.UPSTREAM_ERROR)
    assert record.status_code == answer.status
    assert (record.upstream_status_code, record.bytes_out) == (
        status,
        int(header(answer, "content-length") or 0),
    )


@pytest.mark.parametrize("kind", ["unreachable", "reset", "truncated"])
def test_these_failures_move_on_to_the_next_key(world: World, kind: str) -> None:
    answer = world.forward(failure(kind), ok())
    assert consume(answer) == ANSWER
    assert world.record.attempts == (AttemptRecord("k1", None, 0, kind), AttemptRecord("k2", 200, 0))
    assert world.keys.reports[0] == ("k1", KeyOutcome.FAILED, kind)


@pytest.mark.wire(60)
@pytest.mark.parametrize(("kind", "status", "outcome"), [
    ("timeout", 504, Outcome.UPSTREAM_TIMEOUT),
    ("garbled", 502, Outcome.UPSTREAM_ERROR),
])  # fmt: skip
def test_these_failures_are_the_last_word(world: World, kind: str, status: int, outcome: Outcome) -> None:
    answer = world.forward(failure(kind), ok())
    assert error_of(answer)["code"].startswith("upstream_")
    assert keys_used(world) == ["k1"]
    assert (world.record.status_code, world.record.outcome) == (status, outcome)
    assert world.record.upstream_status_code is None


@pytest.mark.parametrize("kind", ["reset", "truncated"])
def test_an_answer_that_breaks_off_before_its_first_byte_is_tried_again(world: World, kind: str) -> None:
    broken = json_reply(failure(kind))
    assert consume(world.forward(broken, ok())) == ANSWER
    assert world.record.attempts[0] == AttemptRecord("k1", 200, 0, kind)
    assert broken.closes == 1


@pytest.mark.parametrize("retry", Retry)
@pytest.mark.parametrize(
    ("setback", "goes_on"),
    [
        pytest.param(lambda: error_reply(429), {Retry.FREELY, Retry.UNBEGUN}, id="a refusal"),
        pytest.param(lambda: error_reply(402), {Retry.FREELY, Retry.UNBEGUN}, id="no money"),
        pytest.param(lambda: failure("unreachable"), {Retry.FREELY, Retry.UNBEGUN}, id="unreachable"),
        pytest.param(lambda: failure("no_proxy"), {Retry.FREELY, Retry.UNBEGUN}, id="no proxy"),
        pytest.param(lambda: error_reply(500), {Retry.FREELY}, id="an outage"),
        pytest.param(lambda: failure("reset"), {Retry.FREELY}, id="a reset"),
        pytest.param(json_reply, {Retry.FREELY}, id="an empty answer"),
        pytest.param(lambda: failure("timeout"), set(), id="a stall"),
    ],
)
def test_a_request_goes_to_another_key_as_far_as_its_endpoint_allows_it(
    setback: Callable[[], FakeReply | UpstreamFailure], goes_on: set[Retry], retry: Retry
) -> None:
    world = World(keys=("k1", "k2"))
    answer = world.forward(setback(), ok(), endpoint=replace(CHAT, retry=retry))
    consume(answer)
    assert keys_used(world) == (["k1", "k2"] if retry in goes_on else ["k1"])
    assert (answer.status == 200) is (world.record.outcome is Outcome.OK) is (retry in goes_on)


def test_an_empty_answer_is_tried_again(world: World) -> None:
    assert consume(world.forward(json_reply(), ok())) == ANSWER
    assert world.record.attempts[0].error == "truncated"


def test_the_last_problem_is_what_the_client_hears(world: World) -> None:
    answer = world.forward(
        failure("unreachable"), error_reply(500), error_reply(429, "slow down", retry_after="7")
    )
    assert (answer.status, header(answer, "retry-after")) == (429, "7")
    assert error_of(answer)["message"] == "slow down"
    record = world.record
    assert record.factory_key_id == "k3"
    assert [attempt.status_code for attempt in record.attempts] == [None, 500, 429]
    assert record.outcome is Outcome.UPSTREAM_ERROR
    assert record.error_type == "rate_limit_exceeded"


def test_the_status_of_an_earlier_attempt_is_not_taken_for_that_of_the_last(world: World) -> None:
    first = json_reply(b"{}", status=429, x_request_id="theirs")
    answer = world.forward(first, failure("unreachable"), failure("unreachable"))
    consume(answer)
    record = world.record
    assert (record.status_code, record.outcome) == (502, Outcome.UPSTREAM_UNREACHABLE)
    assert record.upstream_status_code is None
    assert record.upstream_request_id is None


def test_no_more_keys_are_tried_than_allowed() -> None:
    world = World(keys=("a", "b", "c"), max_attempts=2)
    consume(world.forward(error_reply(500), error_reply(500), ok()))
    assert keys_used(world) == ["a", "b"]


def test_no_key_is_tried_twice() -> None:
    world = World(keys=("a",), max_attempts=3)
    answer = world.forward(error_reply(503), ok())
    assert answer.status == 502
    assert keys_used(world) == ["a"]


@pytest.mark.parametrize("wire_format", WireFormat)
def test_without_any_key_the_client_is_told_not_to_retry(wire_format: WireFormat) -> None:
    world = World(keys=())
    endpoint = CHAT if wire_format is WireFormat.OPENAI else MESSAGES
    answer = world.forward(endpoint=endpoint)
    assert (answer.status, header(answer, "x-should-retry")) == (503, "false")
    assert "no upstream key" in error_of(answer)["message"]
    record = world.record
    assert (record.outcome, record.status_code, record.attempts) == (Outcome.UPSTREAM_ERROR, 503, ())
    assert record.factory_key_id is None
    assert record.latency_ms == 0


@pytest.mark.wire(49)
@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.parametrize("endpoint", [CHAT, MESSAGES])
def test_trouble_with_the_operators_account_stays_with_the_operator(status: int, endpoint: Endpoint) -> None:
    world = World(keys=("a",))
    answer = world.forward(error_reply(status, "account acct-9 of OhMyGPT: no balance"), endpoint=endpoint)
    assert (answer.status, header(answer, "x-should-retry")) == (502, "false")
    body = consume(answer)
    assert b"acct-9" not in body
    assert b"ohmygpt" not in body.lower()
    assert world.record.upstream_status_code == status


@pytest.mark.wire(50)
@pytest.mark.parametrize("endpoint", [CHAT, MESSAGES])
def test_the_upstreams_own_envelope_becomes_a_native_one(endpoint: Endpoint) -> None:
    world = World(keys=("a",))
    body = (
        b'{"statusCode":402,"message":"balance too low","errorType":"insufficient_balance_error","data":null}'
    )
    answer = world.forward(json_reply(body, status=402), endpoint=endpoint)
    assert header(answer, "x-should-retry") == "false"
    assert "balance too low" not in str(error_of(answer))


@pytest.mark.wire(51)
@pytest.mark.parametrize("status", [200, 502, 524])
def test_a_web_page_is_never_relayed(status: int) -> None:
    world = World(keys=("a",))
    page = FakeReply(status, {"content-type": "Text/HTML; charset=utf-8"}, b"<html>host.example.com</html>")
    answer = world.forward(page)
    told = 504 if status == 524 else 502
    assert (answer.status, header(answer, "content-type")) == (told, "application/json")
    assert b"html" not in consume(answer)
    assert world.record.outcome is (Outcome.UPSTREAM_TIMEOUT if told == 504 else Outcome.UPSTREAM_ERROR)
    assert world.record.upstream_status_code == status
    wanted = {200: "web_page", 502: "server_error", 524: "gateway_timeout"}[status]
    assert world.keys.reports == [("a", KeyOutcome.FAILED, wanted)]


def test_a_message_that_passes_through_is_scrubbed(world: World) -> None:
    text = "key secret-of-k1 is bad at https://api.ohmygpt.com/v1, see OhMyGPT"
    message = error_of(world.forward(error_reply(400, text)))["message"]
    assert message == "key [key] is bad at [url], see upstream"


def test_an_error_without_a_message_gets_one(world: World) -> None:
    assert error_of(world.forward(json_reply(b"{}", status=422)))["message"].endswith("(status 422).")


@pytest.mark.parametrize("status", [429, 529])
def test_a_limit_without_a_message_gets_one(status: int) -> None:
    world = World(keys=("a",))
    answer = world.forward(json_reply(b"", status=status))
    assert answer.status == status
    assert error_of(answer)["message"]


@pytest.mark.wire(48)
@pytest.mark.parametrize(("status", "sent"), [(429, 429), (503, 502), (529, 529)])
def test_a_wait_told_by_the_upstream_is_passed_on_capped(status: int, sent: int) -> None:
    world = World(keys=("a",))
    answer = world.forward(error_reply(status, retry_after="3600"))
    assert (answer.status, header(answer, "retry-after")) == (sent, "60")


def test_an_error_body_that_breaks_off_is_as_good_as_what_came_of_it(world: World) -> None:
    reply = json_reply(b'{"error":{"message":"whole"}}', failure("truncated"), status=400)
    assert error_of(world.forward(reply))["message"] == "whole"


def test_an_error_body_without_end_is_read_in_part(world: World) -> None:
    reply = json_reply(*[b"x" * 32_768] * 10, status=400)
    consume(world.forward(reply))
    assert reply.reads == 2
    assert reply.closes == 1


@pytest.mark.wire(59)
@pytest.mark.parametrize("is_sent", [False, True])
def test_a_client_that_leaves_while_waiting_is_charged_its_input(world: World, is_sent: bool) -> None:
    reply = json_reply(gone())
    answer = world.forward(reply if is_sent else gone(), ok())
    consume(answer)
    record = world.record
    assert (record.outcome, record.status_code, record.bytes_out) == (Outcome.CLIENT_ABORT, 499, 0)
    assert (record.usage_source, record.output_tokens) == (UsageSource.ESTIMATE, 0)
    assert record.usage_flags == ("estimated", "input_missing")
    assert record.cost_nano_usd == record.input_tokens * 1000 > 0
    assert world.directory.charges == [("ann", record.cost_nano_usd)]
    assert record.attempts[0].error == "client_abort"
    assert keys_used(world) == ["k1"]
    assert world.keys.leased == 0
    assert reply.closes == int(is_sent)
    assert not world.watch.is_waiting
    assert world.watch.grace == [20.0]


def gone_unsent() -> ClientGone:
    error = gone()
    error.is_unsent = True
    return error


@pytest.mark.wire(103)
@pytest.mark.parametrize(
    ("answer", "endpoint"),
    [
        pytest.param(gone_unsent(), CHAT, id="nothing was sent"),
        pytest.param(json_reply(gone(), status=500), CHAT, id="the upstream had refused it"),
        pytest.param(gone(), COUNT_TOKENS, id="counting is free"),
    ],
)
def test_leaving_costs_nothing_where_the_upstream_did_nothing(
    world: World, answer: FakeReply | ClientGone, endpoint: Endpoint
) -> None:
    consume(world.forward(answer, endpoint=endpoint))
    record = world.record
    assert (record.outcome, record.usage_source) == (Outcome.CLIENT_ABORT, UsageSource.NONE)
    assert (record.cost_nano_usd, world.directory.charges) == (0, [])


@pytest.mark.wire(103)
def test_no_further_key_is_tried_for_a_client_that_has_left(world: World) -> None:
    def fail() -> bytes:
        world.watch.departed = True
        raise UpstreamFailure("reset", "scripted")

    consume(world.forward(json_reply(fail), ok()))
    assert keys_used(world) == ["k1"]
    assert (world.record.outcome, world.record.cost_nano_usd) == (Outcome.CLIENT_ABORT, 0)


@pytest.mark.wire(102)
def test_an_answer_that_comes_after_the_client_left_is_booked(world: World) -> None:
    def answer() -> bytes:
        world.watch.departed = True
        return ANSWER

    consume_cut(world.forward(json_reply(answer)))
    record = world.record
    assert (record.outcome, record.status_code, record.usage_source) == (
        Outcome.CLIENT_ABORT,
        499,
        UsageSource.UPSTREAM,
    )
    assert record.cost_nano_usd == COST


def consume_cut(answer: Answer) -> None:
    with pytest.raises(AnswerCut):
        consume(answer)


def test_a_worker_that_is_stopped_while_waiting_for_headers_leaves_a_record(world: World) -> None:
    with pytest.raises(GreenletExit):
        world.forward(GreenletExit())
    record = world.record
    assert (record.outcome, record.error_type) == (Outcome.INTERRUPTED, "interrupted")
    assert record.attempts[0].error == "interrupted"
    assert world.keys.leased == 0


def test_a_bug_in_the_transport_is_an_internal_error(world: World) -> None:
    answer = world.forward(KeyError("bug"))
    assert answer.status == 500
    assert error_of(answer)["code"] == "internal_error"
    record = world.record
    assert (record.outcome, record.status_code) == (Outcome.INTERNAL_ERROR, 500)
    assert record.attempts[0].error == "internal_error"
    assert world.keys.leased == 0


def test_each_attempt_is_timed_and_the_first_starts_the_clock(world: World) -> None:
    def slow_refusal() -> bytes:
        world.clock.now += 0.5
        return b"{}"

    def slow_answer() -> bytes:
        world.clock.now += 0.25
        return ANSWER

    answer = world.forward(json_reply(slow_refusal, status=500), json_reply(slow_answer))
    consume(answer)
    record = world.record
    assert [attempt.latency_ms for attempt in record.attempts] == [500, 250]
    assert record.latency_ms == 750


def test_the_upstreams_request_id_is_kept_and_not_shown(world: World) -> None:
    answer = world.forward(json_reply(ANSWER, request_id="t" * 300))
    consume(answer)
    assert world.record.upstream_request_id == "t" * 128
    assert "t" * 128 not in str(answer.headers)


def test_words_of_a_large_request_are_looked_for_in_turn_with_others() -> None:
    class Counted(NoPace):
        queued = 0

        def queue(self) -> None:
            self.queued += 1

    found = []
    for size in (100, LARGE):
        world, pace = World(), Counted()
        world.upstream.script.append(error_reply(400))
        raw = json.dumps({"model": "gpt", "messages": ["x" * size]}).encode()
        call = replace(world.call(raw), pace=pace)
        assert world.gateway.forward(call, CHAT).status == 400
        found.append(pace.queued)
    assert found == [0, 2]  # once to read it, once to compare what the upstream says with it


@pytest.mark.parametrize(
    ("setback", "goes_on"), [(lambda: error_reply(500), False), (lambda: error_reply(429), True)]
)
def test_what_goes_on_in_the_background_is_not_begun_twice(
    setback: Callable[[], FakeReply], goes_on: bool
) -> None:
    world = World(keys=("k1", "k2"))
    consume(world.forward(setback(), ok(), endpoint=RESPONSES, input="hi", background=True))
    assert keys_used(world) == (["k1", "k2"] if goes_on else ["k1"])
