"""What a failure of an upstream host means for the request, its key, and its record."""

from dataclasses import replace

import pytest
from exchange_world import ANSWER, FakeReply, World, consume, error_of, error_reply, failure, gone, json_reply

from app.keys.upstream_outcome import KeyOutcome
from app.records.records import Outcome
from app.upstream.transport import UpstreamFailure
from app.wires.endpoints import CHAT, Retry

ONCE = replace(CHAT, retry=Retry.UNBEGUN)


def of_host(host: int, kind: str = "unreachable", *, has_other: bool = True) -> UpstreamFailure:
    error = failure(kind)
    error.host, error.is_of_host = host, has_other
    return error


def page(host: int, status: int = 503) -> FakeReply:
    reply = error_reply(status)
    reply.headers = {"content-type": "text/html"}
    reply.host, reply.is_of_host = host, True
    return reply


def ok(host: int | None = 1) -> FakeReply:
    reply = json_reply(ANSWER)
    reply.host = host
    return reply


def hosts_of(world: World) -> list[int | None]:
    return [attempt.host for attempt in world.record.attempts]


def keys_used(world: World) -> list[str]:
    return [key_id for _, key_id in world.upstream.sent]


@pytest.mark.parametrize("first", [of_host(0), page(0), page(0, 502), page(0, 521)])
def test_another_host_serves_the_request_with_the_same_key(
    world: World, first: UpstreamFailure | FakeReply
) -> None:
    assert consume(world.forward(first, ok())) == ANSWER
    assert keys_used(world) == ["k1", "k1"]
    assert world.upstream.avoided == [frozenset(), frozenset({0})]
    assert hosts_of(world) == [0, 1]
    assert world.keys.reports[0] == ("k1", KeyOutcome.NEUTRAL, "host_failed")
    assert world.keys.blamed == []
    assert world.keys.leased == 0


def test_hosts_that_are_not_reached_use_up_no_attempt() -> None:
    world = World(max_attempts=1)
    consume(world.forward(of_host(0), of_host(1), ok(2)))
    assert hosts_of(world) == [0, 1, 2]
    assert world.record.outcome is Outcome.OK


def test_the_last_hosts_failure_is_like_that_of_an_only_one(world: World) -> None:
    answer = world.forward(
        of_host(0), of_host(1, has_other=False), failure("unreachable"), failure("unreachable")
    )
    assert error_of(answer)["code"] == "upstream_unreachable"
    assert keys_used(world) == ["k1", "k1", "k2", "k3"]
    assert [report[1] for report in world.keys.reports] == [KeyOutcome.NEUTRAL] + [KeyOutcome.FAILED] * 3


def test_a_page_is_no_reason_to_do_twice_what_may_have_begun(world: World) -> None:
    answer = world.forward(page(0), ok(), endpoint=ONCE)
    assert answer.status == 502
    assert hosts_of(world) == [0]


@pytest.mark.parametrize("retry", Retry)
def test_what_was_never_sent_goes_to_the_next_host_everywhere(world: World, retry: Retry) -> None:
    """Also what belongs to one key: it is the same key."""
    assert consume(world.forward(of_host(0), ok(), endpoint=replace(CHAT, retry=retry))) == ANSWER
    assert keys_used(world) == ["k1", "k1"]


@pytest.mark.parametrize("first", [of_host(0, "timeout"), page(0, 524)])
def test_a_silent_host_costs_the_request_but_not_its_key(
    world: World, first: UpstreamFailure | FakeReply
) -> None:
    answer = world.forward(first, ok())
    assert answer.status == 504
    assert hosts_of(world) == [0]
    assert world.keys.reports == [("k1", KeyOutcome.NEUTRAL, "host_failed")]


def test_a_departed_client_leaves_the_host_it_waited_for(world: World) -> None:
    error = gone()
    error.host = 1
    consume(world.forward(error))
    assert hosts_of(world) == [1]
