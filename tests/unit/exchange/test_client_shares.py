"""What one client may hold of a worker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.exchange.client_shares import NO_LIMITS, ClientShares, Share, ShareLimits
from app.wires.errors import Refusal

LIMITS = ShareLimits(bytes_held=100, user_bytes=80, key_bytes=60, user_requests=2)


def test_a_key_runs_as_many_requests_as_it_may_and_no_more() -> None:
    shares = ClientShares(LIMITS)
    first, _ = shares.enter("a", "wk_a"), shares.enter("a", "wk_a")
    with pytest.raises(Refusal) as refused:
        shares.enter("a", "wk_a")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 2)
    shares.enter("b", "wk_b")
    first.leave()
    first.leave()
    shares.enter("a", "wk_a")


def test_the_bytes_of_a_key_have_a_bound_and_those_of_all_keys() -> None:
    shares = ClientShares(LIMITS)
    one, same, other = shares.enter("a", "wk_a"), shares.enter("a", "wk_a"), shares.enter("b", "wk_b")
    one.take(40)
    with pytest.raises(Refusal) as refused:
        same.take(21)
    assert refused.value.status == 429
    same.take(20)
    with pytest.raises(Refusal) as refused:
        other.take(41)
    assert refused.value.status == 503
    one.drop_body()
    other.take(41)
    assert shares.bytes_held == 61


def test_another_key_of_the_same_user_is_hardly_anything_more() -> None:
    shares = ClientShares(LIMITS)
    one, other = shares.enter("a", "wk_1"), shares.enter("a", "wk_2")
    with pytest.raises(Refusal) as refused:
        shares.enter("a", "wk_3")
    assert refused.value.status == 429
    one.take(60)
    other.take(20)
    with pytest.raises(Refusal) as refused:
        other.take(1)
    assert (refused.value.status, shares.bytes_held) == (429, 80)
    shares.enter("b", "wk_4").take(20)


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["a", "b1", "b2"]), st.sampled_from(["enter", "take", "drop", "leave"]))
)


@given(ACTIONS)
def test_nothing_is_left_of_requests_that_have_ended(actions: list[tuple[str, str]]) -> None:
    shares = ClientShares(NO_LIMITS)
    running: list[tuple[str, Share]] = []
    for key, action in actions:
        mine = [share for name, share in running if name == key]
        if action == "enter" or not mine:
            running.append((key, shares.enter(key[0], key)))
        elif action == "take":
            mine[0].take(7)
        elif action == "drop":
            mine[0].drop_body()
        else:
            mine[0].leave()
            running.remove((key, mine[0]))
    for _, share in running:
        share.leave()
    assert (len(shares), shares.bytes_held) == (0, 0)
