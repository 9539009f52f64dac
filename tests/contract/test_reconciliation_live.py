"""Reconciliation while a writer is at work, and with a journal beside the store."""

import threading
from pathlib import Path
from typing import Any

import pytest

from app.persistence.booking import Booking
from app.records.records import SequencedRecord
from app.verify.reconcile import Consistency
from tests.support.reconciliation_world import NOW, World, differing, journal_of, only, reconciliation, verify


@pytest.fixture
def world(database) -> World:
    return World.build(database)


# While a writer is at work


class SteppedDatabase:
    """A database whose every command on what is compared waits for a step to be allowed."""

    def __init__(self, db, gate: threading.Semaphore, stepped: threading.Semaphore) -> None:
        self._db, self._gate, self._stepped = db, gate, stepped

    def __getitem__(self, name: str) -> Any:
        if name in ("journal_writers", "restore_in_progress"):  # once an hour, before a batch
            return self._db[name]
        return SteppedCollection(self._db[name], self._gate, self._stepped)


class SteppedCollection:
    def __init__(self, collection, gate: threading.Semaphore, stepped: threading.Semaphore) -> None:
        self._collection, self._gate, self._stepped = collection, gate, stepped

    def __getattr__(self, name: str):
        def call(*args, **options):
            assert self._gate.acquire(timeout=300)
            try:
                return getattr(self._collection, name)(*args, **options)
            finally:
                self._stepped.release()

        return call


class SteppedWriter:
    """Books a batch in a thread, one command whenever `step` is called."""

    def __init__(self, db, batch: list[SequencedRecord]) -> None:
        self._gate, self._stepped = threading.Semaphore(0), threading.Semaphore(0)
        booking = Booking(SteppedDatabase(db, self._gate, self._stepped), "w9")
        self._thread = threading.Thread(target=self._run, args=(booking, batch))
        self._is_done = False
        self._thread.start()

    def _run(self, booking: Booking, batch: list[SequencedRecord]) -> None:
        booking.apply(batch)
        self._is_done = True
        self._stepped.release()

    def step(self, _seconds: float = 0) -> None:
        if not self._is_done:
            self._gate.release()
            assert self._stepped.acquire(timeout=300)

    def finish(self) -> None:
        while not self._is_done:
            self.step()
        self._thread.join()


COMMANDS = 9
"""Insert; then find and update for users, client keys, upstream keys and hourly sums."""


@pytest.mark.parametrize("steps", range(COMMANDS + 1))
def test_a_batch_that_is_being_booked_is_no_difference(world: World, steps: int) -> None:
    writer = SteppedWriter(world.db, world.batch(50_001, 30))
    try:
        for _ in range(steps):
            writer.step()
        results = verify(world.db, pause=lambda _: [writer.step() for _ in range(COMMANDS)])
        assert differing(results) == set()
    finally:
        writer.finish()
    assert differing(verify(world.db)) == set()


@pytest.mark.parametrize("steps", [1, 3, 5, 7])
def test_a_batch_that_stays_half_booked_is_a_difference_unless_a_journal_has_it(
    world: World, steps: int, tmp_path: Path
) -> None:
    batch = world.batch(50_001, 30)
    writer = SteppedWriter(world.db, batch)
    try:
        for _ in range(steps):
            writer.step()
        assert "hourly_sums" in differing(verify(world.db))
        journal_of(str(tmp_path), batch, acked=None)
        later = NOW.replace(year=2099)
        results = {r.name: r for r in reconciliation(world.db, journal_root=str(tmp_path)).run(later)}
        assert differing(results) == set()
        assert results["journal"].pending_count == 30
        if steps > 3:
            assert results["users"].state is Consistency.PENDING
            assert "weir journal replay" in results["users"].pending[0].hint
    finally:
        writer.finish()


def test_no_false_alarm_while_records_pour_in(world: World) -> None:
    batches = [world.batch(60_001 + 40 * number, 40) for number in range(60)]
    done = threading.Event()

    def write() -> None:
        booking = Booking(world.db, "w9")
        for batch in batches:
            booking.apply(batch)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    rounds = 0
    while not done.is_set():
        results = verify(world.db, pause=done.wait)
        assert {name: results[name].differences for name in differing(results)} == {}
        rounds += 1
    writer.join()
    results = verify(world.db)
    assert differing(results) == set()
    assert results["records"].compared == 120 + 60 * 40
    assert rounds > 0


# The journal


def booked(world: World, count: int) -> list[SequencedRecord]:
    batch = world.batch(70_001, count)
    Booking(world.db, "w5").apply(batch)
    return batch


def test_what_a_journal_saw_booked_is_in_the_store(world: World, tmp_path: Path) -> None:
    # One record is not acknowledged, so that the segment stays.
    journal_of(str(tmp_path), booked(world, 1200), acked=1199)
    results = verify(world.db, journal_root=str(tmp_path))
    assert differing(results) == set()
    assert (results["journal"].compared, results["journal"].pending_count) == (1199, 1)
    assert "weir journal replay" in results["journal"].pending[0].hint


def test_a_record_removed_from_the_store_is_found_through_the_journal(world: World, tmp_path: Path) -> None:
    journal_of(str(tmp_path), booked(world, 10), acked=9)
    world.db.request_logs.delete_one({"_id": "r070003"})
    results = verify(world.db, journal_root=str(tmp_path))
    assert differing(results) == {"journal", "hourly_sums"}
    found = only(results, "journal", "record missing")
    assert found.where == "request r070003"
    assert "journal 0000" in found.hint


def test_a_dead_letter_or_an_expired_record_is_not_missing(world: World, tmp_path: Path) -> None:
    journal_of(str(tmp_path), booked(world, 10), acked=9)
    world.db.request_logs.delete_one({"_id": "r070003"})
    world.db.request_logs_dead.insert_one({"_id": "x", "requestId": "r070003", "createdAt": NOW})
    assert "journal" not in differing(verify(world.db, journal_root=str(tmp_path)))
    world.db.request_logs.delete_many({})
    assert "journal" not in differing(verify(world.db, journal_root=str(tmp_path), retention_s=3600))


def test_a_journal_in_use_is_read_beside_its_owner(world: World, tmp_path: Path) -> None:
    journal = journal_of(str(tmp_path), booked(world, 10), acked=7, close=False)
    results = verify(world.db, journal_root=str(tmp_path))
    assert differing(results) == set()
    assert (results["journal"].compared, results["journal"].pending_count) == (7, 3)
    assert "running worker" in results["journal"].pending[0].hint
    journal.close()


def test_damage_of_the_journal_is_found(world: World, tmp_path: Path) -> None:
    journal_of(str(tmp_path), booked(world, 3), acked=2)
    (tmp_path / "0000" / "damaged").mkdir()
    (tmp_path / "0000" / "damaged" / "00-00.corrupt").write_bytes(b"x")
    results = verify(world.db, journal_root=str(tmp_path))
    assert only(results, "journal", "damaged pieces of the journal").found == 1


def test_without_a_journal_that_check_is_not_made(world: World, tmp_path: Path) -> None:
    assert verify(world.db)["journal"].state is Consistency.NOT_CHECKED
    assert verify(world.db, journal_root=str(tmp_path / "none"))["journal"].state is Consistency.NOT_CHECKED


def test_a_journal_that_cannot_be_read_is_said(world: World, tmp_path: Path) -> None:
    (tmp_path / "0000").write_text("not a directory")
    results = verify(world.db, journal_root=str(tmp_path))
    assert "cannot be read" in results["journal"].notes[0]
