"""The checks before anything goes upstream, and their order."""

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from exchange_world import ANSWER, NOW, FakeReply, World, consume, error_of, header, json_reply

from app.accounts.funds import Balance
from app.accounts.principal import Principal
from app.credit.reservation import CreditExhausted, Reservation
from app.exchange.exchange import STILL_KNOWN_S
from app.records.records import Outcome
from app.upstream.transport import ProviderKey, UpstreamRequest
from app.wires.endpoints import CHAT, COUNT_TOKENS, LIST_MODELS, MESSAGES, Endpoint

BODY = json.dumps({"model": "gpt", "messages": []}).encode()
SOME = Balance(10**9)
NONE = Balance(0)


def refused(world: World, status: int, code: str) -> None:
    record = world.record
    assert (record.outcome, record.status_code, record.error_type) == (Outcome.REJECTED, status, code)
    assert world.upstream.sent == []
    assert record.attempts == ()
    assert record.bytes_out > 0


def test_the_rate_is_checked_before_the_body() -> None:
    world = World()
    world.limiter.is_over = True
    answer = world.forward(raw=b"not json")
    assert (answer.status, header(answer, "retry-after")) == (429, "17")
    assert "100 requests per minute" in error_of(answer)["message"]
    refused(world, 429, "rate_limit_exceeded")
    assert header(answer, "x-ratelimit-remaining") == "0"


def test_what_is_free_is_counted_apart_by_the_same_limit(world: World) -> None:
    consume(world.forward(json_reply(ANSWER)))
    consume(world.forward(json_reply(b'{"input_tokens":3}'), endpoint=COUNT_TOKENS))
    world.gateway.answer_locally(world.call(), LIST_MODELS, lambda _: b"{}")
    assert world.limiter.hits == [("wk_ann", 100), ("free:wk_ann", 100), ("free:wk_ann", 100)]


def test_the_body_is_checked_before_the_model(world: World) -> None:
    assert world.forward(raw=b'{"model":"nope"}').status == 400
    refused(world, 400, "invalid_request_error")


@pytest.mark.wire(107)
def test_without_credit_the_body_is_not_read(world: World) -> None:
    world.directory.balances["ann"] = NONE
    assert world.forward(raw=b"not json").status == 402
    refused(world, 402, "insufficient_credits")


def test_an_unknown_model_is_refused(world: World) -> None:
    answer = world.forward(model="nope")
    assert answer.status == 404
    error = error_of(answer)
    assert (error["param"], error["message"]) == ("model", "The model 'nope' does not exist.")
    assert header(answer, "x-should-retry") == "false"
    refused(world, 404, "model_not_found")
    assert (world.record.model, world.record.requested_model) == (None, "nope")


@pytest.mark.parametrize("endpoint", [CHAT, MESSAGES])
def test_a_refusal_for_an_unknown_model_names_near_ones(endpoint: Endpoint) -> None:
    world = World()
    error = error_of(world.forward(model="gpt-aliass", endpoint=endpoint))
    assert error["message"] == "The model 'gpt-aliass' does not exist. Did you mean 'gpt-alias'?"
    assert len(error_of(World().forward(model="x" * 256, endpoint=endpoint))["message"]) < 300


def test_another_spelling_is_recorded_under_the_models_id(world: World) -> None:
    consume(world.forward(json_reply(ANSWER), model="OpenAI/GPT-Alias-2026-11-23"))
    assert json.loads(world.upstream.sent[0][0].body)["model"] == "up/gpt"
    assert (world.record.model, world.record.requested_model) == ("gpt", "OpenAI/GPT-Alias-2026-11-23")


@pytest.mark.parametrize("endpoint", [CHAT, MESSAGES])
@pytest.mark.parametrize("nano", [0, -5_000_000_000])
def test_without_credit_nothing_goes_upstream(endpoint: Endpoint, nano: int) -> None:
    world = World()
    world.directory.balances["ann"] = Balance(nano)
    answer = world.forward(endpoint=endpoint)
    assert (answer.status, header(answer, "x-should-retry")) == (402, "false")
    assert error_of(answer)["balance"] == nano / 1e9
    refused(world, 402, "insufficient_credits")


def test_expired_credit_is_no_credit(world: World) -> None:
    world.directory.balances["ann"] = Balance(10**9, NOW)
    assert world.forward().status == 402
    refused(world, 402, "credits_expired")


@pytest.mark.parametrize("balance", [None, SOME, Balance(10**9, NOW + timedelta(seconds=1))])
def test_credit_that_is_left_lets_a_request_pass(world: World, balance: Balance | None) -> None:
    world.directory.balances["ann"] = balance
    assert consume(world.forward(json_reply(ANSWER))) == ANSWER


def test_a_caller_without_a_balance_is_not_asked_for_one(world: World) -> None:
    world.directory.principals["sk-ann"] = Principal("env", "env", is_metered=False)
    world.directory.balance_is_down = True
    assert consume(world.forward(json_reply(ANSWER))) == ANSWER


def test_a_balance_that_cannot_be_read_is_a_503(world: World) -> None:
    world.directory.balance_is_down = True
    answer = world.forward()
    assert (answer.status, header(answer, "retry-after")) == (503, "5")
    refused(world, 503, "store_unavailable")


@pytest.mark.parametrize(
    ("error", "status", "code", "said", "retry_after"),
    [
        (CreditExhausted(0), 402, "insufficient_credits", "You have no credit left.", None),
        (CreditExhausted(5), 402, "insufficient_credits", "does not cover this request", None),
        (CreditExhausted(5, is_crowded=True), 429, "rate_limit_exceeded", "requests running", "1"),
    ],
)
def test_credit_that_cannot_be_reserved_refuses_the_request(
    world: World, error: CreditExhausted, status: int, code: str, said: str, retry_after: str | None
) -> None:
    world.directory.balances["ann"] = SOME
    world.credit.reserve = refusing(error)  # type: ignore[method-assign]
    answer = world.forward()
    assert (answer.status, header(answer, "retry-after")) == (status, retry_after)
    assert said in error_of(answer)["message"]
    refused(world, status, code)
    assert (world.record.hold_nano_usd, world.credit.released) == (0, [])


def test_a_hold_that_the_database_may_have_is_recorded_and_let_go_of(world: World) -> None:
    left = Reservation("ann", "request-1", 0, 700)
    world.directory.balances["ann"] = SOME
    world.credit.reserve = refusing(CreditExhausted(0, left))  # type: ignore[method-assign]
    assert world.forward().status == 402
    assert (world.record.hold_nano_usd, world.credit.released) == (700, [left])


def refusing(error: CreditExhausted) -> Callable[..., Reservation]:
    def reserve(*_asked: object) -> Reservation:
        raise error

    return reserve


@pytest.mark.parametrize(("own", "hits"), [(None, [("wk_ann", 100)]), (7, [("wk_ann", 7)]), (0, [])])
def test_a_key_may_have_a_limit_of_its_own(
    world: World, own: int | None, hits: list[tuple[str, int]]
) -> None:
    world.directory.principals["sk-ann"] = Principal("ann", "wk_ann", rpm=own)
    answer = world.forward(json_reply(ANSWER))
    consume(answer)
    assert world.limiter.hits == hits
    assert (header(answer, "x-ratelimit-limit") is None) is (not hits)


def test_a_model_is_recorded_under_its_own_name_and_asked_for_under_the_upstreams(world: World) -> None:
    consume(world.forward(json_reply(ANSWER), model="gpt-alias"))
    assert world.upstream.bodies[0]["model"] == "up/gpt"
    assert (world.record.model, world.record.requested_model) == ("gpt", "gpt-alias")


@pytest.mark.wire(69)
@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("identity", BODY),
        ("", BODY),
    ],
)
def test_a_compressed_body_is_decoded(world: World, coding: str, data: bytes) -> None:
    headers = {"x-api-key": "sk-ann", "content-encoding": coding}
    consume(world.forward(json_reply(ANSWER), raw=data, headers=headers))
    request, _ = world.upstream.sent[0]
    assert json.loads(request.body)["model"] == "up/gpt"
    assert "content-encoding" not in request.headers


@pytest.mark.parametrize(
    ("coding", "data", "status", "code"),
    [
        ("gzip", b"plain", 400, "invalid_request_error"),
        ("rot13", b"x", 415, "unsupported_encoding"),
        ("gzip", gzip.compress(bytes(2 * 1024 * 1024), mtime=0), 413, "request_too_large"),
        ("identity", bytes(1024 * 1024 + 1), 413, "request_too_large"),
    ],
)
def test_a_body_that_cannot_be_decoded_is_refused(
    world: World, coding: str, data: bytes, status: int, code: str
) -> None:
    headers = {"x-api-key": "sk-ann", "content-encoding": coding}
    assert world.forward(raw=data, headers=headers).status == status
    refused(world, status, code)


def test_a_body_of_exactly_the_largest_size_passes(world: World) -> None:
    filler = b" " * (1024 * 1024 - len(BODY))
    assert consume(world.forward(json_reply(ANSWER), raw=BODY + filler)) == ANSWER


def test_credit_that_ends_while_the_body_comes_is_no_credit() -> None:
    world = World()
    world.directory.balances["ann"] = SOME

    def body(_limit: int, _took: object) -> bytes:
        world.clock.now += 2 * STILL_KNOWN_S
        world.directory.balances["ann"] = Balance(10**9, NOW)
        return b'{"model": "gpt", "messages": []}'

    assert world.gateway.forward(replace(world.call(), read_body=body), CHAT).status == 402
    refused(world, 402, "credits_expired")


@pytest.mark.wire(112)
@pytest.mark.parametrize(("model", "status"), [(b"gpt", 200), (b"nope", 404), (b"", 400)])
def test_what_a_request_holds_is_given_back_however_it_ends(world: World, model: bytes, status: int) -> None:
    shares = world.gateway.admission._shares

    def body(_limit: int, took: Callable[[int], None]) -> bytes:
        took(100)
        assert (len(shares), shares.bytes_held) == (2, 100)
        return b'{"model": "%s", "messages": []}' % model

    world.upstream.script.append(json_reply(ANSWER))
    answer = world.gateway.forward(replace(world.call(), read_body=body), CHAT)
    assert answer.status == status
    assert shares.bytes_held == 0
    consume(answer)
    assert len(shares) == 0


def test_a_compressed_body_is_held_in_one_form_only_in_the_end(world: World) -> None:
    plain = b'{"model": "gpt", "messages": ["%s"]}' % (b"x" * 10_000)
    coded = gzip.compress(plain)
    held: list[int] = []

    def body(_limit: int, took: Callable[[int], None]) -> bytes:
        took(len(coded))
        return coded

    send = world.upstream.send

    def send_and_look(request: UpstreamRequest, key: ProviderKey, avoiding: frozenset[int]) -> FakeReply:
        held.append(world.gateway.admission._shares.bytes_held)
        return send(request, key, avoiding)

    world.upstream.send = send_and_look  # type: ignore[method-assign]
    world.upstream.script.append(json_reply(ANSWER))
    headers = {"authorization": "Bearer sk-ann", "content-encoding": "gzip"}
    call = replace(world.call(headers=headers), read_body=body)
    assert consume(world.gateway.forward(call, CHAT)) == ANSWER
    assert held == [len(plain)]
