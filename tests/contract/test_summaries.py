"""Summaries hold what the hourly sums hold, whatever is booked or goes wrong while they are made."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from booking_world import NOON, sequenced
from pymongo.errors import AutoReconnect
from test_stats import made_record

from app.persistence.booking import Booking
from app.records.request_logs import RequestLogStore
from app.statistics.period_sources import Known, PeriodSources
from app.statistics.periods import Period
from app.statistics.spans import Level, begin, following
from app.statistics.stats_store import StatsStore
from app.statistics.summaries import ALL_TOGETHER, COUNTS, FIELDS, PAIRS, State, SummaryMaker
from app.statistics.usage import Grouping

NOW = datetime(2026, 11, 23, 12, 20, 30, tzinfo=UTC)
SAIGON, KOLKATA = ZoneInfo("Asia/Ho_Chi_Minh"), ZoneInfo("Asia/Kolkata")


def spread(count, days, seed=3):
    random = Random(seed)
    span = days * 86_400_000
    return [
        made_record(number, NOW - timedelta(milliseconds=random.randrange(span)), random)
        for number in range(1, count + 1)
    ]


def book(db, records, writer="w1", now=NOW, tz=UTC):
    Booking(db, writer, now=lambda: now, tz=tz).apply(records)


def make(db, now=NOW, tz=UTC):
    """Make all there is to make; returns how many steps that took."""
    maker, steps = SummaryMaker(db, tz), 0
    while maker.step(now):
        steps += 1
    return steps


def recounted(db, state):
    """The summaries there must be, from the hourly sums, the slow way."""
    expected = {}
    for document in db["request_rollups"].find():
        for level in Level:
            start = document["hour"] if level is Level.HOUR else begin(level, document["hour"], state.tz)
            end = following(level, start, state.tz)
            if level is Level.RUNNING:
                if end <= state.up_to:
                    continue
                end = state.up_to
            if end <= state.up_to and document["hour"] < end:
                for by in FIELDS:
                    key = None if by is None else document[by]
                    place = (by or ALL_TOGETHER, str(level), start, key)
                    place += (end,) if level is Level.RUNNING else ()
                    add(expected.setdefault(place, defaultdict(int)), document)
        for pair in PAIRS:
            month = begin(Level.MONTH, document["hour"], state.tz)
            part = state.of_month(month, by_pairs=True)
            if part is not None and document["hour"] < part.end:
                place = (",".join(pair), str(part.level), month, *(document[name] for name in pair))
                place += (part.end,) if part.level is Level.RUNNING else ()
                counts = {name: number for name, number in document.items() if name in COUNTS}
                add(expected.setdefault(place, defaultdict(int)), counts)
    return expected


def add(sums, document, prefix=""):
    for name, value in document.items():
        if isinstance(value, dict):
            add(sums, value, f"{name}.")
        elif isinstance(value, int) and not isinstance(value, bool) and name != "seq":
            sums[prefix + name] += value


def assert_right(db):
    state = State.read(db["request_summaries"])
    assert not [hour for hour in state.late if hour < state.up_to]
    found = {}
    for document in db["request_summaries"].find({"_id.by": {"$exists": True}}):
        place = tuple(document.pop("_id").values())
        if is_of_earlier_hour(place, state=state):
            continue
        add(found.setdefault(place, defaultdict(int)), document)
    assert found == recounted(db, state)


def is_of_earlier_hour(place, *, state):
    """Whether it is of a running month up to a time before the newest one, which some may still read."""
    reached = state.pairs_reached if "," in place[0] else state.up_to
    return place[1] == str(Level.RUNNING) and (reached is None or place[-1] < reached)


def answers(db):
    """What statistics say, in every form."""
    stats = StatsStore(db)
    for period in ("1h", "24h", "30d", "all", "last_month", "2026-11-07"):
        yield stats.model_stats(Period.of(period, NOW, UTC))
        yield stats.user_stats(Period.of(period, NOW, UTC))
        yield stats.usage(Grouping.parse("user"), Period.of(period, NOW, UTC), limit=1).to_json()
        yield stats.metrics(Period.of(period, NOW, UTC))
    for period, bucket, zone in (
        ("24h", "hour", UTC),
        ("7d", "day", UTC),
        ("30d", "day", SAIGON),
        ("today", "hour", KOLKATA),
        ("all", "month", SAIGON),
        ("all", "month", UTC),
    ):
        series = stats.series(
            Period.of(period, NOW, zone), by="model", bucket=bucket, top=2, with_latency=True
        )
        yield series.to_json("latency"), series.to_json("tokens"), series.to_json("cost")
    yield stats.total(Period.asked_for(None, "20d", None, NOW, UTC), user="ann")


def answers_by_two(db):
    """What usage says by two words, of which only whole months are summed up."""
    for period in ("1h", "24h", "30d", "all", "month", "last_month", "2026-11-07"):
        for by in ("user,model", "model,user", "factoryKey,model", "key,user", "endpoint,user"):
            of = Period.of(period, NOW, UTC)
            yield StatsStore(db).usage(Grouping.parse(by), of, limit=2, shown=1).to_json()


def test_statistics_say_the_same_with_summaries_and_without(database):
    book(database, spread(700, 100), now=NOW - timedelta(days=50))
    before, before_by_two = list(answers(database)), list(answers_by_two(database))
    assert make(database) > 90
    assert_right(database)
    assert list(answers(database)) == before
    assert list(answers_by_two(database)) == before_by_two

    # They were read from the summaries: of the hours only the first is looked at, to see when it was.
    oldest = database["request_rollups"].find_one(sort=[("hour", 1)])["hour"]
    old = {"$gt": oldest, "$lt": NOW - timedelta(hours=2)}
    assert database["request_rollups"].delete_many({"hour": old}).deleted_count > 500
    assert list(answers(database)) == before


def test_buckets_shorter_than_an_hour_have_nothing_from_summaries(database):
    records = spread(200, 1)
    book(database, records)
    make(database)
    recent = [item for item in records if item.document["createdAt"] >= NOW - timedelta(hours=4)]
    for by in ("none", "model"):
        series = StatsStore(database).series(Period.of("4h", NOW, UTC), by=by, bucket="5m")
        assert sum(bucket.total.requests for bucket in series.buckets) == len(recent)


def test_an_hour_is_summed_up_when_it_has_been_over_for_a_while(database):
    book(database, [sequenced(1, created_at=NOON)], now=NOON)
    make(database, NOON + timedelta(minutes=69))
    assert State.read(database["request_summaries"]).up_to is None
    make(database, NOON + timedelta(minutes=70))
    assert State.read(database["request_summaries"]).up_to == NOON + timedelta(hours=1)
    assert make(database, NOON + timedelta(minutes=70)) == 0
    assert_right(database)


def hourly(start, hours):
    return [
        sequenced(n, created_at=start + timedelta(hours=n, minutes=7), user_id=("ann", "bob")[n % 2])
        for n in range(1, hours)
    ]


def running(db):
    return db["request_summaries"].distinct("_id.end", {"_id.by": "userId"})


@pytest.mark.parametrize("tz", [UTC, SAIGON, KOLKATA], ids=str)
def test_a_running_month_is_one_summary_after_each_hour(database, tz):
    start = Period.of("2026-11", NOW, tz).start - timedelta(days=2)
    book(database, hourly(start, 24 * 6), now=start, tz=tz)
    for hours in range(40, 24 * 6, 5):
        now = start + timedelta(hours=hours, minutes=11)
        make(database, now, tz)
        assert_right(database)
        assert len(running(database)) <= 2, "what is not read any more is deleted"
    state = State.read(database["request_summaries"])
    assert (state.tz, state.month_reached) == (tz, state.up_to)
    assert state.pairs_reached == begin(Level.DAY, state.up_to, tz)
    # And that is what a month is read from.
    stats, month = StatsStore(database), Period.of("month", now, tz)
    expected = stats.usage(Grouping.parse("user"), month).to_json()
    database["request_summaries"].delete_many({"_id.level": {"$in": [Level.HOUR, Level.DAY, Level.MONTH]}})
    assert stats.usage(Grouping.parse("user"), month).to_json() == expected
    assert expected["total"]["requestCount"] > 24 * 3


@pytest.mark.parametrize("hours", [24 * 40, 200, 199, 190], ids=["over", "newest", "unsummed", "behind"])
def test_pages_of_a_month_are_in_order(database, hours):
    """Also where many cost the same, where earlier software has records, and not all hours are summed up."""
    check_pages(database, Grouping.parse("user"), hours)


@pytest.mark.parametrize("by", ["user,model", "model,user", "factoryKey,model"])
@pytest.mark.parametrize("hours", [24 * 40, 200, 170], ids=["over", "newest", "behind"])
def test_pages_of_a_month_by_two_words_are_in_order(database, by, hours):
    check_pages(database, Grouping.parse(by), hours)


def check_pages(database, by, hours):
    start = Period.of("2026-10", NOW, SAIGON).start
    now, summed = start + timedelta(hours=200, minutes=20), start + timedelta(hours=hours, minutes=10)
    if summed > now:
        now = summed
    records = [
        sequenced(
            n,
            created_at=start + timedelta(hours=n),
            user_id=f"u{n % 37}",
            model=f"m{n % 3}" if n % 7 else None,
            cost_nano_usd=n % 5,
        )
        for n in range(1, 200)
    ]
    book(database, records, now=start)
    earlier = {"isSuccess": True, "createdAt": start + timedelta(days=1), "creditsCost": 0.000000003}
    users = ("u5", "before", None)
    database["request_logs"].insert_many({"_id": f"e{user}", "userId": user, **earlier} for user in users)
    stats, month = StatsStore(database), Period.of("2026-10", now, SAIGON)
    expected = list(stats.usage_rows(by, month))
    make(database, summed, SAIGON)
    # What the month is read from is in the order of the index, with what is not summed up yet in between.
    parts = PeriodSources.of(Known(database), month)
    assert (parts if len(by.words) == 1 else parts.of_pairs()).month() is not None
    for _ in range(2):
        seen = []
        while len(seen) < len(expected):
            page = stats.usage(by, month, limit=8, shown=len(seen))
            assert page.other_count + len(page.rows) == len(expected)
            assert page.has_more == (len(seen) + len(page.rows) < len(expected))
            seen += page.rows
        assert seen == expected
        database["request_logs"].delete_many({"outcome": None})
        expected = list(stats.usage_rows(by, month))


def test_what_comes_late_into_the_running_month_is_in_it_at_once(database):
    start = Period.of("2026-11", NOW, SAIGON).start
    book(database, hourly(start, 24 * 5), now=start)
    now = start + timedelta(days=5)
    make(database, now, SAIGON)
    late = [sequenced(500 + n, created_at=start + timedelta(hours=n), user_id="late") for n in (1, 30, 31)]
    book(database, late, now=now)
    stats, month = StatsStore(database), Period.of("month", now, SAIGON)

    def requests():
        return {key: sums.requests for (key,), sums in stats.usage(Grouping.parse("user"), month).rows}

    assert requests()["late"] == 3
    assert make(database, now, SAIGON) == 1, "all late hours of a month at once"
    assert requests()["late"] == 3
    assert_right(database)


def test_in_another_zone_all_is_made_anew(database):
    book(database, spread(60, 12))
    make(database, NOW, UTC)
    expected = list(answers(database))
    maker = SummaryMaker(database, SAIGON)
    while maker.step(NOW):
        pass
    assert State.read(database["request_summaries"]).tz == SAIGON
    assert_right(database)
    assert list(answers(database)) == expected
    assert not SummaryMaker(database, SAIGON).step(NOW)


def test_where_months_are_not_summed_up_by_all_pairs_all_is_made_anew(database):
    """Of a version that had none, nothing is read by pairs, until they are there."""
    book(database, spread(60, 40))
    expected = list(answers_by_two(database))
    make(database)
    database["request_summaries"].delete_many({"_id.second": {"$exists": True}})
    database["request_summaries"].update_one({"_id": "state"}, {"$unset": {"pairs": "", "pairsReached": ""}})
    assert not State.read(database["request_summaries"]).pairs
    assert list(answers_by_two(database)) == expected
    assert make(database) > 30
    assert_right(database)
    assert list(answers_by_two(database)) == expected


def test_a_maker_that_has_begun_leaves_the_zone_of_another_alone(database):
    book(database, spread(20, 3))
    first, second = SummaryMaker(database, SAIGON), SummaryMaker(database, UTC)
    while first.step(NOW):
        pass
    while second.step(NOW):
        pass
    assert State.read(database["request_summaries"]).tz == UTC
    assert not first.step(NOW)
    assert State.read(database["request_summaries"]).tz == UTC


def test_what_an_earlier_version_made_is_not_read_and_it_publishes_nothing(database):
    book(database, spread(60, 12))
    expected = list(answers(database))
    earlier = {"upTo": NOW - timedelta(days=1), "version": 7}
    database["request_summaries"].replace_one({"_id": "state"}, {"_id": "state", **earlier}, upsert=True)
    place = {"by": "all", "level": "day", "start": datetime(2026, 11, 20, tzinfo=UTC), "key": None}
    database["request_summaries"].insert_one({"_id": place, "requests": 99})
    assert list(answers(database)) == expected
    make(database)
    assert list(answers(database)) == expected
    state = database["request_summaries"].find_one({"_id": "state"})
    assert "upTo" not in state
    # It reads versions as whole numbers, and publishes where they are still the same.
    assert not database["request_summaries"].find_one({"_id": "state", "version": int(state["version"])})
    assert not database["request_summaries"].find_one({"_id.level": "day"})


def test_nothing_is_made_of_nothing(database):
    assert make(database) == 0
    assert StatsStore(database).model_stats(Period.of("all", NOW, UTC)) == []


def test_what_is_booked_late_is_in_statistics_at_once_and_in_summaries_soon(database):
    book(database, spread(200, 70))
    make(database)
    late = spread(60, 65, seed=8)
    late = [type(item)(1000 + item.seq, item.document | {"_id": f"l{item.seq}"}, 0.0) for item in late]
    book(database, late)
    state = State.read(database["request_summaries"])
    assert len(state.late) > 50
    at_once = list(answers(database))
    assert at_once[-1].requests > 20

    make(database)
    assert_right(database)
    assert list(answers(database)) == at_once
    plain = list(answers_without_summaries(database))
    assert plain == at_once


def answers_without_summaries(db):
    db["request_summaries"].drop()
    return answers(db)


def test_an_hour_older_than_the_first_is_summed_up_too(database):
    book(database, [sequenced(1, created_at=NOON - timedelta(days=3))], now=NOON)
    make(database, NOON)
    book(database, [sequenced(2, created_at=NOON - timedelta(days=50))], now=NOON)
    make(database, NOON)
    assert_right(database)


class Watched:
    """A database that tells when it is used: `before(number)` is called before each use, from 1 on."""

    def __init__(self, db, before):
        self.db, self.before, self.calls = db, before, 0

    def __getitem__(self, name):
        return WatchedCollection(self, self.db[name])


class WatchedCollection:
    def __init__(self, watched, collection):
        self.watched, self.collection = watched, collection

    def __getattr__(self, name):
        def use(*args, **options):
            self.watched.calls += 1
            self.watched.before(self.watched.calls)
            return getattr(self.collection, name)(*args, **options)

        return use


END_OF_MONTH = datetime(2026, 12, 1, 0, 30, tzinfo=UTC)
"""The last hour of a day and of a month is to be summed up, and there is an hour with something late."""


def almost_done(db):
    """Summed up to the last hour of a month, in which there is something, and in an earlier one late."""
    for name in ("request_logs", "request_rollups", "request_summaries"):
        db[name].delete_many({})
    last = END_OF_MONTH - timedelta(hours=1)
    book(db, [sequenced(n, created_at=last - timedelta(hours=n)) for n in range(1, 7)], now=last)
    make(db, last)
    book(db, [sequenced(30, created_at=last), sequenced(31, created_at=last - timedelta(hours=3))], now=last)


def late_booking(db, number):
    """Into the hour being summed up, one of the same day, and one of the day before."""
    ages = (timedelta(hours=1), timedelta(hours=5), timedelta(hours=26))
    created = [END_OF_MONTH - age for age in ages]
    items = [sequenced(number * 10 + n, created_at=moment) for n, moment in enumerate(created)]
    book(db, items, writer="w2", now=END_OF_MONTH)


def number_of_calls(db, work):
    almost_done(db)
    watched = Watched(db, lambda _: None)
    work(watched)
    return watched.calls


def finish(db):
    make(db, END_OF_MONTH)
    assert_right(db)
    assert State.read(db["request_summaries"]).up_to == datetime(2026, 12, 1, tzinfo=UTC)


def test_a_fault_at_any_call_leaves_nothing_wrong(database):
    calls = number_of_calls(database, lambda db: make(db, END_OF_MONTH))
    assert calls > 12
    for call in range(1, calls + 1):
        almost_done(database)

        def fail(number, call=call):
            if number == call:
                raise AutoReconnect("gone")

        with pytest.raises(AutoReconnect):
            make(Watched(database, fail), END_OF_MONTH)
        finish(database)


def test_a_booking_between_any_two_calls_is_summed_up(database):
    calls = number_of_calls(database, lambda db: make(db, END_OF_MONTH))
    for call in range(1, calls + 1):
        almost_done(database)

        def interrupt(number, call=call):
            if number == call:
                late_booking(database, 9)

        make(Watched(database, interrupt), END_OF_MONTH)
        finish(database)


def test_summing_up_between_any_two_calls_of_a_booking_misses_nothing(database):
    calls = number_of_calls(database, lambda db: late_booking(db, 9))
    assert calls >= 6
    for call in range(1, calls + 1):
        almost_done(database)

        def interrupt(number, call=call):
            if number == call:
                make(database, END_OF_MONTH)

        late_booking(Watched(database, interrupt), 9)
        finish(database)


def test_two_at_once_and_bookings_in_between_leave_nothing_wrong(database):
    calls = number_of_calls(database, lambda db: make(db, END_OF_MONTH))
    for call in range(1, calls + 1):
        almost_done(database)

        def interrupt(number, call=call):
            # The first was held up for long before this call, and the one after the next.
            if number in (call, call + 2):
                late_booking(database, number + 10)
                make(database, END_OF_MONTH)

        make(Watched(database, interrupt), END_OF_MONTH)
        finish(database)


def work_of_statistics(db):
    """How many documents and index entries the server looks at for each; never a whole collection."""
    stats, now = StatsStore(db), NOON
    asked = {
        "models": lambda: stats.model_stats(Period.of("30d", now, UTC)),
        "all models": lambda: stats.model_stats(Period.of("all", now, UTC)),
        "metrics": lambda: stats.metrics(Period.of("all", now, UTC)),
        "users": lambda: stats.user_stats(Period.of("7d", now, UTC)),
        "usage": lambda: stats.usage(Grouping.parse("key"), Period.of("30d", now, UTC)),
        "a day": lambda: stats.series(Period.of("24h", now, UTC), by="model", with_latency=True),
        "a month": lambda: stats.series(Period.of("30d", now, SAIGON), by="user"),
        "one user": lambda: stats.total(Period.of("30d", now, UTC), user="ann"),
    }
    found = {}
    for name, ask in asked.items():
        db["system.profile"].drop()
        db.command("profile", 2)
        ask()
        db.command("profile", 0)
        used = list(
            db["system.profile"].find({"ns": {"$regex": "request_"}, "planSummary": {"$exists": True}})
        )
        assert used
        assert not [op["planSummary"] for op in used if "COLLSCAN" in op["planSummary"]], name
        found[name] = sum(op.get("docsExamined", 0) + op.get("keysExamined", 0) for op in used)
    return found


def test_statistics_cost_the_same_however_many_records_there_are(database):
    StatsStore(database).ensure_indexes()
    RequestLogStore(database).ensure_indexes()

    def of_same_kind(first, each):
        return [
            sequenced(
                first + hour * each + n,
                created_at=NOON - timedelta(hours=hour, minutes=7),
                user_id=("ann", "bob")[n % 2],
                latency_ms=100 + n % 2,
            )
            for hour in range(3, 80)
            for n in range(each)
        ]

    book(database, of_same_kind(1, 2))
    make(database)
    few = work_of_statistics(database)
    for writer in ("w2", "w3", "w4"):
        batch = of_same_kind(10_000 * int(writer[1]), 10)
        book(database, batch, writer=writer)
    make(database)
    many = work_of_statistics(database)
    assert database["request_logs"].count_documents({}) > 10 * 77 * 2
    for name, work in many.items():
        assert work <= few[name] * 1.2 + 20, name
