"""How streams are framed: whatever an upstream does to its lines, events and chunks, every byte passes."""

import time
from dataclasses import dataclass
from itertools import cycle, pairwise

import pytest

from simulator import Script, Wait
from simulator.launcher import resident_bytes, wait_until
from tests.support import sse
from tests.support.lab import CHAT, ESTIMATE, MESSAGES, Lab, check
from tests.support.raw_http import Ending
from tests.support.sse import DONE, chunk, usage_chunk

STREAM = b"".join(sse.chat())
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Case:
    """Upstream chunks, which are also what single reads bring; `counts` is what is to be recorded."""

    number: int
    name: str
    pieces: tuple[bytes, ...]
    counts: str = "9/0/0/2"
    path: str = CHAT
    flags: tuple[str, ...] = ()


def _bytes_of(data: bytes) -> tuple[bytes, ...]:
    return tuple(data[i : i + 1] for i in range(len(data)))


def _cut_inside(data: bytes, *marks: bytes) -> tuple[bytes, ...]:
    """The data cut in the middle of each of the marks."""
    cuts = [0, *(data.index(mark) + len(mark) // 2 for mark in marks), len(data)]
    return tuple(data[start:end] for start, end in pairwise(cuts))


def _with_endings(events: list[bytes], *endings: bytes) -> bytes:
    """The events, every line end replaced by the given ones in turn."""
    lines = b"".join(events).split(b"\n")[:-1]
    return b"".join(line + ending for line, ending in zip(lines, cycle(endings), strict=False))


_ODD_TEXT = "line\u2028paragraph\u2029next\u0085form\x0cvertical\x0b 😀 é"
_LONG = chunk("x" * 1_000_000)
_FEW = 20

CASES = [
    Case(1, "one event a chunk", tuple(sse.chat())),
    Case(1, "the whole stream in one chunk", (STREAM,)),
    Case(2, "CRLF", (STREAM.replace(b"\n", b"\r\n"),)),
    Case(2, "CRLF, one byte a read", _bytes_of(STREAM.replace(b"\n", b"\r\n"))),
    Case(3, "bare CR", (STREAM.replace(b"\n", b"\r"),)),
    Case(3, "bare CR, one byte a read", _bytes_of(STREAM.replace(b"\n", b"\r"))),
    Case(4, "endings mixed, CR and LF of one line end in two reads", tuple(
        _with_endings(sse.chat(), b"\r|\n", b"\n", b"\r", b"\r|\n", b"\r|\n").split(b"|")
    )),
    Case(5, "one byte a read", _bytes_of(STREAM)),
    Case(
        6,
        "a number cut in two, and its name",
        _cut_inside(STREAM.replace(b'":9', b'":123'), b"prompt_tokens", b"123"),
        "123/0/0/2",
    ),
    Case(7, "characters cut in two", tuple(
        piece
        for event in [chunk("a😀b"), chunk("été"), *sse.chat()]
        for piece in _cut_inside(event, *(mark for mark in ("😀".encode(), "é".encode()) if mark in event))
    )),
    Case(8, "characters that other languages take for line ends", (chunk(_ODD_TEXT), *sse.chat())),
    Case(8, "the same, one byte a read", (*_bytes_of(chunk(_ODD_TEXT)), *sse.chat())),
    Case(
        9,
        "byte order mark",
        (BOM + sse.messages({"input_tokens": 9, "output_tokens": 1}, {"output_tokens": 2})[0],
         *sse.messages({"input_tokens": 9, "output_tokens": 1}, {"output_tokens": 2})[1:]),
        path=MESSAGES,
    ),
    Case(9, "byte order mark before the usage", (BOM + usage_chunk(sse.USAGE_9_2), chunk("hi"), DONE)),
    Case(10, "JSON in three data lines", (
        chunk("hi"),
        b'data: {"choices":[],\ndata: "usage":{"prompt_tokens":9,\ndata: "completion_tokens":2}}\n\n',
        DONE,
    )),
    Case(11, "no space after the colon", tuple(e.replace(b"data: ", b"data:") for e in sse.chat())),
    Case(11, "data without a colon", (b"data\n\n", *sse.chat(), b"data\n\n")),
    Case(12, "a comment before every event", tuple(b": PROCESSING\n\n" + event for event in sse.chat())),
    Case(12, "comments inside events", tuple(b": PROCESSING\n" + event for event in sse.chat())),
    Case(13, "id, retry and unknown fields", tuple(
        b"id: 7\nretry: 3000\nx-unknown: 1\nnofield\n" + event for event in sse.chat()
    )),
    Case(13, "id and retry as blocks of their own", (b"id: 7\n\n", b"retry: 3000\n\n", *sse.chat())),
    Case(15, "a megabyte of data in reads of 1 KiB", (
        *(_LONG[start : start + 1024] for start in range(0, len(_LONG), 1024)), *sse.chat()
    )),
    Case(17, "HTML after the end", (*sse.chat(), b"<html><body>502 Bad Gateway</body></html>\n")),
    Case(17, "another usage after the end", (*sse.chat(), usage_chunk({"prompt_tokens": 7}))),
    Case(
        18,
        "broken JSON between good chunks",
        (chunk("hi"), b'data: {"choices": [{"delta\n\n', *sse.chat()),
        flags=("bad_json",),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{case.number}-{case.name}", marks=pytest.mark.wire(case.number))
        for case in CASES
    ],
)
def test_stream_passes_and_is_counted(lab: Lab, case: Case) -> None:
    played = lab.stream(case.path, case.pieces)

    assert played.body == b"".join(case.pieces)
    assert played.response.ending is Ending.FINAL_CHUNK
    check(played.record, case.counts, flags=case.flags)
    assert played.record["bytesOut"] == len(played.body)
    assert len(played.entries) == 1


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{case.number}-{case.name}", marks=pytest.mark.wire(case.number))
        for case in CASES
        if len(case.pieces) <= _FEW
    ],
)
def test_nothing_waits_for_what_comes_after_it(lab: Lab, case: Case) -> None:
    """The upstream sends a piece only once the client has all that came before."""
    played = lab.in_step(case.path, [(piece, piece) for piece in case.pieces])

    assert played.body == b"".join(case.pieces)
    check(played.record, case.counts, flags=case.flags)


@pytest.mark.wire(12)
def test_comments_are_not_the_first_token(lab: Lab) -> None:
    """The upstream sends comments and then waits: the time to the first token includes the waiting."""
    gate = lab.gate()
    head, comment, *rest = Script.sse([b": PROCESSING\n\n", *sse.chat()]).steps
    with lab.open(CHAT, lab.stream_body(CHAT, Script.of(head, comment, Wait(gate), *rest))) as connection:
        connection.read_head()
        connection.read_until(b"PROCESSING")
        seen_at = time.monotonic()
        wait_until(lambda: time.monotonic() > seen_at + 0.05)
        lab.upstream.open_gate(gate)
        record = lab.played(connection.read_rest()).record

    assert record["ttftMs"] >= 50
    check(record, "9/0/0/2")


@pytest.mark.wire(14)
@pytest.mark.parametrize("usage_wanted", [True, False], ids=["usage wanted", "usage injected"])
def test_last_event_without_blank_line(lab: Lab, usage_wanted: bool) -> None:
    """The meter reads what a standard reader would discard: the tokens were spent."""
    pieces = [chunk("hi"), usage_chunk(sse.USAGE_9_2).rstrip(b"\n")]
    played = lab.stream(CHAT, pieces, usage=usage_wanted)

    assert played.body == b"".join(pieces)
    assert played.response.ending is Ending.CUT
    check(played.record, "9/0/0/2", "upstream_truncated", source="partial")


@pytest.mark.wire(16)
def test_endless_line(lab: Lab) -> None:
    """40 MB without a line end pass through; the meter gives them up, and memory stays bounded."""
    body = lab.stream_body(CHAT, "fault=endless_line,usage=never")
    (worker,) = lab.weir.worker_pids()
    memory = resident_bytes(worker)
    played = lab.send(CHAT, body)

    assert len(played.body) > 40_000_000
    assert played.body == lab.direct(CHAT, body).body
    check(played.record, ESTIMATE, flags=["estimated", "input_missing", "output_missing", "line_too_long"])
    assert resident_bytes(worker) - memory < 24_000_000


@pytest.mark.wire(16)
def test_usage_after_an_endless_line_is_counted(lab: Lab) -> None:
    """A blank line brings the meter back in step."""
    block = b"x" * 65_536
    played = lab.stream(CHAT, [b'data: {"pad":"', *([block] * 260), b'"}\n\n', *sse.chat()])

    check(played.record, "9/0/0/2", flags=["line_too_long"])
