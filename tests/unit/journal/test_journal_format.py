"""The journal's frames: whatever happens to the bytes, intact frames are found and none is invented."""

from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.journal.journal_format import (
    HEAD_SIZE,
    MAGIC,
    MAX_PAYLOAD,
    Decoded,
    Entry,
    FrameKind,
    SegmentHeader,
    decode,
    decode_ack,
    decode_entry,
    decode_header,
    encode_ack,
    encode_entry,
    encode_frame,
    encode_header,
    segment_seed,
)

SEED = segment_seed("w-host-1", 7)
KINDS = st.sampled_from([FrameKind.OPEN, FrameKind.CLOSE, FrameKind.ACK, FrameKind.VOID])
# Payloads that look like frames are the hard ones.
PAYLOADS = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from([MAGIC, b"\0", b"\x02", b"\xff", MAGIC + b"\x02\x05\0\0\0"]), max_size=8).map(
        b"".join
    ),
)
FRAMES = st.lists(st.tuples(KINDS, PAYLOADS), max_size=8)


def written(
    frames: list[tuple[FrameKind, bytes]], seed: int = SEED
) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    """The bytes of these frames, and where each of them starts."""
    data, places = b"", []
    for kind, payload in frames:
        places.append((len(data), int(kind), payload))
        data += encode_frame(kind, payload, seed, len(data))
    return data, places


def found(decoded: Decoded) -> list[tuple[int, int, bytes]]:
    return [(frame.offset, frame.kind, frame.payload) for frame in decoded.frames]


def covered(decoded: Decoded, size: int) -> bool:
    """Whether frames and damage together are all of the bytes, each once."""
    spans = [(frame.offset, frame.end) for frame in decoded.frames]
    spans += [(item.offset, item.offset + item.length) for item in decoded.damage]
    spans.sort()
    ends = [0, *(end for _, end in spans)]
    return [start for start, _ in spans] + [size] == ends


@given(FRAMES)
def test_frames_come_back_as_they_were_written(frames: list[tuple[FrameKind, bytes]]) -> None:
    data, places = written(frames)
    decoded = decode(data, seed=SEED)
    assert (found(decoded), decoded.consumed, decoded.damage) == (places, len(data), [])


@given(FRAMES, st.data())
def test_a_cut_at_any_byte_leaves_all_frames_before_it_and_a_torn_tail(
    frames: list[tuple[FrameKind, bytes]], data: st.DataObject
) -> None:
    whole, places = written(frames)
    cut = data.draw(st.integers(0, len(whole)))
    decoded = decode(whole[:cut], seed=SEED)
    intact = [place for place in places if place[0] + HEAD_SIZE + len(place[2]) <= cut]
    end = max((place[0] + HEAD_SIZE + len(place[2]) for place in intact), default=0)
    assert found(decoded) == intact
    assert [(item.offset, item.length, item.is_torn) for item in decoded.damage] == (
        [(end, cut - end, True)] if end < cut else []
    )


@given(FRAMES, st.data())
def test_a_flipped_bit_costs_its_own_frame_only(
    frames: list[tuple[FrameKind, bytes]], data: st.DataObject
) -> None:
    whole, places = written([*frames, (FrameKind.CLOSE, b"last")])
    at = data.draw(st.integers(0, len(whole) - 1))
    spoiled = bytearray(whole)
    spoiled[at] ^= 1 << data.draw(st.integers(0, 7))
    decoded = decode(bytes(spoiled), seed=SEED)
    assert found(decoded) == [
        place for place in places if not place[0] <= at < place[0] + HEAD_SIZE + len(place[2])
    ]
    assert covered(decoded, len(whole))


@given(FRAMES, st.data())
def test_garbage_anywhere_hides_no_intact_frame(
    frames: list[tuple[FrameKind, bytes]], data: st.DataObject
) -> None:
    """The garbage replaces bytes: a frame is tied to its offset, so nothing may shift."""
    whole, places = written(frames)
    start = data.draw(st.integers(0, len(whole)))
    garbage = data.draw(PAYLOADS)[: len(whole) - start]
    spoiled = whole[:start] + garbage + whole[start + len(garbage) :]
    decoded = decode(spoiled, seed=SEED)
    untouched = [
        place
        for place in places
        if spoiled[place[0] : place[0] + HEAD_SIZE + len(place[2])]
        == whole[place[0] : place[0] + HEAD_SIZE + len(place[2])]
    ]
    assert found(decoded) == untouched
    assert covered(decoded, len(spoiled))


@given(st.binary(max_size=300), st.booleans(), st.integers(0, 2**40))
def test_random_bytes_are_damage_and_never_an_error(data: bytes, is_final: bool, offset: int) -> None:
    decoded = decode(data, seed=SEED, offset=offset, is_final=is_final)
    assert decoded.frames == []
    assert is_final == (decoded.consumed == len(data)) or not data


def test_each_writer_and_each_segment_has_a_seed_of_its_own() -> None:
    seeds = {segment_seed(writer, seq) for writer in ("w-host-1", "w-host-2") for seq in (7, 8)}
    assert len(seeds) == 4


@given(FRAMES)
def test_frames_of_another_segment_are_not_taken_for_this_ones(frames: list[tuple[FrameKind, bytes]]) -> None:
    data, _ = written(frames, seed=segment_seed("w-host-1", 8))
    assert decode(data, seed=SEED).frames == []


@given(FRAMES)
def test_frames_at_another_place_are_not_taken_for_frames(frames: list[tuple[FrameKind, bytes]]) -> None:
    data, _ = written(frames)
    assert decode(data, seed=SEED, offset=1).frames == []


@given(FRAMES, st.data())
@settings(max_examples=50)
def test_decoding_in_pieces_gives_the_same_frames_and_damage(
    frames: list[tuple[FrameKind, bytes]], data: st.DataObject
) -> None:
    whole, _ = written(frames)
    spoiled = bytearray(whole)
    for at in data.draw(st.lists(st.integers(0, max(0, len(whole) - 1)), max_size=2)):
        if spoiled:
            spoiled[at] ^= 0x10
    at_once = decode(bytes(spoiled), seed=SEED)
    pieces: list[tuple[int, int, bytes]] = []
    damage = []
    start = end = 0
    while end < len(spoiled):
        end = min(len(spoiled), end + data.draw(st.integers(1, 40)))
        decoded = decode(bytes(spoiled[start:end]), seed=SEED, offset=start, is_final=end == len(spoiled))
        pieces += found(decoded)
        damage += decoded.damage
        start += decoded.consumed
    assert pieces == found(at_once)
    assert damage == at_once.damage


def test_a_length_beyond_the_limit_is_damage_and_waits_for_nothing() -> None:
    head = MAGIC + pack("<BII", FrameKind.CLOSE, MAX_PAYLOAD + 1, 0)
    data = head + encode_frame(FrameKind.ACK, encode_ack(3), SEED, len(head))
    decoded = decode(data, seed=SEED, is_final=False)
    assert [frame.kind for frame in decoded.frames] == [FrameKind.ACK]
    assert [(item.length, item.is_torn) for item in decoded.damage] == [(len(head), False)]


def test_zeros_at_the_end_are_room_that_was_never_filled() -> None:
    data, places = written([(FrameKind.ACK, encode_ack(1))])
    decoded = decode(data + bytes(4096), seed=SEED)
    assert found(decoded) == places
    assert [item.is_torn for item in decoded.damage] == [True]


def test_no_text_can_contain_the_magic_bytes() -> None:
    with pytest.raises(UnicodeDecodeError):
        MAGIC.decode()
    with pytest.raises(UnicodeDecodeError):
        MAGIC[:1].decode()


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.text(max_size=60), st.binary(max_size=50))
def test_entries_come_back_as_they_were_written(
    seq: int, at_ms: int, request_id: str, document: bytes
) -> None:
    payload = encode_entry(seq, at_ms, request_id.encode(), document)
    assert decode_entry(payload) == Entry(seq, at_ms, request_id, document)
    for cut in range(len(payload) - len(document)):
        with pytest.raises(ValueError, match=r"cut short|buffer"):
            decode_entry(payload[:cut])


def test_an_acknowledgement_comes_back_and_a_wrong_one_is_refused() -> None:
    assert decode_ack(encode_ack(2**63)) == 2**63
    with pytest.raises(ValueError, match="8 bytes"):
        decode_ack(b"short")


def test_a_header_comes_back_with_the_place_of_the_next_frame() -> None:
    header = SegmentHeader("w-host-0123456789ab", 2**50, 1_700_000_000_000)
    data = encode_header(header)
    assert decode_header(data + b"more") == (header, len(data))


@given(st.data())
def test_a_damaged_header_is_no_header(data: st.DataObject) -> None:
    spoiled = bytearray(encode_header(SegmentHeader("w-1", 1, 1)))
    spoiled[data.draw(st.integers(0, len(spoiled) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert decode_header(bytes(spoiled)) is None


def test_other_frames_and_other_versions_are_no_headers() -> None:
    assert decode_header(b"") is None
    assert decode_header(encode_frame(FrameKind.ACK, encode_ack(1), 0, 0)) is None
    assert decode_header(encode_frame(FrameKind.HEADER, b"\x02" + bytes(16) + b"w", 0, 0)) is None
    assert decode_header(encode_frame(FrameKind.HEADER, b"\x01", 0, 0)) is None
