"""A request settles once, and its record holds what is known by then."""

from dataclasses import replace
from typing import Any

import pytest
from exchange_world import NOW, World

from app.accounts.principal import Principal
from app.exchange.exchange import Exchange, Metered
from app.records.records import AttemptRecord, Outcome, UsageSource
from app.wires.endpoints import CHAT
from app.wires.usage import Usage


@pytest.fixture
def exchange(world: World) -> Exchange:
    return Exchange(
        call=world.call(),
        principal=Principal("ann", "wk_ann"),
        sink=world.sink,
        directory=world.directory,
        credit=world.credit,
        clock=world.clock,
        endpoint=CHAT,
    )


def test_only_the_first_ending_counts(world: World, exchange: Exchange) -> None:
    exchange.settle(Outcome.OK, 200)
    exchange.settle(Outcome.INTERNAL_ERROR, 500)
    assert world.record.outcome is Outcome.OK
    assert exchange.is_settled
    assert world.watch.stops == 1


def test_a_record_without_a_forward_has_only_overhead(world: World, exchange: Exchange) -> None:
    world.clock.now += 0.25
    exchange.settle(Outcome.REJECTED, 400, error_type="x")
    record = world.record
    assert (record.latency_ms, record.ttft_ms, record.overhead_ms) == (0, None, 250)
    assert (record.model, record.stream, record.created_at) == (None, False, NOW)


def test_usage_of_a_model_that_is_not_known_costs_nothing(world: World, exchange: Exchange) -> None:
    exchange.settle(Outcome.OK, 200, metered=Metered(Usage(input_tokens=5), {"a.b": 1}, UsageSource.UPSTREAM))
    assert (world.record.input_tokens, world.record.cost_nano_usd) == (5, 0)
    assert world.record.usage_raw == {"a_b": 1}
    assert world.directory.charges == []


@pytest.mark.parametrize(
    ("outcome", "changes"),
    [
        (Outcome.OK, {}),
        (
            Outcome.CLIENT_ABORT,
            {"usage": Usage(input_tokens=5, output_tokens=9), "source": UsageSource.ESTIMATE},
        ),
        (Outcome.OK, {"usage_raw": {"a": 2}}),
        (Outcome.STREAM_ERROR, {"upstream_model": "other"}),
        (Outcome.OK, {"service_tier": "batch"}),
        (Outcome.OK, {"flags": frozenset(("odd",))}),
    ],
    ids=["same", "usage", "raw", "model", "tier", "flags"],
)
def test_a_record_is_the_same_whether_it_was_foreseen_or_not(
    world: World, exchange: Exchange, outcome: Outcome, changes: dict[str, Any]
) -> None:
    from exchange_world import MODELS

    at_hand = Metered(Usage(input_tokens=5), {"a": 1}, UsageSource.PARTIAL, "gpt-2026", None, frozenset())
    known = replace(at_hand, source=UsageSource.UPSTREAM)
    exchange.model = MODELS.resolve("gpt")
    exchange.forwarded_at = world.clock.monotonic()
    exchange.attempts.append(AttemptRecord("env-1", 200, 7))
    unforeseen = replace(exchange)
    exchange.checkpoint(200, at_hand, is_whole=True)
    for ended in (exchange, unforeseen):
        world.clock.now += 0.25
        ended.bytes_out = 321
        ended.settle(outcome, 499, metered=replace(known, **changes), error_type="x", ended_at=1000.5)
    checkpointed, record = world.sink.records
    assert checkpointed == record
    assert (record.outcome, record.bytes_out, record.latency_ms) == (outcome, 321, 500)
    assert world.sink.checkpointed[0].outcome is Outcome.INTERRUPTED


def test_a_charge_that_cannot_be_noted_does_not_cost_the_record(world: World, exchange: Exchange) -> None:
    from exchange_world import MODELS

    def broken(user_id: str, nano_usd: int) -> None:
        raise ValueError("broken directory")

    world.directory.note_charge = broken  # type: ignore[method-assign]
    exchange.model = MODELS.resolve("gpt")
    with pytest.raises(ValueError, match="broken"):
        exchange.settle(Outcome.OK, 200, metered=Metered(Usage(input_tokens=5)))
    assert world.record.cost_nano_usd == 5_000


def test_a_clock_that_went_backwards_gives_no_negative_times(world: World, exchange: Exchange) -> None:
    exchange.forwarded_at = 2000.0
    exchange.first_content_at = 1500.0
    exchange.settle(Outcome.OK, 200, ended_at=1000.0)
    record = world.record
    assert (record.latency_ms, record.ttft_ms, record.overhead_ms) == (0, 0, 1_000_000)


def test_what_was_reserved_is_released_once_and_the_hold_is_in_the_record(
    world: World, exchange: Exchange
) -> None:
    world.credit.hold_nano = 77
    exchange.reservation = reservation = world.credit.reserve("ann", "request-1", 100)
    exchange.settle(Outcome.UPSTREAM_ERROR, 502)
    exchange.settle(Outcome.OK, 200)
    assert world.credit.released == [reservation]
    assert world.record.hold_nano_usd == 77
