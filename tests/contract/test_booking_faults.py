"""Exactly once: a fault at any database call, then a replay in any batches, ends in the same state."""

from datetime import timedelta
from random import Random

import pytest
from booking_world import NOON, FaultyDatabase, deep, mixed, seed, sequenced, state
from booking_world import reset as reset_without_holds

from app.common.errors import StoreUnavailable
from app.persistence.booking import Booking
from app.records.records import Outcome, SequencedRecord
from tests.support.plain_queue import LogQueue
from workers.log_writer import BatchPolicy, LogWriter

POISON = deep(185)

LATER = NOON + timedelta(minutes=90)
"""The first of the two hours of these records has ended: it has to be marked."""


def books(db):
    return Booking(db, "w1", now=lambda: LATER)


def batches():
    """Two batches over the same documents, the second with a record MongoDB refuses.

    Credit was held for every third request, refused ones among them, and for one that died with its process.
    """
    records = [with_hold(item) if item.seq % 3 == 0 else item for item in mixed(22)]
    records.append(sequenced(23, outcome=Outcome.INTERRUPTED, cost_nano_usd=0))
    records.append(sequenced(24, usage_raw=POISON))
    return [records[:12], records[12:]]


def with_hold(item):
    return SequencedRecord(item.seq, item.document | {"holdNanoUsd": 1000 + item.seq}, item.queued_at)


def reset(db):
    """The starting state with the holds of these requests, and of one of each user that is still running."""
    reset_without_holds(db)
    holds = {name: {"running": hold(1)} for name in ("ann", "bob", "poor")}
    for item in (item for batch in batches() for item in batch):
        nano = item.document.get("holdNanoUsd") or (item.document["outcome"] == "interrupted")
        if nano and item.document["userId"] in holds:
            holds[item.document["userId"]][item.document["_id"]] = hold(nano)
    for name, held in holds.items():
        db["usersNew"].update_one({"_id": name}, {"$set": {"holds": held}})


def hold(nano):
    return {"nano": nano, "at": NOON}


def test_the_faults_below_meet_holds_of_every_kind_of_request(database):
    held = [item.document for batch in batches() for item in batch if "holdNanoUsd" in item.document]
    assert {document["outcome"] for document in held} >= {"ok", "rejected", "stream_error"}
    reset(database)
    before = {user["_id"]: len(user["holds"]) for user in database["usersNew"].find()}
    assert min(before.values()) > 1

    expected, _ = fault_free(database)
    assert [user["holds"] for user in expected["usersNew"]] == [{"running": hold(1)}] * 3


REPLAYS = {
    "the same batches": lambda first, second: [first, second],
    "one by one": lambda first, second: [[record] for record in first + second],
    "all at once": lambda first, second: [first + second],
    "shifted": lambda first, second: [first[:5], first[5:] + second[:7], second[7:]],
}


def fault_free(db):
    reset(db)
    faults = FaultyDatabase(db, lambda _: None)
    booking = books(faults)
    apply_all(booking)
    return state(db), faults.calls


@pytest.mark.parametrize("fault", ["before", "after", "half"])
def test_a_fault_at_any_call_and_a_replay_change_nothing(database, fault):
    expected, calls = fault_free(database)
    assert calls >= 20
    assert expected["request_summaries"] == [{"_id": "state", "late": {"2026112312": True}}]
    replays = list(REPLAYS.values())
    for call in range(1, calls + 1):
        # Which replay goes with which call does not matter, as long as every call sees two of them.
        for replay in (replays[call % 4], replays[(call + 1) % 4]):
            reset(database)
            crash(database, fault, call)
            booking = books(database)
            for batch in replay(*batches()):
                booking.apply(batch)
            assert state(database) == expected, f"{fault} call {call}"


def crash(database, fault, call):
    """Book until the fault, as a process would that is then gone."""
    booking = books(FaultyDatabase(database, lambda n: fault if n == call else None))
    with pytest.raises(StoreUnavailable):
        apply_all(booking)


def apply_all(booking):
    for batch in batches():
        booking.apply(batch)


def test_a_command_that_arrives_after_its_retry_changes_nothing(database):
    expected, calls = fault_free(database)
    for call in range(1, calls + 1):
        reset(database)
        faults = FaultyDatabase(database, lambda n, call=call: "late" if n == call else None)
        apply_until_booked(books(faults))
        faults.run_late()
        assert state(database) == expected, f"call {call}"


def test_a_command_that_arrives_in_the_middle_of_its_retry_changes_nothing(database):
    """It comes in between reading how far a document is booked and the update that relies on it."""
    expected, calls = fault_free(database)
    for call in range(1, calls + 1):
        # With call k held up, the retry repeats the calls of that batch: let it arrive before each of them.
        for offset in (1, 2, 3, 5, 7):
            reset(database)
            settle_with_late_arrival(database, call, call + offset)
            assert state(database) == expected, f"call {call}, arriving before {call + offset}"


def settle_with_late_arrival(database, held_call, arrival):
    def plan(number):
        if number == arrival:
            faults.run_late()
        return "late" if number == held_call else None

    faults = FaultyDatabase(database, plan)
    apply_until_booked(books(faults))
    faults.run_late()


def apply_until_booked(booking):
    for batch in batches():
        for _ in range(3):
            try:
                booking.apply(batch)
            except StoreUnavailable:
                continue
            break


def test_the_writer_books_everything_once_over_a_flapping_store(database):
    seed(database)
    reset(database)
    records = [with_hold(item) if item.seq % 2 else item for item in mixed(300, seed=5)]
    books(database).apply(records)
    expected = state(database)
    reset(database)

    random = Random(7)
    faults = FaultyDatabase(database, lambda _: random.choice((None, None, None, "before", "after", "half")))
    writer = LogWriter(LogQueue(1), books(faults), policy=BatchPolicy(size=40), clock=lambda: 0.0)
    now = 0.0
    for record in records:
        writer.submit(record)
        writer.poll(now)
        now += 1.0
    while writer.unsent:
        writer.poll(now)
        now += 10.0

    assert state(database) == expected
    assert writer.counts.written == 300
    assert writer.counts.retries > 10
    assert writer.lost == 0
