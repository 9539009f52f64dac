"""A request settles once, and its record holds what is known by then."""

import pytest
from exchange_world import NOW, World

from app.core.principal import Principal
from app.core.records import Outcome, UsageSource
from app.core.usage import Usage
from app.exchange.exchange import Exchange, Metered


@pytest.fixture
def exchange(world: World) -> Exchange:
    return Exchange(
        call=world.call(),
        principal=Principal("ann", "wk_ann"),
        sink=world.sink,
        directory=world.directory,
        credit=world.credit,
        clock=world.clock,
        endpoint="chat",
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
