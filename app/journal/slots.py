"""Slots: the directories `journal/<number>/`, each owned by one process at a time, and who writes in them.

A slot's `writer_id` and record numbers are what makes booking idempotent, so two things must never happen:
a number used twice under one writer id, and one writer id used in two places. Hence

- numbers start, at every takeover, above everything that may have been used: above a ceiling that is written
  durably *before* numbers below it are used, above what the segments hold, and above the clock in
  microseconds (a directory restored from a backup knows an old ceiling only);
- the identity names the file system object and the machine it was made for. A copied or restored slot is
  not continued under its old writer id; what it holds is booked, then it gets a new one.
"""

import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from app.common.file_lock import FileLock, is_locked
from app.journal.disk import Disk, RealDisk
from app.journal.segments import SEGMENT_SUFFIX, read_header

SEQ_BLOCK = 1 << 20
"""How many record numbers are reserved at a time."""

# The identity is kept twice, a disk sector each, so that a torn write spoils one copy at most.
_COPY_SIZE = 512

_LOCK = "lock"
_IDENTITY = "identity"
_SLOT_NAME = re.compile(r"[0-9]{4}")
_MAX_SLOTS = 10_000
_MAX_PROBLEMS = 3
_MACHINE_ID = "/etc/machine-id"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who writes in a slot; `ceiling` is above every number used, `home` where this identity is valid."""

    writer_id: str
    ceiling: int
    home: str
    generation: int = 0

    def encode(self) -> bytes:
        """Encode the identity as one sector of text: a checksum, then JSON."""
        body = json.dumps([self.writer_id, self.ceiling, self.home, self.generation])
        return f"{crc32(body.encode()):08x} {body}".ljust(_COPY_SIZE - 1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> "Identity | None":
        """Read an encoded identity; None when it is damaged."""
        text = data.decode("ascii", "replace").strip()
        check, _, body = text.partition(" ")
        if check != f"{crc32(body.encode()):08x}" or not body:
            return None
        writer_id, ceiling, home, generation = json.loads(body)
        return cls(writer_id, ceiling, home, generation)


class Slot:
    """An owned slot: its directory, its writer id, and the source of record numbers.

    `is_placed` is False for a slot that has no directory because none could be had: everything written to
    it fails, so that records are kept in memory only.
    """

    def __init__(
        self,
        disk: Disk,
        directory: str,
        identity: Identity,
        *,
        lock: FileLock | None = None,
        is_placed: bool = True,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.disk = disk
        self.directory = directory
        self.is_placed = is_placed
        self._identity = identity
        self._lock = lock
        self._wall_clock = wall_clock
        self._next_seq = identity.ceiling
        self._has_begun = False

    def __repr__(self) -> str:
        return f"Slot({self.name}, {self.writer_id}, next={self._next_seq})"

    @property
    def name(self) -> str:
        """The directory's name."""
        return os.path.basename(self.directory)

    @property
    def writer_id(self) -> str:
        """The id under which records written here are booked."""
        return self._identity.writer_id

    @property
    def last_seq(self) -> int:
        """The highest number taken."""
        return self._next_seq - 1

    @property
    def is_running_low(self) -> bool:
        """Whether `reserve` is due. Until it succeeds numbers go on: they are only less well protected."""
        return self._next_seq + SEQ_BLOCK // 2 > self._identity.ceiling

    def begin(self, highest_seen: int) -> None:
        """Make numbers start above `highest_seen` and all that was ever used; raises OSError as `reserve`."""
        if not self._has_begun:
            self._has_begun = True
            micros = int(self._wall_clock() * 1e6)
            self._next_seq = max(self._identity.ceiling, highest_seen + 1, micros)
            self.reserve()

    def take_seq(self) -> int:
        """Take the next number; strictly increasing, never used before."""
        seq = self._next_seq
        self._next_seq = seq + 1
        return seq

    def reserve(self) -> None:
        """Raise the ceiling durably; raises OSError. It may wait for the disk."""
        old = self._identity
        new = Identity(old.writer_id, self._next_seq + SEQ_BLOCK, old.home, old.generation + 1)
        _store_identity(self.disk, self.directory, new)
        self._identity = new

    def release(self) -> None:
        """Let others have the slot. Idempotent."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def acquire_slot(root: str, disk: Disk | None = None, wall_clock: Callable[[], float] = time.time) -> Slot:
    """Own the lowest free slot under `root`, or a new one; raises OSError when there can be none.

    Slots whose content belongs to another writer id (copied, restored or damaged ones) are left to
    `adopt_slot`.
    """
    disk = disk or RealDisk()
    disk.make_directory(root)
    problems: list[OSError] = []
    for number in range(_MAX_SLOTS):
        directory = os.path.join(root, f"{number:04}")
        try:
            disk.make_directory(directory)
            slot = _try_own(directory, disk, wall_clock, adopt=False)
        except OSError as error:
            # A damaged directory must not keep the worker from starting; a full disk fails everywhere.
            problems.append(error)
            if len(problems) > _MAX_PROBLEMS:
                break
            continue
        if slot is not None:
            return slot
    raise problems[0] if problems else OSError(f"all {_MAX_SLOTS} slots under {root} are taken")


def adopt_slot(
    root: str, name: str, disk: Disk | None = None, wall_clock: Callable[[], float] = time.time
) -> Slot | None:
    """Own a slot to book what it holds, whoever wrote it; return None when someone else owns it."""
    return _try_own(os.path.join(root, name), disk or RealDisk(), wall_clock, adopt=True)


def in_memory_slot(wall_clock: Callable[[], float] = time.time) -> Slot:
    """Make a slot for a worker that could get none: it has numbers and a writer id, and nothing on disk."""
    identity = Identity(new_writer_id(), int(wall_clock() * 1e6), "")
    return Slot(RealDisk(), "/nonexistent/journal", identity, is_placed=False, wall_clock=wall_clock)


def slot_names(root: str, disk: Disk | None = None) -> list[str]:
    """List the slots under `root`, lowest first; none when there is no such directory."""
    try:
        names = (disk or RealDisk()).list(root)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if _SLOT_NAME.fullmatch(name))


def orphans(root: str, disk: Disk | None = None) -> list[str]:
    """List the free slots that may hold something unbooked, for `adopt_slot`."""
    disk = disk or RealDisk()
    return [
        name
        for name in slot_names(root, disk)
        if segment_names(disk, os.path.join(root, name)) and not is_owned(root, name)
    ]


def is_owned(root: str, name: str) -> bool:
    """Return whether some process owns the slot now.

    A worker that looks for a slot in this very moment may pass over it, which does no harm.
    """
    return is_locked(Path(root, name, _LOCK))


def segment_names(disk: Disk, directory: str) -> list[str]:
    """List the file names of a slot's segments, oldest first."""
    try:
        names = disk.list(directory)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if name.endswith(SEGMENT_SUFFIX))


def new_writer_id() -> str:
    """Make an id no other writer has, on any host, in the form the store's field names allow."""
    host = re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname().split(".")[0])[:20]
    return f"j-{host}-{secrets.token_hex(6)}"


def read_identity(disk: Disk, directory: str) -> Identity | None:
    """Read the newer of the two copies that is intact; None when neither is."""
    try:
        data = disk.read(os.path.join(directory, _IDENTITY), 0, 2 * _COPY_SIZE)
    except FileNotFoundError:
        return None
    copies = [Identity.decode(data[at : at + _COPY_SIZE]) for at in (0, _COPY_SIZE)]
    return max((copy for copy in copies if copy), key=lambda copy: copy.generation, default=None)


def open_slot(
    disk: Disk,
    directory: str,
    home: str,
    *,
    adopt: bool,
    lock: FileLock | None = None,
    wall_clock: Callable[[], float] = time.time,
) -> Slot | None:
    """Open the slot in a directory the caller has locked; None when it is not the caller's to continue.

    With `adopt` it always is, under a new writer id where the old one must not be continued.
    """
    identity = read_identity(disk, directory)
    writers = set(_writers(disk, directory))
    is_ours = identity is not None and identity.home == home
    if identity is not None and is_ours and writers <= {identity.writer_id}:
        return Slot(disk, directory, identity, lock=lock, wall_clock=wall_clock)
    if writers and not adopt:
        return None
    if identity is None or not is_ours:
        generation = identity.generation if identity else 0
        identity = Identity(new_writer_id(), 1, home, generation + 1)
        _store_identity(disk, directory, identity)
    return Slot(disk, directory, identity, lock=lock, wall_clock=wall_clock)


def _try_own(directory: str, disk: Disk, wall_clock: Callable[[], float], *, adopt: bool) -> Slot | None:
    # A forked child closes its copy of the lock's descriptor, an executed program does not inherit it.
    lock = FileLock(Path(directory, _LOCK))
    if not lock.try_acquire():
        return None
    try:
        home = f"{_machine_id()}:{disk.inode(os.path.join(directory, _LOCK))}"
        slot = open_slot(disk, directory, home, adopt=adopt, lock=lock, wall_clock=wall_clock)
    except BaseException:
        lock.release()
        raise
    if slot is None:
        lock.release()
    return slot


def _writers(disk: Disk, directory: str) -> Iterator[str]:
    """Read who wrote the segments, as far as headers tell (a power loss may leave a segment without)."""
    for name in segment_names(disk, directory):
        header = read_header(disk, os.path.join(directory, name))
        if header is not None:
            yield header.writer_id


def _store_identity(disk: Disk, directory: str, identity: Identity) -> None:
    offset = (identity.generation % 2) * _COPY_SIZE
    disk.overwrite(os.path.join(directory, _IDENTITY), offset, identity.encode())
    if identity.generation <= 1:
        disk.sync_directory(directory)
        disk.sync_directory(os.path.dirname(directory))


def _machine_id() -> str:
    """Return what tells machines apart, where the system has it; containers often do not: no harm."""
    try:
        with open(_MACHINE_ID, encoding="ascii", errors="replace") as file:
            return file.read(64).strip()
    except OSError:
        return ""
