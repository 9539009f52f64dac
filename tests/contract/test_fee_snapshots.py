"""Snapshots of used fees beside the own sums, kept and compared over days and months."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from booking_world import sequenced

from app.common.money import NANO
from app.keys.key_account import KeyAccount
from app.management.ledger_watch import LOOK_EVERY, LedgerWatch
from app.management.upstream_books import UpstreamBooks
from app.ohmygpt.fee_snapshots import COLLECTION, HOURS_KEPT
from app.ohmygpt.used_fees import Verdict
from app.persistence.booking import Booking
from app.statistics.periods import Period

ZONE = ZoneInfo("Asia/Kolkata")  # days begin at half past the hour
MIDNIGHT = datetime(2026, 11, 27, 18, 30, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
UNITS = Decimal(1000)
NAMES = {"store-1": "env-1"}


def period(name: str, now: datetime) -> Period:
    return Period.of(name, now, ZONE)


class World:
    """A database that requests are booked in, and an OhMyGPT that charges for them and more."""

    def __init__(self, database) -> None:
        self.database = database
        self.fee = Decimal(50)
        self.seq = 0

    def books(self) -> UpstreamBooks:
        return UpstreamBooks(self.database, ZONE, UNITS, Decimal("0.05"))

    def use(self, usd: int, at: datetime, *, upstream_usd: str | None = None) -> None:
        self.seq += 1
        record = sequenced(self.seq, created_at=at, cost_nano_usd=usd * NANO, factory_key_id="env-1")
        Booking(self.database, "w", now=lambda: at).apply([record])
        self.fee += Decimal(upstream_usd or usd) * UNITS

    def read(self, at: datetime) -> None:
        self.books().note({"store-1": KeyAccount(used_fee=self.fee), "gone": KeyAccount()}, NAMES, at)


@pytest.fixture
def world(database) -> World:
    return World(database)


def test_days_are_compared_between_their_first_readings(world) -> None:
    world.use(7, MIDNIGHT - HOUR)
    assert world.books().fees(period("2026-11-28", MIDNIGHT + DAY)) is None
    world.read(MIDNIGHT + timedelta(minutes=3))
    for hour in range(1, 24):
        world.use(1, MIDNIGHT + hour * HOUR, upstream_usd="1" if hour < 20 else "2")
        world.read(MIDNIGHT + hour * HOUR + timedelta(minutes=4))
        world.read(MIDNIGHT + hour * HOUR + timedelta(minutes=9))  # not again within the hour
    now = MIDNIGHT + DAY + timedelta(minutes=2)
    world.read(now)
    assert world.database[COLLECTION].count_documents({}) == 25

    fees = world.books().fees(period("yesterday", now))
    assert (fees.start, fees.end) == (MIDNIGHT + timedelta(minutes=3), now)
    (key,) = fees.keys
    assert (key.key_id, key.own_nano, key.upstream_nano, key.used_fee) == (
        "env-1",
        23 * NANO,
        27 * NANO,
        27000,
    )
    assert (key.verdict, fees.agree) == (Verdict.DIFFERS, False)
    assert world.books().drifts(now) == {"env-1": key.drift}
    assert key.drift == pytest.approx(4 / 27, abs=1e-6)
    assert world.books().fees(period("2026-11", now)) == fees
    assert world.books().fees(period("today", now)) is None

    until_the_evening = world.books().fees(period("today", MIDNIGHT + 19 * HOUR + timedelta(minutes=5)))
    assert until_the_evening.agree
    assert until_the_evening.total.own_nano == 19 * NANO


def test_sums_do_not_depend_on_records_that_expire(world) -> None:
    world.database["request_logs"].insert_one(
        {"createdAt": MIDNIGHT - DAY, "creditsCost": 5.0, "factoryKeyId": "env-1"}
    )
    world.read(MIDNIGHT)
    world.use(3, MIDNIGHT + HOUR)
    world.database["request_logs"].delete_many({})
    world.read(MIDNIGHT + DAY)
    fees = world.books().fees(period("yesterday", MIDNIGHT + DAY))
    assert (fees.total.own_nano, fees.agree) == (3 * NANO, True)


def test_the_first_of_each_day_is_kept_and_hours_for_some_weeks(world) -> None:
    for hour in (2, 3, 30):  # nobody was there at the first midnight
        world.read(MIDNIGHT + hour * HOUR)
    world.read(MIDNIGHT + 30 * HOUR + HOURS_KEPT + HOUR)
    kept = [found["_id"].replace(tzinfo=UTC) for found in world.database[COLLECTION].find().sort("_id", 1)]
    assert kept == [MIDNIGHT + 2 * HOUR, MIDNIGHT + 30 * HOUR, MIDNIGHT + 31 * HOUR + HOURS_KEPT]


def test_of_two_readers_the_first_one_stays(world) -> None:
    world.read(MIDNIGHT)
    world.fee += 1
    world.read(MIDNIGHT + timedelta(minutes=59))
    (found,) = world.database[COLLECTION].find()
    assert found["keys"] == [{"id": "store-1", "keyId": "env-1", "usedFee": "50", "ownNanoUsd": 0}]


def test_what_is_wrong_is_said_once_a_day_by_one_of_all(world, caplog) -> None:
    now = MIDNIGHT + DAY + 2 * HOUR
    watches = [LedgerWatch(world.database, world.books(), ZONE, Decimal("0.05")) for _ in range(2)]
    world.read(MIDNIGHT)
    world.use(1, MIDNIGHT + HOUR, upstream_usd="3")
    world.read(MIDNIGHT + DAY)
    world.seq += 1
    dear = sequenced(
        world.seq, created_at=now, model="dear", cost_nano_usd=NANO, upstream_cost_nano_usd=2 * NANO
    )
    Booking(world.database, "w", now=lambda: now).apply([dear])

    assert [watch.look(now) for watch in watches] == [True, False]
    assert watches[1].look(now + LOOK_EVERY)
    names = ["books:env-1", "drift:dear", "margin:dear"]
    for watch in watches:
        assert [finding.name for finding in watch.findings(now)] == names
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert "dear costs more than it brings" in caplog.text

    tomorrow = now + DAY
    assert watches[0].findings(tomorrow) == []
    assert watches[0].look(tomorrow)
    assert watches[0].findings(tomorrow) == []
