"""Columns, bars and times of the page of requests."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from app.admin.request_views import DEFAULT_COLUMNS, HEIGHT, as_typed, chosen_columns, histogram
from app.records.breakdown import Bar
from app.records.log_filter import parse_moment

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def bar(place=0, **counts):
    start = NOON + timedelta(hours=place)
    full = dict.fromkeys(("ok", "refused", "left", "failed"), 0) | counts
    return Bar(start, start + timedelta(hours=1), full)


def test_columns_keep_their_order_and_are_known_ones():
    assert chosen_columns(["model", "cost", "<b>"]) == ["cost", "model"]
    assert chosen_columns([]) == chosen_columns(["no"]) == list(DEFAULT_COLUMNS)


def test_bars_are_stacked_from_below_and_end_at_the_top():
    full, small, nothing = histogram([bar(ok=900, failed=100), bar(1, refused=1), bar(2)], UTC)
    assert full.parts == [("ok", 9.6, 86.4), ("failed", 0, 9.6)]
    assert small.parts == [("refused", HEIGHT - 2, 2)]
    assert nothing.parts == []
    assert full.x + full.width < small.x


def test_a_single_failure_among_thousands_is_seen():
    (drawn,) = histogram([bar(ok=100_000, failed=1)], UTC)
    assert drawn.parts[1] == ("failed", 0, 2)
    assert sum(height for _, _, height in drawn.parts) == HEIGHT
    assert drawn.words == "2026-11-23 12:00 to 2026-11-23 13:00: 100,000 ok, 1 failed"


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (NOON, "2026-11-23 13:00"),
        (NOON + timedelta(seconds=5), "2026-11-23 13:00:05"),
        (datetime(2026, 11, 22, 23, tzinfo=UTC), "2026-11-23"),
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "2026-10-25 02:30"),
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "2026-10-25T01:30:00.000Z"),
    ],
)
def test_times_are_read_as_they_are_written(moment, text):
    assert as_typed(moment, BERLIN) == text
    assert parse_moment("from", text, NOON, BERLIN) == moment
