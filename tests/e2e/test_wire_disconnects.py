"""Clients that leave, and clients that are slow."""

import hashlib
from collections.abc import Callable

import pytest

from simulator import Data, End, Head, Script, Sleep, Stall, Wait
from simulator.launcher import resident_bytes, wait_until
from tests.support import sse
from tests.support.lab import CHAT, MESSAGES, Lab, check
from tests.support.raw_http import Ending, RawConnection
from tests.support.sse import DONE, chunk, message_start, text_block, usage_chunk

SSE_HEAD = Head(200, (("Content-Type", "text/event-stream"),), "chunked")
EVENTS = [chunk("one"), chunk("two"), chunk("three")]
HOWS = pytest.mark.parametrize("leave", [RawConnection.close, RawConnection.reset], ids=["FIN", "RST"])
Leave = Callable[[RawConnection], None]


@pytest.mark.wire(57)
@HOWS
@pytest.mark.parametrize("usage_wanted", [True, None], ids=["usage wanted", "usage injected"])
def test_rest_is_read_for_the_true_usage(lab: Lab, leave: Leave, usage_wanted: bool | None) -> None:
    """The client leaves after three events; the upstream's answer is read to its end and booked in full."""
    gate = lab.gate()
    rest = [chunk("more"), chunk(finish="stop"), usage_chunk(sse.USAGE_9_2), DONE]
    script = Script.of(SSE_HEAD, *map(Data, EVENTS), Wait(gate), *map(Data, rest), End())
    with lab.open(CHAT, lab.stream_body(CHAT, script, usage=usage_wanted)) as connection:
        connection.read_head()
        seen = connection.read_until(EVENTS[-1])
        leave(connection)
        lab.fence()  # by then the worker has seen it leave
        lab.upstream.open_gate(gate)
        (entry,) = lab.wait_entries()

    assert entry["end"] == "finished"
    record = lab.only_record()
    check(record, "9/0/0/2", "client_abort")
    assert len(seen) <= record["bytesOut"] <= len(seen) + len(chunk("more"))


@pytest.mark.wire(57)
@HOWS
def test_upstream_that_goes_on_too_long_is_closed(hasty_lab: Lab, leave: Leave) -> None:
    """After the cap its connection is closed; the output so far is estimated from the events that came."""
    start = message_start({"input_tokens": 300, "output_tokens": 1})
    drip = [step for _ in range(200) for step in (Sleep(0.05), Data(text_block()[1]))]
    text = text_block()[1]
    script = Script.of(SSE_HEAD, Data(start), Data(text), Data(text), *drip, End())
    with hasty_lab.open(MESSAGES, hasty_lab.stream_body(MESSAGES, script)) as connection:
        connection.read_head()
        connection.read_until(text + text)
        leave(connection)
    (entry,) = hasty_lab.wait_entries()

    assert entry["end"] == "client_gone"
    record = hasty_lab.only_record()
    assert (record["outcome"], record["usageSource"]) == ("client_abort", "estimate")
    assert record["inputTokens"] == 300
    assert 2 <= record["outputTokens"] <= entry["chunks"]


@pytest.mark.wire(57)
@HOWS
def test_silent_upstream_is_closed_too(hasty_lab: Lab, leave: Leave) -> None:
    """Nothing is written that could fail: the departure shows in the client's socket."""
    start = message_start({"input_tokens": 300, "output_tokens": 1})
    script = Script.of(SSE_HEAD, Data(start), Stall())
    with hasty_lab.open(MESSAGES, hasty_lab.stream_body(MESSAGES, script)) as connection:
        connection.read_head()
        connection.read_until(start)
        leave(connection)
    (entry,) = hasty_lab.wait_entries()

    assert entry["end"] == "client_gone"
    record = hasty_lab.only_record()
    check(record, "300/0/0/1", "client_abort", source="partial", flags=["output_missing"])


@pytest.mark.wire(57)
def test_no_connection_leaks(hasty_lab: Lab) -> None:
    """Ten clients leave streams that never end: their upstream connections are all gone afterwards."""
    # Silent ones would end by themselves while the others begin, on a busy machine.
    drip = [step for _ in range(200) for step in (Sleep(0.5), Data(b": still here\n\n"))]
    script = Script.of(SSE_HEAD, Data(chunk("hi")), *drip, End())
    body = hasty_lab.stream_body(CHAT, script)
    before = hasty_lab.upstream.connections()
    connections = [hasty_lab.open(CHAT, body) for _ in range(10)]
    for connection in connections:
        connection.read_head()
        connection.read_until(b"hi")
    assert hasty_lab.upstream.connections() >= 10
    for connection in connections:
        connection.close()
    hasty_lab.wait_entries(10)

    wait_until(lambda: hasty_lab.upstream.connections() <= before, what="the connections to close")
    hasty_lab.settle()
    outcomes = [record["outcome"] for record in hasty_lab.new_records()[:10]]
    assert outcomes == ["client_abort"] * 10


@pytest.mark.wire(58)
@HOWS
@pytest.mark.parametrize("usage_wanted", [True, None], ids=["usage wanted", "usage injected"])
def test_leaving_after_done_is_success(lab: Lab, leave: Leave, usage_wanted: bool | None) -> None:
    gate = lab.gate()
    script = Script.of(SSE_HEAD, *map(Data, sse.chat()), Wait(gate), End())
    with lab.open(CHAT, lab.stream_body(CHAT, script, usage=usage_wanted)) as connection:
        connection.read_head()
        connection.read_until(DONE)
        leave(connection)
    lab.upstream.open_gate(gate)
    lab.wait_entries()
    check(lab.only_record(), "9/0/0/2")


@pytest.mark.wire(58)
@HOWS
def test_leaving_after_message_stop_is_success(lab: Lab, leave: Leave) -> None:
    gate = lab.gate()
    events = sse.messages({"input_tokens": 9, "output_tokens": 1}, {"output_tokens": 2})
    script = Script.of(SSE_HEAD, *map(Data, events), Wait(gate), End())
    with lab.open(MESSAGES, lab.stream_body(MESSAGES, script)) as connection:
        connection.read_head()
        connection.read_until(events[-1])
        leave(connection)
    lab.upstream.open_gate(gate)
    lab.wait_entries()
    check(lab.only_record(), "9/0/0/2")


@pytest.mark.wire(58)
@HOWS
def test_success_does_not_depend_on_how_the_upstream_ends(hasty_lab: Lab, leave: Leave) -> None:
    """It said `[DONE]`, the client has it, and then the upstream just stays."""
    script = Script.of(SSE_HEAD, *map(Data, sse.chat()), Stall())
    with hasty_lab.open(CHAT, hasty_lab.stream_body(CHAT, script)) as connection:
        connection.read_head()
        connection.read_until(DONE)
        leave(connection)
    (entry,) = hasty_lab.wait_entries()

    assert entry["end"] == "client_gone"
    check(hasty_lab.only_record(), "9/0/0/2")


@pytest.mark.wire(59)
@HOWS
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_leaving_before_headers_is_drained(lab: Lab, leave: Leave, path: str) -> None:
    """The upstream has the request, and will charge for the answer: it is read for its true usage."""
    gate = lab.gate()
    events = sse.chat() if path == CHAT else sse.messages({"input_tokens": 9}, {"output_tokens": 2})
    script = Script.of(Wait(gate), SSE_HEAD, *map(Data, events), End())
    with lab.open(path, lab.stream_body(path, script)) as connection:
        lab.upstream.wait_gate(gate)
        leave(connection)
        lab.fence()  # by then the worker has seen it leave
        lab.upstream.open_gate(gate)
        (entry,) = lab.wait_entries()

    assert entry["end"] == "finished"
    record = lab.only_record()
    check(record, "9/0/0/2", "client_abort", status=499)
    assert record["bytesOut"] == 0
    assert ["error" in attempt for attempt in record["attempts"]] == [False]


@pytest.mark.wire(102)
@HOWS
def test_leaving_before_the_first_byte_is_drained(lab: Lab, leave: Leave) -> None:
    """Headers have come from the upstream, but none went to the client yet."""
    gate = lab.gate()
    script = Script.of(SSE_HEAD, Wait(gate), *map(Data, sse.chat()), End())
    with lab.open(CHAT, lab.stream_body(CHAT, script)) as connection:
        lab.upstream.wait_gate(gate)
        leave(connection)
        lab.fence()  # by then the worker has seen it leave
        lab.upstream.open_gate(gate)
        (entry,) = lab.wait_entries()

    assert entry["end"] == "finished"
    check(lab.only_record(), "9/0/0/2", "client_abort", status=499)


@pytest.mark.wire(62)
def test_slow_client(lab: Lab) -> None:
    """The upstream is held back, memory stays small, and others are served; then all of it arrives."""
    piece = sse.data({"choices": [{"index": 0, "delta": {"content": "x" * 65_000}}]})
    script = Script.of(SSE_HEAD, *([Data(piece)] * 500), *map(Data, sse.chat()), End())
    (worker,) = lab.weir.worker_pids()
    memory = resident_bytes(worker)
    connection = RawConnection(lab.weir.url, receive_buffer=16_384)
    with connection:
        lab.expected_records += 1
        connection.request("POST", CHAT, lab.headers(), lab.stream_body(CHAT, script))
        wait_until(lab.entries, what="the request to arrive upstream")
        sent = -1
        while (now := lab.entries()[0]["chunks"]) != sent:  # until nothing moves any more
            sent = now
            assert lab.plain(CHAT, sse.chat_answer(sse.USAGE_9_2)).response.status == 200
        assert sent < 500
        assert resident_bytes(worker) - memory < 16_000_000
        connection.read_head()
        response = connection.read_rest()

    wanted = hashlib.sha256(piece * 500 + b"".join(sse.chat())).digest()
    assert hashlib.sha256(response.body).digest() == wanted
    check(lab.played(response).record, "9/0/0/2")


ENDLESS = {
    "silence": [Stall()],
    "comments": [step for _ in range(400) for step in (Sleep(0.1), Data(b": still here\n\n"))],
    "half an event": [Data(b"data: {"), Stall()],
    "a burst of events": [*[Data(b"data: {}\n\n" * 1000)] * 50, Stall()],
}


@pytest.mark.wire(120)
@pytest.mark.parametrize("goes_on", ENDLESS)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("usage_wanted", [True, None], ids=["usage wanted", "usage injected"])
def test_upstream_that_does_not_end(lab: Lab, path: str, goes_on: str, usage_wanted: bool | None) -> None:
    """The client's answer ends with its framing whole, and holds what came in time."""
    events = (
        sse.chat()
        if path == CHAT
        else sse.messages({"input_tokens": 9, "output_tokens": 1}, {"output_tokens": 2})
    )
    script = Script.of(SSE_HEAD, *map(Data, events), *ENDLESS[goes_on], End())
    played = lab.send(path, lab.stream_body(path, script, usage=usage_wanted))

    whole = b"".join(event for event in events if usage_wanted or event != usage_chunk(sse.USAGE_9_2))
    assert played.body.startswith(whole)
    sent = b"".join(step.data for step in ENDLESS[goes_on] if isinstance(step, Data))
    assert sent.startswith(played.body.removeprefix(whole))
    assert played.response.ending is Ending.FINAL_CHUNK
    check(played.record, "9/0/0/2")
    assert played.record["bytesOut"] == len(played.body)
    assert played.record["latencyMs"] < 60_000
    (entry,) = lab.wait_entries()
    assert entry["end"] == "client_gone"  # the connection was closed, and is not used again
    assert lab.plain(CHAT, sse.chat_answer(sse.USAGE_9_2)).response.status == 200
