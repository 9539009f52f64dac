"""The writer against a store that is down, slow, flapping or broken; time is passed in."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain

import gevent
import pytest
from gevent.event import Event

from app.common.errors import StoreUnavailable
from app.persistence.booking import BookedBatch
from app.persistence.record_writes import DeadLetter
from app.records.records import ExchangeRecord, Outcome, SequencedRecord
from tests.support.plain_queue import LogQueue
from workers import lifecycle
from workers.log_writer import Backoff, BatchPolicy, LogWriter

SMALL = BatchPolicy(size=3, max_age_s=1.0, backoff=Backoff(first_s=1.0, cap_s=4.0, closing_cap_s=0.001))


def record(name):
    return ExchangeRecord(name, "ann", "wk_1", datetime(2026, 11, 23, tzinfo=UTC), "openai", Outcome.OK, 200)


class Books:
    """Remembers what was booked; `faults` are raised, one a call, before booking starts to succeed."""

    def __init__(self, *faults: Exception | None) -> None:
        self.faults = list(faults)
        self.attempts: list[list[str]] = []
        self.booked: list[list[str]] = []
        self.aside: list[tuple[str, str]] = []
        self.poison: set[str] = set()

    def apply(self, batch: Sequence[SequencedRecord]) -> BookedBatch:
        names = [item.document["_id"] for item in batch]
        self.attempts.append(names)
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        if self.poison & set(names):
            raise ZeroDivisionError("poison")
        self.booked.append(names)
        return BookedBatch(len(batch), {"ann": len(batch)})

    def put_aside(self, record: SequencedRecord, reason: str) -> DeadLetter:
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        self.aside.append((record.document["_id"], reason))
        return DeadLetter.of(record, "w1", "record", reason)


def writer_of(books, *names, policy=SMALL, **options):
    """A writer that has been given these records at time 0; its clock is what `poll` is told."""
    writer = LogWriter(LogQueue(100), books, policy=policy, clock=lambda: 0.0, random=lambda: 1.0, **options)
    submit(writer, *names)
    return writer


def submit(writer, *names):
    for seq, name in enumerate(names, start=1):
        writer.submit(SequencedRecord(seq, {"_id": name}, 0.0))


def down():
    return StoreUnavailable("connection refused")


def test_a_full_batch_is_booked_at_once():
    books = Books()
    writer = writer_of(books, "a", "b", "c")
    writer.poll(0.0)
    assert books.booked == [["a", "b", "c"]]
    assert (writer.unsent, writer.counts.written, writer.counts.batches) == (0, 3, 1)


def test_a_small_batch_is_booked_when_its_first_record_is_old_enough():
    books = Books()
    writer = writer_of(books, "a")
    writer.poll(0.9)
    assert books.attempts == []
    writer.poll(1.0)
    assert books.booked == [["a"]]


def test_the_same_batch_is_retried_until_it_is_booked(caplog):
    books = Books(down(), down(), down())
    writer = writer_of(books, "a", "b", "c")
    with caplog.at_level(logging.INFO):
        for now in (0.0, 0.9, 1.0, 2.9, 3.0, 6.9):
            writer.poll(now)
            assert writer.is_failing
            assert writer.unsent == 3
        submit(writer, "d", "e", "f", "g")
        writer.poll(7.0)

    assert books.attempts == [["a", "b", "c"]] * 4
    assert books.booked == [["a", "b", "c"]]
    assert not writer.is_failing
    assert writer.counts.retries == 3
    assert writer.counts.last_error == "StoreUnavailable: connection refused"
    assert writer.lost == 0
    assert len(caplog.records) == 2, "the first failure and the recovery"


def test_what_was_collected_meanwhile_follows_in_order():
    books = Books(down())
    writer = writer_of(books, "a", "b", "c")
    writer.poll(0.0)
    submit(writer, "d", "e", "f")
    writer.poll(1.0)
    writer.poll(1.0)
    assert books.booked == [["a", "b", "c"], ["d", "e", "f"]]


def test_a_backlog_is_booked_in_full_batches():
    """Its records are old, so a batch of the first few that were taken would be due at once."""
    books, queue = Books(), LogQueue(1000, clock=lambda: 0.0)
    for number in range(700):
        queue.put(record(f"r{number}"))
    writer = LogWriter(queue, books, policy=BatchPolicy(size=250, max_age_s=0.001), clock=lambda: 60.0)
    writer.start()
    assert writer.join(60) == 0
    assert [len(batch) for batch in books.booked] == [250, 250, 200]
    assert list(chain(*books.booked)) == [f"r{number}" for number in range(700)]


@pytest.mark.parametrize(
    ("failures", "random", "closing", "expected"),
    [
        (1, 1.0, False, 1.0),
        (1, 0.0, False, 0.5),
        (3, 1.0, False, 4.0),
        (5000, 1.0, False, 4.0),
        (9, 1.0, True, 0.001),
    ],
)
def test_backoff(failures, random, closing, expected):
    assert SMALL.backoff.delay_s(failures, random, closing=closing) == expected


def test_hooks_are_told_after_booking_and_their_failure_is_theirs(caplog):
    told = []

    def failing_hook(charges):
        told.append(dict(charges))
        raise RuntimeError("hook")

    writer = writer_of(Books(down()), "a", "b", "c", on_booked=failing_hook, on_booked_up_to=told.append)
    writer.poll(0.0)
    assert told == []
    writer.poll(1.0)
    assert told == [{"ann": 3}, 3]
    assert writer.counts.retries == 1
    assert "a hook of the log writer failed" in caplog.text


def test_a_record_that_breaks_the_code_is_found_and_put_aside(caplog):
    books = Books()
    books.poison = {"c"}
    told = []
    writer = writer_of(books, *"abcdefg", policy=BatchPolicy(size=7), on_booked_up_to=told.append)
    writer.poll(0.0)

    assert list(chain(*books.booked)) == list("abdefg")
    assert books.aside == [("c", "ZeroDivisionError: poison")]
    assert (writer.counts.written, writer.counts.dead, writer.unsent) == (6, 1, 0)
    assert told == sorted(told)
    assert told[-1] == 7
    assert "record c was put aside (record): ZeroDivisionError: poison" in caplog.text


def test_putting_aside_is_retried_too():
    books = Books(ZeroDivisionError("odd"), down())
    writer = writer_of(books, "a", policy=BatchPolicy(size=1, backoff=SMALL.backoff))
    writer.poll(0.0)
    assert writer.unsent == 1
    writer.poll(1.0)
    assert books.booked == [["a"]]


def test_the_age_of_the_oldest_unsent_record():
    books = Books(down())
    queue = LogQueue(10, clock=lambda: 4.0)
    writer = LogWriter(queue, books, policy=SMALL, clock=lambda: 9.0)
    assert writer.oldest_unsent_age() == 0.0
    queue.put(record("a"))
    assert writer.oldest_unsent_age(6.0) == 2.0
    writer.submit(SequencedRecord(1, {"_id": "b"}, 3.0))
    assert writer.oldest_unsent_age(6.0) == 3.0
    writer.poll(6.0)
    assert writer.is_failing
    assert writer.oldest_unsent_age(6.0) == 3.0
    assert writer.oldest_unsent_age() == 6.0


# From here on the writer runs in its own greenlet.


def running(books, queue=None, policy=SMALL):
    queue = LogQueue(100) if queue is None else queue
    writer = LogWriter(queue, books, policy=policy)
    writer.start()
    return queue, writer


def test_joining_books_what_is_left():
    books = Books()
    queue, writer = running(books)
    for name in "abcdefgh":
        queue.put(record(name))
    assert writer.join(60) == 0
    assert list(chain(*books.booked)) == list("abcdefgh")
    assert (writer.counts.written, writer.lost, writer.unsent) == (8, 0, 0)
    assert "terminated" in repr(writer)


def test_records_are_booked_by_age_without_any_end():
    books = Books()
    booked = Event()
    queue = LogQueue(10)
    policy = BatchPolicy(size=100, max_age_s=0.001)
    writer = LogWriter(queue, books, policy=policy, on_booked_up_to=lambda seq: booked.set())
    writer.start()
    gevent.sleep(0)
    queue.put(record("a"))
    assert booked.wait(60)
    assert books.booked == [["a"]]
    assert writer.join(60) == 0


def test_closing_ends_a_long_pause_between_retries():
    books = Books(down(), down())
    slow = BatchPolicy(size=1, backoff=Backoff(first_s=600, cap_s=600, closing_cap_s=0.001))
    queue, writer = running(books, policy=slow)
    queue.put(record("a"))
    while not writer.is_failing:
        gevent.sleep(0)
    assert writer.join(60) == 0
    assert books.booked == [["a"]]


def test_what_is_left_at_the_end_of_the_time_is_counted_and_logged(caplog):
    class Down(Books):
        def apply(self, batch):
            raise down()

    queue, writer = running(Down())
    for name in "abcdefgh":
        queue.put(record(name))
    assert writer.join(0.01) == 8
    assert (writer.lost, writer.unsent) == (8, 0)
    assert "8 records were not booked in time and are lost: a, b, c, d, e" in caplog.text
    assert writer.terminate() == 0
    assert not queue.put(record("late"))
    assert writer.lost == 9


def test_a_store_that_never_answers_is_left():
    class Hanging(Books):
        def apply(self, batch):
            self.attempts.append([])
            Event().wait(600)

    books = Hanging()
    queue, writer = running(books, policy=BatchPolicy(size=1))
    queue.put(record("a"))
    while not books.attempts:
        gevent.sleep(0.001)
    assert writer.join(0.01) == 1
    assert writer.lost == 1


def test_a_slow_store_makes_batches_larger():
    gate = Event()

    class Slow(Books):
        def apply(self, batch):
            gate.wait(60)
            return super().apply(batch)

    books = Slow()
    queue, writer = running(books, policy=BatchPolicy(size=5, max_age_s=0.0))
    queue.put(record("a"))
    gevent.sleep(0.005)
    for name in "bcdefg":
        queue.put(record(name))
    gate.set()
    assert writer.join(60) == 0
    assert books.booked == [["a"], list("bcdef"), ["g"]]


def test_a_bug_in_the_loop_itself_loses_nothing(caplog):
    class Odd(LogQueue):
        stumbles = 1

        def take(self, *args, **options):
            if self.stumbles:
                self.stumbles -= 1
                raise KeyError("bug")
            return super().take(*args, **options)

    books = Books()
    policy = BatchPolicy(size=1, backoff=Backoff(first_s=0.001))
    queue, writer = running(books, Odd(10), policy)
    queue.put(record("a"))
    while not books.booked:
        gevent.sleep(0.001)
    assert writer.join(60) == 0
    assert "the log writer stumbled" in caplog.text


def test_a_writer_that_never_ran_leaves_everything():
    writer = writer_of(Books(), "a")
    assert writer.join(0) == 1


def test_life_cycle():
    books = Books()
    told = []
    queue = LogQueue(10)
    writer = lifecycle.start(queue, books, batch_size=2, flush_ms=1, on_booked=told.append)
    queue.put(record("a"))
    queue.put(record("b"))
    queue.put(record("c"))
    assert lifecycle.drain(writer, 60) == 0
    assert list(chain(*books.booked)) == ["a", "b", "c"]
    assert sum(charges["ann"] for charges in told) == 3


class Keeping(LogQueue):
    """A queue with a journal beneath it that has everything but `strays` records."""

    strays = 0

    @property
    def memory_only(self):
        return self.strays

    def abandon(self, in_hand):
        return self.strays


def keeping(books, strays=0):
    queue = Keeping(100)
    queue.strays = strays
    queue.put(record("a"))
    return lifecycle.start(queue, books, batch_size=1, flush_ms=1)


def test_at_the_end_a_store_that_fails_is_not_waited_for():
    """The journal has it all: one attempt, then whoever comes next books it."""
    books = Books(*[down()] * 1000)
    writer = keeping(books)
    with gevent.Timeout(60):
        assert lifecycle.drain(writer, 600, stalled_timeout_s=600) == 0
    assert len(books.attempts) == 1
    assert books.booked == []


def test_at_the_end_a_store_that_hangs_is_not_waited_for():
    class Hanging(Books):
        def apply(self, batch):
            self.attempts.append([])
            Event().wait(600)

    with gevent.Timeout(60):
        assert lifecycle.drain(keeping(Hanging()), 600, stalled_timeout_s=0.01) == 0


def test_at_the_end_a_store_that_is_slow_is_waited_for():
    class Slow(Books):
        def apply(self, batch):
            gevent.sleep(0.02)
            return super().apply(batch)

    books = Slow()
    writer = keeping(books)
    for name in "bcdef":
        writer._queue.put(record(name))
    assert lifecycle.drain(writer, 600, stalled_timeout_s=60) == 0
    assert list(chain(*books.booked)) == list("abcdef")


def test_at_the_end_what_nothing_else_keeps_is_tried_until_time_is_up():
    books = Books(*[down()] * 3)
    lifecycle.drain(keeping(books, strays=1), 60, stalled_timeout_s=0.001)
    assert books.booked == [["a"]]
    books = Books(*[down()] * 1000)
    assert lifecycle.drain(keeping(books, strays=1), 0.05, stalled_timeout_s=0.001) == 1


def test_a_fault_of_the_surroundings_is_never_blamed_on_a_record():
    books = Books(*[OSError("a broken pool")] * 3)
    now = [0.0]
    writer = LogWriter(LogQueue(100), books, policy=SMALL, clock=lambda: now[0], random=lambda: 1.0)
    submit(writer, "a", "b", "c")
    for _ in range(4):
        writer.poll(now[0])
        now[0] += 10
    assert books.booked == [["a", "b", "c"]]
    assert books.aside == []


def test_what_a_record_put_aside_would_have_cost_is_given_back():
    books = Books()
    books.poison = {"a"}
    told = []
    writer = writer_of(books, on_booked=told.append)
    writer.submit(SequencedRecord(1, {"_id": "a", "userId": "ann", "costNanoUsd": 7}, 0.0))
    writer.poll(2.0)
    assert [name for name, _ in books.aside] == ["a"]
    assert told == [{"ann": 7}]
