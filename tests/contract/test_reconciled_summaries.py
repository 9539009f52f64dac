"""Verification of summaries: what agrees, what is on its way, and what was changed by other means."""

from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from booking_world import sequenced

from app.persistence.booking import Booking
from app.statistics.summaries import SummaryMaker
from app.verify.reconciled_sums import HourPairs
from tests.support.reconciliation_world import NOON, NOW, World, differing, only, verify

LATER = NOON + timedelta(days=40)


@pytest.fixture
def world(database):
    world = World.build(database)
    make(database)
    return world


def make(db):
    maker = SummaryMaker(db)
    while maker.step(LATER):
        pass


def test_summaries_that_agree(world):
    results = verify(world.db)
    assert differing(results) == set()
    # Three hours, a day and a month, by everything.
    assert results["summaries"].compared > 60
    assert results["summaries"].state == "ok"


def test_without_summaries_there_is_nothing_to_compare(database):
    World.build(database)
    result = verify(database)["summaries"]
    assert (result.state, result.notes) == ("not_checked", ["none have been made yet"])


@pytest.mark.parametrize("level", ["hour", "local_day", "local_month"])
@pytest.mark.parametrize("nano", [1, -1])
def test_a_nano_dollar_in_any_summary_is_found(world, level, nano):
    chosen = {"_id.level": level, "_id.by": "userId", "_id.key": "ann"}
    before = world.db.request_summaries.find_one_and_update(chosen, {"$inc": {"costNanoUsd": nano}})
    results = verify(world.db)
    assert differing(results) == {"summaries"}
    found = [f for f in results["summaries"].differences if f.where.startswith(f"{level} from ")]
    assert found[0].what == "costNanoUsd of request_summaries"
    assert "userId ann" in found[0].where
    assert nano in (found[0].found - before["costNanoUsd"], found[0].expected - before["costNanoUsd"])


@pytest.mark.parametrize("level", ["local_month", "running_month"])
@pytest.mark.parametrize("nano", [0, 1, -1])
def test_a_nano_dollar_in_a_month_by_pairs_is_found(database, level, nano):
    db = World.build(database).db
    maker = SummaryMaker(db)
    while maker.step(LATER if level == "local_month" else NOON + timedelta(hours=15)):
        pass
    chosen = {"_id.level": level, "_id.by": "userId,userKeyId", "_id.key": "ann"}
    before = db.request_summaries.find_one_and_update(chosen, {"$inc": {"costNanoUsd": nano}})
    results = verify(db)
    assert differing(results) == ({"summaries"} if nano else set())
    for found in results["summaries"].differences:
        assert found.where.startswith(f"{level} from ")
        assert "userId,userKeyId ann, " in found.where
        assert (found.expected, found.found) == (before["costNanoUsd"], before["costNanoUsd"] + nano)


@pytest.mark.parametrize("nano", [0, 1, -1])
def test_a_nano_dollar_in_a_month_that_is_running_is_found(database, nano):
    db = World.build(database).db
    maker = SummaryMaker(db)
    while maker.step(NOON + timedelta(hours=5, minutes=15)):
        pass
    chosen = {"_id.level": "running_month", "_id.by": "userId", "_id.key": "ann"}
    assert db.request_summaries.update_one(chosen, {"$inc": {"costNanoUsd": nano}}).matched_count == 1
    assert differing(verify(db)) == ({"summaries"} if nano else set())


def test_a_summary_that_is_missing_is_found(world):
    world.db.request_summaries.delete_one({"_id.level": "local_month", "_id.by": "all"})
    results = verify(world.db)
    assert differing(results) == {"summaries"}
    found = only(results, "summaries", "requests of request_summaries")
    assert (found.expected, found.found) == (120, 0)


def test_one_that_stands_for_nothing_is_found(world):
    place = {
        "by": "model",
        "level": "local_month",
        "start": NOON.replace(day=1, hour=0),
        "key": "ghost",
    }
    world.db.request_summaries.insert_one({"_id": place, "requests": 3})
    found = only(verify(world.db), "summaries", "requests of request_summaries")
    assert (found.expected, found.found, found.where) == (
        0,
        3,
        "local_month from 2026-11-01T00:00:00.000Z, model ghost",
    )


def test_what_was_booked_late_is_pending_until_it_is_summed_up(world):
    Booking(world.db, "w3", now=lambda: LATER).apply(world.batch(20_001, 5))
    results = verify(world.db)
    assert differing(results) == set()
    assert results["summaries"].pending_count > 0
    assert "summed up again" in results["summaries"].pending[0].hint
    make(world.db)
    assert verify(world.db)["summaries"].pending_count == 0


def test_a_late_booking_that_nobody_noticed_is_found(world):
    # As if a writer of an older version had booked it.
    Booking(world.db, "w3", now=lambda: NOON).apply(world.batch(20_001, 1))
    results = verify(world.db)
    assert differing(results) == {"summaries"}
    assert NOW < LATER


@pytest.mark.parametrize("nano", [0, 1])
def test_an_hour_that_midnight_falls_into_agrees_in_both_parts(database, nano):
    half_past = NOON.replace(hour=18, minute=30)
    moments = [half_past + timedelta(minutes=minutes) for minutes in (-31, -30, -1, 0, 29, 30)]
    records = [sequenced(number, created_at=moment) for number, moment in enumerate(moments, 1)]
    Booking(database, "w1", now=lambda: LATER, tz=ZoneInfo("Asia/Kolkata")).apply(records)
    sums = database.request_rollups.distinct("hour")
    assert sums == [half_past + timedelta(minutes=minutes) for minutes in (-90, -30, 0, 30)]
    database.request_rollups.update_one({"hour": half_past}, {"$inc": {"costNanoUsd": nano}})
    pairs = HourPairs(database)
    hours = pairs.hours(NOON)
    assert [hour.hour for hour in hours] == [17, 18, 19]
    found = {hour.hour: set(pairs.first_looks(hour)[1]) for hour in hours}
    assert [hour for hour, groups in found.items() if groups] == ([18] if nano else [])
    groups = found[18]
    assert pairs.read_derived(groups).keys() == pairs.read_source(groups).keys() == groups
