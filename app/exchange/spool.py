"""Where the bytes of a large request body wait: in memory while few, then in a file without a name."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

IN_MEMORY: Final = 256 * 1024
"""More bytes than this go to a file, in bytes."""
_PIECE: Final = 64 * 1024


class Spool:
    """Bytes that are written once and read as often as needed. `directory` is where the file would be.

    The file has no name (or loses it at once), so that it is gone when the process is, however it ends.
    """

    __slots__ = ("_file", "_size")

    def __init__(self, directory: Path | None = None) -> None:
        place = None if directory is None else str(directory)
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=place)  # noqa: SIM115
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def write(self, data: bytes) -> None:
        """Add bytes at the end; may raise OSError where the disk is full."""
        self._file.write(data)
        self._size += len(data)

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to `end` in pieces of bounded size."""
        while start < end:
            self._file.seek(start)
            piece = self._file.read(min(_PIECE, end - start))
            if not piece:
                return
            start += len(piece)
            yield piece

    def close(self) -> None:
        """Let go of the bytes. Idempotent."""
        self._file.close()
