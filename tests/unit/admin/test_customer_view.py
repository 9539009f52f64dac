"""What is said of money over time, and of what was done: values in, words out."""

from datetime import UTC, datetime, timedelta

import pytest

from app.admin.customer_view import (
    RATE_DAYS,
    Deed,
    Pages,
    Sort,
    Trend,
    budget_words,
    days_left,
    days_text,
    ledger_words,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
MIDNIGHT = NOON.replace(hour=0)
DOLLAR = 10**9


def trend(*dollars: float) -> Trend:
    """Days up to today."""
    first = MIDNIGHT - timedelta(days=len(dollars) - 1)
    starts = [first + timedelta(days=number) for number in range(len(dollars))]
    return Trend(starts, [round(amount * DOLLAR) for amount in dollars])


def test_the_rate_is_that_of_the_last_days_and_of_what_there_is_of_today() -> None:
    assert trend(*[99] * 5, *[2] * RATE_DAYS, 1).rate(NOON) == pytest.approx(
        (2 * RATE_DAYS + 1) * DOLLAR / (RATE_DAYS + 0.5)
    )
    assert trend().rate(NOON) == 0


def test_who_is_new_has_the_rate_of_the_days_since_they_came() -> None:
    made = NOON - timedelta(days=2)
    assert trend(0, 0, 0, 0, 0, 2, 2, 0).rate(NOON, made) == pytest.approx(2 * DOLLAR)
    just_now = trend(0, 1).rate(NOON, NOON - timedelta(minutes=1))
    assert just_now == pytest.approx(4 * DOLLAR), "a minute does not stand for a day"


def test_what_was_spent_before_somebody_was_made_counts_in_all_these_days() -> None:
    taken_over = trend(1, 1, 1, 1, 1, 1, 1, 0)
    assert taken_over.rate(NOON, NOON) == taken_over.rate(NOON)


def test_days_that_began_since_then_are_added_up() -> None:
    assert trend(8, 4, 2, 1).since(MIDNIGHT - timedelta(days=1)) == 3 * DOLLAR
    assert trend(8, 4).since(NOON) == 0


@pytest.mark.parametrize(
    ("balance", "rate", "text"),
    [
        (0, 5.0, "none"),
        (-1, 0.0, "none"),
        (10, 0.0, "–"),
        (10, 20.0, "under a day"),
        (10, 10.0, "1 day"),
        (25, 10.0, "2.5 days"),
        (125, 10.0, "12 days"),
        (10**6, 1.0, "over a year"),
    ],
)
def test_how_long_a_balance_lasts_is_said_in_words(balance, rate, text) -> None:
    assert days_text(days_left(balance, rate)) == text


def test_a_trend_is_said_in_words() -> None:
    assert trend(0, 3, 1).summary == "most on 22 November"
    assert trend(0, 0).summary == "nothing spent in these days"


@pytest.mark.parametrize("text", [None, "", "x", "-3", "0", "1.5", "٣", "9" * 30])
def test_what_is_no_number_of_a_page_is_the_first(text) -> None:
    assert Pages.parse(text, 50).number == 1


def test_every_row_is_on_one_page_and_one_beyond_is_the_last() -> None:
    pages = [Pages.parse(str(number), 50).of(120) for number in (1, 2, 3)]
    assert [page.skip for page in pages] == [0, 50, 100]
    assert [(page.before, page.after) for page in pages] == [(None, 2), (1, 3), (2, None)]
    assert Pages.parse("77", 50).of(120) == pages[-1]
    assert Pages.parse("2", 50).of(0) == Pages(1, 50, 0)
    assert Pages.parse("2", 50).of(50).last == 1


def test_an_order_is_read_and_written() -> None:
    assert Sort.parse("-balance", ("balance",), "name") == Sort("balance", True)
    assert str(Sort.parse("-balance", ("balance",), "name")) == "-balance"
    for unknown in (None, "", "-", "--balance", "x"):
        assert str(Sort.parse(unknown, ("balance",), "-name")) == "-name"


def test_deeds_are_said_in_words() -> None:
    given = Deed.of(
        {"action": "users.credits.add", "outcome": "done", "details": {"amount": "5", "reason": None}}
    )
    assert given == Deed("Credit given", ["amount: 5"], "done", "ok")
    assert Deed.of({"action": "users.credits.add", "details": {"amount": "-5"}}).what == "Credit taken"
    paused = {"action": "client-keys.change", "outcome": "refused", "details": {"isActive": "False"}}
    assert Deed.of(paused) == Deed("Client key paused", [], "refused", "warn")
    assert Deed.of({"action": "users.fly", "outcome": "landed"}) == Deed("users.fly", [], "landed", "off")
    assert Deed.of({"details": "no details"}) == Deed("", [], "", "off")


def test_lines_of_the_ledger_and_budgets_are_said_in_words() -> None:
    assert ledger_words({"change": "add", "amountNanoUsd": -1}) == "Credit taken"
    assert ledger_words({"change": "add", "amountNanoUsd": 1, "purse": "refCredits"}) == (
        "Credit given (referral)"
    )
    assert ledger_words({"change": "opening"}) == "Opening balance"
    assert (budget_words("5h", None), budget_words("day", "gpt-*")) == ("within 5 hours", "a day, gpt-*")
