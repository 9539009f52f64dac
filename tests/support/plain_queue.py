"""A queue without a journal: the writer's source of records in tests that are not about the journal."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from gevent.event import Event

from app.records.records import ExchangeRecord, SequencedRecord

log = logging.getLogger(__name__)


class LogQueue:
    """A `RecordSink` that numbers records and keeps them in memory until the writer takes them.

    When full, a record is refused, counted in `lost`, and logged once per burst (a burst ends when
    something is accepted again).
    """

    def __init__(
        self, maxsize: int, *, first_seq: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._maxsize = maxsize
        self._next_seq = first_seq
        self._clock = clock
        self._waiting: deque[tuple[int, float, ExchangeRecord]] = deque()
        self._enough = Event()
        self._wanted = 0
        self._closed = False
        self._in_burst = False
        self.lost = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"LogQueue({len(self._waiting)}/{self._maxsize}, lost={self.lost}, closed={self._closed})"

    @property
    def is_closed(self) -> bool:
        """Whether records are refused for good."""
        return self._closed

    def put(self, record: ExchangeRecord) -> bool:
        """Number and keep the record; False when it was refused and counted. Never waits, never raises."""
        waiting = self._waiting
        if self._closed or len(waiting) >= self._maxsize:
            self._refuse(record)
            return False
        seq = self._next_seq
        self._next_seq = seq + 1
        waiting.append((seq, self._clock(), record))
        self._in_burst = False
        if 0 < self._wanted <= len(waiting):
            self._enough.set()
        return True

    @property
    def memory_only(self) -> int:
        """Whatever it was given may be lost: it does not hear of what was booked."""
        return self._next_seq

    def take(self, max_items: int, timeout_s: float | None, at_least: int = 1) -> list[SequencedRecord]:
        """Wait until `at_least` records are there, at most `timeout_s` (None: for ever), and take them.

        Returns what there is when the time is over or the queue was closed: possibly fewer, possibly none.
        """
        if len(self._waiting) < at_least and not self._closed and timeout_s != 0:
            self._wanted = at_least
            self._enough.clear()
            try:
                self._enough.wait(timeout_s)
            finally:
                self._wanted = 0
        taken = [self._waiting.popleft() for _ in range(min(max_items, len(self._waiting)))]
        records = (self._documented(*entry) for entry in taken)
        return [record for record in records if record is not None]

    def close(self) -> None:
        """Refuse records from now on; what is queued can still be taken. Idempotent."""
        self._closed = True
        self._enough.set()

    def abandon(self, in_hand: Sequence[SequencedRecord]) -> int:
        """Nothing more will be taken: what waits, and what was taken but not booked, is lost."""
        left = [*in_hand, *self.take(len(self._waiting), 0)]
        self.lost += len(left)
        if left:
            shown = ", ".join(str(record.document.get("_id")) for record in left[:5])
            log.error("%d records were not booked in time and are lost: %s …", len(left), shown)
        return len(left)

    def oldest_queued_at(self) -> float | None:
        """When the longest waiting record was put; None when the queue is empty."""
        return self._waiting[0][1] if self._waiting else None

    def _refuse(self, record: ExchangeRecord) -> None:
        self.lost += 1
        if not self._in_burst:
            self._in_burst = True
            why = "closed" if self._closed else f"full ({self._maxsize})"
            log.error("log queue is %s: record %s is lost (%d so far)", why, record.request_id, self.lost)

    def _documented(self, seq: int, queued_at: float, record: ExchangeRecord) -> SequencedRecord | None:
        try:
            return SequencedRecord(seq, record.to_document(), queued_at)
        except Exception:
            # One record that cannot be turned into a document must not take the others with it.
            self.lost += 1
            log.exception("record %s has no document: it is lost", record.request_id)
            return None
