"""Where the workers of one gunicorn leave their counts and states: a directory that lasts as long as they do.

`DATA_DIR/metrics/<name>/` belongs to one master, and `<name>.lock` beside it is locked as long as it lives;
what nobody has locked is removed at the next start. In it each worker owns a slot:

    slot_3.lock      locked by its worker; the kernel lets go when the worker dies, however that happens
    counts_3.db      the counts of the worker and the slot's earlier owners (`app.metrics.series`)
    status_3.json    the worker's state of a second ago (`app.metrics.status`)
    watched          touched while a window of the dashboard follows the traffic

There are therefore never more files than there were workers at the same time, and no count is in two of them.
"""

import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from app.common.file_lock import FileLock

MAX_SLOTS = 1024

WATCHED_S = 5.0
"""How long workers tell what they do after somebody looked."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MetricsSlot:
    """A worker's place; it is the worker's own until the process ends."""

    number: int
    counts: Path
    status: Path
    lock: FileLock


class MetricsDirectory:
    """The directory of one master and its workers; made by the master, before it forks."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock = lock
        self._watched = path / "watched"

    def __repr__(self) -> str:
        return f"MetricsDirectory({str(self.path)!r})"

    @classmethod
    def create(cls, root: Path) -> Self:
        """Make a fresh directory under `root`; remove those of masters that are gone. Raises OSError."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_abandoned(root)
        while True:
            path = root / f"{os.getpid()}-{secrets.token_hex(4)}"
            lock = FileLock(_lock_of(path))
            # Another master that is starting may have taken the fresh lock for an abandoned one.
            if lock.try_acquire() and lock.path.exists():
                path.mkdir(mode=0o700)
                return cls(path, lock)
            lock.release()

    def claim(self) -> MetricsSlot:
        """Claim the first slot that nobody owns, with what its last owner counted. Raises OSError."""
        for number in range(MAX_SLOTS):
            lock = FileLock(self.path / f"slot_{number}.lock")
            if lock.try_acquire():
                status = self.path / f"status_{number}.json"
                status.unlink(missing_ok=True)
                return MetricsSlot(number, self.path / f"counts_{number}.db", status, lock)
        raise OSError(f"{self.path}: all {MAX_SLOTS} slots are taken")

    def release(self, slot: MetricsSlot) -> None:
        """Give a slot back; its counts stay."""
        slot.status.unlink(missing_ok=True)
        slot.lock.release()

    def watch(self) -> None:
        """Note that somebody follows what the workers do. Raises OSError."""
        self._watched.touch()

    def is_watched(self, now: float) -> bool:
        """Return whether somebody has followed just now; `now` is epoch seconds."""
        try:
            return abs(now - self._watched.stat().st_mtime) < WATCHED_S
        except OSError:
            return False

    def counts(self) -> Iterator[Path]:
        """Iterate over the files of counts."""
        yield from self.path.glob("counts_*.db")

    def states(self) -> Iterator[Path]:
        """Iterate over the files of states."""
        yield from self.path.glob("status_*.json")

    def remove(self) -> None:
        """Remove the directory: the workers are gone. Never raises."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.path.unlink(missing_ok=True)
        self._lock.release()


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _remove_abandoned(root: Path) -> None:
    for path in root.glob("*.lock"):
        lock = FileLock(path)
        try:
            if lock.try_acquire():
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: old counts were not removed: %s", path, error)
        finally:
            lock.release()
