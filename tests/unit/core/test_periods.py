from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from app.core.periods import ADMIN_PERIODS, USER_PERIODS, UnknownPeriodError, parse_period, period_start

NOW = datetime(2026, 11, 23, 20, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("period", "length"),
    [
        ("1h", timedelta(hours=1)),
        ("2h", timedelta(hours=2)),
        ("8h", timedelta(hours=8)),
        ("24h", timedelta(hours=24)),
        ("3d", timedelta(days=3)),
        ("30d", timedelta(days=30)),
    ],
)
def test_rolling_periods(period, length):
    assert period_start(period, NOW, ZoneInfo("Asia/Ho_Chi_Minh")) == NOW - length


def test_all_has_no_start():
    assert period_start("all", NOW, UTC) is None


@pytest.mark.parametrize(
    ("zone", "now", "midnight"),
    [
        pytest.param("UTC", NOW, "2026-11-23T00:00", id="UTC"),
        pytest.param("Asia/Ho_Chi_Minh", NOW, "2026-11-23T17:00", id="the next day has begun there"),
        pytest.param("Asia/Kolkata", NOW, "2026-11-23T18:30", id="not on the hour"),
        pytest.param("Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", id="clocks went forward today"),
        pytest.param("Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", id="clocks went back today"),
        pytest.param("Africa/Cairo", "2026-04-24T12:00", "2026-04-23T22:00", id="midnight was skipped"),
        pytest.param("America/Havana", "2026-11-01T12:00", "2026-11-01T04:00", id="midnight came twice"),
    ],
)
def test_today_starts_at_local_midnight(zone, now, midnight):
    if isinstance(now, str):
        now = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert period_start("today", now, ZoneInfo(zone)) == datetime.fromisoformat(midnight).replace(tzinfo=UTC)


@pytest.mark.parametrize("text", [None, ""])
def test_the_default_period(text):
    assert parse_period(text) == "all"
    assert parse_period(text, USER_PERIODS, "24h") == "24h"


@pytest.mark.parametrize("period", ADMIN_PERIODS)
def test_every_period_is_usable(period):
    start = period_start(parse_period(period), NOW, UTC)
    assert start is None or start < NOW


@pytest.mark.parametrize("text", ["5h", "1H", "24", "week", "all "])
def test_an_unknown_period_names_the_valid_ones(text):
    with pytest.raises(UnknownPeriodError, match="use one of 1h, 2h") as caught:
        parse_period(text)
    assert caught.value.valid_periods == ADMIN_PERIODS
