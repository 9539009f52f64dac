"""The journal of one slot: what has to outlive the process, from a request's start to its booking."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar, cast

import gevent

from app.journal.documents import encode_open, interrupted_document, open_document
from app.journal.journal_format import (
    HEAD_SIZE,
    Damage,
    Entry,
    FrameKind,
    OpenRequest,
    encode_ack,
    encode_entry,
)
from app.journal.recovery import count_kept_damage, scan, set_aside
from app.journal.segment_log import JournalPolicy, SegmentLog
from app.journal.segments import EntryReader, Place, Segment
from app.journal.slots import Slot
from app.records.records import Outcome

log = logging.getLogger(__name__)

Result = TypeVar("Result")

STRIDE = 50
"""How many records (under a millisecond) background work handles before it lets waiting requests go first."""


def in_thread(work: Callable[..., Result], *args: Any) -> Result:
    """Run something that waits for the disk in a thread; only the calling greenlet waits."""
    # What fails is carried over by hand: gevent would also print it, and it may well be expected.
    result, error = gevent.get_hub().threadpool.apply(_attempted, (work, args))
    if error is not None:
        raise error
    return cast("Result", result)


def _attempted(
    work: Callable[..., Result], args: tuple[Any, ...]
) -> tuple[Result | None, BaseException | None]:
    try:
        return work(*args), None
    except BaseException as error:  # noqa: BLE001  raised again where it was asked for
        return None, error


def breathe() -> None:
    """Let other greenlets run."""
    gevent.sleep(0)


@dataclass(slots=True)
class _Open:
    """A request that has not ended; `segment` holds its OPEN, None when it could not be written yet."""

    segment: Segment | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A request found open after a crash, and the record it gets."""

    request_id: str
    document: dict[str, Any]

    @property
    def is_request(self) -> bool:
        """Whether it was under way, not a sum of requests that had ended."""
        return self.document.get("outcome") == Outcome.INTERRUPTED


@dataclass(frozen=True, slots=True)
class Unbooked:
    """What a takeover found: records not known to be in the store (since epoch ms), and open requests."""

    count: int = 0
    oldest_ms: int = 0
    interrupted: list[Interrupted] = field(default_factory=list)


class Journal:
    """Keeps requests that were opened and records that were closed until they are acknowledged.

    What a request does never waits for a sync and never raises; None or False says that the disk or the limit
    refused. `tick` is to be called every flush interval. One process, one thread, any greenlet.
    """

    def __init__(
        self,
        slot: Slot,
        policy: JournalPolicy | None = None,
        *,
        run_blocking: Callable[..., Any] = in_thread,
        pause: Callable[[], None] = breathe,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.slot = slot
        self.log = SegmentLog(
            slot, policy or JournalPolicy(), run_blocking=run_blocking, wall_clock=wall_clock
        )
        self.counts = self.log.counts
        self.acked = 0
        self.pause = pause
        self._disk = slot.disk
        self._run_blocking = run_blocking
        self._wall_clock = wall_clock
        self._opens: dict[str, _Open] = {}
        self._unwritten_voids: list[str] = []
        self._is_removing = False
        self._is_closed = False

    def __repr__(self) -> str:
        return f"Journal({self.slot.name}, acked={self.acked}, open={len(self._opens)}, {self.counts})"

    @property
    def policy(self) -> JournalPolicy:
        """How safe and how large."""
        return self.log.policy

    @property
    def open_requests(self) -> int:
        """How many requests have been opened and have not ended."""
        return len(self._opens)

    def recover(self) -> Unbooked:
        """Read what the slot holds, put its damage aside and start numbering above it; call it once.

        Returns what is to be booked. The requests found open are for the caller to close, by `append_close`.
        Raises OSError when the slot cannot be read.
        """
        contents = scan(self._disk, self.slot.directory, self.slot.writer_id, pause=self.pause)
        self.acked = contents.acked
        self.counts.damaged = count_kept_damage(self._disk, self.slot.directory)
        for segment, damage in contents.damage:
            self._repair(segment, damage)
        self.log.adopt(contents.segments)
        try:
            self.slot.begin(max(contents.highest_seq, contents.acked))
        except OSError as error:
            self.log.note_error("could not reserve record numbers", error)
        if self.policy.sync != "off":
            # Frames of a process that was killed may be in memory still; what is booked must be on disk.
            self._run_blocking(self._sync_recovered, contents.segments)
        self.log.rescan(is_forced=True)
        interrupted = []
        for request_id, (segment, entry) in contents.opens.items():
            payload = encode_entry(0, entry.at_ms, request_id.encode(), entry.document)
            self._opens[request_id] = _Open(segment, payload)
            document = self._interrupted(segment, entry, contents.last_ms)
            if document is None:
                self.void(request_id)
            else:
                interrupted.append(Interrupted(request_id, document))
        # Sums of refusals are kept open as well, until their minute is over.
        self.counts.interrupted = sum(item.is_request for item in interrupted)
        return Unbooked(contents.unbooked, contents.oldest_ms, interrupted)

    def unbooked_reader(self) -> EntryReader | None:
        """Make a reader of what was not booked when the slot was taken over; None when there is nothing.

        It may give entries up to `acked` first; they are to be passed over.
        """
        for segment in self.log.segments:
            if segment.last_seq > self.acked:
                return self.reader(Place(segment, 0))
        return None

    def reader(self, place: Place) -> EntryReader:
        """Make a reader of the entries from a place on.

        Each `read` waits for the disk in a thread and raises OSError.
        """

        def read_bytes(path: str, offset: int, count: int) -> bytes:
            data: bytes = self._run_blocking(self._disk.read, path, offset, count)
            return data

        return EntryReader(self.log.segments, place, read_bytes, self.note_damage)

    def open_request(self, request: OpenRequest) -> bool:
        """Note that a request is about to be forwarded; opening it again replaces what is known of it."""
        return self._note_open(request.request_id, encode_open(request))

    def checkpoint(self, request_id: str, document: bytes) -> bool:
        """Note the record (BSON of `encode_checkpoint`) that a request leaves if the process dies now."""
        return self._note_open(request_id, document)

    def _note_open(self, request_id: str, document: bytes) -> bool:
        payload = encode_entry(0, self._now_ms(), request_id.encode(), document)
        opened = self._opens.get(request_id)
        if opened is None:
            opened = self._opens[request_id] = _Open(None, payload)
        else:
            # Until the new frame is written the old one stands, and is what `void` has to undo.
            opened.payload = payload
        return not self.log.is_full and self._write_open(request_id, opened)

    def is_open(self, request_id: str) -> bool:
        """Return whether a request was opened and has not ended, on disk or not."""
        return request_id in self._opens

    def holds_open(self, request_id: str) -> bool:
        """Return whether a request that has not ended has an OPEN on disk, and is found after a crash."""
        opened = self._opens.get(request_id)
        return opened is not None and opened.segment is not None

    def oldest_open(self, limit: int) -> list[dict[str, Any]]:
        """Return who has been waiting for what, the longest first; requests only, `limit` at most.

        It reads what is kept anyway: a request pays nothing for being listed.
        """
        found = []
        for opened in islice(list(self._opens.values()), 2 * limit):
            document = open_document(opened.payload)
            if document is not None:
                found.append(document)
        return found[:limit]

    def append_close(self, request_id: str, document: bytes) -> tuple[int, Place] | None:
        """Keep a request's record; return its number and place, None when it could not be kept."""
        seq = self.slot.take_seq()
        payload = encode_entry(seq, self._now_ms(), request_id.encode(), document)
        place = self.log.append(FrameKind.CLOSE, payload)
        if place is None:
            return None
        place.segment.closes += 1
        place.segment.last_seq = seq
        self._forget_open(request_id)
        return seq, place

    def void(self, request_id: str) -> None:
        """Keep an open request from being found after a crash.

        Its record is in the store, or lost and counted, though its CLOSE could not be kept.
        """
        opened = self._opens.pop(request_id, None)
        if opened is not None and opened.segment is not None:
            opened.segment.opens.discard(request_id)
            self._write_void(request_id)

    def ack(self, seq: int) -> None:
        """Note that everything up to this number is in the store."""
        if seq > self.acked:
            self.acked = seq
            # Not synced: losing it means that records are booked again, which changes nothing.
            self.log.append(FrameKind.ACK, encode_ack(seq), is_limited=False)

    def sync(self) -> bool:
        """Make all that was appended so far durable; return False if it may not be."""
        return self.log.sync()

    def tick(self) -> None:
        """Maintain the journal: sync, see whether a failing disk works again, remove what is booked."""
        if self._is_closed:
            return
        self.log.rescan()
        if self.slot.is_running_low and self.slot.is_placed:
            try:
                self._run_blocking(self.slot.reserve)
            except OSError as error:
                self.log.note_error("could not reserve record numbers", error)
        self.log.retry(FrameKind.ACK, encode_ack(self.acked))
        self._catch_up()
        if self.log.is_dirty:
            self.log.sync()
        self._remove_settled()

    def close(self) -> None:
        """Make the journal durable, remove it if all is booked, and give the slot back. Idempotent."""
        if self._is_closed:
            return
        self._catch_up()
        self._remove_settled()
        self._is_closed = True
        if self.log.close() and not self._opens and not self._unwritten_voids:
            self._remove_settled()
        self.slot.release()

    def note_damage(self, segment: Segment, damage: Damage) -> None:
        """Keep bytes that are no frames for whoever investigates. Never raises."""
        try:
            is_new = set_aside(self._disk, segment, damage)
        except OSError as error:
            self.log.note_error("could not set damaged bytes aside", error)
            is_new = True
        if is_new:
            self.counts.damaged += 1
            log.error("%s: %d bytes at %d are damaged", segment.path, damage.length, damage.offset)

    def _repair(self, segment: Segment, damage: Damage) -> None:
        """Cut off what a torn write has left; keep any other damage, and what was cut."""
        if not damage.is_torn:
            self.note_damage(segment, damage)
            return
        try:
            set_aside(self._disk, segment, damage)
            self._disk.cut(segment.path, damage.offset)
        except OSError as error:
            self.log.note_error("could not cut off a torn write", error)
        segment.size = damage.offset
        self.counts.torn += 1
        log.warning("%s: a torn write of %d bytes was cut off", segment.path, damage.length)

    def _sync_recovered(self, segments: list[Segment]) -> None:
        try:
            for segment in segments:
                self._disk.cut(segment.path, segment.size)
            self._disk.sync_directory(self.slot.directory)
        except OSError as error:
            self.log.note_error("cannot be synced", error)

    def _interrupted(self, segment: Segment, entry: Entry, last_ms: int) -> dict[str, Any] | None:
        try:
            return interrupted_document(entry, last_ms)
        except ValueError:
            log.exception("%s: the request cannot be recorded", segment.path)
            self.counts.damaged += 1
            return None

    def _write_open(self, request_id: str, opened: _Open) -> bool:
        place = self.log.append(FrameKind.OPEN, opened.payload, is_limited=False)
        if place is None:
            return False
        if opened.segment is not place.segment:
            if opened.segment is not None:
                opened.segment.opens.discard(request_id)
            opened.segment = place.segment
            place.segment.opens.add(request_id)
        return True

    def _write_void(self, request_id: str) -> None:
        payload = encode_entry(0, self._now_ms(), request_id.encode(), b"")
        if self.log.append(FrameKind.VOID, payload, is_limited=False) is None:
            self._unwritten_voids.append(request_id)

    def _forget_open(self, request_id: str) -> None:
        opened = self._opens.pop(request_id, None)
        if opened is not None and opened.segment is not None:
            opened.segment.opens.discard(request_id)

    def _catch_up(self) -> None:
        """Write what could not be written when it was due."""
        if self.log.is_failing:
            return
        voids, self._unwritten_voids = self._unwritten_voids, []
        for request_id in voids:
            self._write_void(request_id)
        if not self.log.is_full:
            self._write_opens([name for name, opened in self._opens.items() if opened.segment is None])

    def _write_opens(self, request_ids: list[str]) -> bool:
        for count, request_id in enumerate(request_ids, start=1):
            opened = self._opens.get(request_id)  # it may have ended during the last pause
            if opened is not None and not self._write_open(request_id, opened):
                return False
            if count % STRIDE == 0:
                self.pause()
        return True

    def _remove_settled(self) -> None:
        """Remove segments from the oldest on; requests open for long are first carried into the current one.

        In this order only, and each removal made durable before the next: an OPEN must never outlive the
        CLOSE that ended it.
        """
        if self._is_removing:
            return
        self._is_removing = True
        try:
            if self.log.is_crowded and not self.log.is_failing:
                self._seal_settled()
            while self._is_oldest_settled() and self.log.sync():
                self.log.remove_oldest()
        except OSError as error:
            self.log.note_error("could not remove a booked segment", error)
        finally:
            self._is_removing = False

    def _seal_settled(self) -> None:
        """Seal the segment being written once it is booked, so that it can go when little room is left."""
        current = self.log.current
        if current is not None and current.closes and current.last_seq <= self.acked:
            self.log.seal()

    def _is_oldest_settled(self) -> bool:
        oldest = self.log.segments[0] if self.log.segments else None
        if oldest is None or oldest is self.log.current or oldest.last_seq > self.acked:
            return False
        if not oldest.opens:
            return True
        # Each carrying frees at least half a segment: rewriting mostly live ones would never come to an end.
        live_bytes = sum(HEAD_SIZE + len(self._opens[name].payload) for name in oldest.opens)
        if self.log.is_failing or live_bytes > oldest.size // 2:
            return False
        return self._write_opens(list(oldest.opens))

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)
