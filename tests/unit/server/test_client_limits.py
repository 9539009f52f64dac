"""How long clients are waited for."""

import pytest

from app.server.client_limits import ClientDeadlines, ClientLimits, Phase

LIMITS = ClientLimits(idle_s=75, head_s=20, body_s=30, write_s=60, rest_s=5, min_rate=1000)


def test_a_new_connection_has_the_time_of_a_head_for_its_first_byte_and_again_for_the_rest() -> None:
    patience = ClientDeadlines(LIMITS, 100.0)
    assert patience.left_s(100.0) == 20
    patience.received(1, 115.0)
    assert patience.phase is Phase.HEAD
    assert patience.left_s(115.0) == 20


def test_bytes_that_trickle_in_do_not_prolong_a_head() -> None:
    patience = ClientDeadlines(LIMITS, 0.0)
    for second in range(1, 20):
        patience.received(1, float(second))
    assert patience.left_s(19.0) == 2
    assert patience.left_s(21.5) < 0


def test_a_kept_connection_may_idle_longer_than_a_new_one() -> None:
    patience = ClientDeadlines(LIMITS, 0.0)
    patience.expect_request(50.0)
    assert patience.left_s(50.0) == 75
    patience.received(10, 60.0)
    assert patience.left_s(60.0) == 20


def test_a_body_is_waited_for_while_it_keeps_coming_but_not_for_ever() -> None:
    patience = ClientDeadlines(LIMITS, 0.0)
    patience.expect_body(0.0)
    now = 0.0
    for _ in range(9):
        assert patience.left_s(now) == 30
        now += 30
        patience.received(64 * 1024, now)
    assert patience.left_s(now) == 30
    patience.received(10**9, 290.0)
    assert patience.left_s(290.0) == 10


def test_what_has_come_fast_does_not_pay_for_trickling_afterwards() -> None:
    patience = ClientDeadlines(LIMITS, 0.0)
    patience.expect_body(0.0)
    patience.received(31_000_000, 1.0)
    now = 1.0
    while patience.left_s(now) > 0:
        now += 8
        patience.received(1, now)
    assert now < 40


def test_the_slower_a_body_has_come_the_earlier_it_is_due() -> None:
    slow, fast = ClientDeadlines(LIMITS, 0.0), ClientDeadlines(LIMITS, 0.0)
    for patience, size in ((slow, 1), (fast, 100_000)):
        patience.expect_body(0.0)
        patience.received(size, 20.0)
    assert slow.until < fast.until
    fast.give_up()
    assert fast.left_s(20.0) < 0


def test_a_body_that_trickles_in_runs_out_of_time() -> None:
    patience = ClientDeadlines(LIMITS, 0.0)
    patience.expect_body(0.0)
    now = 0.0
    while patience.left_s(now) > 0:
        now += 1
        patience.received(1, now)
    assert now == pytest.approx(31, abs=1)


def test_the_rest_of_a_refused_body_gets_a_moment_however_fast_it_comes() -> None:
    patience = ClientDeadlines(LIMITS, 0.0)
    patience.expect_rest(10.0)
    patience.received(10**9, 14.0)
    assert patience.left_s(14.0) == 1
    assert "rest" in repr(patience)
