"""Simulated disks and stores for the journal's tests: they fail, fill up and forget as real ones do."""

import errno
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from app.common.errors import StoreUnavailable
from app.journal.journal import Journal
from app.journal.journaled_queue import JournaledQueue
from app.journal.segment_log import JournalPolicy
from app.journal.slots import open_slot
from app.records.records import SequencedRecord

ROOT = "/data/journal"
SLOT = f"{ROOT}/0000"


@dataclass
class ModelFile:
    """A file: what programs see, what the platters hold, and the writes in between."""

    inode: int
    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[tuple[int, bytes]] = field(default_factory=list)  # offset, bytes; -1: everything anew

    def settle(self) -> None:
        self.durable = bytes(self.data)
        self.pending = []

    def after_power_loss(self, random: Random) -> None:
        """Any subset of what was not synced arrived, in pieces, with holes of zeros or of old blocks."""
        data = bytearray(self.durable)
        for offset, piece in self.pending:
            fate = random.randrange(4)
            if fate == 0:
                continue
            kept = piece if fate == 1 else piece[: random.randrange(len(piece) + 1)]
            if fate == 3 and kept:
                noisy = bytearray(kept)
                noisy[random.randrange(len(noisy))] ^= 1 << random.randrange(8)
                kept = bytes(noisy)
            if len(data) < offset + len(kept):
                data.extend(bytes(offset + len(kept) - len(data)))
            data[offset : offset + len(kept)] = kept
        self.data = data
        self.settle()


class ModelDisk:
    """A `Disk` in memory. `room` is how many bytes may still be written, None for any number."""

    def __init__(self) -> None:
        self.names: dict[str, ModelFile] = {}
        self.durable_names: dict[str, ModelFile] = {}
        self.pending_names: list[tuple[str, ModelFile | None]] = []
        self.open_files: dict[int, ModelFile] = {}
        self.directories: set[str] = set()
        self.room: int | None = None
        self.fails_to_sync = False
        self.read_error: int | None = None
        self.overwrite_error: int | None = None
        self.cut_error: int | None = None
        self.bad_spots: set[int] = set()
        self.fails_to_truncate = False
        self._numbers = itertools.count(3)

    def list(self, directory: str) -> list[str]:
        prefix = directory + "/"
        found = {path[len(prefix) :].split("/")[0] for path in self.names if path.startswith(prefix)}
        if not found and directory not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "no such directory", directory)
        return list(found)

    def make_directory(self, path: str) -> None:
        self.directories.add(path)

    def create(self, path: str) -> int:
        if path in self.names:
            raise FileExistsError(errno.EEXIST, "exists", path)
        fd = next(self._numbers)
        self.names[path] = self.open_files[fd] = ModelFile(fd)
        self.pending_names.append((path, self.names[path]))
        return fd

    def write(self, fd: int, data: bytes) -> int:
        taken = self._take_room(len(data))
        if data and not taken:
            raise OSError(errno.ENOSPC, "disk full")
        file = self.open_files[fd]
        file.pending.append((len(file.data), data[:taken]))
        file.data += data[:taken]
        return taken

    def truncate(self, fd: int, size: int) -> None:
        if self.fails_to_truncate:
            raise OSError(errno.EIO, "cannot truncate")
        file = self.open_files[fd]
        self._give_room(len(file.data) - size)
        del file.data[size:]
        file.durable = file.durable[:size]
        file.pending = [(offset, piece[: size - offset]) for offset, piece in file.pending if offset < size]

    def sync(self, fd: int) -> None:
        if self.fails_to_sync:
            raise OSError(errno.EIO, "cannot sync")
        self.open_files[fd].settle()

    def close(self, fd: int) -> None:
        del self.open_files[fd]

    def sync_directory(self, path: str) -> None:
        for name, file in self.pending_names:
            self._apply_name(name, file)
        self.pending_names = []

    def read(self, path: str, offset: int, count: int) -> bytes:
        if self.read_error is not None:
            raise OSError(self.read_error, "cannot read", path)
        if any(offset <= at < offset + count for at in self.bad_spots):
            raise OSError(errno.EIO, "bad spot", path)
        return bytes(self._file(path).data[offset : offset + count])

    def size(self, path: str) -> int:
        return len(self._file(path).data)

    def inode(self, path: str) -> int:
        return self._file(path).inode

    def cut(self, path: str, size: int) -> None:
        if self.cut_error is not None:
            raise OSError(self.cut_error, "cannot cut", path)
        file = self._file(path)
        self._give_room(len(file.data) - size)
        del file.data[size:]
        file.settle()

    def overwrite(self, path: str, offset: int, data: bytes) -> None:
        if self.overwrite_error is not None:
            raise OSError(self.overwrite_error, "cannot overwrite", path)
        file = self.names.get(path)
        if file is None:
            file = self.names[path] = ModelFile(next(self._numbers))
            self.pending_names.append((path, file))
        if len(file.data) < offset + len(data):
            file.data.extend(bytes(offset + len(data) - len(file.data)))
        file.data[offset : offset + len(data)] = data
        file.settle()

    def remove(self, path: str) -> None:
        file = self.names.pop(path, None)
        if file is not None:
            self._give_room(len(file.data))
            self.pending_names.append((path, None))

    def kill_process(self) -> None:
        """The process is gone; all it wrote is in the page cache."""
        self.open_files.clear()

    def lose_power(self, random: Random) -> None:
        """Only what was synced is certain; of the rest anything may have arrived."""
        self.open_files.clear()
        for name, file in self.pending_names:
            if random.random() < 0.5:
                self._apply_name(name, file)
        self.pending_names = []
        self.names = dict(self.durable_names)
        for file in self.names.values():
            file.after_power_loss(random)

    def _apply_name(self, name: str, file: ModelFile | None) -> None:
        if file is None:
            self.durable_names.pop(name, None)
        else:
            self.durable_names[name] = file

    def _file(self, path: str) -> ModelFile:
        try:
            return self.names[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", path) from None

    def _take_room(self, wanted: int) -> int:
        if self.room is None:
            return wanted
        taken = min(wanted, self.room)
        self.room -= taken
        return taken

    def _give_room(self, freed: int) -> None:
        if self.room is not None:
            self.room += freed


class ModelClock:
    """Wall and monotonic time that only moves when told, or a millisecond at each look."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@dataclass
class Note:
    """Stands in for an `ExchangeRecord` of a request that went upstream: the queue asks for no more."""

    request_id: str
    kept: object = None
    attempts: tuple[str, ...] = ("an attempt",)
    count: int = 1

    def facts(self) -> dict[str, object]:
        return {"_id": self.request_id, "costNanoUsd": 0}

    def ending(self) -> dict[str, object]:
        return {"outcome": "ok"}


class ModelBooks:
    """Books as `Booking` keeps them: inserts are idempotent, a number counts once per writer."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.charged: Counter[str] = Counter()
        self.markers: dict[str, int] = {}
        self.is_down = False

    def for_writer(self, writer_id: str) -> "WriterBooks":
        return WriterBooks(self, writer_id)


@dataclass
class WriterBooks:
    books: ModelBooks
    writer_id: str

    def apply(self, batch: Sequence[SequencedRecord]) -> None:
        if self.books.is_down:
            raise StoreUnavailable("down")
        marker = self.books.markers.get(self.writer_id, 0)
        seqs = [record.seq for record in batch]
        assert seqs == sorted(set(seqs)), "records must come in the order of their numbers"
        for record in batch:
            request_id = record.document["_id"]
            self.books.outcomes.setdefault(request_id, record.document["outcome"])
            if record.seq > marker:
                self.books.charged[request_id] += 1
                marker = record.seq
        self.books.markers[self.writer_id] = marker

    def put_aside(self, record: SequencedRecord, reason: str) -> None:
        raise AssertionError(reason)


class Process:
    """A worker's journal and queue on a model disk, driven by hand."""

    def __init__(
        self, disk: ModelDisk, clock: ModelClock, *, memory: int = 4, policy: JournalPolicy | None = None
    ) -> None:
        slot = open_slot(disk, SLOT, "home", adopt=False, wall_clock=clock)
        assert slot is not None
        self.slot = slot
        self.journal = Journal(
            slot,
            policy or JournalPolicy(segment_bytes=500),
            run_blocking=lambda work, *args: work(*args),
            pause=lambda: None,
            wall_clock=clock,
        )
        self.queue = JournaledQueue(memory, clock=clock, wall_clock=clock)
        self.queue.attach(self.journal)
        self.last_taken = 0

    def take(self, count: int) -> list[SequencedRecord]:
        records = self.queue.take(count, 0)
        for record in records:
            assert record.seq > self.last_taken
            self.last_taken = record.seq
        return records

    def book(self, books: ModelBooks, count: int, *, ack: bool = True) -> int:
        records = self.take(count)
        if records:
            books.for_writer(self.slot.writer_id).apply(records)
            if ack:
                self.queue.acked(records[-1].seq)
        return len(records)

    def drain(self, books: ModelBooks) -> None:
        while len(self.queue):
            assert self.book(books, 7)


def segment_paths(disk: ModelDisk) -> list[str]:
    return sorted(path for path in disk.names if os.path.basename(path).endswith(".seg"))
