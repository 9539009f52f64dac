"""Summaries hold what the hourly sums hold, whatever is booked or goes wrong while they are made."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from pymongo.errors import AutoReconnect
from settlement_world import NOON, sequenced
from test_stats import made_record

from app.adapters.mongo.request_logs import RequestLogStore
from app.adapters.mongo.settlement import Settlement
from app.adapters.mongo.stats import StatsStore
from app.adapters.mongo.summaries import ALL_TOGETHER, FIELDS, State, SummaryMaker
from app.core.spans import Level, begin, following

NOW = datetime(2026, 11, 23, 12, 20, 30, tzinfo=UTC)
SAIGON, KOLKATA = ZoneInfo("Asia/Ho_Chi_Minh"), ZoneInfo("Asia/Kolkata")


def spread(count, days, seed=3):
    random = Random(seed)
    span = days * 86_400_000
    return [
        made_record(number, NOW - timedelta(milliseconds=random.randrange(span)), random)
        for number in range(1, count + 1)
    ]


def book(db, records, writer="w1", now=NOW):
    Settlement(db, writer, now=lambda: now).apply(records)


def make(db, now=NOW):
    """Make all there is to make; returns how many steps that took."""
    maker, steps = SummaryMaker(db), 0
    while maker.step(now):
        steps += 1
    return steps


def recounted(db, state):
    """The summaries there must be, from the hourly sums, the slow way."""
    expected = {}
    for document in db["request_rollups"].find():
        for level in Level:
            start = begin(level, document["hour"])
            if following(level, start) <= state.up_to:
                for by in FIELDS:
                    key = None if by is None else document[by]
                    place = (by or ALL_TOGETHER, str(level), start, key)
                    add(expected.setdefault(place, defaultdict(int)), document)
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
        add(found.setdefault(place, defaultdict(int)), document)
    assert found == recounted(db, state)


def answers(db):
    """What statistics say, in every form."""
    stats = StatsStore(db)
    for period in ("1h", "24h", "30d", "all"):
        yield stats.model_stats(period, NOW, UTC)
        yield stats.user_stats(period, NOW, UTC)
        yield stats.usage("user", period, NOW, UTC, limit=1).to_json()
        yield stats.metrics(period, NOW, UTC)
    for period, bucket, zone in (
        ("24h", "hour", UTC),
        ("7d", "day", UTC),
        ("30d", "day", SAIGON),
        ("today", "hour", KOLKATA),
        ("all", "month", SAIGON),
        ("all", "month", UTC),
    ):
        series = stats.series(period, NOW, zone, by="model", bucket=bucket, top=2, with_latency=True)
        yield series.to_json("latency"), series.to_json("tokens"), series.to_json("cost")
    yield stats.total(NOW - timedelta(days=20), user="ann")


def test_statistics_say_the_same_with_summaries_and_without(database):
    book(database, spread(700, 100), now=NOW - timedelta(days=50))
    before = list(answers(database))
    assert make(database) > 90
    assert_right(database)
    assert list(answers(database)) == before

    # They were read from the summaries: of the hours only the first is looked at, to see when it was.
    oldest = database["request_rollups"].find_one(sort=[("hour", 1)])["hour"]
    old = {"$gt": oldest, "$lt": NOW - timedelta(hours=2)}
    assert database["request_rollups"].delete_many({"hour": old}).deleted_count > 500
    assert list(answers(database)) == before


def test_an_hour_is_summed_up_when_it_has_been_over_for_a_while(database):
    book(database, [sequenced(1, created_at=NOON)], now=NOON)
    make(database, NOON + timedelta(minutes=69))
    assert State.read(database["request_summaries"]).up_to is None
    make(database, NOON + timedelta(minutes=70))
    assert State.read(database["request_summaries"]).up_to == NOON + timedelta(hours=1)
    assert make(database, NOON + timedelta(minutes=70)) == 0
    assert_right(database)


def test_nothing_is_made_of_nothing(database):
    assert make(database) == 0
    assert StatsStore(database).model_stats("all", NOW, UTC) == []


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
        "models": lambda: stats.model_stats("30d", now, UTC),
        "all models": lambda: stats.model_stats("all", now, UTC),
        "metrics": lambda: stats.metrics("all", now, UTC),
        "users": lambda: stats.user_stats("7d", now, UTC),
        "usage": lambda: stats.usage("key", "30d", now, UTC),
        "a day": lambda: stats.series("24h", now, UTC, by="model", with_latency=True),
        "a month": lambda: stats.series("30d", now, SAIGON, by="user"),
        "one user": lambda: stats.total(now - timedelta(days=30), user="ann"),
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
