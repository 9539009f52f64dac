"""Booking lets go of holds in the update that charges, and touches nobody else's."""

import pytest
from booking_world import seed, sequenced

from app.persistence.booking import Booking
from app.records.records import Outcome


@pytest.fixture
def db(database):
    seed(database)
    return database


@pytest.fixture
def booking(db):
    return Booking(db, "w1")


def user(db, name="ann"):
    return db["usersNew"].find_one({"_id": name})


def test_holds_go_with_the_charge_and_a_refused_request_gives_its_hold_back(db, booking):
    # Names no path could take, too: they must neither fail nor hit another hold.
    odd = ["a.b", "$x", "", "costNanoUsd"]
    names = ["r000001", "r000002", "r000003", *odd]
    db["usersNew"].update_one({"_id": "ann"}, {"$set": {"holds": {name: {"nano": 5} for name in names}}})
    booking.apply(
        [
            sequenced(1, hold_nano_usd=5),
            sequenced(2, hold_nano_usd=5, outcome=Outcome.REJECTED, cost_nano_usd=0),
            sequenced(3),
            sequenced(4, request_id="a.b", hold_nano_usd=5, cost_nano_usd=0),
            sequenced(5, request_id="$x", outcome=Outcome.INTERRUPTED, cost_nano_usd=0),
        ]
    )
    assert list(user(db)["holds"]) == ["r000003", "", "costNanoUsd"]
    assert user(db)["creditsUsed"] == 0.102000004
    assert db["request_logs"].find_one({"_id": "r000001"})["holdNanoUsd"] == 5
    assert "holds" not in user(db, "bob")


def test_a_refused_request_without_a_hold_leaves_its_user_alone(db, booking):
    before = user(db)
    booking.apply([sequenced(1, outcome=Outcome.REJECTED, cost_nano_usd=0)])
    assert user(db) == before
