from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.common.cursor import FilterError
from app.statistics.periods import ADMIN_PERIODS, Period, UnknownPeriodError, midnight, parse_period

NOW = datetime(2026, 11, 23, 20, 30, tzinfo=UTC)  # a Monday
BERLIN = ZoneInfo("Europe/Berlin")
ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "America/Havana"),
    *("Africa/Cairo", "Australia/Lord_Howe", "Pacific/Apia", "America/St_Johns"),
)


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "hours"), [("1h", 1), ("2h", 2), ("8h", 8), ("24h", 24), ("3d", 72), ("30d", 720)]
)
def test_rolling_periods(name, hours):
    period = Period.of(name, NOW, ZoneInfo("Asia/Ho_Chi_Minh"))
    assert (period.start, period.end, period.until) == (NOW - timedelta(hours=hours), None, NOW)


def test_all_has_no_start():
    period = Period.of("all", NOW, UTC)
    assert (period.start, period.end, period.previous()) == (None, None, None)


@pytest.mark.parametrize(
    ("zone", "now", "begins"),
    [
        pytest.param("UTC", NOW, "2026-11-23T00:00", id="UTC"),
        pytest.param("Asia/Ho_Chi_Minh", NOW, "2026-11-23T17:00", id="the next day has begun there"),
        pytest.param("Asia/Kolkata", NOW, "2026-11-23T18:30", id="not on the hour"),
        pytest.param(
            "Europe/Berlin", utc("2026-03-29T12:00"), "2026-03-28T23:00", id="clocks went forward today"
        ),
        pytest.param(
            "Europe/Berlin", utc("2026-10-25T12:00"), "2026-10-24T22:00", id="clocks went back today"
        ),
        pytest.param("Africa/Cairo", utc("2026-04-24T12:00"), "2026-04-23T22:00", id="midnight was skipped"),
        pytest.param("America/Havana", utc("2026-11-01T12:00"), "2026-11-01T04:00", id="midnight came twice"),
    ],
)
def test_today_starts_at_local_midnight(zone, now, begins):
    assert Period.of("today", now, ZoneInfo(zone)).start == utc(begins)


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("yesterday", "2026-11-21T23:00", "2026-11-22T23:00"),
        ("week", "2026-11-22T23:00", None),
        ("month", "2026-10-31T23:00", None),
        ("last_month", "2026-09-30T22:00", "2026-10-31T23:00"),
        ("2026-10", "2026-09-30T22:00", "2026-10-31T23:00"),
        ("2026-12", "2026-11-30T23:00", "2026-12-31T23:00"),
        ("2024-02", "2024-01-31T23:00", "2024-02-29T23:00"),
        ("2026-03-29", "2026-03-28T23:00", "2026-03-29T22:00"),
        ("2026-10-25", "2026-10-24T22:00", "2026-10-25T23:00"),
    ],
)
def test_periods_of_the_calendar(name, start, end):
    period = Period.of(parse_period(name), NOW, BERLIN)
    assert (period.start, period.end) == (utc(start), end and utc(end))
    assert period.to_json() == {
        "period": name,
        "from": f"{start}:00.000Z",
        "to": f"{end}:00.000Z" if end else "2026-11-23T20:30:00.000Z",
        "timezone": "Europe/Berlin",
    }


@given(st.sampled_from(ZONES), st.dates(date(1971, 1, 1), date(2037, 12, 1)))
def test_days_fill_a_month_without_gap_or_overlap(zone, day):
    tz = ZoneInfo(zone)
    month = Period.of(f"{day:%Y-%m}", NOW, tz)
    first = day.replace(day=1)
    days = [first + timedelta(days=number) for number in range(31)]
    parts = [Period.of(str(each), NOW, tz) for each in days if each.month == day.month]
    assert (parts[0].start, parts[-1].end) == (month.start, month.end)
    assert all(one.end == following.start and one.start <= one.end for one, following in pairwise(parts))
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=tz)
    assert Period.of("yesterday", noon, tz).end == Period.of("today", noon, tz).start
    assert Period.of("last_month", noon, tz).end == Period.of("month", noon, tz).start
    assert Period.of("month", noon, tz).start == month.start


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("2026-11-01", "2026-11-02", ("2026-10-31T23:00", "2026-11-01T23:00")),
        ("2026-11-01T10:00", "2026-11-01T10:00Z", ("2026-11-01T09:00", "2026-11-01T10:00")),
        ("24h", None, ("2026-11-22T20:30", None)),
        (None, "2026-11-01", (None, "2026-10-31T23:00")),
    ],
)
def test_two_times(start, end, expected):
    period = Period.asked_for(None, start, end, NOW, BERLIN)
    assert (period.name, period.start, period.end) == (None, *(text and utc(text) for text in expected))


@pytest.mark.parametrize(
    ("name", "start", "end", "field"),
    [
        ("24h", "2026-11-01", None, "period"),
        (None, "2026-11-02", "2026-11-02", "from"),
        (None, "2027-01-01", None, "from"),
        (None, "1969-12-31", None, "from"),
        (None, None, "9999-12-31", "to"),
        (None, "soon", None, "from"),
    ],
)
def test_times_that_make_no_period_are_named(name, start, end, field):
    with pytest.raises(FilterError) as caught:
        Period.asked_for(name, start, end, NOW, UTC)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("24h", ("2026-11-21T20:30", "2026-11-22T20:30")),
        ("today", ("2026-11-21T23:00", "2026-11-22T23:00")),
        ("yesterday", ("2026-11-20T23:00", "2026-11-21T23:00")),
        ("week", ("2026-11-15T23:00", "2026-11-22T23:00")),
        ("month", ("2026-09-30T22:00", "2026-10-31T23:00")),
        ("last_month", ("2026-08-31T22:00", "2026-09-30T22:00")),
        ("2026-03", ("2026-01-31T23:00", "2026-02-28T23:00")),
        ("2026-10-26", ("2026-10-24T22:00", "2026-10-25T23:00")),
    ],
)
def test_the_period_before(name, expected):
    before = Period.of(name, NOW, BERLIN).previous()
    assert (before.start, before.end) == tuple(utc(text) for text in expected)


def test_the_period_before_two_dates_has_as_many_days():
    before = Period.asked_for(None, "2026-10-20", "2026-10-27", NOW, BERLIN).previous()
    assert (before.start, before.end) == (utc("2026-10-12T22:00"), utc("2026-10-19T22:00"))
    before = Period.asked_for(None, "2026-10-20T10:00Z", "2026-10-20T12:00Z", NOW, BERLIN).previous()
    assert (before.start, before.end) == (utc("2026-10-20T08:00"), utc("2026-10-20T10:00"))


@pytest.mark.parametrize("text", [None, ""])
def test_the_default_period(text):
    assert parse_period(text) == "all"
    assert parse_period(text, "24h") == "24h"


@pytest.mark.parametrize("name", ADMIN_PERIODS)
def test_every_period_is_usable(name):
    period = Period.of(parse_period(name), NOW, UTC)
    assert period.start is None or period.start < period.until <= NOW


@pytest.mark.parametrize(
    "text", ["5h", "1H", "24", "all ", "2026-13", "2026-02-30", "1969-12", "9999-01", "2026-1", "٢٠٢٦-11"]
)
def test_an_unknown_period_names_the_valid_ones(text):
    with pytest.raises(UnknownPeriodError, match=r"use one of 1h, 2h.* YYYY-MM") as caught:
        parse_period(text)
    assert caught.value.valid_periods == ADMIN_PERIODS


def test_midnight_that_clocks_skip_is_the_moment_they_skip_it():
    assert midnight(date(2026, 4, 24), ZoneInfo("Africa/Cairo")) == utc("2026-04-23T22:00")
