"""Marks of writers that are gone: taken off once nothing they cover can be booked, and never too early."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from booking_world import NOON, FaultyDatabase, mixed, reset, seed, sequenced, state

from app.common.errors import StoreUnavailable
from app.persistence.booking import Booking
from app.persistence.writers import BOOKABLE, COLLECTION, FORGOTTEN, MARKED, WriterMarks
from app.records.records import SequencedRecord

DAY = timedelta(days=1)
LONG_AFTER = NOON + FORGOTTEN + DAY


def books(db: Any, at: datetime = NOON + timedelta(minutes=90), writer: str = "w1") -> Booking:
    return Booking(db, writer, now=lambda: at)


def last_heard(db: Any, ago: timedelta, writer: str = "w1") -> None:
    """As if the writer had announced itself so long ago, by the server's clock."""
    db[COLLECTION].update_one({"_id": writer}, {"$set": {"seenAt": datetime.now(UTC) - ago}}, upsert=True)


def marks(db: Any) -> dict[str, set[str]]:
    return {
        name: {writer for found in db[name].find() for writer in found.get("applied", {})} for name in MARKED
    }


def sums(db: Any) -> dict[str, list[dict[str, Any]]]:
    """All that booking adds up, without the marks."""
    found = state(db)
    for documents in found.values():
        for document in documents:
            document.pop("applied", None)
    return {name: found[name] for name in (*MARKED, "request_rollups")}


def test_a_writer_announces_itself_before_it_books_and_again_every_hour(database: Any) -> None:
    seed(database)
    now = [NOON]
    booking = Booking(database, "w1", now=lambda: now[0])
    booking.apply([sequenced(1)])
    age = datetime.now(UTC) - database[COLLECTION].find_one({"_id": "w1"})["seenAt"]
    assert abs(age) < timedelta(minutes=1), "the server's time"

    last_heard(database, 5 * DAY)
    booking.apply([sequenced(2)])
    assert database[COLLECTION].count_documents({"seenAt": {"$lt": datetime.now(UTC) - DAY}}) == 1
    now[0] += timedelta(hours=1)
    booking.apply([sequenced(3)])
    assert database[COLLECTION].count_documents({"seenAt": {"$lt": datetime.now(UTC) - DAY}}) == 0


def test_nothing_is_booked_by_a_writer_that_cannot_announce_itself(database: Any) -> None:
    reset(database)
    before = state(database)
    with pytest.raises(StoreUnavailable):
        books(FaultyDatabase(database, lambda n: "before" if n == 1 else None)).apply(mixed(5))
    assert state(database) == before


def test_marks_go_when_a_writer_has_not_been_heard_of_for_three_months(database: Any) -> None:
    seed(database)
    books(database).apply(mixed(22))
    books(database, writer="w2").apply(mixed(22, seed=2))
    booked = sums(database)
    last_heard(database, FORGOTTEN - DAY)
    assert WriterMarks(database).forget_dead() == []
    last_heard(database, FORGOTTEN + DAY)

    assert WriterMarks(database).forget_dead() == ["w1"]
    assert marks(database) == {key: {"w2"} for key in MARKED}
    assert sums(database) == booked
    assert WriterMarks(database).forget_dead() == []
    assert [found["_id"] for found in database[COLLECTION].find()] == ["w2"]


def test_marks_of_earlier_versions_go_three_months_after_they_were_found(database: Any) -> None:
    database["usersNew"].insert_one({"_id": "ann", "applied": {"j-old-1": 5, "j-old-2": 6}})
    assert WriterMarks(database).forget_dead() == []
    last_heard(database, FORGOTTEN + DAY, "j-old-1")
    assert WriterMarks(database).forget_dead() == ["j-old-1"]
    assert marks(database)["usersNew"] == {"j-old-2"}


def test_what_is_too_old_leaves_its_record_and_is_put_aside_but_not_added_to_any_sum(database: Any) -> None:
    seed(database)
    before = sums(database)
    records = [sequenced(1), sequenced(2)]
    booked = books(database, at=NOON + BOOKABLE + DAY).apply(records)

    assert sums(database) == before
    assert database["request_logs"].count_documents({}) == 2
    assert [letter.stage for letter in booked.dead] == ["sums", "sums"]
    assert "too old" in database["request_logs_dead"].find_one({"seq": 2})["reason"]
    assert booked.charges == {"ann": 2_000_003}, "what this process still counts as unbooked"
    books(database, at=NOON + BOOKABLE - DAY).apply([sequenced(3)])
    assert database["user_keys"].find_one({"_id": "wk_ann"})["requestsCount"] == 1


@pytest.mark.parametrize("fault", ["before", "after", "half"])
def test_a_journal_that_comes_back_after_its_marks_are_gone_charges_nothing_twice(
    database: Any, fault: str
) -> None:
    """The writer dies at any call; its disk returns when it has been forgotten, and is replayed whole."""
    records = mixed(22)
    reset(database)
    faults = FaultyDatabase(database, lambda _: None)
    books(faults).apply(records)
    for call in range(2, faults.calls + 1):
        start_over(database)
        with pytest.raises(StoreUnavailable):
            books(FaultyDatabase(database, lambda n, at=call: fault if n == at else None)).apply(records)
        as_it_died = sums(database)
        last_heard(database, FORGOTTEN + DAY)
        WriterMarks(database).forget_dead()
        assert marks(database) == {key: set() for key in MARKED}

        books(database, at=LONG_AFTER).apply(records)
        assert sums(database) == as_it_died, f"{fault} call {call}"
        assert database["request_logs"].count_documents({}) == len(records)
        assert database["request_logs_dead"].count_documents({"stage": "sums"}) == len(records)


@pytest.mark.parametrize("fault", ["before", "after", "half"])
def test_a_writer_that_returns_at_any_moment_of_being_forgotten_books_once(database: Any, fault: str) -> None:
    """Between any two steps it books a new batch, fails at some call, and tries again."""
    fresh = [later(item) for item in mixed(22, seed=3)]
    steps = Steps(prepared(database), lambda: None, 0)
    WriterMarks(steps).forget_dead()
    assert steps.calls >= 8
    prepared(database)
    counting = FaultyDatabase(database, lambda _: None)
    books(counting, at=LONG_AFTER).apply(fresh)
    expected = sums(database)
    for step in range(1, steps.calls + 2):
        for call in range(1 + step % 2, counting.calls + 1, 2):
            prepared(database)
            faults = FaultyDatabase(database, lambda n, at=call: fault if n == at else None)
            returning = books(faults, at=LONG_AFTER)

            def come_back(booking: Booking = returning) -> None:
                with pytest.raises(StoreUnavailable):
                    booking.apply(fresh)

            interrupted = Steps(database, come_back, step)
            WriterMarks(interrupted).forget_dead()
            if not interrupted.has_run:
                come_back()
            returning.apply(fresh)
            assert sums(database) == expected, f"step {step}, {fault} call {call}"


def later(item: SequencedRecord) -> SequencedRecord:
    """The same record of another request, made after the writer was last heard of."""
    document = item.document
    changes = {"_id": f"later-{document['_id']}", "createdAt": document["createdAt"] + FORGOTTEN}
    return SequencedRecord(item.seq + 1000, document | changes, item.queued_at)


def prepared(database: Any) -> Any:
    """A writer that booked, and has not been heard of for long."""
    start_over(database)
    books(database).apply(mixed(22))
    last_heard(database, FORGOTTEN + DAY)
    return database


def start_over(database: Any) -> None:
    reset(database)
    database[COLLECTION].delete_many({})


class Steps:
    """A database that lets something happen before a certain call."""

    def __init__(self, db: Any, intruder: Any, step: int) -> None:
        self._db = db
        self._intruder = intruder
        self._step = step
        self.calls = 0
        self.has_run = False

    def __getitem__(self, name: str) -> Any:
        return _SteppedCollection(self, self._db[name])

    def command(self, *arguments: Any) -> Any:
        self.count()
        return self._db.command(*arguments)

    def count(self) -> None:
        self.calls += 1
        if self.calls == self._step:
            self.has_run = True
            self._intruder()


class _SteppedCollection:
    def __init__(self, steps: Steps, collection: Any) -> None:
        self._steps = steps
        self._collection = collection

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._collection, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self._steps.count()
            return method(*arguments, **options)

        return call
