"""Series over time and usage, against a plain recount in Python of the same records."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from booking_world import closed_database, sequenced
from bson import ObjectId
from test_stats import NOW, book, documents_of, made, within
from test_summaries import make

from app.common.errors import StoreUnavailable
from app.statistics.figures import Totals
from app.statistics.histogram import percentile_ms
from app.statistics.periods import ADMIN_PERIODS, Period, midnight
from app.statistics.stats_store import StatsStore
from app.statistics.timeseries import UnknownChoiceError
from app.statistics.usage import Grouping

SAIGON = ZoneInfo("Asia/Ho_Chi_Minh")
KOLKATA = ZoneInfo("Asia/Kolkata")
NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture
def stats(database):
    return StatsStore(database)


@pytest.mark.parametrize("zone", [UTC, SAIGON, KOLKATA])
def test_the_buckets_of_any_period_add_up_to_its_sums(database, stats, zone):
    records = made(400)
    book(database, records)
    for period in ADMIN_PERIODS:
        documents = within(records, Period.of(period, NOW, zone))
        series = stats.series(Period.of(period, NOW, zone), by="user", with_latency=True)
        assert sum(bucket.total.requests for bucket in series.buckets) == len(documents), period
        assert sum(bucket.total.cost_nano_usd for bucket in series.buckets) == sum(
            d["costNanoUsd"] for d in documents
        )
        for key in series.keys:
            mine = [d for d in documents if d["userId"] == key]
            parts = [bucket.parts.get(key, Totals()) for bucket in series.buckets]
            assert sum(part.requests for part in parts) == len(mine)
            timed = sum(d["outcome"] != "rejected" for d in mine)
            assert sum(sum(part.latency.values()) for part in parts) == timed


@pytest.mark.parametrize("zone", [UTC, SAIGON])
def test_what_some_used_over_time_is_a_plain_recount_with_summaries_and_without(database, stats, zone):
    records = made(400)
    book(database, records)
    start = midnight(NOW.astimezone(zone).date() - timedelta(days=45), zone)
    period = Period(None, start, None, NOW, zone)
    documents = within(records, period)
    for _ in range(2):
        for by, field in (("user", "userId"), ("key", "userKeyId")):
            names = sorted({document[field] for document in documents})[:2]
            for bucket, digits in (("day", 10), ("month", 7)):
                expected = defaultdict(int)
                for document in documents:
                    label = document["createdAt"].astimezone(zone).isoformat()[:digits]
                    expected[document[field], label] += document["costNanoUsd"]
                series = stats.series_of([*names, "nobody"], period, by=by, bucket=bucket)
                found = {
                    (name, found.start.astimezone(zone).isoformat()[:digits]): sums.cost_nano_usd
                    for found in series.buckets
                    for name, sums in found.parts.items()
                }
                assert found == {place: nano for place, nano in expected.items() if place[0] in names}
            whole = stats.costs(Grouping((by,)), period)
            assert sum(whole.values()) == sum(document["costNanoUsd"] for document in documents)
            assert {key for (key,) in whole} == {document[field] for document in documents}
        make(database)
    assert stats.series_of([], period, by="user", bucket="day").buckets[0].parts == {}


def test_hours_and_five_minutes_hold_what_happened_in_them(database, stats):
    records = made(300)
    book(database, records)
    for period, bucket, width in (("24h", "hour", 3600), ("4h", "5m", 300), ("2h", "auto", 300)):
        expected = defaultdict(int)
        for document in within(records, Period.of(period, NOW, UTC)):
            expected[int(document["createdAt"].timestamp()) // width * width] += document["inputTokens"]
        series = stats.series(Period.of(period, NOW, UTC), bucket=bucket)
        found = {int(b.start.timestamp()): b.total.input_tokens for b in series.buckets}
        assert {start: tokens for start, tokens in found.items() if tokens} == {
            start: tokens for start, tokens in expected.items() if tokens
        }
        gaps = {b.start - a.start for a, b in zip(series.buckets, series.buckets[1:], strict=False)}
        assert gaps == {timedelta(seconds=width)}


def test_days_begin_at_midnight_in_the_zone(database, stats):
    # 17:00 UTC is midnight in Saigon.
    moments = (datetime(2026, 11, 21, 16, 59, tzinfo=UTC), datetime(2026, 11, 21, 17, 0, tzinfo=UTC))
    book(database, [sequenced(n, created_at=moment) for n, moment in enumerate(moments, start=1)])
    series = stats.series(Period.of("7d", NOW, SAIGON), bucket="day")
    counts = {bucket.start: bucket.total.requests for bucket in series.buckets if bucket.total.requests}
    assert counts == {
        datetime(2026, 11, 20, 17, tzinfo=UTC): 1,
        datetime(2026, 11, 21, 17, tzinfo=UTC): 1,
    }
    assert [b.total.requests for b in stats.series(Period.of("7d", NOW, UTC), bucket="day").buckets].count(
        2
    ) == 1


@pytest.mark.parametrize(("zone", "day"), [(KOLKATA, 21), (UTC, 20)], ids=["same zone", "another zone"])
def test_an_hour_that_midnight_falls_into_is_of_two_days(database, stats, zone, day):
    """Where it was booked in another zone, it counts in the day it begins in."""
    # Midnight in Kolkata is 18:30 UTC.
    midnight = datetime(2026, 11, 21, 18, 30, tzinfo=UTC)
    moments = [midnight - timedelta(minutes=1), midnight, midnight + timedelta(minutes=29)]
    book(database, [sequenced(n, created_at=moment) for n, moment in enumerate(moments, 1)], tz=zone)
    series = stats.series(Period.of("7d", NOW, KOLKATA), bucket="day")
    counts = {bucket.start.day: bucket.total.requests for bucket in series.buckets if bucket.total.requests}
    assert counts == ({20: 1, 21: 2} if day == 21 else {20: 3})
    hours = stats.series(Period.of("7d", NOW, KOLKATA), bucket="hour").buckets
    assert [bucket.total.requests for bucket in hours if bucket.total.requests] == [3]


def test_a_day_on_which_clocks_are_changed_has_all_its_hours(database, stats):
    # In New York clocks went back on 1 November 2026 at 06:00 UTC: that day had 25 hours, from 04:00 UTC.
    day = datetime(2026, 11, 1, 4, tzinfo=UTC)
    moments = [day + timedelta(hours=n, minutes=1) for n in range(-1, 26)]
    book(database, [sequenced(n, created_at=moment) for n, moment in enumerate(moments, start=1)])
    series = stats.series(Period.of("30d", NOW, NEW_YORK), bucket="day")
    counts = {bucket.start: bucket.total.requests for bucket in series.buckets}
    assert counts[day] == 25
    assert (counts[day - timedelta(days=1)], counts[day + timedelta(hours=25)]) == (1, 1)


def test_months_and_what_auto_chooses_for_all(database, stats):
    past = NOW - timedelta(days=100)
    book(database, [sequenced(1, created_at=past)], now=past)
    book(database, [sequenced(2, created_at=NOW)])
    series = stats.series(Period.of("all", NOW, SAIGON))
    assert series.size == "month"
    assert [bucket.total.requests for bucket in series.buckets] == [1, 0, 0, 1]
    assert series.buckets[0].start == datetime(2026, 7, 31, 17, tzinfo=UTC)
    assert stats.series(Period.of("all", NOW, SAIGON), bucket="day").size == "day"


def test_only_the_largest_are_told_apart_and_the_rest_is_other(database, stats):
    book(
        database,
        [
            sequenced(n, created_at=NOW, user_id=f"u{n % 4}", cost_nano_usd=10 ** (n % 4), latency_ms=n)
            for n in range(1, 41)
        ],
    )
    series = stats.series(
        Period.of("1h", NOW, UTC), by="user", rank_by="cost", top=2, bucket="hour", with_latency=True
    )
    assert series.keys == ["u3", "u2"]
    bucket = series.buckets[-1]
    assert {key: part.cost_nano_usd for key, part in bucket.parts.items()} == {"u3": 10_000, "u2": 1000}
    assert (bucket.total.requests, bucket.other.requests, bucket.other.cost_nano_usd) == (40, 20, 110)
    assert percentile_ms(bucket.other.latency, 50) in (19, 20, 21)


def test_records_of_earlier_software_are_in_series_too(database, stats):
    database["request_logs"].insert_one(
        {"_id": ObjectId(), "userId": "ann", "isSuccess": True, "createdAt": NOW - timedelta(days=40)}
    )
    series = stats.series(Period.of("all", NOW, UTC))
    assert (series.buckets[0].total.requests, len(series.buckets)) == (1, 41)


def test_usage_ranks_by_cost_and_sums_up_the_rest(database, stats):
    records = made(200)
    book(database, records)
    usage = stats.usage(Grouping.parse("user"), Period.of("all", NOW, UTC), limit=1)
    costs = defaultdict(int)
    for document in documents_of(records):
        costs[document["userId"]] += document["costNanoUsd"]
    (((name,), totals),) = usage.rows
    left = set(costs) - {name}
    assert totals.cost_nano_usd == costs[name] == max(costs.values())
    assert usage.other_count == len(left) == 1
    assert usage.other.cost_nano_usd == costs[left.pop()]
    assert usage.total.requests == len(records)
    # Refused requests reached no model.
    assert (None,) in dict(stats.usage(Grouping.parse("model"), Period.of("all", NOW, UTC)).rows)


@pytest.mark.parametrize(
    ("period", "bucket"), [("24h", "5m"), ("all", "hour"), ("7d", "month"), ("1h", "day"), ("1h", "x")]
)
def test_a_bucket_that_does_not_go_with_the_period_is_refused(stats, period, bucket):
    with pytest.raises(UnknownChoiceError, match="bucket: takes one of auto"):
        stats.series(Period.of(period, NOW, UTC), bucket=bucket)


def test_nothing_at_all(stats):
    series = stats.series(Period.of("all", NOW, UTC))
    assert [bucket.total.requests for bucket in series.buckets] == [0]
    assert stats.usage(Grouping.parse("key"), Period.of("7d", NOW, UTC)).rows == []


def test_a_store_that_is_down():
    stats = StatsStore(closed_database())
    for ask in (
        lambda: stats.series(Period.of("all", NOW, UTC)),
        lambda: stats.usage(Grouping.parse("user"), Period.of("1h", NOW, UTC)),
    ):
        with pytest.raises(StoreUnavailable):
            ask()
