"""The background writer: takes records from the queue and has them booked in batches.

One greenlet per process. A batch is due when it is full or its first record is old enough. While the store
fails, the same batch is tried again and again, and the queue fills up behind it; nothing a request does
waits for any of this. Life cycle, as in stream processors: `start`, then `poll`/`submit` from its own
greenlet, `close` (no more intake), `join` (book what is left), `terminate` (give up).
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import random as system_random
from typing import Protocol, TypeVar

import gevent
from bson.errors import BSONError
from gevent.event import Event

from app.common.errors import StoreUnavailable
from app.common.isolation import isolate
from app.persistence.booking import BookedBatch
from app.persistence.record_writes import DeadLetter
from app.records.records import SequencedRecord
from workers.batch import BatchBuffer

log = logging.getLogger(__name__)

News = TypeVar("News")

_IDLE_S = 5.0
"""How long an idle writer sleeps at most; it is woken by the first record."""

_KILL_S = 1.0

_DOCUMENT_FAULTS = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    BSONError,
)
"""What a record that is not as it should be can raise; anything else is a fault of the surroundings."""

# Records taken at once: turning them into documents takes half a millisecond, then requests go first.
_SLICE = 100


def _noted_charge(record: SequencedRecord) -> dict[str, int]:
    """Return what was counted against a user's cached balance for a record that will not be charged."""
    user_id, cost = record.document.get("userId"), record.document.get("costNanoUsd")
    return {user_id: cost} if isinstance(user_id, str) and isinstance(cost, int) and cost else {}


class RecordStore(Protocol):
    """Where batches are booked; `app.persistence.booking.Booking` in production.

    A boundary: the writer knows no database.
    """

    def apply(self, batch: Sequence[SequencedRecord]) -> BookedBatch:
        """Book the batch; repeating it changes nothing. Raises `StoreUnavailable` to be called again."""

    def put_aside(self, record: SequencedRecord, reason: str) -> DeadLetter:
        """Keep a record that cannot be booked, with the reason."""


class RecordQueue(Protocol):
    """Where records come from; `app.journal.JournaledQueue` in production.

    A boundary: the writer knows no disk.
    """

    lost: int

    def __len__(self) -> int:
        """Return how many records wait."""

    def take(self, max_items: int, timeout_s: float | None, at_least: int = 1) -> list[SequencedRecord]:
        """Wait for records, in the order of their numbers."""

    @property
    def memory_only(self) -> int:
        """How many records, taken but not booked ones included, are lost if they are not booked."""

    def close(self) -> None:
        """Wait for no more records."""

    def oldest_queued_at(self) -> float | None:
        """Return when the longest waiting record was put (monotonic)."""

    def abandon(self, in_hand: Sequence[SequencedRecord]) -> int:
        """Count what is lost when nothing more is taken, `in_hand` being taken but not booked."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Capped exponential waiting with jitter: between half of the nominal delay and all of it."""

    first_s: float = 0.1
    cap_s: float = 1.0
    closing_cap_s: float = 0.5

    def delay_s(self, failures: int, random: float, *, closing: bool) -> float:
        """Return how long to wait after `failures` in a row (1 or more); `random` is from 0 to 1."""
        cap = self.closing_cap_s if closing else self.cap_s
        nominal = min(cap, self.first_s * 2.0 ** min(failures - 1, 30))
        return nominal * (0.5 + random / 2)


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """When a batch is due (this many records, or the first this old), and how to retry one."""

    size: int = 500
    max_age_s: float = 0.2
    backoff: Backoff = field(default_factory=Backoff)


@dataclass
class WriterCounts:
    """What the writer has done so far, for metrics and the health page; all but `last_error` only grow."""

    written: int = 0
    batches: int = 0
    retries: int = 0
    dead: int = 0
    last_error: str | None = None


class LogWriter:
    """Book what comes through `queue`, in order, each batch until it succeeds.

    `on_booked` is told what each user's records of a booked batch cost, in nano-dollars, `on_booked_up_to`
    the highest record number up to which everything is in the store (or put aside).
    """

    def __init__(
        self,
        queue: RecordQueue,
        books: RecordStore,
        *,
        policy: BatchPolicy | None = None,
        on_booked: Callable[[Mapping[str, int]], None] | None = None,
        on_booked_up_to: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = system_random,
    ) -> None:
        self._queue = queue
        self._books = books
        self._policy = policy or BatchPolicy()
        self._buffer: BatchBuffer[SequencedRecord] = BatchBuffer(self._policy.size, self._policy.max_age_s)
        self._on_booked = on_booked
        self._on_settled = on_booked_up_to
        self._clock = clock
        self._random = random
        # What is being booked, in order: one batch, or the pieces a faulty one was cut into.
        self._booking: deque[Sequence[SequencedRecord]] = deque()
        self._failures = 0
        self._retry_at = 0.0
        self._closing = False
        self._has_failed_closing = False
        self._terminated = False
        self._wake = Event()
        self._greenlet: gevent.Greenlet | None = None
        self.counts = WriterCounts()

    def __repr__(self) -> str:
        state = "terminated" if self._terminated else "closing" if self._closing else "open"
        return f"LogWriter({state}, unsent={self.unsent}, {self.counts})"

    @property
    def unsent(self) -> int:
        """How many records are neither booked nor put aside nor lost."""
        return len(self._queue) + len(self._buffer) + sum(map(len, self._booking))

    @property
    def lost(self) -> int:
        """How many records are gone for good: refused by the full queue, or left behind at the end."""
        return self._queue.lost

    @property
    def memory_only(self) -> int:
        """How many records would be lost by giving up now; the journal keeps the others."""
        return self._queue.memory_only

    @property
    def is_done(self) -> bool:
        """Whether the greenlet has ended: everything is booked, or it has given up."""
        return self._greenlet is None or self._greenlet.dead

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt to book a batch failed."""
        return self._failures > 0

    def oldest_unsent_age(self, now: float | None = None) -> float:
        """Return the seconds since the oldest unsent record was put into the queue; 0 when there is none."""
        first = self._booking[0][0].queued_at if self._booking else self._buffer.first_at
        oldest = self._queue.oldest_queued_at() if first is None else first
        return 0.0 if oldest is None else max(0.0, (self._clock() if now is None else now) - oldest)

    def start(self) -> None:
        """Start the greenlet. Call it after the process has forked."""
        self._greenlet = gevent.spawn(self._run)

    def submit(self, record: SequencedRecord) -> None:
        """Add a record to the batch being collected; its age counts from when it was queued."""
        self._buffer.append(record, record.queued_at)

    def poll(self, now: float) -> None:
        """Book what is due at `now`: the batch being retried, or the collected one."""
        if not self._booking and (self._buffer.is_ready(now) or (self._closing and not self._queue)):
            items = self._buffer.drain()
            if items:
                self._booking.append(items)
        if self._booking and now >= self._retry_at and not self._terminated:
            self._book(now)

    def close(self) -> None:
        """Stop waiting for more. What is there, and what is still put, is booked. Idempotent."""
        self._closing = True
        self._queue.close()
        self._retry_at = 0.0
        self._wake.set()

    def wait(self, timeout_s: float) -> None:
        """Wait until the writer is done, at most this long."""
        if self._greenlet is not None:
            self._greenlet.join(timeout_s)

    def join(self, timeout_s: float | None = None) -> int:
        """Wait until everything is booked, then give up; return how many records had to be left behind."""
        if not self._closing:
            self.close()
        if self._greenlet is not None:
            self._greenlet.join(timeout_s)
        return self.terminate()

    def terminate(self) -> int:
        """Stop at once; what is unsent is counted, logged and returned. Idempotent.

        A batch whose booking was under way counts as left behind, though it may have been booked.
        """
        self._closing = self._terminated = True
        self._queue.close()
        self._wake.set()
        if self._greenlet is not None:
            self._greenlet.kill(timeout=_KILL_S)
        return self._abandon()

    def _run(self) -> None:
        while not self._terminated:
            try:
                self.poll(self._clock())
                if self._closing and (not self.unsent or self._may_give_up()):
                    return
                self._wait_for_work()
            except Exception as error:
                # Whatever it was, the records are still in hand: go on after a pause.
                log.exception("the log writer stumbled")
                self._note_failure(self._clock(), error)
                self._pause()

    def _may_give_up(self) -> bool:
        """Return whether to give up at the end: on a store that failed, where the journal keeps the rest."""
        return self._has_failed_closing and not self._queue.memory_only

    def _wait_for_work(self) -> None:
        """Collect records until the batch is due; while a batch is being retried, wait for its next turn."""
        if self._booking:
            self._pause()
            return
        if not self._buffer:
            arrived = self._queue.take(min(self._policy.size, _SLICE), _IDLE_S)
        else:
            room = self._buffer.room
            wait_s = self._buffer.next_deadline(self._clock())
            arrived = self._queue.take(min(room, _SLICE), wait_s, at_least=room)
        self._submit_all(arrived)
        while len(arrived) == _SLICE and self._buffer.room:
            # There may be a backlog. It is old, and a batch of old records is due: booked a slice at a time
            # it would cost several times as many round trips, and under full load it would only grow.
            gevent.sleep(0)
            arrived = self._queue.take(min(self._buffer.room, _SLICE), 0.0)
            self._submit_all(arrived)

    def _submit_all(self, records: Sequence[SequencedRecord]) -> None:
        if records:
            self._buffer.extend(records, records[0].queued_at)

    def _pause(self) -> None:
        """Sleep until the next attempt is due, or until `close` or `terminate` want attention."""
        self._wake.wait(max(0.0, self._retry_at - self._clock()))
        if not self._terminated:
            self._wake.clear()

    def _book(self, now: float) -> None:
        try:
            isolate(self._booking, self._apply, self._is_records_fault, self._put_aside)
        except StoreUnavailable as error:
            self._note_failure(now, error)
        except Exception as error:
            # Nothing says that a record is at fault: keep them all and try again.
            log.exception("booking %d records failed unexpectedly", len(self._booking[0]))
            self._note_failure(now, error)

    def _apply(self, batch: Sequence[SequencedRecord]) -> None:
        self._note_success(batch, self._books.apply(batch))

    def _is_records_fault(self, error: Exception) -> bool:
        if not isinstance(error, _DOCUMENT_FAULTS):
            return False
        log.error("booking %d records failed unexpectedly", len(self._booking[0]), exc_info=error)
        return True

    def _put_aside(self, record: SequencedRecord, error: Exception) -> None:
        letter = self._books.put_aside(record, f"{type(error).__name__}: {error}")
        self._note_success([record], BookedBatch(0, _noted_charge(record), (letter,)))

    def _note_failure(self, now: float, error: Exception) -> None:
        self._failures += 1
        self._has_failed_closing |= self._closing
        self.counts.retries += 1
        self.counts.last_error = f"{type(error).__name__}: {error}"
        delay = self._policy.backoff.delay_s(self._failures, self._random(), closing=self._closing)
        # The attempt itself may have taken long; the pause counts from its end.
        self._retry_at = max(now, self._clock()) + delay
        if self._failures == 1:
            log.warning("records cannot be booked and are kept (%d unsent): %s", self.unsent, error)

    def _note_success(self, batch: Sequence[SequencedRecord], booked: BookedBatch) -> None:
        if self._failures:
            log.info("records are booked again after %d failed attempts", self._failures)
        self._failures = 0
        self._retry_at = 0.0
        self.counts.batches += 1
        self.counts.written += booked.records
        self.counts.dead += len(booked.dead)
        for letter in booked.dead:
            log.error("record %s was put aside (%s): %s", letter.request_id, letter.stage, letter.reason)
        self._tell(self._on_booked, booked.charges)
        self._tell(self._on_settled, batch[-1].seq)

    @staticmethod
    def _tell(hook: Callable[[News], None] | None, news: News) -> None:
        """Call a hook; its failure must not be taken for a failure to book."""
        if hook is None:
            return
        try:
            hook(news)
        except Exception:
            log.exception("a hook of the log writer failed")

    def _abandon(self) -> int:
        left = [record for batch in self._booking for record in batch] + self._buffer.drain()
        self._booking.clear()
        return self._queue.abandon(left)
