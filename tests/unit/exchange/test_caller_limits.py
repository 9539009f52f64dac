"""What keys and users are limited in: each refusal in its format, with its record, and nothing left over."""

import json
from typing import Any

import pytest
from exchange_world import ANSWER, NOW, World, close, consume, header, json_reply

from app.accounts.funds import Balance
from app.accounts.limits import Budget, Limits
from app.accounts.principal import Principal
from app.accounts.rate_limiter import SharedRateLimiter
from app.common.money import NANO
from app.credit.budgets import bucket_name, claim_on
from app.exchange.caller_limits import CallerLimits
from app.exchange.exchange import Answer
from app.records.records import Outcome
from app.wires.endpoints import CHAT, MESSAGES, RESPONSES, Endpoint

MESSAGE = {"max_tokens": 10, "messages": [{"role": "user", "content": "x"}]}


def limited_world(
    key: Limits | None = None, user: Limits | None = None, **fields: Any
) -> tuple[World, SharedRateLimiter]:
    world = World()
    principal = Principal("ann", "wk_ann", key_limits=key, user_limits=user, **fields)
    world.directory.principals["sk-ann"] = principal
    world.directory.balances["ann"] = Balance(1000 * NANO)
    counts = SharedRateLimiter("w1", lambda: world.clock.now)
    world.gateway.admission._limits = CallerLimits(counts)
    return world, counts


def refused(world: World, answer: Answer, status: int, error_type: str) -> dict[str, Any]:
    assert answer.status == status
    error: dict[str, Any] = json.loads(consume(answer))["error"]
    record = world.sink.records[-1]
    assert (record.outcome, record.status_code, record.error_type) == (Outcome.REJECTED, status, error_type)
    assert record.error_message == error["message"]
    assert not world.upstream.sent
    return error


@pytest.mark.parametrize(
    ("endpoint", "kind"), [(CHAT, "invalid_request_error"), (MESSAGES, "permission_error")]
)
@pytest.mark.parametrize("of_key", [True, False])
def test_a_model_that_is_not_allowed(endpoint: Endpoint, kind: str, of_key: bool) -> None:
    limits = Limits(models=("other*",))
    world, _ = limited_world(limits if of_key else None, None if of_key else limits)
    answer = world.forward(endpoint=endpoint, **MESSAGE)
    error = refused(world, answer, 403, "model_not_allowed")
    assert error["type"] == kind
    assert "'gpt'" in error["message"]
    assert header(answer, "x-should-retry") == "false"
    # By an alias of it, too; and another one passes.
    refused(world, world.forward(endpoint=endpoint, model="gpt-alias", **MESSAGE), 403, "model_not_allowed")
    passed = world.forward(json_reply(ANSWER), endpoint=CHAT, model="other")
    assert passed.status == 200
    consume(passed)


@pytest.mark.parametrize("member", ["models", "fallbacks", "route"])
def test_no_other_model_may_be_named_beside_one_that_is_allowed(member: str) -> None:
    world, _ = limited_world(Limits(models=("gpt*",)))
    for endpoint in (CHAT, MESSAGES, RESPONSES):
        answer = world.forward(endpoint=endpoint, **MESSAGE, **{member: ["other"]})
        error = refused(world, answer, 403, "model_not_allowed")
        assert error["message"].startswith(f"{member}: ")
    # Nothing is named by these, and who is not limited may name what they like.
    free, _ = limited_world(Limits(tpm=10_000))
    for passes, named in ((world, None), (free, ["other"])):
        passed = passes.forward(json_reply(ANSWER), endpoint=CHAT, **{member: named})
        assert passed.status == 200
        consume(passed)


def test_a_key_from_elsewhere_is_refused_before_anything_is_counted() -> None:
    world, _ = limited_world(Limits.read({"allowedIps": ["10.0.0.0/8"]}))
    refused(world, world.forward(), 403, "address_not_allowed")  # the call has no address at all
    assert not world.limiter.hits


def test_requests_at_once_end_with_their_answers_whatever_becomes_of_them() -> None:
    world, _ = limited_world(Limits(max_parallel=2), Limits(max_parallel=3))
    running = [world.forward(json_reply(ANSWER)) for _ in range(2)]
    error = json.loads(consume(answer := world.forward()))["error"]
    assert (answer.status, error["code"], header(answer, "retry-after")) == (
        429,
        "parallel_limit_exceeded",
        "1",
    )
    for answer in running:
        assert consume(answer)
    consume(world.forward(raw=b"no json"))
    consume(world.forward(json_reply(b"{}", status=400)))
    for _ in range(3):
        assert consume(world.forward(json_reply(ANSWER)))
    assert world.sink.records[-1].outcome is Outcome.OK


def test_places_of_a_user_are_those_of_all_keys() -> None:
    world, counts = limited_world(user=Limits(max_parallel=1))
    running = world.forward(json_reply(ANSWER))
    world.directory.principals["sk-ann"] = Principal("ann", "wk_other", user_limits=Limits(max_parallel=1))
    assert world.forward().status == 429
    close(running)
    assert counts.enter("places:all:ann", 1)


def test_a_place_is_kept_when_the_minute_turns() -> None:
    world, counts = limited_world(Limits(max_parallel=1))
    running = world.forward(json_reply(ANSWER))
    world.clock.now += 61
    assert world.forward().status == 429
    close(running)
    assert counts.enter("places:wk_ann", 1)


def test_tokens_a_minute_are_those_that_were_used() -> None:
    world, _ = limited_world(Limits(tpm=12))
    assert consume(world.forward(json_reply(ANSWER)))  # 9 + 2 tokens, of which the input was counted before
    assert consume(world.forward(json_reply(ANSWER)))
    answer = world.forward()
    error = json.loads(consume(answer))["error"]
    assert (answer.status, error["code"]) == (429, "token_limit_exceeded")
    assert 0 < int(header(answer, "retry-after") or 0) <= 60
    world.clock.now += 60
    assert world.forward(json_reply(ANSWER)).status == 200


def test_a_users_requests_a_minute_are_those_of_all_keys() -> None:
    world = World()
    world.directory.principals["sk-ann"] = Principal("ann", "wk_ann", rpm=50, user_rpm=20)
    consume(world.forward(json_reply(ANSWER)))
    assert world.limiter.hits == [("all:ann", 20), ("wk_ann", 50)]
    world.directory.principals["sk-ann"] = Principal("ann", "wk_ann", rpm=20, user_rpm=20)
    world.limiter.hits.clear()
    consume(world.forward(json_reply(ANSWER)))
    assert world.limiter.hits == [("all:ann", 20)]


MONTH = Budget(10 * NANO, "month", "gpt*")


def spend(world: World, budget: Budget, nano: int, key_id: str | None = None) -> None:
    claim = claim_on(budget, key_id, NOW, NOW.tzinfo)  # type: ignore[arg-type]
    world.directory.spent["ann"] = {claim.name: {bucket_name(claim.bucket): nano}}


@pytest.mark.parametrize(
    ("endpoint", "status", "code"),
    [(CHAT, 402, "budget_exceeded"), (MESSAGES, 402, None), (RESPONSES, 429, "insufficient_quota")],
)
@pytest.mark.parametrize("of_key", [True, False])
def test_a_budget_that_is_used_up(endpoint: Endpoint, status: int, code: str | None, of_key: bool) -> None:
    limits = Limits(budgets=(Budget(NANO, "total"), MONTH))
    world, _ = limited_world(limits if of_key else None, None if of_key else limits)
    spend(world, MONTH, 10 * NANO, "wk_ann" if of_key else None)
    answer = world.forward(endpoint=endpoint, input="x", **MESSAGE)
    error = refused(world, answer, status, "budget_exceeded")
    whose = "The budget of this key" if of_key else "Your budget"
    assert (
        error["message"]
        == f"{whose} of 10 USD a month for gpt* is used up. It begins anew at 2026-12-01T00:00:00.000Z."
    )
    assert error["budget"] == {
        "of": "key" if of_key else "user",
        "usd": "10",
        "per": "month",
        "models": "gpt*",
        "leftUsd": "0",
        "beginsAnew": "2026-12-01T00:00:00.000Z",
    }
    assert error.get("code") == code
    assert header(answer, "x-should-retry") == "false"
    # The month ends in seven and a half days; on the Responses API a time to wait would have it repeated.
    assert header(answer, "retry-after") == (None if endpoint is RESPONSES else str(int(7.5 * 86_400)))
    other = world.forward(json_reply(ANSWER), model="other")
    assert other.status == 200
    consume(other)


def test_the_record_says_which_budgets_were_charged_and_the_gate_is_told() -> None:
    world, _ = limited_world(Limits(budgets=(Budget(NANO, "day"),)), Limits(budgets=(MONTH,)))
    consume(world.forward(json_reply(ANSWER)))
    claims = world.credit.claims[-1]
    assert [claim.name for claim in claims] == [MONTH.name, "wk_ann-day"]
    assert world.record.to_document()["budgets"] == [claim.to_document() for claim in claims]
    # What cost nothing is taken from none.
    consume(world.forward(raw=b"no json"))
    assert "budgets" not in world.sink.records[-1].to_document()


def test_without_limits_nothing_is_counted_or_said() -> None:
    world = World()
    world.directory.balances["ann"] = Balance(1000 * NANO)
    counts = SharedRateLimiter("w1", lambda: world.clock.now)
    world.gateway.admission._limits = CallerLimits(counts)
    consume(world.forward(json_reply(ANSWER)))
    assert not counts._counts
    assert world.credit.claims == [()]
    assert "budgets" not in world.record.to_document()
