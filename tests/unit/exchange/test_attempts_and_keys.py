"""What attempts tell of their keys, and what clients hear when keys run out."""

import json
from datetime import timedelta

import pytest
from exchange_world import (
    ANSWER,
    CHUNK,
    DONE,
    NOW,
    FakeReply,
    World,
    consume,
    error_of,
    error_reply,
    failure,
    gone,
    gzipped,
    header,
    json_reply,
    stream_reply,
)

from app.exchange.relay import AnswerCut
from app.keys.key_choice import NoKey, Shortage
from app.keys.upstream_outcome import KeyOutcome
from app.records.records import Outcome
from app.upstream.transport import UpstreamFailure
from app.wires.endpoints import CHAT, MESSAGES, Endpoint

BOTH = pytest.mark.parametrize("endpoint", [CHAT, MESSAGES])


def spent(status: int, code: str, **headers: str) -> FakeReply:
    body = {"error": {"message": "You exceeded your current quota, see billing", "type": code, "code": code}}
    return json_reply(json.dumps(body).encode(), status=status, **headers)


def stale() -> UpstreamFailure:
    return UpstreamFailure("reset", "closed", is_stale=True)


def ok() -> FakeReply:
    return json_reply(ANSWER)


SPENT = [
    (400, "billing_hard_limit_reached"),
    (402, "no_money_left"),
    (403, "insufficient_user_quota"),
    (429, "insufficient_quota"),
]


@pytest.mark.parametrize(("status", "code"), SPENT)
def test_a_key_without_money_is_no_reason_to_refuse_a_request(world: World, status: int, code: str) -> None:
    assert consume(world.forward(spent(status, code), ok())) == ANSWER
    assert [(key, outcome) for key, outcome, _ in world.keys.reports] == [
        ("k1", KeyOutcome.EXHAUSTED),
        ("k2", KeyOutcome.OK),  # it has begun
        ("k2", KeyOutcome.OK),
    ]


@BOTH
@pytest.mark.parametrize(("status", "code"), SPENT)
def test_the_operators_bill_is_nothing_to_clients(status: int, code: str, endpoint: Endpoint) -> None:
    world = World(keys=("a",))
    answer = world.forward(spent(status, code, retry_after="5"), endpoint=endpoint)
    assert (answer.status, header(answer, "x-should-retry")) == (502, "false")
    assert header(answer, "retry-after") is None
    body = consume(answer).lower()
    assert not any(word in body for word in (b"quota", b"billing", b"balance", code.encode()))
    assert world.record.upstream_status_code == status


def test_a_clients_own_400_does_not_move_on(world: World) -> None:
    answer = world.forward(error_reply(400, "messages: too many quota words"), ok())
    assert answer.status == 400
    assert world.keys.reports == [("k1", KeyOutcome.CLIENT_FAULT, "client_fault")]


def test_an_error_body_that_came_compressed_is_read(world: World) -> None:
    body = gzipped(json.dumps({"error": {"message": "no", "code": "insufficient_quota"}}).encode())
    consume(world.forward(json_reply(body, status=429, content_encoding="gzip"), ok()))
    assert world.keys.reports[0][1] is KeyOutcome.EXHAUSTED


@pytest.mark.parametrize("coding", ["gzip", "rot13"])
def test_an_error_body_in_a_coding_that_is_a_lie_counts_by_its_status(world: World, coding: str) -> None:
    consume(world.forward(json_reply(b"{plain", status=429, content_encoding=coding), ok()))
    assert world.keys.reports[0][1] is KeyOutcome.MODEL_LIMITED


def test_a_huge_compressed_error_body_is_read_in_part(world: World) -> None:
    bomb = gzipped(b" " * 50_000_000)
    consume(world.forward(json_reply(bomb, status=429, content_encoding="gzip"), ok()))
    assert world.keys.reports[0][1] is KeyOutcome.MODEL_LIMITED


def test_no_further_key_is_tried_when_the_clients_patience_is_used_up(world: World) -> None:
    def late() -> bytes:
        world.clock.now += 300
        return b"{}"

    answer = world.forward(json_reply(late, status=500), ok())
    assert answer.status == 502
    assert len(world.record.attempts) == 1
    assert world.keys.leased == 0


@BOTH
@pytest.mark.parametrize(("wait_s", "told"), [(16.2, "17"), (3600, "60"), (-5, "1"), (None, "1")])
def test_when_all_keys_are_cooling_the_client_hears_when_to_come_back(
    endpoint: Endpoint, wait_s: float | None, told: str
) -> None:
    world = World()
    retry_at = None if wait_s is None else NOW + timedelta(seconds=wait_s)
    world.keys.obstacle = NoKey(Shortage.COOLING, {Shortage.COOLING: 4}, retry_at)
    answer = world.forward(endpoint=endpoint)
    assert (answer.status, header(answer, "retry-after")) == (503, told)
    assert header(answer, "x-should-retry") is None
    error = error_of(answer)
    assert error["type"] == ("server_error" if endpoint is CHAT else "api_error")
    record = world.record
    assert (record.outcome, record.status_code, record.attempts) == (Outcome.UPSTREAM_ERROR, 503, ())
    assert record.error_type == "upstream_keys_busy"


@pytest.mark.parametrize("reason", [Shortage.EXHAUSTED, Shortage.ERROR])
def test_when_no_key_comes_back_soon_the_client_need_not_try_again(world: World, reason: Shortage) -> None:
    world.keys.obstacle = NoKey(reason, {reason: 4}, NOW + timedelta(hours=3))
    answer = world.forward()
    assert (answer.status, header(answer, "x-should-retry")) == (502, "false")
    assert header(answer, "retry-after") is None


def test_trouble_with_one_key_while_the_others_cool_down_passes(world: World) -> None:
    def last() -> bytes:
        world.keys.obstacle = NoKey(Shortage.COOLING, {Shortage.COOLING: 3}, NOW + timedelta(seconds=9))
        return b"{}"

    answer = world.forward(json_reply(last, status=402))
    assert (answer.status, header(answer, "retry-after"), header(answer, "x-should-retry")) == (
        503,
        "9",
        None,
    )
    assert world.record.factory_key_id == "k1"


def test_trouble_with_as_many_keys_as_may_be_tried_is_worth_another_try() -> None:
    world = World(max_attempts=2)
    answer = world.forward(spent(402, "x"), spent(402, "x"))
    assert (answer.status, header(answer, "x-should-retry")) == (502, None)
    assert b"account" in consume(answer)


def test_a_connection_that_died_unnoticed_costs_the_only_key_one_more_try() -> None:
    world = World(keys=("a",))
    assert consume(world.forward(stale(), ok())) == ANSWER
    assert [(attempt.factory_key_id, attempt.error) for attempt in world.record.attempts] == [
        ("a", "reset"),
        ("a", None),
    ]


def test_there_is_one_such_try_only() -> None:
    world = World(keys=("a",))
    answer = world.forward(stale(), stale(), ok())
    assert answer.status == 502
    assert len(world.record.attempts) == 2
    assert world.keys.leased == 0


def test_other_keys_come_first_then() -> None:
    world = World(keys=("a", "b"))
    assert consume(world.forward(failure("reset"), stale(), ok())) == ANSWER
    assert [attempt.factory_key_id for attempt in world.record.attempts] == ["a", "b", "b"]


def test_a_key_that_is_gone_by_then_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(keys=("a",))
    gone = NoKey(Shortage.ERROR, {Shortage.ERROR: 1}, None)
    monkeypatch.setattr(world.keys, "report", lambda *_: setattr(world.keys, "obstacle", gone))
    answer = world.forward(stale(), ok())
    assert answer.status == 502
    assert len(world.record.attempts) == 1


def test_a_connection_that_was_new_gives_the_same_key_no_second_try() -> None:
    world = World(keys=("a",))
    answer = world.forward(failure("reset"), ok())
    assert answer.status == 502
    assert len(world.record.attempts) == 1


@pytest.mark.parametrize("kind", ["reset", "truncated"])
def test_an_answer_that_breaks_off_is_not_asked_for_again_of_the_same_key(kind: str) -> None:
    world = World(keys=("a",))
    answer = world.forward(json_reply(failure(kind)), ok())
    assert answer.status == 502
    assert len(world.record.attempts) == 1


def test_a_stream_that_is_cut_speaks_against_its_key_but_is_not_retried(world: World) -> None:
    answer = world.forward(stream_reply(CHUNK, failure("truncated")), stream_reply(CHUNK, DONE), stream=True)
    with pytest.raises(AnswerCut):
        consume(answer)
    assert [outcome for _, outcome, _ in world.keys.reports] == [KeyOutcome.OK, KeyOutcome.FAILED]
    assert len(world.upstream.sent) == 1
    assert world.keys.leased == 0


def test_a_cut_after_the_end_speaks_against_nobody(world: World) -> None:
    consume(world.forward(stream_reply(CHUNK, DONE, failure("truncated")), stream=True))
    assert {outcome for _, outcome, _ in world.keys.reports} == {KeyOutcome.OK}


def test_a_client_that_leaves_speaks_against_nobody(world: World) -> None:
    consume(world.forward(gone()))
    assert world.keys.reports == [("k1", KeyOutcome.NEUTRAL, "interrupted")]
    assert world.keys.leased == 0


LARGE = {
    "message": "Request too large for gpt-5: it must be reduced",
    "type": "tokens",
    "code": "rate_limit_exceeded",
}
FLAGGED = {"message": "Your input was flagged", "code": "content_filter", "param": "prompt"}


def refusal(status: int, error: dict[str, object], **headers: str) -> FakeReply:
    return json_reply(json.dumps({"error": error}).encode(), status=status, **headers)


def test_keys_are_asked_for_in_the_name_of_the_user_and_the_upstreams_model(world: World) -> None:
    consume(world.forward(ok(), model="gpt-alias"))
    assert world.keys.asked == {("ann", "up/gpt")}


@BOTH
@pytest.mark.parametrize(("status", "error", "retry"), [(429, LARGE, "false"), (403, FLAGGED, "false")])
def test_what_is_about_the_request_itself_is_the_clients_and_tries_no_other_key(
    endpoint: Endpoint, status: int, error: dict[str, object], retry: str | None
) -> None:
    world = World()
    answer = world.forward(refusal(status, error, retry_after="9"), ok(), endpoint=endpoint)
    assert (answer.status, header(answer, "x-should-retry")) == (status, retry)
    assert header(answer, "retry-after") is None
    told = error_of(answer)
    assert told["message"] == error["message"]
    if endpoint is CHAT:
        assert told["code"] == error["code"]
    assert [outcome for _, outcome, _ in world.keys.reports] == [KeyOutcome.CLIENT_FAULT]


def test_a_refusal_without_a_reason_counts_once_another_key_has_served_the_request(world: World) -> None:
    assert consume(world.forward(error_reply(403, "Request not allowed"), ok())) == ANSWER
    assert {key for key, _, _ in world.keys.reports} == {"k2"}
    assert world.keys.blamed == [("k1", KeyOutcome.SUSPECT)]


def test_a_request_that_every_key_refuses_is_the_suspect(world: World) -> None:
    answer = world.forward(*[error_reply(403, "Request not allowed") for _ in range(3)])
    assert (answer.status, error_of(answer)["message"]) == (403, "Request not allowed")
    assert world.keys.reports == world.keys.blamed == []
    assert world.keys.leased == 0


def test_keys_that_failed_a_request_are_told_from_the_one_that_served_it(world: World) -> None:
    consume(world.forward(error_reply(500), error_reply(429), ok()))
    assert world.keys.blamed == [("k1", KeyOutcome.FAILED), ("k2", KeyOutcome.MODEL_LIMITED)]


def test_no_key_is_blamed_for_what_it_did_itself_on_a_fresh_connection() -> None:
    world = World(keys=("a",))
    assert consume(world.forward(stale(), ok())) == ANSWER
    assert world.keys.blamed == []


@BOTH
def test_a_model_that_is_limited_everywhere_is_a_429_with_the_time_of_the_first_key(
    endpoint: Endpoint,
) -> None:
    world = World()
    world.keys.obstacle = NoKey(Shortage.MODEL, {Shortage.MODEL: 4}, NOW + timedelta(seconds=3.2))
    answer = world.forward(endpoint=endpoint)
    assert (answer.status, header(answer, "retry-after"), header(answer, "x-should-retry")) == (
        429,
        "4",
        None,
    )
    assert error_of(answer)["type"] == "rate_limit_error"
    assert world.record.error_type == "rate_limit_exceeded"


@pytest.mark.parametrize(("told", "known_s", "heard"), [("30", 4, "4"), ("2", 40, "2"), (None, 5, "5")])
def test_the_wait_is_that_of_the_first_key_that_comes_back(
    told: str | None, known_s: float, heard: str
) -> None:
    world = World(keys=("a",))

    def last() -> bytes:
        retry_at = NOW + timedelta(seconds=known_s)
        world.keys.obstacle = NoKey(Shortage.MODEL, {Shortage.MODEL: 1}, retry_at)
        return b"{}"

    headers = {} if told is None else {"retry_after": told}
    assert header(world.forward(json_reply(last, status=429, **headers)), "retry-after") == heard


@BOTH
def test_what_is_said_of_a_refusal_is_scrubbed(endpoint: Endpoint) -> None:
    world = World(keys=("a",))
    error: dict[str, object] = {
        "message": "no secret-of-a",
        "type": "not_found_error",
        "code": "at https://api.ohmygpt.com",
        "details": {"secret-of-a": ["secret-of-a"]},
    }
    body = consume(world.forward(refusal(404, error), endpoint=endpoint))
    assert b"secret-of-a" not in body
    assert b"ohmygpt" not in body
    assert json.loads(body)["error"]["details"] == {"[key]": ["[key]"]}
