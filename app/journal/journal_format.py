"""The journal's bytes: frames with a checksum, and a decoder that finds its way past any damage.

A segment is a header frame followed by frames of requests being opened, closed and acknowledged. A frame is

    magic (2) | kind (1) | payload length (u32) | CRC-32 (u32) | payload        little endian

The checksum starts from the segment's seed and the frame's own offset, so bytes of another segment or from
another place (stale blocks that a file system brings back after a power loss) are not taken for frames. The
magic bytes never occur in UTF-8, so no text inside a record can imitate a frame either.

The life of a request in a segment, and what is left of it after a death at each point:

    HEADER   writer, seed
    OPEN     request r1 goes upstream                    -> `interrupted`, nothing known of the answer
    OPEN     r1 again: the record as of its first chunk  -> `interrupted`, with status, key and input estimate
    OPEN     r1 again: the record before its last chunk  -> `interrupted`, with usage and cost
    CLOSE    r1's record, number 7                       -> booked as it is
    ACK      all up to 7 are in MongoDB                  -> nothing: the segment goes once all in it is booked

An OPEN that comes again replaces the one before (a checkpoint), so a reader keeps the last of each request
until its CLOSE. Frames are appended with plain writes: they survive the death of the process, and a power
loss after the next sync (docs/durability.md).

Reading past damage. At an offset where no frame checks out, a decoder looks for the next magic from which one
does, and reports the bytes in between as damage; it never believes a length that the checksum does not
cover. A cut within the last frame is a torn tail, which is cut off when the slot is taken over: the
request it was about is still in the frames before it. So a flipped bit costs the frame it is in, and no
other.
"""

import struct
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from zlib import crc32

from app.records.records import NOT_ATTRIBUTED, Attribution

MAGIC = b"\xf5\xfe"
VERSION = 1
MAX_PAYLOAD = 1 << 20
"""Longest payload, in bytes; a longer one in a length field can only be damage."""

_HEAD = struct.Struct("<2sBII")
_CHECKED = struct.Struct("<BI")
_ENTRY = struct.Struct("<QQB")
_ACK = struct.Struct("<Q")
_HEADER = struct.Struct("<BQQ")
_U32 = 0xFFFFFFFF
HEAD_SIZE = _HEAD.size

_pack_head = _HEAD.pack
_pack_checked = _CHECKED.pack
_pack_entry = _ENTRY.pack
_unpack_head = _HEAD.unpack_from


class FrameKind(IntEnum):
    """What a frame says. Readers pass over kinds they do not know."""

    HEADER = 1
    OPEN = 2
    CLOSE = 3
    ACK = 4
    VOID = 5


@dataclass(slots=True)
class OpenRequest:
    """What is known of a request when it is about to be forwarded: enough for a record if nothing follows."""

    request_id: str
    user_id: str
    user_key_id: str
    accepted_at: datetime
    api_format: str
    endpoint: str
    stream: bool = False
    model: str | None = None
    requested_model: str | None = None
    attribution: Attribution = NOT_ATTRIBUTED


@dataclass(slots=True)
class Frame:
    """A frame whose checksum holds; `offset` is where it starts in its segment, `end` where the next does."""

    kind: int
    offset: int
    payload: bytes

    @property
    def end(self) -> int:
        """The offset just after it."""
        return self.offset + HEAD_SIZE + len(self.payload)


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no frame. `is_torn`: what a write that was cut off leaves at a segment's end."""

    offset: int
    length: int
    is_torn: bool


@dataclass(frozen=True, slots=True)
class Decoded:
    """What `decode` made of some bytes; `consumed` of them need not be shown again."""

    frames: list[Frame]
    consumed: int
    damage: list[Damage]


@dataclass(slots=True)
class Entry:
    """The payload of an OPEN (`seq` 0), CLOSE or VOID frame; `at_ms` is epoch milliseconds.

    `document` is what the journal's user stored, empty in a VOID.
    """

    seq: int
    at_ms: int
    request_id: str
    document: bytes


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """Who wrote the segment and the lowest number a record in it can have."""

    writer_id: str
    first_seq: int
    created_ms: int


def segment_seed(writer_id: str, first_seq: int) -> int:
    """Compute where checksums of a segment start from: without its header, should that be damaged."""
    return crc32(_ACK.pack(first_seq), crc32(writer_id.encode()))


def encode_frame(kind: int, payload: bytes, seed: int, offset: int) -> bytes:
    """Encode a frame for this offset of the segment with this seed; payloads are at most `MAX_PAYLOAD`."""
    length = len(payload)
    check = crc32(payload, crc32(_pack_checked(kind, length), (seed + offset) & _U32))
    return _pack_head(MAGIC, kind, length, check) + payload


def encode_header(header: SegmentHeader) -> bytes:
    """Encode a segment's first frame. Its seed is 0: it must be readable before anything is known."""
    payload = _HEADER.pack(VERSION, header.first_seq, header.created_ms) + header.writer_id.encode()
    return encode_frame(FrameKind.HEADER, payload, 0, 0)


def encode_entry(seq: int, at_ms: int, request_id: bytes, document: bytes) -> bytes:
    """Encode the payload of an OPEN, CLOSE or VOID frame; the id is at most 255 bytes."""
    return _pack_entry(seq, at_ms, len(request_id)) + request_id + document


def encode_ack(seq: int) -> bytes:
    """Encode the payload of an ACK frame: every record up to this number is in the store."""
    return _ACK.pack(seq)


def decode_entry(payload: bytes) -> Entry:
    """Read the payload of an OPEN, CLOSE or VOID frame; raises ValueError."""
    try:
        seq, at_ms, length = _ENTRY.unpack_from(payload)
    except struct.error as error:
        raise ValueError(str(error)) from None
    end = _ENTRY.size + length
    if len(payload) < end:
        raise ValueError("the request id is cut short")
    return Entry(seq, at_ms, payload[_ENTRY.size : end].decode(), payload[end:])


def decode_ack(payload: bytes) -> int:
    """Read the payload of an ACK frame; raises ValueError."""
    try:
        return int(_ACK.unpack(payload)[0])
    except struct.error as error:
        raise ValueError(str(error)) from None


def decode_header(data: bytes) -> tuple[SegmentHeader, int] | None:
    """Read the header at the start of a segment's bytes, and where the next frame begins; None if damaged."""
    frame = _frame_at(data, 0, 0, 0)
    if not isinstance(frame, Frame) or frame.kind != FrameKind.HEADER:
        return None
    try:
        version, first_seq, created_ms = _HEADER.unpack_from(frame.payload)
        writer_id = frame.payload[_HEADER.size :].decode()
    except (struct.error, UnicodeDecodeError):
        return None
    return (SegmentHeader(writer_id, first_seq, created_ms), frame.end) if version == VERSION else None


def decode(data: bytes, *, seed: int, offset: int = 0, is_final: bool = True) -> Decoded:
    """Find the frames in bytes that start at `offset` of their segment. Never raises.

    While more may follow (`is_final` False), an unfinished frame or an unresolved damage is left
    unconsumed: show it again with more bytes behind it. At the end both are damage. Every intact frame is
    found whatever surrounds it: after damage the next place is taken where a whole frame's checksum holds.
    """
    frames: list[Frame] = []
    damage: list[Damage] = []
    at, size = 0, len(data)
    while at < size:
        found = _frame_at(data, at, seed, offset)
        if isinstance(found, Frame):
            frames.append(found)
            at = found.end - offset
            continue
        if found is _INCOMPLETE and not is_final:
            break
        resumed = _next_frame(data, at + 1, seed, offset)
        if resumed is None:
            if not is_final:
                break
            is_torn = found is _INCOMPLETE or not any(data[at:])
            damage.append(Damage(offset + at, size - at, is_torn))
            at = size
        else:
            damage.append(Damage(offset + at, resumed - at, False))
            at = resumed
    return Decoded(frames, at, damage)


class _Verdict:
    """Why there is no frame at a place."""


_INCOMPLETE = _Verdict()
_BROKEN = _Verdict()


def _frame_at(data: bytes, at: int, seed: int, offset: int) -> Frame | _Verdict:
    left = len(data) - at
    if left < HEAD_SIZE:
        return _INCOMPLETE if MAGIC.startswith(data[at : at + 2]) else _BROKEN
    magic, kind, length, check = _unpack_head(data, at)
    if magic != MAGIC or length > MAX_PAYLOAD:
        return _BROKEN
    if left < HEAD_SIZE + length:
        return _INCOMPLETE
    start = at + HEAD_SIZE
    payload = data[start : start + length]
    if crc32(payload, crc32(_pack_checked(kind, length), (seed + offset + at) & _U32)) != check:
        return _BROKEN
    return Frame(kind, offset + at, payload)


def _next_frame(data: bytes, at: int, seed: int, offset: int) -> int | None:
    """Return the first place from `at` on with a whole frame."""
    while (at := data.find(MAGIC, at)) >= 0:
        if isinstance(_frame_at(data, at, seed, offset), Frame):
            return at
        at += 1
    return None
