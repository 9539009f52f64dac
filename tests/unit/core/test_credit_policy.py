"""What a request may need, and that no process gives away more on its own word than the policy says."""

import json
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.credit_policy import (
    AMPLE_FACTOR,
    MAX_ESTIMATED_OUTPUT,
    Funds,
    Standing,
    estimate_cost_nano,
    output_limit,
    standing,
)
from app.core.pricing import Model, ModelPrice

MONEY = st.one_of(st.integers(0, 500), st.integers(0, 10**12))
ORDER = [Standing.NONE, Standing.LOW, Standing.AMPLE]


def model(fresh: str = "2", output: str = "10", multiplier: str = "1") -> Model:
    price = ModelPrice(*map(Decimal, (fresh, output, "0", "0", "0", multiplier)))
    return Model("gpt", "gpt", (), "gpt", price)


def rank(balance: int, charged: int, unheld: int, held: int, estimate: int) -> int:
    return ORDER.index(standing(Funds(balance, charged), unheld=unheld, held=held, estimate=estimate))


@given(MONEY, MONEY, MONEY, MONEY, st.integers(1, 10**10))
def test_nothing_is_admitted_unasked_when_nothing_is_left(balance, charged, unheld, held, estimate):
    outcome = standing(Funds(balance, charged), unheld=unheld, held=held, estimate=estimate)
    assert (outcome is Standing.NONE) == (balance <= charged + unheld + held)
    if outcome is Standing.AMPLE:
        assert (charged + unheld + estimate) * AMPLE_FACTOR <= balance


@given(MONEY, MONEY, MONEY, MONEY, st.integers(1, 10**10), MONEY)
def test_more_credit_never_hurts_and_more_use_never_helps(balance, charged, unheld, held, estimate, more):
    before = rank(balance, charged, unheld, held, estimate)
    assert rank(balance + more, charged, unheld, held, estimate) >= before
    assert rank(balance, charged + more, unheld, held, estimate) <= before
    assert rank(balance, charged, unheld + more, held, estimate) <= before
    assert rank(balance, charged, unheld, held + more, estimate) <= before
    assert rank(balance, charged, unheld, held, estimate + more) <= before


@given(st.integers(0, 10**9), st.lists(st.integers(1, 10**7), max_size=300))
def test_requests_admitted_unasked_together_stay_small_change(balance, estimates):
    unheld = 0
    for estimate in estimates:
        if standing(Funds(balance), unheld=unheld, held=0, estimate=estimate) is Standing.AMPLE:
            unheld += estimate
    assert unheld * AMPLE_FACTOR <= balance


@pytest.mark.parametrize(
    ("balance", "expected"),
    [(0, Standing.NONE), (-5, Standing.NONE), (1, Standing.LOW), (999, Standing.LOW), (1000, Standing.AMPLE)],
)
def test_where_the_lines_are(balance, expected):
    assert standing(Funds(balance), unheld=0, held=0, estimate=10) is expected


@pytest.mark.parametrize(
    ("request_bytes", "limit", "expected"),
    [
        pytest.param(400, None, 100 * 2000 + 1024 * 10_000, id="no limit given"),
        pytest.param(401, 10, 101 * 2000 + 10 * 10_000, id="a low limit"),
        pytest.param(4, 32_000, 2000 + 1024 * 10_000, id="a limit nobody reaches"),
        pytest.param(0, 0, 1, id="never nothing"),
        pytest.param(0, -7, 1, id="nonsense"),
    ],
)
def test_an_estimate_is_made_of_size_and_limit(request_bytes, limit, expected):
    assert estimate_cost_nano(model(), request_bytes=request_bytes, output_limit=limit) == expected


def test_the_multiplier_counts_and_a_free_model_still_needs_credit():
    assert estimate_cost_nano(model(multiplier="1.5"), request_bytes=4, output_limit=1) == 18_000
    assert estimate_cost_nano(model("0", "0"), request_bytes=4000) == 1


@given(st.integers(0, 10**8), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_larger_request_is_never_expected_to_cost_less(size, more, limit):
    base = estimate_cost_nano(model(), request_bytes=size, output_limit=limit)
    assert estimate_cost_nano(model(), request_bytes=size + more, output_limit=limit) >= base
    assert estimate_cost_nano(model(), request_bytes=size, output_limit=limit + more) >= base
    assert base <= estimate_cost_nano(model(), request_bytes=size, output_limit=MAX_ESTIMATED_OUTPUT)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 9, "max_tokens": 7}, 9),
        ({"max_completion_tokens": None, "max_tokens": 7}, 7),
        ({"max_tokens": "7"}, None),
        ({"max_tokens": 7.5}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": 0}, None),
        ({"max_tokens": -3}, None),
        ({"max_tokens": 2**70}, 2**70),
        ({"max_tokens": {"a": 1}}, None),
    ],
)
def test_the_limit_is_read_from_the_bodys_members(body, expected):
    encoded = json.dumps(body).encode()
    assert output_limit(msgspec.json.decode(encoded, type=dict[str, msgspec.Raw])) == expected


def test_a_value_that_is_no_text_at_all_is_no_limit():
    assert output_limit({"max_tokens": msgspec.Raw(b"\xff")}) is None
