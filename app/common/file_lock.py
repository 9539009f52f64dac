"""File locks that end with the process that took them."""

import fcntl
import os
import weakref
from pathlib import Path


class FileLock:
    """An advisory `flock` on a file that is created when missing and never removed.

    The kernel gives it back when the process dies, however it dies. A forked child does not keep it: a flock
    belongs to the open file, so gunicorn's workers would otherwise hold the lock of a master long gone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object, in this process, holds the lock."""
        return self._fd is not None

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take the lock if it is free, without waiting. Raises OSError if the file cannot be opened."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        _live.add(self)
        return True

    def note(self, text: str) -> None:
        """Leave a word in the file on who holds it, for the messages of those who wait."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text.encode(), 0)

    def read_note(self) -> str:
        """Return the note the holder left; empty if nothing can be read."""
        try:
            return self.path.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


_live: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for lock in list(_live):
        lock.release()  # closes the child's copy only: the parent's file stays open, and locked


os.register_at_fork(after_in_child=_forget_in_child)


def is_locked(path: Path) -> bool:
    """Return whether some process holds an exclusive flock on the file; False if there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
