"""The checks before anything goes upstream, and their order."""

import gzip
import json
import zlib
from datetime import timedelta

import pytest
from exchange_world import ANSWER, NOW, World, consume, error_of, header, json_reply

from app.core.principal import Balance, Principal
from app.core.records import Outcome
from app.core.request_body import Endpoint

BODY = json.dumps({"model": "gpt", "messages": []}).encode()
SOME = Balance(1)
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


def test_the_body_is_checked_before_the_model(world: World) -> None:
    assert world.forward(raw=b'{"model":"nope"}').status == 400
    refused(world, 400, "invalid_request_error")


def test_the_model_is_checked_before_the_credit(world: World) -> None:
    world.directory.balances["ann"] = NONE
    answer = world.forward(model="nope")
    assert answer.status == 404
    assert error_of(answer)["param"] == "model"
    refused(world, 404, "model_not_found")
    assert (world.record.model, world.record.requested_model) == (None, "nope")


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.MESSAGES])
@pytest.mark.parametrize("nano", [0, -5_000_000_000])
def test_without_credit_nothing_goes_upstream(endpoint: Endpoint, nano: int) -> None:
    world = World()
    world.directory.balances["ann"] = Balance(nano)
    answer = world.forward(endpoint=endpoint)
    assert (answer.status, header(answer, "x-should-retry")) == (402, "false")
    assert error_of(answer)["balance"] == nano / 1e9
    refused(world, 402, "insufficient_credits")
    assert world.record.model == "gpt"


def test_expired_credit_is_no_credit(world: World) -> None:
    world.directory.balances["ann"] = Balance(10**9, NOW)
    assert world.forward().status == 402
    refused(world, 402, "credits_expired")


@pytest.mark.parametrize("balance", [None, SOME, Balance(1, NOW + timedelta(seconds=1))])
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
