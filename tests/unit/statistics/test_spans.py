from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.statistics.spans import (
    FINER,
    Level,
    begin,
    between,
    cover,
    cut,
    first_from,
    following,
    without,
)

HOUR = timedelta(hours=1)
FIRST = datetime(2025, 11, 3, tzinfo=UTC)
ZONES = [
    UTC,
    *map(
        ZoneInfo,
        (
            "Asia/Ho_Chi_Minh",
            "Europe/Berlin",
            "America/Santiago",
            "Asia/Kolkata",
            "Asia/Kathmandu",
            "Australia/Lord_Howe",
            "Pacific/Chatham",
        ),
    ),
]


def seconds(intervals):
    return sum((end - start).total_seconds() for start, end in intervals)


def filled(ranges, tz):
    """The time that these ranges fill, in one piece wherever they touch; each begins and ends with a span."""
    found = []
    for part in ranges:
        if part.level is not Level.HOUR:
            assert begin(part.level, part.start, tz) == part.start
            assert begin(Level.DAY, part.end, tz) == part.end
        if found and found[-1][1] == part.start:
            found[-1] = (found[-1][0], part.end)
        else:
            found.append((part.start, part.end))
    return found


@pytest.mark.parametrize("tz", ZONES, ids=str)
def test_any_time_is_covered_exactly_and_by_few_spans(tz):
    random = Random(4)
    for _ in range(100):
        start = FIRST + random.randrange(24 * 400) * HOUR
        end = start + random.randrange(1, 24 * 200) * HOUR
        ranges = cover([(start, end)], tz)
        assert filled(ranges, tz) == [(start, end)]
        assert len(ranges) <= 5
        assert sum((r.end - r.start) // HOUR for r in ranges if r.level is Level.HOUR) <= 50
        assert sum((r.end - r.start) // HOUR for r in ranges if r.level is Level.DAY) <= 62 * 24


@pytest.mark.parametrize("tz", ZONES, ids=str)
def test_a_month_is_one_span_also_while_it_runs(tz):
    begins = begin(Level.MONTH, FIRST, tz)
    over = following(Level.MONTH, begins, tz)
    assert [part.level for part in cover([(begins, over)], tz)] == [Level.MONTH]
    day = begin(Level.DAY, FIRST + 20 * 24 * HOUR, tz)
    now = day + 5 * HOUR
    parts = cover([(begins, now)], tz, reached=day)
    assert [(part.level, part.end) for part in parts] == [(Level.RUNNING, day), (Level.HOUR, now)]
    hour = day + 3 * HOUR
    parts = cover([(begins, now)], tz, reached=hour)
    assert [(part.level, part.end) for part in parts] == [(Level.RUNNING, hour), (Level.HOUR, now)]
    # Only where the time asked for goes as far, and from its beginning on.
    assert {part.level for part in cover([(begins, day - HOUR)], tz, reached=day)} == {Level.DAY, Level.HOUR}
    assert Level.RUNNING not in {part.level for part in cover([(begins + HOUR, now)], tz, reached=day)}
    # On the first day of a month nothing of it is summed up together.
    assert [part.level for part in cover([(begins, over + HOUR)], tz, reached=over)] == [
        Level.MONTH,
        Level.HOUR,
    ]


@pytest.mark.parametrize("tz", ZONES, ids=str)
def test_late_hours_are_left_out_and_no_span_reaches_over_them_or_a_cut(tz):
    random = Random(5)
    for _ in range(50):
        start = FIRST + random.randrange(24 * 60) * HOUR
        end = start + random.randrange(1, 24 * 90) * HOUR
        late = {start + random.randrange(-50, 24 * 95) * HOUR for _ in range(5)}
        cuts = [begin(Level.DAY, start + random.randrange(24 * 90) * HOUR, tz) for _ in range(4)]
        left = list(without(start, end, late))
        ranges = cover(cut(left, cuts), tz)
        assert filled(ranges, tz) == left
        for part in ranges:
            assert not any(part.start < hour + HOUR and hour < part.end for hour in late)
            if part.level is Level.MONTH:  # shorter ones begin at every midnight anyway
                assert not any(part.start < moment < part.end for moment in cuts)
        rest = list(between(start, end, left))
        assert seconds(rest) + seconds(left) == (end - start).total_seconds()
        assert all(any(a < hour + HOUR and hour < b for hour in late) for a, b in rest)


def test_an_hour_is_left_out_wherever_in_it_a_time_begins():
    start, end = FIRST + HOUR / 2, FIRST + 2 * HOUR + HOUR / 2
    assert list(without(start, end, [FIRST, FIRST + 2 * HOUR])) == [(FIRST + HOUR, FIRST + 2 * HOUR)]


def test_the_coarsest_span_can_be_limited():
    day = datetime(2026, 1, 1, tzinfo=UTC)
    whole = [(day, day + timedelta(days=31))]
    assert [part.level for part in cover(whole, UTC)] == [Level.MONTH]
    assert [part.level for part in cover(whole, UTC, Level.HOUR)] == [Level.HOUR]
    assert cover([], UTC) == []


@pytest.mark.parametrize("tz", ZONES, ids=str)
def test_spans_nest_and_follow_each_other(tz):
    moment = datetime(2026, 12, 31, 5, 59, tzinfo=UTC)
    for _ in range(500):
        moment -= timedelta(hours=23, minutes=17)
        for level in (Level.HOUR, Level.DAY, Level.MONTH):
            start = begin(level, moment, tz)
            over = following(level, start, tz)
            assert start <= moment < over
            assert begin(level, over, tz) == over
            assert begin(level, over - timedelta(milliseconds=1), tz) == start
        for level, finer in FINER.items():
            assert begin(level, begin(finer, moment, tz), tz) == begin(level, moment, tz)


@given(st.sampled_from(ZONES), st.timedeltas(timedelta(0), timedelta(days=1000)).map(lambda ago: FIRST - ago))
def test_an_hour_is_of_one_hour_of_utc_and_of_one_day(tz, moment):
    """As counted with nothing but the calendar: by the date there, and the hour."""
    start = begin(Level.HOUR, moment, tz)
    over = following(Level.HOUR, start, tz)
    for inside in (start, over - timedelta.resolution):
        assert (inside.date(), inside.hour) == (moment.date(), moment.hour)
        assert inside.astimezone(tz).date() == moment.astimezone(tz).date()
    before = start - timedelta.resolution
    assert before.hour != moment.hour or before.astimezone(tz).date() != moment.astimezone(tz).date()
    assert first_from(Level.HOUR, moment, tz) == (start if moment == start else over)


def test_an_hour_that_midnight_falls_into_is_two():
    kolkata = ZoneInfo("Asia/Kolkata")
    hour = datetime(2026, 11, 22, 18, tzinfo=UTC)
    half_past = hour + timedelta(minutes=30)
    assert begin(Level.HOUR, half_past - timedelta.resolution, kolkata) == hour
    assert following(Level.HOUR, hour, kolkata) == begin(Level.HOUR, half_past, kolkata) == half_past
    assert following(Level.HOUR, half_past, kolkata) == hour + HOUR
