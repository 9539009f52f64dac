"""Appending to a slot's segments, one after the other, and making what was appended durable."""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from app.journal.group_commit import GroupCommit
from app.journal.journal_format import HEAD_SIZE, MAX_PAYLOAD, SegmentHeader, encode_frame
from app.journal.segments import Place, Segment, SegmentWriter
from app.journal.slots import Slot, segment_names, slot_names

log = logging.getLogger(__name__)

SyncMode = Literal["group", "always", "off"]

SEGMENT_BYTES = 8 * 1024 * 1024
_RESERVE = 1024 * 1024
"""Room kept from the limit for the records of requests that are under way when no more are to be taken."""

_RESCAN_S = 1.0


@dataclass(frozen=True, slots=True)
class JournalPolicy:
    """How safe and how large: the limit is for all slots of the directory together, in bytes.

    `off` never syncs: the journal survives the process, not a power loss.
    """

    sync: SyncMode = "group"
    max_bytes: int = 4096 * 1024 * 1024
    segment_bytes: int = SEGMENT_BYTES


@dataclass(slots=True)
class JournalCounts:
    """What happened so far. `damaged` also counts what was set aside earlier and is still kept;
    `refused` frames found the limit reached; `last_error` is None while all is well."""

    frames: int = 0
    syncs: int = 0
    damaged: int = 0
    torn: int = 0
    write_errors: int = 0
    refused: int = 0
    interrupted: int = 0
    last_error: str | None = None


class SegmentLog:
    """The segments of an owned slot, the last of which is being written.

    `append` never waits for the disk to sync and never raises. After a failure it refuses everything until
    `retry`, so that a full disk costs requests nothing. `run_blocking` calls a function while other
    greenlets run.
    """

    def __init__(
        self,
        slot: Slot,
        policy: JournalPolicy,
        *,
        run_blocking: Callable[..., Any],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.slot = slot
        self.policy = policy
        self.counts = JournalCounts()
        self.segments: list[Segment] = []
        self.is_failing = not slot.is_placed
        self.position = 0
        self.own_bytes = 0
        self._other_bytes = 0
        self._rescan_at = 0.0
        self._disk = slot.disk
        self._run_blocking = run_blocking
        self._wall_clock = wall_clock
        self._reserve = min(_RESERVE, policy.max_bytes // 16)
        self._writer: SegmentWriter | None = None
        self._retired: list[SegmentWriter] = []
        self._names_changed = False
        self._is_closed = False
        self._commits = GroupCommit(lambda: self.position, self._commit)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for new requests: the disk fails, or the limit is nearly reached."""
        return self.is_failing or self.own_bytes + self._other_bytes + self._reserve > self.policy.max_bytes

    @property
    def is_crowded(self) -> bool:
        """Whether half of the limit is taken: refusals get no records of their own then."""
        return not self._has_left(2)

    @property
    def is_for_requests_only(self) -> bool:
        """Whether the last quarter is all that is left: it is not for refusals, not even for their sums."""
        return not self._has_left(4)

    def _has_left(self, part: int) -> bool:
        return self.total_bytes + self.policy.max_bytes // part <= self.policy.max_bytes

    @property
    def total_bytes(self) -> int:
        """What the segments of all slots take up; the others' part is up to a second old."""
        return self.own_bytes + self._other_bytes

    @property
    def current(self) -> Segment | None:
        """The segment being written."""
        return self._writer.segment if self._writer else None

    @property
    def is_dirty(self) -> bool:
        """Whether something appended would not survive a power loss; never with `off`."""
        return not self.is_durable(self.position)

    def is_durable(self, position: int) -> bool:
        """Return whether what was appended before `position` survives a power loss; always with `off`."""
        return self._commits.durable >= position or self.policy.sync == "off"

    def adopt(self, segments: list[Segment]) -> None:
        """Begin with segments written by an earlier owner of the slot."""
        self.segments = segments
        self.own_bytes = sum(segment.size for segment in segments)

    def append(self, kind: int, payload: bytes, *, is_limited: bool = True) -> Place | None:
        """Add a frame; return None when the disk, or the limit if it applies, has no room for it."""
        if self.is_failing:
            return None
        size = HEAD_SIZE + len(payload)
        taken = self.own_bytes + self._other_bytes
        if len(payload) > MAX_PAYLOAD or (is_limited and taken + size > self.policy.max_bytes):
            self.counts.refused += 1
            return None
        writer = self._writer
        try:
            if writer is None or writer.is_broken or writer.segment.size >= self.policy.segment_bytes:
                writer = self._rotate()
            segment = writer.segment
            offset = segment.size
            writer.append(encode_frame(kind, payload, segment.seed, offset))
        except OSError as error:
            self.counts.write_errors += 1
            self.is_failing = True
            self.note_error("cannot be written", error)
            return None
        self.own_bytes += size
        self.position += size
        self.counts.frames += 1
        return Place(segment, offset)

    def retry(self, kind: int, payload: bytes) -> None:
        """See with this frame, which may be repeated, whether a failing disk works again."""
        if self.is_failing and self.slot.is_placed and not self._is_closed:
            with contextlib.suppress(OSError):
                self._disk.make_directory(self.slot.directory)
            self.is_failing = False
            if self.append(kind, payload, is_limited=False) is not None:
                self.counts.last_error = None
                log.info("journal %s can be written again", self.slot.name)

    def wait_durable(self, position: int, timeout_s: float | None = None) -> bool:
        """Wait until what was appended before `position` survives a power loss; False if it may not."""
        return self.policy.sync == "off" or self._commits.wait(position, timeout_s)

    def sync(self) -> bool:
        """Make all that was appended so far durable; return False if it may not be."""
        return self.wait_durable(self.position)

    def seal(self) -> None:
        """Seal the segment being written: the next frame begins another one."""
        if self._writer is not None:
            self._retire(self._writer)
            self._writer = None

    def remove_oldest(self) -> None:
        """Remove the oldest segment, durably; raises OSError. It must not be the one being written."""
        oldest = self.segments[0]
        self._run_blocking(self._remove, oldest.path)
        self.segments.pop(0)
        self.own_bytes -= oldest.size

    def close(self) -> bool:
        """Sync and take no more; return whether all that was appended is durable. Idempotent."""
        is_synced = self.sync()
        self.is_failing = self._is_closed = True
        for writer in [*self._retired, *([self._writer] if self._writer else [])]:
            writer.close()
        self._retired.clear()
        self._writer = None
        return is_synced

    def rescan(self, *, is_forced: bool = False) -> None:
        """Look how much the other slots take up, if the last look is a second old."""
        if self._wall_clock() < self._rescan_at and not is_forced:
            return
        self._rescan_at = self._wall_clock() + _RESCAN_S
        try:
            if self._writer is not None:
                self._check_presence(self._writer)
            self._other_bytes = self._run_blocking(self._measure_others)
        except OSError as error:
            self.note_error("cannot be looked at", error)

    def note_error(self, what: str, error: OSError) -> None:
        """Remember what went wrong, and log it unless it is what went wrong before."""
        message = f"{what}: {error}"
        if message != self.counts.last_error:
            log.error("journal %s %s", self.slot.name, message)
        self.counts.last_error = message

    def _rotate(self) -> SegmentWriter:
        old = self._writer
        header = SegmentHeader(self.slot.writer_id, self.slot.take_seq(), int(self._wall_clock() * 1000))
        new = SegmentWriter(self._disk, self.slot.directory, header)
        self._writer = new
        new.segment.begins = self.position
        self.segments.append(new.segment)
        self.own_bytes += new.segment.size
        self.position += new.segment.size
        self._names_changed = True
        if old is not None:
            self._retire(old)
        return new

    def _retire(self, writer: SegmentWriter) -> None:
        if self.policy.sync == "off":
            writer.close()
        else:
            self._retired.append(writer)  # closed once it is synced

    def _commit(self) -> None:
        """Do one round of syncing; raises OSError."""
        retired = list(self._retired)
        writers = [*retired, *([self._writer] if self._writer else [])]
        names_changed, self._names_changed = self._names_changed, False
        is_done = False
        try:
            self._run_blocking(self._sync_files, writers, names_changed)
            is_done = True
        except OSError as error:
            self.counts.write_errors += 1
            self.note_error("cannot be synced", error)
            raise
        finally:
            if not is_done:
                self._names_changed |= names_changed
        self.counts.syncs += 1
        for writer in retired:
            if writer in self._retired:
                self._retired.remove(writer)
                writer.close()

    def _sync_files(self, writers: list[SegmentWriter], names_changed: bool) -> None:
        for writer in writers:
            try:
                writer.sync()
            except OSError:
                # The kernel may forget that these pages were never written: put nothing more behind them.
                writer.is_broken = True
                raise
        if names_changed:
            self._disk.sync_directory(self.slot.directory)

    def _remove(self, path: str) -> None:
        self._disk.remove(path)
        if self.policy.sync != "off":
            self._disk.sync_directory(self.slot.directory)

    def _check_presence(self, writer: SegmentWriter) -> None:
        try:
            self._disk.size(writer.segment.path)
        except FileNotFoundError:
            writer.is_broken = True  # someone removed it: what is written to it now could not be read
            raise

    def _measure_others(self) -> int:
        root = os.path.dirname(self.slot.directory)
        directories = [os.path.join(root, name) for name in slot_names(root, self._disk)]
        return sum(self._measure(path) for path in directories if path != self.slot.directory)

    def _measure(self, directory: str) -> int:
        total = 0
        for name in segment_names(self._disk, directory):
            try:
                total += self._disk.size(os.path.join(directory, name))
            except FileNotFoundError:
                continue  # booked and removed while we looked
        return total
