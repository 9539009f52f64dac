"""Counts of one worker, each held in memory and written through to a file that outlives it.

The file has the format of prometheus_client's multiprocess mode (a memory-mapped list of names and doubles),
so a count survives `kill -9` at the moment it is made, without any system call. prometheus_client's own
counters take many times as long, and keep one file for every worker that ever died; here the next worker
takes over the file of a dead one and counts on from its values (`app.metrics.directory`).
"""

import json
import logging
import os
from array import array
from pathlib import Path
from typing import Any, TypeAlias

from prometheus_client import mmap_dict

# Size of a worker's file: some 20,000 series. Its disk space is reserved when it is made: writing into a
# mapped hole of a full disk kills the process.
FILE_BYTES = 2 * 1024 * 1024

Series = tuple[str, tuple[str, ...], str]
"""A metric's name, its label values, and the part of a histogram (`""` for a counter)."""

_ValueFile: Any = mmap_dict.MmapedDict  # it has no types

Doubles: TypeAlias = "array[float] | memoryview[float]"
_DOUBLE = 8
_NOWHERE: Doubles = array("d", [0.0])
"""Where a count is kept that is in memory only."""

_ENTRY_OVERHEAD = 32
_FILE_HEAD = 8

log = logging.getLogger(__name__)


def encode_series(series: Series) -> str:
    """Encode the series as its name in the file."""
    name, labels, part = series
    return json.dumps([name, list(labels), part])


def decode_series(key: str) -> Series:
    """Decode the series from its name in the file; raises ValueError."""
    name, labels, part = json.loads(key)
    return name, tuple(labels), part


def read_series(path: Path) -> dict[Series, float]:
    """Read the counts in a file, also while its worker counts on; raises OSError or ValueError."""
    if path.stat().st_size == 0:
        return {}
    return {decode_series(key): value for key, value, *_ in _ValueFile.read_all_values_from_file(str(path))}


class Cell:
    """One count, kept in memory and as a double in `kept`, at `index`. It only grows."""

    __slots__ = ("index", "kept", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.place(_NOWHERE, 0)

    def place(self, kept: Doubles, index: int) -> None:
        """Keep the count there from now on."""
        self.kept = kept
        self.index = index
        kept[index] = self.value

    def add(self, amount: float) -> None:
        """Count. Takes a tenth of a microsecond."""
        self.value = self.kept[self.index] = self.value + amount


class SeriesStore:
    """All counts of this process: in memory until `attach`, from then on in the file too."""

    def __init__(self) -> None:
        self._cells: dict[Series, Cell] = {}
        self._file: Any = None
        self._doubles: Doubles = _NOWHERE
        self._room = 0
        self._is_full = False

    def cell(self, name: str, labels: tuple[str, ...] = (), part: str = "") -> Cell:
        """Return this name's count, made at the first call; keep it, for the look-up is the slow part."""
        series = (name, labels, part)
        cell = self._cells.get(series)
        if cell is None:
            cell = self._cells[series] = Cell()
            self._place(series, cell)
        return cell

    def values(self) -> dict[Series, float]:
        """Return what is counted so far."""
        return {series: cell.value for series, cell in self._cells.items()}

    def total(self, name: str) -> float:
        """Return the sum of what is counted under a name."""
        return sum(cell.value for (found, _, _), cell in list(self._cells.items()) if found == name)

    def attach(self, path: Path) -> None:
        """Keep the counts in this file from now on, adding to what is in it. Raises OSError."""
        _reserve(path)
        file = _ValueFile(str(path))
        self._file = file
        # The file does not grow, so this stays where its values are.
        self._doubles = memoryview(file._m).cast("d")
        self._room = FILE_BYTES - _FILE_HEAD
        for key, value, _ in list(file.read_all_values()):
            self._room -= _entry_size(key)
            cell = self._cells.setdefault(decode_series(key), Cell())
            cell.value += value
            self._keep(cell, key)
        for series, cell in self._cells.items():
            self._place(series, cell)

    def close(self) -> None:
        """Let go of the file; the counts stay in memory. Idempotent."""
        if self._file is not None:
            for cell in self._cells.values():
                cell.place(_NOWHERE, 0)
            if isinstance(self._doubles, memoryview):
                self._doubles.release()
            self._file.close()
            self._file = None

    def _place(self, series: Series, cell: Cell) -> None:
        """Give the cell its place in the file, where there is room: the file must never grow."""
        if self._file is None or cell.kept is not _NOWHERE:
            return
        key = encode_series(series)
        size = _entry_size(key)
        if size > self._room:
            if not self._is_full:
                log.error("the file of counts is full: further series are this worker's alone")
            self._is_full = True
            return
        self._room -= size
        self._keep(cell, key)

    def _keep(self, cell: Cell, key: str) -> None:
        """Keep the cell at its name's place in the file; make the place if there is none."""
        self._file.read_value(key)
        cell.place(self._doubles, self._file._positions[key] // _DOUBLE)


def _entry_size(key: str) -> int:
    return len(key.encode()) + _ENTRY_OVERHEAD


def _reserve(path: Path) -> None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(handle, 0, FILE_BYTES)
    finally:
        os.close(handle)
