from datetime import UTC, datetime, timedelta

import pytest

from app.upstream.proxy_choice import (
    CHECK_INTERVAL_S,
    DIRECT,
    Binding,
    Health,
    ProxyEndpoint,
    ProxyKind,
    ProxyStatus,
    cooldown_s,
    failed,
    is_check_due,
    latest,
    plan,
    succeeded,
    tiers_of,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NEW = Health()


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def always(_: str) -> bool:
    return True


# Which way


def test_a_key_prefers_its_own_proxies_then_free_ones_then_those_of_others() -> None:
    bindings = [Binding("b", "k", 2), Binding("a", "k", 5), Binding("c", "k", 2), Binding("x", "other")]
    assert tiers_of("k", ["a", "b", "c", "free", "x"], bindings) == (("b", "c"), ("a",), ("free",), ("x",))


def test_a_key_without_bindings_leaves_the_proxies_of_others_for_last() -> None:
    assert tiers_of("k", ["x", "free"], [Binding("x", "other")]) == (("free",), ("x",))


def test_bindings_to_proxies_that_are_not_in_use_do_not_count() -> None:
    assert tiers_of("k", ["a"], [Binding("gone", "k"), Binding("a", "k", 3)]) == (("a",),)


def test_of_two_bindings_of_a_pair_the_better_one_counts() -> None:
    bindings = [Binding("a", "k", 1), Binding("a", "k", 7), Binding("b", "k", 3)]
    assert tiers_of("k", ["a", "b"], bindings) == (("a",), ("b",))


def test_equals_take_turns() -> None:
    plans = [plan((("a", "b"),), always, turn, allow_direct=True) for turn in range(3)]
    assert plans == [("a", "b", DIRECT), ("b", "a", DIRECT), ("a", "b", DIRECT)]


def test_turns_are_taken_among_the_usable_only() -> None:
    plans = [plan((("a", "dead", "b"),), lambda one: one != "dead", turn, allow_direct=False)[0]
             for turn in range(4)]  # fmt: skip
    assert plans == ["a", "b", "a", "b"]


def test_failed_proxies_are_the_last_resort_where_the_direct_way_is_forbidden() -> None:
    tiers = (("a",), ("b",))
    assert plan(tiers, lambda _: False, 0, allow_direct=True) == (DIRECT,)
    assert plan(tiers, lambda _: False, 0, allow_direct=False) == ("a", "b")
    assert plan(tiers, lambda one: one == "b", 0, allow_direct=False) == ("b",)
    assert plan((), always, 0, allow_direct=False) == ()


def test_one_attempt_tries_a_few_proxies_only() -> None:
    assert plan((("a", "b", "c", "d"),), always, 1, allow_direct=True) == ("b", "c", "d", DIRECT)


# Health


def test_a_failure_takes_a_proxy_out_and_a_success_brings_it_back() -> None:
    down = failed(NEW, NOW, "refused")
    assert (down.status, down.fail_count, down.checked_at, down.last_error) == (
        ProxyStatus.UNHEALTHY, 1, NOW, "refused",
    )  # fmt: skip
    assert not down.is_usable
    up = succeeded(down, after(5), 12)
    assert up == Health(ProxyStatus.HEALTHY, 0, after(5), 12, None)


def test_a_success_without_a_measurement_keeps_the_last_one() -> None:
    assert succeeded(Health(latency_ms=7), NOW).latency_ms == 7


def test_failures_while_it_cools_down_are_one_failure() -> None:
    down = failed(NEW, NOW, "refused")
    assert failed(down, after(4.9), "again") is down
    assert failed(down, after(5), "again").fail_count == 2


def test_the_cooldown_doubles_up_to_the_interval_of_checks() -> None:
    assert [cooldown_s(count) for count in (0, 1, 2, 3, 4, 5, 6, 10_000)] == [5, 5, 10, 20, 40, 60, 60, 60]


@pytest.mark.parametrize(
    ("health", "seconds"),
    [
        (NEW, 0),
        (Health(ProxyStatus.UNKNOWN, 0, NOW), 0),
        (Health(ProxyStatus.HEALTHY, 0, NOW), CHECK_INTERVAL_S),
        (Health(ProxyStatus.UNHEALTHY, 1, NOW), 5),
        (Health(ProxyStatus.UNHEALTHY, 3, NOW), 20),
        (Health(ProxyStatus.UNHEALTHY, 3), 0),
    ],
)
def test_when_a_check_is_due(health: Health, seconds: float) -> None:
    assert is_check_due(health, after(seconds))
    if seconds:
        assert not is_check_due(health, after(seconds - 0.001))


def test_the_newer_knowledge_counts() -> None:
    mine, older, newer = failed(NEW, NOW, "x"), succeeded(NEW, after(-1)), succeeded(NEW, after(1))
    assert latest(mine, older, None) is mine
    assert latest(mine, newer, None) is newer
    assert latest(mine, NEW, None) is mine
    assert latest(mine, NEW, after(1)) is NEW  # an operator has changed it since
    assert latest(NEW, older, None) is older


def test_credentials_do_not_show() -> None:
    assert "hunter2" not in repr(ProxyEndpoint(ProxyKind.HTTP, "host", 1, "hunter2-user", "hunter2"))
