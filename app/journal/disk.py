"""The file operations the journal is made of, in one place so that tests can make a disk fail or forget."""

import contextlib
import os
from collections.abc import Callable
from typing import Any, Protocol


class Disk(Protocol):
    """Files and directories by path: real, or in threads. Every method raises OSError."""

    def list(self, directory: str) -> list[str]:
        """List the names in a directory, in no particular order."""

    def make_directory(self, path: str) -> None:
        """Create a directory (0700) and its parents; it may exist."""

    def create(self, path: str) -> int:
        """Create a file (0600) that must not exist and return a descriptor that only appends."""

    def write(self, fd: int, data: bytes) -> int:
        """Append; return how many bytes were taken, which can be fewer than given."""

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to this many bytes."""

    def sync(self, fd: int) -> None:
        """Return once the file's content survives a power loss."""

    def close(self, fd: int) -> None:
        """Give the descriptor back."""

    def sync_directory(self, path: str) -> None:
        """Return once names created in and removed from the directory survive a power loss."""

    def read(self, path: str, offset: int, count: int) -> bytes:
        """Read up to `count` bytes from `offset`; fewer only at the file's end."""

    def size(self, path: str) -> int:
        """Return the file's length in bytes."""

    def inode(self, path: str) -> int:
        """Return the file's number on its file system: a copy has another one."""

    def cut(self, path: str, size: int) -> None:
        """Cut the file to this many bytes, durably."""

    def overwrite(self, path: str, offset: int, data: bytes) -> None:
        """Write into a file in place (created when missing), durably."""

    def remove(self, path: str) -> None:
        """Remove a file; no error when it is gone already."""


class RealDisk:
    """The operating system's files."""

    write = staticmethod(os.write)
    truncate = staticmethod(os.ftruncate)
    sync = staticmethod(os.fdatasync)
    close = staticmethod(os.close)

    def list(self, directory: str) -> list[str]:
        """See `Disk`."""
        return os.listdir(directory)

    def make_directory(self, path: str) -> None:
        """See `Disk`."""
        os.makedirs(path, mode=0o700, exist_ok=True)

    def create(self, path: str) -> int:
        """See `Disk`."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW, 0o600)

    def sync_directory(self, path: str) -> None:
        """See `Disk`."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def read(self, path: str, offset: int, count: int) -> bytes:
        """See `Disk`."""
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            data = os.pread(fd, count, offset)
            while len(data) < count and (more := os.pread(fd, count - len(data), offset + len(data))):
                data += more
            return data
        finally:
            os.close(fd)

    def size(self, path: str) -> int:
        """See `Disk`."""
        return os.stat(path).st_size

    def inode(self, path: str) -> int:
        """See `Disk`."""
        return os.stat(path).st_ino

    def cut(self, path: str, size: int) -> None:
        """See `Disk`."""
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)

    def overwrite(self, path: str, offset: int, data: bytes) -> None:
        """See `Disk`."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if os.pwrite(fd, data, offset) != len(data):
                raise OSError(f"short write to {path}")
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, path: str) -> None:
        """See `Disk`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


class DiskInThreads:
    """A disk that others need not wait for: what may take long runs where `run_blocking` has it run.

    Appending does not: it takes microseconds, and a descriptor must not be closed under a thread that writes.
    """

    def __init__(self, disk: Disk, run_blocking: Callable[..., Any]) -> None:
        self._disk = disk
        self._run = run_blocking
        self.create = disk.create
        self.write = disk.write
        self.truncate = disk.truncate
        self.close = disk.close

    def list(self, directory: str) -> list[str]:
        """See `Disk`."""
        names: list[str] = self._run(self._disk.list, directory)
        return names

    def make_directory(self, path: str) -> None:
        """See `Disk`."""
        self._run(self._disk.make_directory, path)

    def sync(self, fd: int) -> None:
        """See `Disk`."""
        self._run(self._disk.sync, fd)

    def sync_directory(self, path: str) -> None:
        """See `Disk`."""
        self._run(self._disk.sync_directory, path)

    def read(self, path: str, offset: int, count: int) -> bytes:
        """See `Disk`."""
        data: bytes = self._run(self._disk.read, path, offset, count)
        return data

    def size(self, path: str) -> int:
        """See `Disk`."""
        size: int = self._run(self._disk.size, path)
        return size

    def inode(self, path: str) -> int:
        """See `Disk`."""
        number: int = self._run(self._disk.inode, path)
        return number

    def cut(self, path: str, size: int) -> None:
        """See `Disk`."""
        self._run(self._disk.cut, path, size)

    def overwrite(self, path: str, offset: int, data: bytes) -> None:
        """See `Disk`."""
        self._run(self._disk.overwrite, path, offset, data)

    def remove(self, path: str) -> None:
        """See `Disk`."""
        self._run(self._disk.remove, path)
