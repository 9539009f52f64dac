"""A year in three zones in small: every statement is what an independent tally says, closed months stay."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.billing import month_figures
from drill.year import ZONES, Year, YearPlan

PLAN = YearPlan(users=4, requests=4, restarts=8, outages=4, summed=1, verified=6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("zone", ZONES)
def test_a_year_adds_up(database: Any, tmp_path: Path, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(month_figures, "_PAUSE_S", 0)
    outcome = Year(database, tmp_path / "journal", zone, PLAN, Random(f"7/{zone}")).run()
    assert outcome.problems == []
    figures = outcome.figures
    assert len(outcome.hashes) == 12
    assert figures["records"] == figures["requests"] == PLAN.requests * 12 * (PLAN.users + 2)
    # What the year is meant to hold has come about.
    for what in ("outages", "restarts", "keys rotated or replaced", "ledger: refund", "requests with a hold"):
        assert figures[what], what
