"""What a request may need, and that no process gives away more on its own word than the policy says."""

import json
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.accounts.funds import Funds
from app.credit.credit_policy import AMPLE_FACTOR, LEAST_OUTPUT, Need, is_ample, need, share
from app.pricing.model import DEFAULT_CONTEXT_WINDOW, DEFAULT_MAX_OUTPUT, Model
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import ModelPrice, RateCard, Terms
from app.wires.endpoints import CHAT, MESSAGES
from app.wires.orders import reachable_tiers
from app.wires.output_limit import output_limit
from app.wires.usage import Usage

MONEY = st.one_of(st.integers(0, 500), st.integers(0, 10**12))


def model(fresh: str = "2", output: str = "10", multiplier: str = "1") -> Model:
    price = ModelPrice(*map(Decimal, (fresh, output, "0", "0", "0", multiplier)))
    return Model("gpt", "gpt", (), "gpt", RateCard(price))


AMOUNTS = st.integers(1, 10**10)


@given(MONEY, MONEY, MONEY, MONEY, AMOUNTS)
def test_what_starts_unasked_is_small_change_of_what_is_left(balance, charged, unheld, held, most):
    if is_ample(Funds(balance, charged), unheld=unheld, held=held, most=most):
        assert (charged + unheld + most) * AMPLE_FACTOR <= balance - held


@given(MONEY, MONEY, MONEY, MONEY, AMOUNTS, MONEY)
def test_more_credit_never_hurts_and_more_use_never_helps(balance, charged, unheld, held, most, more):
    def found(balance=balance, charged=charged, unheld=unheld, held=held, most=most):
        return is_ample(Funds(balance, charged), unheld=unheld, held=held, most=most)

    assert found(balance=balance + more) >= found()
    assert found(charged=charged + more) <= found()
    assert found(unheld=unheld + more) <= found()
    assert found(held=held + more) <= found()
    assert found(most=most + more) <= found()


@given(st.integers(0, 10**9), st.lists(st.integers(1, 10**7), max_size=300))
def test_requests_admitted_unasked_together_stay_small_change(balance, estimates):
    unheld = 0
    for most in estimates:
        if is_ample(Funds(balance), unheld=unheld, held=0, most=most):
            unheld += most
    assert unheld * AMPLE_FACTOR <= balance


@pytest.mark.parametrize(
    ("balance", "expected"), [(0, False), (-5, False), (1, False), (999, False), (1000, True)]
)
def test_where_the_line_is(balance, expected):
    assert is_ample(Funds(balance), unheld=0, held=0, most=10) is expected


def need_of(size: int = 400, limit: int | None = None, **more: Any) -> Need:
    given = {"prompt_bytes": size, "most_input": size, "output_limit": limit} | more
    return need(given.pop("model", model()), **given)


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        pytest.param({}, 400 * 2000 + DEFAULT_MAX_OUTPUT * 10_000, id="the model's own limit"),
        pytest.param({"limit": 10}, 400 * 2000 + 10 * 10_000, id="the client's limit"),
        pytest.param({"limit": 10, "choices": 3}, 400 * 2000 + 30 * 10_000, id="of each answer"),
        pytest.param({"limit": 10, "predicted": 7}, 400 * 2000 + 17 * 10_000, id="predicted in vain"),
        pytest.param(
            {"limit": 10, "predicted": 7, "choices": 3}, 400 * 2000 + 51 * 10_000, id="by each answer"
        ),
        pytest.param({"limit": 10**6}, 400 * 2000 + 10**6 * 10_000, id="nobody knows better"),
        pytest.param(
            {"limit": 10, "most_input": None}, DEFAULT_CONTEXT_WINDOW * 2000 + 10 * 10_000, id="open input"
        ),
        pytest.param(
            {"size": 4 * 10**6, "limit": 1},
            DEFAULT_CONTEXT_WINDOW * 2000 + 10_000,
            id="no more than it takes",
        ),
        pytest.param({"size": 0, "limit": 1, "model": model("0", "0")}, 1, id="never nothing"),
    ],
)
def test_a_request_may_need_all_its_input_and_all_output_it_allows(asked: dict[str, Any], most: int) -> None:
    found = need_of(**asked)
    assert found.most == most
    assert found.usual <= found.most


def test_a_prediction_in_vain_is_part_of_the_least_as_well() -> None:
    plain, predicting = need_of(limit=100), need_of(limit=100, predicted=7, choices=2)
    assert plain.least == 200_000 + LEAST_OUTPUT * 10_000
    assert predicting.least == 200_000 + 2 * (LEAST_OUTPUT + 7) * 10_000


def test_the_tables_limits_count_before_the_clients() -> None:
    known = ModelTable.from_toml(
        """
        [[models]]
        id = "m"
        input = 2
        output = 10
        cache_write = 5
        cache_write_1h = 8
        cache_hit = 1
        context_window = 100
        max_output = 50
        """
    ).models[0]
    assert need_of(1000, 7000, model=known).most == 100 * 5000 + 50 * 10_000
    assert need_of(1000, 7, model=known, is_cached_long=True).most == 100 * 8000 + 7 * 10_000


PRICES = st.decimals(0, 100, places=4)
SIZES = st.integers(0, 10**6)


TIERED = ModelTable.from_toml(
    """
    [[models]]
    id = "tiered"
    input = 2
    output = 10
    units = { web_search = 0.01 }
    tiers = [{ above_input_tokens = 1000, output = 45 }, { above_input_tokens = 5000, input = 9 }]
    service_tiers.flex.factor = 0.5
    service_tiers.priority = { factor = 2, cache_hit = 7, units = { web_search = 0.03 } }
    inference_geo.us.factor = 1.1
    """
).models[0]


@given(
    asked=st.sampled_from([(), ("service_tier:flex",), ("service_tier:priority", "inference_geo:us")]),
    is_auto=st.booleans(),
    factor=st.none() | st.fractions(0, 10, max_denominator=100),
    size=st.integers(0, 10_000),
    limit=st.integers(1, 1000),
    calls=st.integers(0, 5),
    data=st.data(),
)
def test_no_tier_size_or_search_that_a_request_may_come_to_costs_more_than_its_need(
    asked: tuple[str, ...],
    is_auto: bool,
    factor: Fraction | None,
    size: int,
    limit: int,
    calls: int,
    data: Any,
) -> None:
    terms = [Terms(None, tiers, factor) for tiers in reachable_tiers(frozenset(asked), is_auto=is_auto)]
    found = need_of(size, limit, model=TIERED, terms=terms, calls={"web_search": calls}, is_cached_long=True)
    fresh, read, write, write_1h = split(size, [data.draw(st.integers(0, size)) for _ in range(3)])
    used = Usage(
        input_tokens=fresh,
        cache_read_input_tokens=read,
        cache_creation_5m_input_tokens=write,
        cache_creation_1h_input_tokens=write_1h,
        output_tokens=data.draw(st.integers(0, limit)),
        quantities=(("web_search", calls),) if calls else (),
    )
    assert TIERED.cost_nano_usd(used, data.draw(st.sampled_from(terms))) <= found.most
    granted = data.draw(st.integers(found.least, max(found.least, found.most)))
    if granted >= found.most_input:
        capped = msgspec.structs.replace(used, output_tokens=min(limit, found.output_cap(granted)))
        assert TIERED.cost_nano_usd(capped, data.draw(st.sampled_from(terms))) <= max(granted, found.least)


@given(
    st.tuples(PRICES, PRICES, PRICES, PRICES, PRICES, st.decimals(0, 3, places=2)),
    SIZES,
    st.integers(1, 10**5),
    st.integers(1, 5),
    st.data(),
)
def test_no_request_that_keeps_to_its_limits_costs_more_than_its_need_or_its_grant(
    prices: tuple[Decimal, ...], size: int, limit: int, choices: int, data: Any
) -> None:
    dear = Model("m", "m", (), "m", RateCard(ModelPrice(*prices)))
    found = need_of(size, limit, model=dear, choices=choices, is_cached_long=True)
    most_tokens = min(size, DEFAULT_CONTEXT_WINDOW)
    parts = [data.draw(st.integers(0, most_tokens)) for _ in range(3)]
    fresh, read, write, write_1h = split(most_tokens, parts)

    def cost(output: int) -> int:
        return dear.cost_nano_usd(
            Usage(
                input_tokens=fresh,
                cache_read_input_tokens=read,
                cache_creation_5m_input_tokens=write,
                cache_creation_1h_input_tokens=write_1h,
                output_tokens=output * choices,
            )
        )

    assert cost(limit) <= found.most
    granted = data.draw(st.integers(found.least, found.most))
    cap = found.output_cap(granted)
    assert min(LEAST_OUTPUT, limit) <= cap <= limit
    # What was lowered stays within its grant, but for the input of one that was given all that was left.
    assert cost(cap) <= granted - found.likely_input + found.most_input
    if granted >= found.usual:
        assert cost(cap) <= granted


def split(whole: int, marks: list[int]) -> list[int]:
    edges = [0, *sorted(marks), whole]
    return [after - before for before, after in pairwise(edges)]


LEFTS = st.integers(0, 10**12)


@given(LEFTS, st.lists(st.tuples(st.integers(1, 10**12), st.integers(1, 10**12)), max_size=200))
def test_shares_together_are_never_more_than_there_is(balance: int, requests: list[tuple[int, int]]) -> None:
    left = balance
    for running, (one, other) in enumerate(requests):
        usual, most = sorted((one, other))
        least = usual // 2
        part = share(left, most=most, usual=usual, running=running, least=least)
        assert 0 <= part <= min(most, left)
        assert (part == 0) == (left < max(1, least))
        # Less than is usual only where that is all there is: whoever comes next finds nothing.
        assert part >= usual or part in (0, left)
        left -= part
    assert left >= 0


def test_what_is_left_goes_to_many_and_a_lone_request_may_have_half() -> None:
    assert share(1000, most=400, usual=10, running=0) == 400
    assert share(1000, most=900, usual=10, running=0) == 500
    assert share(1000, most=900, usual=10, running=1) == 125
    assert share(1000, most=900, usual=300, running=1) == 300
    assert share(200, most=900, usual=300, running=1) == 200
    assert share(-5, most=900, usual=300, running=1) == 0
    assert type(share(1001, most=900, usual=10, running=0)) is int  # whatever is left over


@pytest.mark.parametrize(("left", "least", "part"), [(0, 0, 0), (1, 1, 1), (1, 0, 1), (7, 7, 7), (6, 7, 0)])
def test_the_least_that_is_of_use_may_be_all_that_is_left(left: int, least: int, part: int) -> None:
    assert share(left, most=900, usual=300, running=0, least=least) == part


def test_whatever_is_left_is_of_use_unless_told_otherwise() -> None:
    assert share(1, most=900, usual=300, running=0) == 1


@pytest.mark.parametrize(
    ("granted", "cap"),
    [
        pytest.param(800_000 + 50 * 10_000, 50, id="what the rest pays for"),
        pytest.param(800_000 + 16 * 10_000, 16, id="the least"),
        pytest.param(800_000, 60, id="the likely input is covered"),
        pytest.param(200_000 + 16 * 10_000, 16, id="just so"),
    ],
)
def test_a_limit_is_lowered_to_what_the_grant_pays_for(granted: int, cap: int) -> None:
    assert need_of(400, 1000).output_cap(granted) == cap


@pytest.mark.parametrize(
    ("granted", "choices", "cap"),
    [
        (800_000 + 50 * 10_000 + 9_999, 1, 50),
        (800_000 + 101 * 10_000, 2, 50),
        (200_000 + 35 * 10_000, 2, 17),
    ],
)
def test_a_lowered_limit_is_a_whole_number_of_tokens(granted: int, choices: int, cap: int) -> None:
    found = need_of(400, 1000, choices=choices).output_cap(granted)
    assert (found, type(found)) == (cap, int)


def test_a_limit_that_was_low_anyway_is_enough_and_thinking_needs_room() -> None:
    assert need_of(400, 3).output_cap(800_000 + 3 * 10_000) == 3
    assert need_of(400, 3).least == 200_000 + 3 * 10_000
    assert need_of(400, 5000, least_output=1025).least == 200_000 + 1025 * 10_000


@pytest.mark.parametrize(
    ("body", "chat", "messages"),
    [
        ({}, None, None),
        ({"max_tokens": 7}, 7, 7),
        ({"max_completion_tokens": 9, "max_tokens": 7}, 9, 7),
        ({"max_completion_tokens": 1, "max_tokens": 30_000}, 30_000, 30_000),
        ({"max_completion_tokens": None, "max_tokens": 7}, 7, 7),
        ({"max_completion_tokens": 9}, 9, None),
        ({"max_completion_tokens": "9", "max_tokens": 7}, None, 7),
        ({"max_tokens": "7"}, None, None),
        ({"max_tokens": 7.5}, None, None),
        ({"max_tokens": True}, None, None),
        ({"max_tokens": 0}, None, None),
        ({"max_tokens": -3}, None, None),
        ({"max_tokens": 2**70}, 2**70, 2**70),
        ({"max_tokens": {"a": 1}}, None, None),
    ],
)
def test_the_limit_is_read_from_the_members_that_its_format_has(
    body: dict[str, Any], chat: int | None, messages: int | None
) -> None:
    members = msgspec.json.decode(json.dumps(body).encode(), type=dict[str, msgspec.Raw])
    assert output_limit(members, CHAT.members.output_limits) == chat
    assert output_limit(members, MESSAGES.members.output_limits) == messages


def test_a_value_that_is_no_text_at_all_is_no_limit() -> None:
    assert output_limit({"max_tokens": msgspec.Raw(b"\xff")}, MESSAGES.members.output_limits) is None
