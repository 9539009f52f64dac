from hypothesis import given
from hypothesis import strategies as st

from app.accounts.rate_window import WINDOW_S, decide, window_start

MOMENTS = st.floats(min_value=0, max_value=4e9)


@given(MOMENTS)
def test_a_window_is_a_whole_minute_and_holds_its_moment(now: float) -> None:
    start = window_start(now)
    assert start % WINDOW_S == 0
    assert start <= now < start + WINDOW_S


@given(st.integers(0, 5000), st.integers(1, 5000), MOMENTS)
def test_a_decision_is_true_to_the_window(used: int, limit: int, now: float) -> None:
    decision = decide(used, limit, now)
    assert decision.allowed is (used < limit)
    assert decision.limit == limit
    assert decision.remaining == max(0, limit - used - 1)
    assert decision.reset_at == window_start(now) + WINDOW_S
    assert 1 <= decision.retry_after_s <= WINDOW_S
    assert now + decision.retry_after_s >= decision.reset_at


def test_the_last_request_of_a_limit_passes_and_leaves_nothing() -> None:
    last, first_over = decide(9, 10, 60.0), decide(10, 10, 60.0)
    assert (last.allowed, last.remaining) == (True, 0)
    assert (first_over.allowed, first_over.remaining) == (False, 0)


def test_at_the_start_of_a_window_the_wait_is_the_whole_window() -> None:
    assert decide(1, 1, 120.0).retry_after_s == 60
    assert decide(1, 1, 179.999).retry_after_s == 1
