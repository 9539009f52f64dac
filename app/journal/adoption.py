"""Settling what processes that are gone left behind: slots nobody owns, whoever wrote in them."""

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.common.errors import StoreUnavailable
from app.common.isolation import isolate
from app.journal.disk import Disk, DiskInThreads, RealDisk
from app.journal.documents import decode_record, encode_document
from app.journal.journal import Journal, in_thread
from app.journal.journal_format import HEAD_SIZE, Damage
from app.journal.recovery import count_kept_damage, scan
from app.journal.segment_log import JournalPolicy
from app.journal.segments import EntryReader
from app.journal.slots import Slot, adopt_slot, is_owned, orphans, read_identity, segment_names, slot_names
from app.records.records import SequencedRecord

log = logging.getLogger(__name__)

BATCH_SIZE = 500


class RecordStore(Protocol):
    """Where records are booked, for one writer id; repeating a batch must change nothing.

    A boundary: the journal knows no database.
    """

    def apply(self, batch: Sequence[SequencedRecord]) -> Any:
        """Book the batch. Raises `StoreUnavailable`; anything else is one record's fault."""

    def put_aside(self, record: SequencedRecord, reason: str) -> Any:
        """Keep a record that cannot be booked, with the reason."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was done with an orphaned slot; `is_booked` False: something is left for another time."""

    slot: str
    records: int
    interrupted: int
    damaged: int
    is_booked: bool


@dataclass(frozen=True, slots=True)
class SlotReport:
    """A slot as `weir journal status` shows it; times in epoch milliseconds (0: none), sizes in bytes.

    A slot that is in use changes while it is looked at, so its figures are of about now.
    """

    slot: str
    writer_id: str | None
    is_owned: bool
    bytes: int
    segments: int
    unbooked: int
    open_requests: int
    oldest_ms: int
    damaged: int


def survey(root: str, disk: Disk | None = None) -> list[SlotReport]:
    """Look at all slots, changing nothing; raises OSError."""
    disk = disk or RealDisk()
    reports = []
    for name in slot_names(root, disk):
        directory = os.path.join(root, name)
        identity = read_identity(disk, directory)
        writer_id = identity.writer_id if identity else None
        contents = scan(disk, directory, writer_id)
        reports.append(
            SlotReport(
                slot=name,
                writer_id=writer_id,
                is_owned=is_owned(root, name),
                bytes=contents.bytes,
                segments=len(contents.segments),
                unbooked=contents.unbooked,
                open_requests=len(contents.opens),
                oldest_ms=contents.oldest_ms,
                damaged=count_kept_damage(disk, directory),
            )
        )
    return reports


def replay(
    root: str,
    books_for: Callable[[str], RecordStore],
    *,
    policy: JournalPolicy | None = None,
    disk: Disk | None = None,
) -> list[Adopted]:
    """Settle every orphaned slot; `books_for` makes the books of a writer id.

    Raises `StoreUnavailable` and OSError, with nothing lost: what is left can be replayed again. Meant both
    for `weir journal replay` and for a worker that looks for orphans now and then: there may be gigabytes to
    read, so only the calling greenlet waits for the disk.
    """
    in_threads = DiskInThreads(disk or RealDisk(), in_thread)
    done = []
    for name in orphans(root, in_threads):
        slot = adopt_slot(root, name, in_threads)
        if slot is not None:
            done.append(book_slot(slot, books_for, policy=policy, run_blocking=_call))
    return done


def _call(work: Callable[..., Any], *args: Any) -> Any:
    # Of what may block, only the disk's part does, and that goes to a thread by itself.
    return work(*args)


def book_slot(
    slot: Slot,
    books_for: Callable[[str], RecordStore],
    *,
    policy: JournalPolicy | None = None,
    batch_size: int = BATCH_SIZE,
    **journal_options: Any,
) -> Adopted:
    """Book all an owned slot holds and give it back; raises `StoreUnavailable` and OSError."""
    journal = Journal(slot, policy, **journal_options)
    records = 0
    try:
        unbooked = journal.recover()
        for item in unbooked.interrupted:
            # Refused ones stay open in the slot, which then stays an orphan.
            journal.append_close(item.request_id, encode_document(item.document)[1])
        journal.sync()
        reader = journal.unbooked_reader()
        while reader is not None and not reader.is_at_end:
            batch = _next_batch(journal, reader, batch_size)
            if batch:
                _book(books_for(reader.segment.writer_id), batch)
                journal.ack(batch[-1].seq)
                records += len(batch)
            journal.pause()
    finally:
        journal.close()
    is_booked = not segment_names(slot.disk, slot.directory)
    adopted = Adopted(slot.name, records, journal.counts.interrupted, journal.counts.damaged, is_booked)
    log.info("an abandoned journal was booked: %s", adopted)
    return adopted


def _next_batch(journal: Journal, reader: EntryReader, size: int) -> list[SequencedRecord]:
    """Read the next records, all written under one writer id."""
    batch = []
    for entry, place in reader.read(size):
        if entry.seq <= journal.acked:
            continue
        try:
            document = decode_record(entry.document)
            batch.append(SequencedRecord(entry.seq, document, encoded=entry.document))
        except ValueError:
            length = HEAD_SIZE + len(entry.document)
            journal.note_damage(place.segment, Damage(place.offset, length, False))
    return batch


def _book(books: RecordStore, batch: list[SequencedRecord]) -> None:
    """Book a batch; records that nobody can book are put aside."""

    def is_refusal(error: Exception) -> bool:
        if isinstance(error, StoreUnavailable):
            return False
        log.error("booking %d records failed unexpectedly", len(pieces[0]), exc_info=error)
        return True

    def put_aside(record: SequencedRecord, error: Exception) -> None:
        books.put_aside(record, f"{type(error).__name__}: {error}")

    pieces = deque[Sequence[SequencedRecord]]([batch])
    isolate(pieces, books.apply, is_refusal, put_aside)
