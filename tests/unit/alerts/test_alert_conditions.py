"""Which alerts hold: each says what it means and what to do, and is the same all through its period."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.alerts.alert_store import MAX_TRIES, pause_after
from app.alerts.conditions import (
    MIN_REQUESTS,
    SPENT_PERCENT,
    Alert,
    Bounds,
    BudgetUse,
    Spending,
    StoreFacts,
    WorkerFacts,
    of_store,
    of_worker,
)
from app.common.money import NANO
from app.pricing.ledger_findings import Told, of_key, of_model

NOW = datetime(2026, 11, 30, 12, 30, tzinfo=UTC)
ALL, ONE_LEFT, NONE = (True, True), (True, False), (False, False)


def of(facts: WorkerFacts | StoreFacts, now: datetime = NOW, least: int = 1) -> list[Alert]:
    return list(
        of_worker(facts, now, Bounds(least)) if isinstance(facts, WorkerFacts) else of_store(facts, now)
    )


CASES: list[tuple[WorkerFacts | StoreFacts, str]] = [
    (WorkerFacts("w", keys=ONE_LEFT), "1 of 2 upstream keys are left"),
    (WorkerFacts("w", keys=NONE), "0 of 2 upstream keys are left"),
    (WorkerFacts("w", proxies=ONE_LEFT), "1 of 2 outbound proxies are left"),
    (WorkerFacts("w", lost=3), "3 records are lost"),
    (WorkerFacts("w", late_s=301), "Records are 5 minutes late"),
    (WorkerFacts("w", fees=(Spending("k", 90, 100),)), "Upstream key k has used 90 % of what it may"),
    (WorkerFacts("w", balance=Decimal(0)), "OhMyGPT's balance is used up"),
    (WorkerFacts("w", balance=Decimal("-0.5")), "OhMyGPT's balance is used up"),
    (
        StoreFacts(day="2026-11-30", findings=(of_key("k", 2 * NANO, NANO),)),
        "OhMyGPT's books differ for key k",
    ),
    (
        StoreFacts(
            day="2026-11-30", findings=tuple(of_model("m", Told(3 * NANO, NANO, 3 * NANO), Decimal(1)))
        ),
        "m costs more than it brings",
    ),
    (
        StoreFacts(
            day="2026-11-30", findings=tuple(of_model("m", Told(NANO, NANO, 3 * NANO), Decimal("0.1")))
        ),
        "The price of m is not what the upstream takes",
    ),
    (StoreFacts(requests=MIN_REQUESTS, refused=11), "The upstream failed 11 of 20 requests"),
    (StoreFacts(unpriced={"m": ("web_search",)}), "m is used without a price"),
    (StoreFacts(credits=(Spending("ann", 80, 100),)), "ann has used 80 % of their credit"),
    (
        StoreFacts(budgets=(BudgetUse("ann", None, "day", "day", 1, Spending("ann", 100, 100)),)),
        "ann has spent 100 % of a budget (day)",
    ),
    (
        StoreFacts(budgets=(BudgetUse("ann", "wk_1", "day", "wk_1-day", 1, Spending("ann", 95, 100)),)),
        "Key wk_1 of ann has spent 90 % of a budget (day)",
    ),
    (StoreFacts(month="2026-10"), "2026-10 is over and can be closed"),
    (
        StoreFacts(expiring=(("ann", "wk_1", NOW + timedelta(days=2)),)),
        "A client key of ann expires at 2026-12-02 12:30 UTC",
    ),
]


@pytest.mark.parametrize(("facts", "title"), CASES, ids=[title for _, title in CASES])
def test_what_needs_somebody_is_told_with_what_to_do(facts: WorkerFacts | StoreFacts, title: str) -> None:
    (alert,) = of(facts)
    assert alert.title == title
    assert alert.meaning.endswith(".")
    assert alert.text == f"{alert.meaning}\n\nWhat to do: {alert.advice}"
    (later,) = of(facts, NOW + timedelta(minutes=1))
    assert later.alert_id == alert.alert_id


@pytest.mark.parametrize(
    "facts",
    [
        WorkerFacts("w"),
        WorkerFacts("w", keys=(True,)),  # all there is
        WorkerFacts("w", keys=(True, True, False)),
        WorkerFacts("w", balance=Decimal("0.01")),
        WorkerFacts("w", late_s=300, fees=(Spending("k", 79, 100),)),
        StoreFacts(),
        StoreFacts(requests=MIN_REQUESTS - 1, refused=MIN_REQUESTS - 1),
        StoreFacts(requests=100, refused=50, credits=(Spending("ann", 5, 0), Spending("bob", 79, 100))),
    ],
)
def test_what_is_well_is_not_told(facts: WorkerFacts | StoreFacts) -> None:
    assert of(facts) == []


def test_how_many_are_too_few_is_for_the_operator_to_say() -> None:
    facts = WorkerFacts("w", keys=(True, True, True, False))
    assert of(facts, least=2) == []
    assert [alert.kind for alert in of(facts, least=3)] == ["keys"]
    assert [alert.kind for alert in of(WorkerFacts("w", keys=NONE), least=0)] == ["keys"]


def test_a_low_balance_is_for_the_operator_to_say_and_once_more_when_it_is_used_up() -> None:
    bounds = Bounds(least_balance=Decimal(1000))
    told = {
        balance: [
            (alert.title, alert.period)
            for alert in of_worker(WorkerFacts("w", balance=Decimal(balance)), NOW, bounds)
        ]
        for balance in ("1000", "999.5", "0")
    }
    assert told == {
        "1000": [],
        "999.5": [("OhMyGPT's balance is low: 999.5", "low 2026-11-30")],
        "0": [("OhMyGPT's balance is used up", "used up 2026-11-30")],
    }


@given(st.integers(0, 10**15), st.integers(1, 10**15))
def test_the_highest_step_that_is_reached_is_told(spent: int, granted: int) -> None:
    told = Spending("x", spent, granted).percent()
    reached = [step for step in SPENT_PERCENT if spent / granted * 100 >= step - 1e-9]
    exact = [step for step in SPENT_PERCENT if spent * 100 >= step * granted]
    assert told == max(exact, default=None)
    assert set(exact) <= set(reached)


def test_each_step_and_each_new_credit_is_another_period() -> None:
    spendings = [Spending("ann", 85, 100), Spending("ann", 95, 100), Spending("ann", 170, 200)]
    ids = {alert.alert_id for spending in spendings for alert in of(StoreFacts(credits=(spending,)))}
    assert len(ids) == 3


def test_names_from_outside_stay_on_one_line_and_short() -> None:
    (alert,) = of(StoreFacts(unpriced={"a\r\nBcc: x@y.z" + "m" * 500: ("u" * 500,) * 30}))
    assert "\n" not in alert.title + alert.meaning
    assert len(alert.title + alert.meaning) < 2500


def test_tries_are_spread_over_a_day() -> None:
    pauses = [pause_after(tries) for tries in range(1, MAX_TRIES)]
    assert pauses == sorted(pauses)
    assert pauses[0] == timedelta(minutes=1)
    assert timedelta(hours=6) < sum(pauses, timedelta()) < timedelta(hours=24)
