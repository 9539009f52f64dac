"""Segment files: appending to one, and reading entries back across several.

A segment is named after the lowest record number it can hold, in hexadecimal, so names sort by age and none
is ever used twice. Only the process that made a segment appends to it; after a takeover a new one is begun.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from app.journal.disk import Disk
from app.journal.journal_format import (
    HEAD_SIZE,
    Damage,
    Entry,
    Frame,
    FrameKind,
    SegmentHeader,
    decode,
    decode_entry,
    decode_header,
    encode_header,
    segment_seed,
)

SEGMENT_SUFFIX = ".seg"
CHUNK = 256 * 1024
_HEADER_ROOM = 512
_PAGE = 4096


@dataclass(slots=True)
class Segment:
    """What is known of one segment of a slot.

    `size` is how far it holds frames (the file may be longer after a failed write that could not be taken
    back). `opens` are the requests whose OPEN frame is only here and that have not ended. `begins` is where
    it begins in the positions of the log that writes it; None for a segment of an earlier owner.
    """

    path: str
    writer_id: str
    first_seq: int
    size: int
    closes: int = 0
    last_seq: int = 0
    opens: set[str] = field(default_factory=set)
    begins: int | None = None
    seed: int = field(init=False)

    def __post_init__(self) -> None:
        self.seed = segment_seed(self.writer_id, self.first_seq)


@dataclass(slots=True)
class Place:
    """Where a frame starts. (Not frozen: one is made for every record, and freezing doubles its cost.)"""

    segment: Segment
    offset: int


class SegmentWriter:
    """The end of a segment that is being written. All methods raise OSError."""

    __slots__ = ("_disk", "_write", "fd", "is_broken", "segment")

    def __init__(self, disk: Disk, directory: str, header: SegmentHeader) -> None:
        path = os.path.join(directory, segment_name(header.first_seq))
        self._disk = disk
        self._write = disk.write
        self.segment = Segment(path, header.writer_id, header.first_seq, 0)
        self.fd = disk.create(path)
        self.is_broken = False
        try:
            self.append(encode_header(header))
        except OSError:
            disk.close(self.fd)
            disk.remove(path)
            raise

    def append(self, frame: bytes) -> None:
        """Add a frame made for the segment's end; a failure leaves the segment as it was, or `is_broken`."""
        segment = self.segment
        try:
            written = self._write(self.fd, frame)
        except BaseException:
            self._take_back(segment.size)
            raise
        if written != len(frame):
            self._take_back(segment.size)
            raise OSError(errno.ENOSPC, f"only {written} of {len(frame)} bytes were written", segment.path)
        segment.size += written

    def _take_back(self, size: int) -> None:
        try:
            self._disk.truncate(self.fd, size)
        except OSError:
            self.is_broken = True  # what follows would stand behind half a frame: begin a new segment

    def sync(self) -> None:
        """Return once everything appended survives a power loss."""
        self._disk.sync(self.fd)

    def close(self) -> None:
        """Give the descriptor back."""
        self._disk.close(self.fd)


DamageHandler = Callable[[Segment, Damage], None]


class EntryReader:
    """Reads the CLOSE entries of segments in order, from a place on, as far as they are written.

    `segments` may grow at its end while this reads. `on_damage` is told what cannot be read. Reading does
    not yield to other greenlets unless `read_bytes` does.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        place: Place,
        read_bytes: Callable[[str, int, int], bytes],
        on_damage: DamageHandler,
    ) -> None:
        self._segments = segments
        self._segment = place.segment
        self._offset = place.offset
        self._read_bytes = read_bytes
        self._on_damage = on_damage

    def __repr__(self) -> str:
        return f"EntryReader({os.path.basename(self._segment.path)}:{self._offset})"

    @property
    def segment(self) -> Segment:
        """The segment the entries of the last `read` came from."""
        return self._segment

    @property
    def position(self) -> int:
        """The position after the last `read` in the log being written; 0 in what an earlier owner wrote."""
        return 0 if self._segment.begins is None else self._segment.begins + self._offset

    @property
    def is_at_end(self) -> bool:
        """Whether there is nothing after what was read."""
        return self._offset >= self._segment.size and self._following() is None

    def read(self, max_entries: int) -> list[tuple[Entry, Place]]:
        """Read the next entries, all of one segment, at most `max_entries`; none only at the end."""
        while True:
            if self._offset >= self._segment.size:
                following = self._following()
                if following is None:
                    return []
                self._segment, self._offset = following, 0
            entries = self._read_on(max_entries)
            if entries:
                return entries

    def _following(self) -> Segment | None:
        first = self._segment.first_seq
        return next((segment for segment in self._segments if segment.first_seq > first), None)

    def _read_on(self, max_entries: int) -> list[tuple[Entry, Place]]:
        segment = self._segment
        found: list[tuple[Entry, Place]] = []
        for frame in self._frames(segment, max_entries):
            self._offset = frame.end
            if frame.kind == FrameKind.CLOSE:
                try:
                    found.append((decode_entry(frame.payload), Place(segment, frame.offset)))
                except ValueError:
                    self._on_damage(segment, Damage(frame.offset, HEAD_SIZE + len(frame.payload), False))
            if len(found) >= max_entries:
                break
        return found

    def _frames(self, segment: Segment, max_entries: int) -> Iterator[Frame]:
        """Read some frames from the current offset on; the offset is moved past damage."""
        start, size = self._offset, segment.size  # the segment may grow while this waits for the disk
        count = min(CHUNK, max_entries * 4096)
        while True:
            try:
                data = read_around(self._read_bytes, segment.path, start, min(count, size - start))
            except FileNotFoundError:
                data = b""  # someone removed it: what it held is gone, what follows is not
            is_final = start + count >= size or len(data) < count
            header = decode_header(data) if start == 0 else None
            body = header[1] if header else 0
            decoded = decode(data[body:], seed=segment.seed, offset=start + body, is_final=is_final)
            if is_final or decoded.consumed or body:
                break
            count *= 2
        for damage in decoded.damage:
            self._on_damage(segment, damage)
        yield from decoded.frames
        # Reached only when every frame was used: otherwise the offset is just after the last used one.
        self._offset = size if is_final else start + body + decoded.consumed


def read_around(read_bytes: Callable[[str, int, int], bytes], path: str, offset: int, count: int) -> bytes:
    """Read part of a file; fill pages the disk cannot read with bytes that are no frame.

    Raises OSError for any other failure, which may pass.
    """
    try:
        return read_bytes(path, offset, count)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    pieces = []
    for at in range(offset, offset + count, _PAGE):
        size = min(_PAGE, offset + count - at)
        try:
            pieces.append(read_bytes(path, at, size))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            pieces.append(b"\xff" * size)
    return b"".join(pieces)


def read_header(disk: Disk, path: str) -> SegmentHeader | None:
    """Read the header of a segment's file; None when it is damaged or gone."""
    try:
        found = decode_header(read_around(disk.read, path, 0, min(_HEADER_ROOM, disk.size(path))))
    except FileNotFoundError:
        return None
    return found[0] if found else None


def segment_name(first_seq: int) -> str:
    """Make a segment's file name."""
    return f"{first_seq:014x}{SEGMENT_SUFFIX}"


def first_seq_of(name: str) -> int | None:
    """Return the number in a segment's file name; None for a name that is not a segment's."""
    try:
        return int(os.path.basename(name).removesuffix(SEGMENT_SUFFIX), 16)
    except ValueError:
        return None
