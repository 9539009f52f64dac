"""Settling what processes that are gone left behind: slots nobody owns, whoever wrote in them."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.adapters.journal.disk import Disk, DiskInThreads, RealDisk
from app.adapters.journal.documents import decode_record, encode_document
from app.adapters.journal.journal import Journal, in_thread
from app.adapters.journal.recovery import count_kept_damage, scan
from app.adapters.journal.segment_log import JournalPolicy
from app.adapters.journal.segments import EntryReader
from app.adapters.journal.slots import (
    Slot,
    adopt_slot,
    is_owned,
    orphans,
    read_identity,
    segment_names,
    slot_names,
)
from app.core.journal_format import HEAD_SIZE, Damage
from app.core.ports import StoreUnavailable
from app.core.records import SequencedRecord

log = logging.getLogger(__name__)

BATCH_SIZE = 500


class Books(Protocol):
    """Where records are booked, for one writer id; repeating a batch must change nothing."""

    def apply(self, batch: Sequence[SequencedRecord]) -> Any:
        """Book the batch. Raises `StoreUnavailable`; anything else is one record's fault."""

    def put_aside(self, record: SequencedRecord, reason: str) -> Any:
        """Keep a record that cannot be booked, with the reason."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was done with an orphaned slot; `is_settled` False: something is left for another time."""

    slot: str
    records: int
    interrupted: int
    damaged: int
    is_settled: bool


@dataclass(frozen=True, slots=True)
class SlotReport:
    """A slot as `flask journal status` shows it; times in epoch milliseconds (0: none), sizes in bytes.

    A slot that is in use changes while it is looked at, so its figures are of about now.
    """

    slot: str
    writer_id: str | None
    is_owned: bool
    bytes: int
    segments: int
    unsettled: int
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
                unsettled=contents.unsettled,
                open_requests=len(contents.opens),
                oldest_ms=contents.oldest_ms,
                damaged=count_kept_damage(disk, directory),
            )
        )
    return reports


def replay(
    root: str,
    books_for: Callable[[str], Books],
    *,
    policy: JournalPolicy | None = None,
    disk: Disk | None = None,
) -> list[Adopted]:
    """Settle every orphaned slot; `books_for` makes the books of a writer id.

    Raises `StoreUnavailable` and OSError, with nothing lost: what is left can be replayed again. Meant both
    for `flask journal replay` and for a worker that looks for orphans now and then: there may be gigabytes to
    read, so only the calling greenlet waits for the disk.
    """
    in_threads = DiskInThreads(disk or RealDisk(), in_thread)
    done = []
    for name in orphans(root, in_threads):
        slot = adopt_slot(root, name, in_threads)
        if slot is not None:
            done.append(settle_slot(slot, books_for, policy=policy, run_blocking=_call))
    return done


def _call(work: Callable[..., Any], *args: Any) -> Any:
    # Of what may block, only the disk's part does, and that goes to a thread by itself.
    return work(*args)


def settle_slot(
    slot: Slot,
    books_for: Callable[[str], Books],
    *,
    policy: JournalPolicy | None = None,
    batch_size: int = BATCH_SIZE,
    **journal_options: Any,
) -> Adopted:
    """Book all an owned slot holds and give it back; raises `StoreUnavailable` and OSError."""
    journal = Journal(slot, policy, **journal_options)
    records = 0
    try:
        unsettled = journal.recover()
        for item in unsettled.interrupted:
            # Refused ones stay open in the slot, which then stays an orphan.
            journal.append_close(item.request_id, encode_document(item.document)[1])
        journal.sync()
        reader = journal.unsettled_reader()
        while reader is not None and not reader.is_at_end:
            batch = _next_batch(journal, reader, batch_size)
            if batch:
                _book(books_for(reader.segment.writer_id), batch)
                journal.ack(batch[-1].seq)
                records += len(batch)
            journal.pause()
    finally:
        journal.close()
    is_settled = not segment_names(slot.disk, slot.directory)
    adopted = Adopted(slot.name, records, journal.counts.interrupted, journal.counts.damaged, is_settled)
    log.info("an abandoned journal was settled: %s", adopted)
    return adopted


def _next_batch(journal: Journal, reader: EntryReader, size: int) -> list[SequencedRecord]:
    """The next records, all written under one writer id."""
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


def _book(books: Books, batch: list[SequencedRecord]) -> None:
    """Book a batch; a record that nobody can book is found by halving, and put aside."""
    try:
        books.apply(batch)
    except StoreUnavailable:
        raise
    except Exception as error:
        log.exception("booking %d records failed unexpectedly", len(batch))
        if len(batch) == 1:
            books.put_aside(batch[0], f"{type(error).__name__}: {error}")
            return
        middle = len(batch) // 2
        _book(books, batch[:middle])
        _book(books, batch[middle:])
