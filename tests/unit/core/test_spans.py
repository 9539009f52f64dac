from datetime import UTC, datetime, timedelta
from random import Random

from app.core.spans import FINER, Level, begin, cover, cut, following, without

HOUR = timedelta(hours=1)
FIRST = datetime(2025, 11, 3, tzinfo=UTC)


def hours_of(ranges):
    """Every hour that the spans of these ranges are made of."""
    for part in ranges:
        start = part.start
        while start < part.end:
            assert begin(part.level, start) == start
            end, hour = following(part.level, start), start
            while hour < end:
                yield hour
                hour += HOUR
            start = end


def hours_between(intervals):
    return [
        start + n * HOUR
        for start, end in intervals
        for n in range(int((end - start).total_seconds()) // 3600)
    ]


def test_any_time_is_covered_exactly_and_by_few_spans():
    random = Random(4)
    for _ in range(300):
        start = FIRST + random.randrange(24 * 400) * HOUR
        end = start + random.randrange(24 * 200) * HOUR
        ranges = cover([(start, end)])
        assert list(hours_of(ranges)) == hours_between([(start, end)])
        assert len(ranges) <= 5
        assert sum((r.end - r.start) // HOUR for r in ranges if r.level is Level.HOUR) <= 46


def test_late_hours_are_left_out_and_no_span_reaches_over_them_or_a_cut():
    random = Random(5)
    for _ in range(100):
        start = FIRST + random.randrange(24 * 60) * HOUR
        end = start + random.randrange(24 * 90) * HOUR
        late = {start + random.randrange(-50, 24 * 95) * HOUR for _ in range(5)}
        cuts = [start + timedelta(minutes=random.randrange(60 * 24 * 90)) for _ in range(4)]
        left = list(without(start, end, late))
        ranges = cover(cut(left, cuts))
        assert list(hours_of(ranges)) == [h for h in hours_between([(start, end)]) if h not in late]
        for part in ranges:
            for moment in cuts:
                inside = begin(part.level, moment)
                if part.start <= inside < part.end and part.level is not Level.HOUR:
                    # Only at its edge, to the hour.
                    assert moment <= inside or following(part.level, inside) - moment < HOUR


def test_the_coarsest_span_can_be_limited():
    day = datetime(2026, 1, 1, tzinfo=UTC)
    whole = [(day, day + timedelta(days=31))]
    assert [part.level for part in cover(whole)] == [Level.MONTH]
    assert [part.level for part in cover(whole, Level.HOUR)] == [Level.HOUR]
    assert cover([]) == []


def test_spans_nest():
    moment = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    for level, finer in FINER.items():
        assert begin(level, begin(finer, moment)) == begin(level, moment)
        assert following(level, begin(level, moment)) == datetime(2027, 1, 1, tzinfo=UTC)
