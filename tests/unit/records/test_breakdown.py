"""The bars of a histogram, and what is read of the database's answer."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.records.breakdown import FACETS, MOST_BARS, Grid, read
from app.records.log_filter import VIEWS

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ZONES = [ZoneInfo(name) for name in ("UTC", "Asia/Kolkata", "Europe/Berlin", "America/Sao_Paulo")]


@pytest.mark.parametrize(
    ("length", "step"),
    [
        (timedelta(0), timedelta(seconds=10)),
        (timedelta(minutes=15), timedelta(seconds=30)),
        (HOUR, timedelta(minutes=1)),
        (DAY, timedelta(minutes=30)),
        (7 * DAY, 3 * HOUR),
        (30 * DAY, 12 * HOUR),
        (60 * DAY, DAY),
        (365 * DAY, 7 * DAY),
    ],
)
def test_bars_have_a_length_people_use(length, step):
    assert Grid.of(NOON - length, NOON, UTC).step == step


@given(
    st.integers(-300 * 86_400, 300 * 86_400),
    st.integers(0, 400 * 86_400),
    st.sampled_from(ZONES),
)
def test_bars_cover_the_whole_time_once(offset, seconds, tz):
    start = NOON + timedelta(seconds=offset)
    grid = Grid.of(start, start + timedelta(seconds=seconds), tz)
    spans = list(grid.ends())
    assert 1 <= len(spans) <= MOST_BARS
    assert spans[0][0] <= start < spans[0][1]
    assert spans[-1][1] >= start + timedelta(seconds=seconds)
    assert all(begin < end for begin, end in spans)
    assert all(before[1] == after[0] for before, after in pairwise(spans))


def test_days_begin_at_midnight_though_clocks_change():
    berlin = ZoneInfo("Europe/Berlin")
    grid = Grid.of(
        datetime(2026, 10, 1, tzinfo=berlin).astimezone(UTC),
        datetime(2026, 11, 25, tzinfo=berlin).astimezone(UTC),
        berlin,
    )
    assert {start.astimezone(berlin).hour for start in grid.starts} == {0}
    assert len(grid.starts) == 55


def answer(**more):
    return {
        "sums": [{"requests": 6, "costNanoUsd": 7, "inputTokens": 8}],
        "bars": [
            {"_id": {"bar": 0, "outcome": "ok"}, "n": 3},
            {"_id": {"bar": 1, "outcome": "rejected"}, "n": 1},
            {"_id": {"bar": 1, "outcome": "internal_error"}, "n": 1},
            {"_id": {"bar": 1}, "n": 1},
        ],
        "latency": [{"_id": 70, "n": 5}, {"_id": 90, "n": 1}],
        **{f"by_{name}": [] for name in FACETS},
        **{f"view_{name}": [] for name in VIEWS},
        "view_failed": [{"_id": None, "n": 3}],
    } | more


def test_endings_are_of_four_kinds_and_add_up():
    grid = Grid.of(NOON - HOUR, NOON, UTC)
    found = read(answer(), grid, None)
    assert found.bars[0].counts == {"ok": 3, "refused": 0, "left": 0, "failed": 0}
    assert found.bars[1].counts == {"ok": 0, "refused": 1, "left": 0, "failed": 2}
    assert (found.sums["requests"], found.sums["failed"], found.failure_share) == (6, 3, 50)
    assert sum(bar.requests for bar in found.bars) == 6
    assert found.views == {"failed": 3, "refused": 0, "slow": 0, "expensive": 0, "retried": 0}


def test_latencies_are_within_five_per_cent():
    found = read(answer(), Grid.of(NOON - HOUR, NOON, UTC), None)
    assert 1.1**70 <= found.p50_ms <= 1.1**71
    assert 1.1**90 <= found.p95_ms <= 1.1**91


def test_nothing_selected_is_nothing():
    empty = answer(sums=[], bars=[], latency=[])
    found = read(empty, Grid.of(NOON - HOUR, NOON, UTC), NOON)
    assert (found.sums["requests"], found.p50_ms, found.failure_share, found.since) == (0, None, None, NOON)


def test_what_is_not_shown_of_a_facet_is_counted_and_old_keys_are_masked():
    secret = "sk-troll-ABCDEFGHIJKLMNOPQRSTUVWX"
    more = {
        "by_model": [{"_id": "gpt", "n": 3}, {"_id": None, "n": 2}],
        "by_key": [{"_id": secret, "n": 4}, {"_id": "wk_1", "n": 2}],
    }
    facets = {facet.name: facet for facet in read(answer(**more), Grid.of(NOON, NOON, UTC), None).facets}
    assert (facets["model"].values, facets["model"].others) == ([("gpt", 3)], 3)
    assert (facets["key"].values, facets["key"].others) == ([("sk-troll...VWX", 4), ("wk_1", 2)], 0)
