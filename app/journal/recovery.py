"""What a slot's segments hold: read once at a takeover, or at any time by someone who only looks."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from app.journal.disk import Disk
from app.journal.journal_format import (
    HEAD_SIZE,
    Damage,
    Decoded,
    Entry,
    Frame,
    FrameKind,
    decode,
    decode_ack,
    decode_entry,
    decode_header,
)
from app.journal.segments import CHUNK, Segment, first_seq_of, read_around, read_header
from app.journal.slots import segment_names

DAMAGED = "damaged"
"""The directory, inside a slot, that keeps bytes which are no frames."""


@dataclass(slots=True)
class Contents:
    """What the segments of a slot hold.

    `opens` maps requests that have not ended to the segment of their latest OPEN and its payload; `acked`
    is the highest number known to be in the store, `unbooked` how many records lie beyond it, the oldest
    of them since `oldest_ms`; times are epoch milliseconds, 0 for never.
    """

    segments: list[Segment] = field(default_factory=list)
    opens: dict[str, tuple[Segment, Entry]] = field(default_factory=dict)
    damage: list[tuple[Segment, Damage]] = field(default_factory=list)
    acked: int = 0
    highest_seq: int = 0
    unbooked: int = 0
    oldest_ms: int = 0
    last_ms: int = 0
    frames: int = 0

    @property
    def bytes(self) -> int:
        """How much the segments take up."""
        return sum(segment.size for segment in self.segments)


def scan(
    disk: Disk, directory: str, writer_id: str | None, *, pause: Callable[[], None] = lambda: None
) -> Contents:
    """Read all segments of a slot, changing nothing; raises OSError.

    Memory is bounded by the number of open requests, not by the journal's size. `writer_id` serves where a
    header is damaged. `pause` is called now and then, so that others get their turn.
    """
    contents = Contents()
    for name in segment_names(disk, directory):
        path = os.path.join(directory, name)
        first_seq = first_seq_of(name)
        header = read_header(disk, path)
        if first_seq is None:
            continue
        try:
            size = disk.size(path)
        except FileNotFoundError:
            continue  # booked and removed while we looked
        owner = header.writer_id if header else writer_id or ""
        segment = Segment(path, owner, first_seq, size)
        contents.segments.append(segment)
        contents.highest_seq = max(contents.highest_seq, first_seq)
        for decoded in decoded_chunks(disk, segment):
            contents.damage += [(segment, damage) for damage in decoded.damage]
            for frame in decoded.frames:
                _note(contents, segment, frame)
            pause()
    _count_unbooked(disk, contents, pause)
    return contents


def decoded_chunks(disk: Disk, segment: Segment) -> Iterator[Decoded]:
    """Decode a segment's frames, a chunk at a time."""
    at, count = 0, CHUNK
    while at < segment.size:
        try:
            data = read_around(disk.read, segment.path, at, min(count, segment.size - at))
        except FileNotFoundError:
            return
        is_final = len(data) < count or at + count >= segment.size
        header = decode_header(data) if at == 0 else None
        body = header[1] if header else 0
        decoded = decode(data[body:], seed=segment.seed, offset=at + body, is_final=is_final)
        yield decoded
        if is_final:
            return
        consumed = body + decoded.consumed
        at += consumed
        # Nothing can be decided on so few bytes: a long frame, or damage whose end is not in sight.
        count = CHUNK if consumed else count * 2


def _note(contents: Contents, segment: Segment, frame: Frame) -> None:
    contents.frames += 1
    try:
        if frame.kind == FrameKind.ACK:
            contents.acked = max(contents.acked, decode_ack(frame.payload))
            return
        if frame.kind not in (FrameKind.OPEN, FrameKind.CLOSE, FrameKind.VOID):
            return
        entry = decode_entry(frame.payload)
    except ValueError:
        contents.damage.append((segment, Damage(frame.offset, HEAD_SIZE + len(frame.payload), False)))
        return
    contents.last_ms = max(contents.last_ms, entry.at_ms)
    earlier = contents.opens.pop(entry.request_id, None)
    if earlier is not None:
        earlier[0].opens.discard(entry.request_id)
    if frame.kind == FrameKind.OPEN:
        contents.opens[entry.request_id] = (segment, entry)
        segment.opens.add(entry.request_id)
    elif frame.kind == FrameKind.CLOSE:
        segment.closes += 1
        segment.last_seq = max(segment.last_seq, entry.seq)
        contents.highest_seq = max(contents.highest_seq, entry.seq)


def _count_unbooked(disk: Disk, contents: Contents, pause: Callable[[], None]) -> None:
    """Count beyond `acked`. Only the segment it falls into is read again; the others count as a whole."""
    for segment in contents.segments:
        if segment.last_seq <= contents.acked:
            continue
        if segment.first_seq > contents.acked and contents.oldest_ms:
            contents.unbooked += segment.closes
            continue
        for decoded in decoded_chunks(disk, segment):
            for frame in decoded.frames:
                _count_if_unbooked(contents, frame)
            pause()


def _count_if_unbooked(contents: Contents, frame: Frame) -> None:
    if frame.kind != FrameKind.CLOSE:
        return
    try:
        entry = decode_entry(frame.payload)
    except ValueError:
        return
    if entry.seq > contents.acked:
        contents.unbooked += 1
        contents.oldest_ms = contents.oldest_ms or entry.at_ms


def set_aside(disk: Disk, segment: Segment, damage: Damage) -> bool:
    """Keep damaged bytes in `damaged/`; return False when they were kept before. Raises OSError."""
    directory = os.path.join(os.path.dirname(segment.path), DAMAGED)
    kind = "torn" if damage.is_torn else "corrupt"
    stem = os.path.basename(segment.path).split(".", maxsplit=1)[0]
    path = os.path.join(directory, f"{stem}-{damage.offset:08x}.{kind}")
    data = read_around(disk.read, segment.path, damage.offset, damage.length)
    if damage.is_torn and not any(data):
        return False  # room that was claimed and never filled
    disk.make_directory(directory)
    if os.path.basename(path) in disk.list(directory):
        return False
    disk.overwrite(path, 0, data)
    return True


def count_kept_damage(disk: Disk, directory: str) -> int:
    """Count the pieces of damage that were set aside in a slot and are still there."""
    try:
        names = disk.list(os.path.join(directory, DAMAGED))
    except OSError:
        return 0
    return sum(1 for name in names if name.endswith(".corrupt"))
