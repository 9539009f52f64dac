"""Limits as they are given, stored and read again."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.accounts.limits import (
    MAX_BUDGETS,
    NO_LIMITS,
    PERIODS,
    Budget,
    LimitError,
    Limits,
    budget_text,
    checked_limits,
    parse_budget,
)
from app.common.money import NANO


def test_what_is_given_is_stored_and_read_again() -> None:
    given_limits = {
        "rpm": 5,
        "tpm": 1000,
        "maxParallel": 3,
        "models": "claude-*, gpt-5.2",
        "allowedIps": ["10.0.0.0/8", "::1"],
        "budgets": [
            {"usd": Decimal("10"), "per": "month"},
            {"usd": "0.5", "per": "5h", "models": ["o3", "gpt-*"]},
        ],
    }
    stored = checked_limits(given_limits)
    assert stored["rpm"] == 5
    limits = Limits.read(stored)
    assert limits is not None
    assert (limits.tpm, limits.max_parallel, limits.models) == (1000, 3, ("claude-*", "gpt-5.2"))
    assert limits.budgets == (Budget(10 * NANO, "month"), Budget(NANO // 2, "5h", "o3,gpt-*"))
    shown = limits.to_document()
    assert checked_limits(shown) == {name: stored[name] for name in shown}


@pytest.mark.parametrize("document", [{}, {"rpm": 5}, {"models": None, "budgets": None}])
def test_nothing_limited_is_no_limits_at_all(document: dict[str, Any]) -> None:
    assert Limits.read(document) is None


def test_empty_lists_take_limits_away() -> None:
    assert checked_limits({"models": [], "allowedIps": "", "budgets": [], "tpm": None}) == {
        "tpm": None,
        "models": None,
        "allowedIps": None,
        "budgets": None,
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rpm", -1),
        ("rpm", True),
        ("tpm", 1.5),
        ("tpm", "7"),
        ("maxParallel", 10**10),
        ("models", ["x" * 200]),
        ("models", ["a"] * 0 + [f"m{n}" for n in range(51)]),
        ("models", ["a\0b"]),
        ("allowedIps", ["10.0.0.1/8"]),
        ("allowedIps", "home"),
        ("budgets", {"usd": "1", "per": "day"}),
        ("budgets", [{"usd": "1"}]),
        ("budgets", [{"usd": "1", "per": "year"}]),
        ("budgets", [{"usd": "-1", "per": "day"}]),
        ("budgets", [{"usd": "NaN", "per": "day"}]),
        ("budgets", [{"usd": True, "per": "day"}]),
        ("budgets", [{"usd": "0.0000000001", "per": "day"}]),
        ("budgets", [{"usd": "10000000", "per": "day"}]),
        ("budgets", [{"usd": "1", "per": "day", "resets": "never"}]),
        ("budgets", [{"usd": "1", "per": "day"}, {"usd": "2", "per": "day"}]),
        ("budgets", [{"usd": "1", "per": "day", "models": f"m{n}"} for n in range(MAX_BUDGETS + 1)]),
    ],
)
def test_what_cannot_be_a_limit_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(LimitError) as raised:
        checked_limits({field: value})
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("10/month", Budget(10 * NANO, "month")),
        ("$2.50/day:claude-*,gpt-5", Budget(2 * NANO + NANO // 2, "day", "claude-*,gpt-5")),
        (" 1 / 5h ", Budget(NANO, "5h")),
    ],
)
def test_budgets_as_commands_take_them(text: str, budget: Budget) -> None:
    limits = Limits.read(checked_limits({"budgets": [parse_budget(text)]}))
    assert limits is not None
    assert limits.budgets == (budget,)
    assert parse_budget(budget_text(budget)) == budget.to_document()


@pytest.mark.parametrize("text", ["", "10", "10/day:", "10 a day"])
def test_no_budgets(text: str) -> None:
    with pytest.raises(LimitError):
        checked_limits({"budgets": [parse_budget(text)]})


@pytest.mark.parametrize(
    ("document", "limits"),
    [
        ({"models": "claude-*"}, Limits(models=())),
        ({"allowedIps": ["nonsense"]}, Limits(allowed_ips=())),
        ({"allowedIps": 7}, Limits(allowed_ips=())),
        ({"budgets": [{"usd": "x", "per": "day"}]}, Limits(budgets=(Budget(0, "total"),))),
        ({"budgets": 7}, Limits(budgets=(Budget(0, "total"),))),
        ({"tpm": "x"}, Limits(tpm=1)),
        ({"maxParallel": -3}, Limits(max_parallel=1)),
        ({"tpm": 0, "maxParallel": 0.0}, NO_LIMITS),
        ({"tpm": 5.0}, Limits(tpm=5)),
    ],
)
def test_a_damaged_limit_lets_nothing_pass(document: dict[str, Any], limits: Limits) -> None:
    assert Limits.read(document) == limits


def test_which_models_and_addresses() -> None:
    limits = Limits.read({"models": ["claude-*", "o?"], "allowedIps": ["10.0.0.0/8", "2001:db8::/32"]})
    assert limits is not None
    assert [limits.allows_model(model) for model in ("claude-x", "o3", "o3-pro", "gpt-5")] == [
        True,
        True,
        False,
        False,
    ]
    addresses = ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "11.0.0.1", "::1", "", None, "unix:")
    assert [limits.allows_address(found) for found in addresses] == [True] * 3 + [False] * 5
    assert NO_LIMITS.allows_model("x")
    assert NO_LIMITS.allows_address(None)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**15), st.sampled_from(PERIODS), st.sampled_from([None, "a*", "b,c"])),
        max_size=MAX_BUDGETS,
        unique_by=lambda item: item[1:],
    )
)
def test_budgets_keep_every_nano_dollar(items: list[tuple[int, str, str | None]]) -> None:
    budgets = tuple(Budget(*item) for item in items)
    stored = checked_limits({"budgets": [budget.to_document() for budget in budgets]})
    assert (Limits.read(stored) or NO_LIMITS).budgets == budgets
