"""The queue between the request path and the background writer, with the journal beneath it.

A record is appended to the journal, then kept in memory for the writer. When memory is full it stays on disk
only, and so do all that follow (overflow), until the writer has read its way back to the journal's end; what
a takeover finds is read in the same way. Records therefore reach the writer in the order of their numbers,
from bounded memory, however long the store is away.

A record that the journal refused (a stray) is kept in memory without a number. It gets one when the journal
takes it after all, or when the writer has caught up with everything numbered before.

Refusals beyond the first few of a minute and client key are summed (`app.records.refusal_sums`). A sum is
held open in the journal, like a request that is under way, with what it has come to; it is noted anew every
second, and closed when its minute is over. Where less than half of the journal is left, whatever never went
upstream is summed, and only in memory; so the last quarter is for requests alone, and their records find room
while there is any.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.event import Event

from app.journal.documents import decode_record, encode_checkpoint, encode_document, encode_record
from app.journal.journal import STRIDE, Interrupted, Journal
from app.journal.journal_format import HEAD_SIZE, Damage, Entry, OpenRequest
from app.journal.segments import EntryReader, Place
from app.journal.status import QueueStatus
from app.periodic import FailureLog, StopEvent, every
from app.records.records import ExchangeRecord, SequencedRecord
from app.records.refusal_sums import RefusalSums

log = logging.getLogger(__name__)

Document = dict[str, Any]

REFUSALS_PER_MINUTE = 60
"""How many refusals of a client key within a minute have a record of their own, unless told otherwise."""

_SUMMING_S = 1.0
"""How often sums of refusals are noted in the journal: what came since is not known after a crash."""

DURABLE_TIMEOUT_S = 30.0
"""Longest a record waits for the disk to sync before it goes on without, in seconds."""


@dataclass(slots=True)
class _Kept:
    """A record in memory that is in the journal too: at `place`, before the position `end`."""

    record: SequencedRecord
    place: Place
    end: int


@dataclass(slots=True)
class _MemoryOnly:
    """A record in memory that the journal has not taken; it stands for `count` requests."""

    request_id: str
    queued_at: float
    document: Document

    @property
    def count(self) -> int:
        return int(self.document.get("count", 1))


class JournaledQueue:
    """A `RecordSink` whose records survive the process; its consumer is the background writer.

    It may be used from any greenlet of one process, with one consumer. Until `attach` gives it a journal it
    keeps records in memory. A record is lost only if the journal refuses it and memory is full of such
    records; it is counted in `lost` then, forgotten by the journal, and logged once per burst.
    `refusals_per_minute` of a client key have a record of their own.
    """

    def __init__(
        self,
        maxsize: int,
        *,
        refusals_per_minute: int = REFUSALS_PER_MINUTE,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._maxsize = maxsize
        self._clock = clock
        self._wall_clock = wall_clock
        self._sums = RefusalSums(refusals_per_minute)
        self._sums_noted_at = clock()
        self._journal: Journal | None = None
        self._memory: deque[_Kept] = deque()
        self._memory_only: deque[_MemoryOnly] = deque()
        # What is in the writer's hands, and by their numbers those of it that are not in the journal.
        self._taken: deque[SequencedRecord] = deque()
        self._taken_strays: dict[int, _MemoryOnly] = {}
        self._interrupted: deque[Interrupted] = deque()
        # Overflow: what is unread from the reader's place on is on disk only. None: memory has it all.
        self._reader: EntryReader | None = None
        self._backlog = 0
        self._backlog_since = 0.0
        self._last_read_seq = 0
        self._waits_for_disk = False
        self._enough = Event()
        self._wanted = 0
        self._is_closed = False
        self._is_released = False
        self._in_burst = False
        self.lost = 0

    def __len__(self) -> int:
        return len(self._memory) + len(self._memory_only) + self._backlog

    def __repr__(self) -> str:
        return (
            f"JournaledQueue(memory={len(self._memory)}/{self._maxsize}, disk={self._backlog}, "
            f"strays={len(self._memory_only)}, taken={len(self._taken)}, lost={self.lost}, {self._journal})"
        )

    # The request's side

    def accepts(self) -> bool:
        """Return whether the journal has room for a new request (what `JOURNAL_FULL=refuse` asks)."""
        return self._journal is not None and not self._journal.log.is_full

    def open(self, request: OpenRequest) -> bool:
        """Note a request that is about to be forwarded; return False when the journal could not.

        It never waits for the disk to sync.
        """
        return self._journal is not None and self._journal.open_request(request)

    def oldest_open(self, limit: int) -> list[Document]:
        """Return the forwarded requests that have not ended, the oldest first, `limit` at most."""
        return self._journal.oldest_open(limit) if self._journal is not None else []

    def checkpoint(self, record: ExchangeRecord) -> bool:
        """Note the record an opened request leaves if the process dies from now on. Never raises.

        Waits only where the journal's policy is `always`.
        """
        if self._journal is None:
            return False
        try:
            encoded = encode_checkpoint(record)
        except Exception:
            log.exception("record %s has no document yet", record.request_id)
            return False
        is_noted = self._journal.checkpoint(record.request_id, encoded)
        if is_noted and self._waits_for_disk:
            self._wait_until_durable(self._journal.log.position)
        return is_noted

    def put(self, record: ExchangeRecord) -> bool:
        """Keep the record; return False when it was lost, and counted. Never raises.

        Waits only where the journal's policy is `always`, until the record survives a power loss.
        """
        if not record.attempts and self._sum_up(record):
            return True
        return self._put(record)

    def _put(self, record: ExchangeRecord) -> bool:
        request_id = record.request_id
        try:
            document, encoded = encode_record(record)
        except Exception:
            log.exception("record %s has no document: it is lost", request_id)
            self.lost += record.count
            return False
        queued_at = self._clock()
        if self._journal is None or not self._keep(request_id, document, encoded, queued_at):
            return self._keep_in_memory(_MemoryOnly(request_id, queued_at, document))
        if self._waits_for_disk:
            self._wait_until_durable(self._journal.log.position)
        return True

    def _sum_up(self, record: ExchangeRecord) -> bool:
        """Count a request that never went upstream in a sum, if it is not to have a record of its own."""
        journal = self._journal
        is_free = not record.cost_nano_usd and not record.hold_nano_usd
        if self._is_closed or not is_free or (journal and journal.is_open(record.request_id)):
            return False  # it has to be booked by itself: something waits for it
        return self._sums.add(record, self._minute(), is_tight=not self._has_spare())

    def _has_spare(self, *, for_sums: bool = False) -> bool:
        """Return whether there is room for more than the records of requests that went upstream."""
        if self._journal is None or self._journal.log.is_failing:
            return len(self._memory) + len(self._memory_only) < self._maxsize // 2
        log = self._journal.log
        return not (log.is_for_requests_only if for_sums else log.is_crowded)

    def _minute(self) -> int:
        return int(self._wall_clock() // 60)

    # The writer's side

    def take(self, max_items: int, timeout_s: float | None, at_least: int = 1) -> list[SequencedRecord]:
        """Wait until `at_least` records are there, at most `timeout_s` (None: for ever), and take them.

        Returns what there is when the time is over or the queue was closed: possibly fewer, possibly none.
        What it returns is durable (unless the policy is `off` or the disk fails): a record that is in the
        store but no longer in the journal would be taken for an interrupted request. Raises OSError when
        the journal cannot be read now; nothing is lost by that.
        """
        if len(self) < at_least and not self._is_closed and timeout_s != 0:
            self._wanted = at_least
            self._enough.clear()
            try:
                self._enough.wait(timeout_s)
            finally:
                self._wanted = 0
        if self._journal is None:
            return []
        records: list[SequencedRecord] = []
        end = 0
        while self._memory and len(records) < max_items:
            kept = self._memory.popleft()
            records.append(kept.record)
            end = kept.end
        self._note_taken(records)
        try:
            while (reader := self._reader) is not None and len(records) < max_items:
                self._read_back(reader, records, max_items)
                # Not what was appended since: that would have each take of old records wait for the disk.
                end = max(end, reader.position)
        except OSError as error:
            self._journal.log.note_error("cannot be read", error)
            if not records:
                raise
        while self._reader is None and not self._memory and self._memory_only and len(records) < max_items:
            stray = self._memory_only.popleft()
            record = SequencedRecord(self._journal.slot.take_seq(), stray.document, stray.queued_at)
            self._taken_strays[record.seq] = stray
            self._note_taken([record])
            records.append(record)
        self._wait_until_durable(end)
        return records

    def acked(self, seq: int) -> None:
        """Note that everything taken up to this number is in the store."""
        if self._journal is None:
            return
        while self._taken and self._taken[0].seq <= seq:
            record = self._taken.popleft()
            if self._taken_strays and (stray := self._taken_strays.pop(record.seq, None)) is not None:
                self._journal.void(stray.request_id)
        self._journal.ack(seq)

    def close(self) -> None:
        """Have the consumer wait for no more. Records still put are kept as before. Idempotent."""
        self._is_closed = True
        for record in self._sums.take_due(None):
            self._put(record)
        self._enough.set()

    def oldest_queued_at(self) -> float | None:
        """Return when the longest waiting record was put (monotonic); None when the queue is empty."""
        waiting = [self._memory[0].record.queued_at] if self._memory else []
        if self._backlog:
            waiting.append(self._backlog_since)
        if self._memory_only:
            waiting.append(self._memory_only[0].queued_at)
        return min(waiting, default=None)

    @property
    def memory_only(self) -> int:
        """How many records are neither in store nor in journal, so would not survive the process."""
        return len(self._memory_only) + len(self._taken_strays)

    # Life cycle

    def attach(self, journal: Journal) -> None:
        """Take over a journal and everything unbooked in it, before the first put; raises OSError."""
        unbooked = journal.recover()
        self._waits_for_disk = journal.policy.sync == "always"
        self._last_read_seq = journal.acked
        self._interrupted.extend(unbooked.interrupted)
        if unbooked.count:
            self._reader = journal.unbooked_reader()
            self._backlog = unbooked.count
            self._backlog_since = self._clock() - max(0.0, time.time() - unbooked.oldest_ms / 1000)
        self._journal = journal
        self._close_interrupted()
        journal.sync()

    def run(self, stopping: StopEvent, interval_s: float) -> None:
        """Look after the journal every interval until `stopping` is set; for a greenlet of its own."""
        failures = FailureLog(log, "the journal cannot be looked after", "the journal is looked after again")
        every(stopping, interval_s, self.tend, failures)

    def tend(self) -> None:
        """Do one round of maintenance: the journal's, and taking into it what it had refused."""
        if self._journal is None:
            return
        self._journal.tick()
        self._close_interrupted()
        self._rescue_strays()
        if self._clock() - self._sums_noted_at >= _SUMMING_S:
            self._sums_noted_at = self._clock()
            self._tend_sums()

    def abandon(self, in_hand: Sequence[SequencedRecord] = ()) -> int:
        """Give up booking: count what will not survive as lost, and return how many records that is.

        Everything else stays in the journal and is booked by whoever takes the slot over, also what the
        writer has in hand (which is known here, from the takes that were not acknowledged). Of a request
        that is held open there only what was checkpointed is left, as an interrupted one.
        """
        strays = [*self._memory_only, *self._taken_strays.values()]
        gone = [stray.count for stray in strays if not self._is_held_open(stray.request_id)]
        lost = sum(gone)
        left = len(self) + len(self._taken) - len(gone)
        self._memory_only.clear()
        self._taken.clear()
        self._taken_strays.clear()
        self.lost += lost
        if lost:
            log.error("%d records are in neither store nor journal and are lost", lost)
        if left:
            log.warning("%d records stay in the journal and will be booked later", left)
        return lost

    def release(self) -> None:
        """Give the slot back, all records being taken and booked or abandoned. Idempotent."""
        self._is_released = True
        self.close()
        if self._journal is not None:
            self._journal.close()

    def status(self) -> QueueStatus | None:
        """Return the health view; None before `attach`."""
        if self._journal is None:
            return None
        oldest = self._taken[0].queued_at if self._taken else self.oldest_queued_at()
        return QueueStatus.of(
            self._journal,
            unbooked=len(self) + len(self._taken) + len(self._sums),
            memory_only=self.memory_only,
            oldest_unbooked_s=0.0 if oldest is None else max(0.0, self._clock() - oldest),
            lost=self.lost,
        )

    # Inside

    def _keep(self, request_id: str, document: Document, encoded: bytes, queued_at: float) -> bool:
        """Append to the journal, and keep in memory the records there is room for."""
        assert self._journal is not None  # noqa: S101
        kept = self._journal.append_close(request_id, encoded)
        if kept is None:
            return False
        seq, place = kept
        if self._reader is not None:
            self._backlog += 1
        elif len(self._memory) + len(self._memory_only) < self._maxsize:
            record = SequencedRecord(seq, document, queued_at, encoded)
            self._memory.append(_Kept(record, place, self._journal.log.position))
        else:
            self._overflow(place, 1, queued_at)
        self._note_arrival()
        return True

    def _tend_sums(self) -> None:
        """Note what sums of refusals have come to, and keep those sums whose minute is over."""
        assert self._journal is not None  # noqa: S101
        due = self._sums.take_due(self._minute())
        try:
            while due:
                record = due.pop()
                if not self._has_spare(for_sums=True) or not self._put(record):
                    self._sums.put_back(record, may_join=not self._journal.is_open(record.request_id))
                if len(due) % STRIDE == 0:
                    self._journal.pause()
        finally:
            for record in due:  # this may be cut off, where it waits
                self._sums.put_back(record, may_join=False)
        for count, record in enumerate(self._sums.grown(), start=1):
            if self._has_spare():
                self._journal.checkpoint(record.request_id, encode_checkpoint(record))
            if count % STRIDE == 0:
                self._journal.pause()

    def _keep_in_memory(self, stray: _MemoryOnly) -> bool:
        if self._is_released or not self._has_room(stray.request_id):
            self.lost += stray.count
            if self._journal is not None:
                self._journal.void(stray.request_id)
            if not self._in_burst:
                self._in_burst = True
                log.error("record %s is lost (%d so far): %r", stray.request_id, self.lost, self)
            return False
        self._memory_only.append(stray)
        self._note_arrival()
        return True

    def _has_room(self, request_id: str) -> bool:
        """Return whether memory takes one more stray.

        Requests that the journal holds as open are always taken: left out, they would come back as
        interrupted. They are no more than were under way when the journal began to refuse.
        """
        if len(self._memory) + len(self._memory_only) < self._maxsize or self._spill_memory():
            return True
        return self._is_held_open(request_id)

    def _is_held_open(self, request_id: str) -> bool:
        return self._journal is not None and self._journal.holds_open(request_id)

    def _note_arrival(self) -> None:
        self._in_burst = False
        if 0 < self._wanted <= len(self):
            self._enough.set()

    def _overflow(self, place: Place, count: int, since: float) -> None:
        """Have `count` more records read back from disk, from this place on."""
        assert self._journal is not None  # noqa: S101
        self._reader = self._journal.reader(place)
        if not self._backlog or since < self._backlog_since:
            self._backlog_since = since
        self._backlog += count

    def _spill_memory(self) -> bool:
        """Make room for strays: forget the newer half of what is on disk too, and read it back later."""
        if not self._memory:
            return False
        count = (len(self._memory) + 1) // 2
        first = [self._memory.pop() for _ in range(count)][-1]
        self._overflow(first.place, count, first.record.queued_at)
        return True

    def _note_taken(self, records: Sequence[SequencedRecord]) -> None:
        if records:
            self._last_read_seq = records[-1].seq
            self._taken += records

    def _read_back(self, reader: EntryReader, records: list[SequencedRecord], max_items: int) -> None:
        """Read some of what is on disk only; with the end reached, let memory take over again."""
        for count, (entry, place) in enumerate(reader.read(max_items - len(records)), start=1):
            # Entries from before the place where overflow began are in this segment too.
            if entry.seq > self._last_read_seq:
                self._backlog -= 1
                self._read_entry(entry, place, records)
            if count % STRIDE == 0:
                assert self._journal is not None  # noqa: S101
                self._journal.pause()
        if reader is self._reader and reader.is_at_end:
            self._reader = None
            if self._backlog:
                # Only damage that came after the records were counted can do this; it has been set aside.
                self.lost += self._backlog
                log.error("%d records could not be read back from the journal", self._backlog)
                self._backlog = 0

    def _read_entry(self, entry: Entry, place: Place, records: list[SequencedRecord]) -> None:
        assert self._journal is not None  # noqa: S101
        queued_at = self._clock() - max(0.0, time.time() - entry.at_ms / 1000)
        self._backlog_since = queued_at
        try:
            document = decode_record(entry.document)
        except ValueError:
            length = HEAD_SIZE + len(entry.document)
            self._journal.note_damage(place.segment, Damage(place.offset, length, False))
            self.lost += 1
        else:
            record = SequencedRecord(entry.seq, document, queued_at, entry.document)
            self._note_taken([record])
            records.append(record)

    def _wait_until_durable(self, position: int) -> None:
        assert self._journal is not None  # noqa: S101
        if not self._journal.log.is_durable(position):
            with gevent.Timeout(DURABLE_TIMEOUT_S, False):
                self._journal.log.wait_durable(position)

    def _close_interrupted(self) -> None:
        while self._interrupted:
            item = self._interrupted[0]
            document, encoded = encode_document(item.document)
            if not self._keep(item.request_id, document, encoded, self._clock()):
                return  # its OPEN is still there: `tend` tries again
            self._interrupted.popleft()

    def _rescue_strays(self) -> None:
        """Journal what the journal had refused, now that it takes records again."""
        while self._memory_only:
            stray = self._memory_only.popleft()
            document, encoded = encode_document(stray.document)
            if not self._keep(stray.request_id, document, encoded, stray.queued_at):
                self._memory_only.appendleft(stray)
                return
