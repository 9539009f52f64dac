"""A user pays by their own factor or by their group's; what is held for them does, too."""

import pytest
from exchange_world import ANSWER, COST, World, consume, json_reply

from app.accounts.funds import Balance
from app.accounts.principal import Principal
from app.pricing.rate_card import MAX_FACTOR


def asked(factor: str | None, group: str | None, **body: object) -> World:
    world = World()
    world.directory.balances["ann"] = Balance(10**12)
    world.directory.principals["sk-ann"] = Principal("ann", "wk_ann", price_factor=factor, group=group)
    consume(world.forward(json_reply(ANSWER), **body))
    return world


@pytest.mark.parametrize(
    ("factor", "group", "cost", "shown", "unpriced"),
    [
        (None, None, COST, None, ()),
        ("0.5", None, COST // 2, "0.5", ()),
        ("1.00", "friends", COST, None, ()),
        (None, "friends", COST * 3 // 4, "0.75", ()),
        ("0", "friends", 0, "0", ()),
        (None, "everybody", COST, None, ()),
        (None, "gone", COST, None, ("group:gone",)),
        ("2", "gone", COST * 2, "2", ()),
        # What cannot have been meant, in a database that others write to, too.
        *((factor, None, COST, None, ()) for factor in ("x", "-1", "NaN", "1e999", str(MAX_FACTOR + 1))),
    ],
)
def test_the_factor_of_a_user_or_else_of_their_group_is_in_the_cost(
    factor: str | None, group: str | None, cost: int, shown: str | None, unpriced: tuple[str, ...]
) -> None:
    record = asked(factor, group).record
    assert (record.cost_nano_usd, record.price_factor, record.unpriced) == (cost, shown, unpriced)
    assert sum(item.nano_usd for item in record.cost_items) == cost
    assert record.to_document().get("priceFactor") == shown


def most(world: World) -> int:
    ((_, _, nano_usd),) = world.credit.reserved
    return nano_usd


def test_credit_is_held_for_what_the_user_pays() -> None:
    assert most(asked("0.5", None)) * 2 == most(asked(None, None)) == most(asked("2", None)) // 2


def test_credit_is_held_for_the_tier_and_the_searches_that_are_asked_for() -> None:
    plain = most(asked(None, None, model="other"))
    assert most(asked(None, None, model="other", service_tier="flex")) > plain
    assert most(asked(None, None, model="other", service_tier="priority")) > 2 * plain
    assert most(asked(None, None, model="other", service_tier="auto")) > 2 * plain
    window = 1_000_000 * 1_250  # what a vendor's tool reads is open: as much as the model takes
    searches = most(asked(None, None, model="other", tools=[{"type": "web_search", "max_uses": 3}]))
    assert searches > window + 3 * 10_000_000
    assert most(asked(None, None, model="other", tools=[{"type": "web_search"}])) - searches > 60_000_000
