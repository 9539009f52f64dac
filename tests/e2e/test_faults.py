"""Killed workers, a stopped database, a reload under an open stream: one record each, and the right one."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator import Data, End, Head, Script, Wait
from simulator.launcher import wait_until
from tests.support.lab import CHAT, Lab, check
from tests.support.raw_http import Ending
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess

_FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
_REST = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":123,"completion_tokens":45}}\n\n',
    b"data: [DONE]\n\n",
)


@pytest.fixture
def own_weir(upstream: UpstreamProcess, tmp_path: Path) -> Iterator[WeirProcess]:
    """A proxy that a test may hurt."""
    # A new worker takes its time to serve on a busy machine, and the old one's answer has to last as long.
    with WeirProcess(tmp_path / "weir", upstream.url, GRACEFUL_TIMEOUT_S="180") as process:
        yield process


@pytest.fixture
def own_lab(own_weir: WeirProcess, upstream: UpstreamProcess) -> Lab:
    """Requests through it."""
    return Lab(own_weir, upstream)


def _gated(gate: str) -> Script:
    """A stream that waits at a gate after its first event."""
    head = Head(200, (("Content-Type", "text/event-stream"),), "chunked", flush=True)
    return Script.of(head, Data(_FIRST), Wait(gate), *map(Data, _REST), End())


def test_a_killed_worker_leaves_a_record_of_its_open_stream(own_weir: WeirProcess, own_lab: Lab) -> None:
    gate = own_lab.gate()
    with own_lab.open(CHAT, own_lab.stream_body(CHAT, _gated(gate))) as connection:
        head = connection.read_head()
        connection.read_until(_FIRST)
        (worker,) = own_weir.worker_pids()
        os.kill(worker, signal.SIGKILL)
        response = connection.read_rest()
    own_lab.upstream.open_gate(gate)

    assert response.ending in (Ending.CUT, Ending.RESET)
    record = own_weir.wait_record(head.request_id)
    check(record, "–", "interrupted")
    assert record["errorType"] == "interrupted"
    assert record["factoryKeyId"] == "env-1"
    assert (record["model"], record["stream"], record["apiFormat"]) == ("gpt-test", True, "openai")
    assert record["attempts"] != []
    assert len(own_lab.new_records()) == 1


def test_a_killed_worker_books_a_stream_whose_usage_was_told(own_weir: WeirProcess, own_lab: Lab) -> None:
    """All but the end had come, and the client had it: the charge is there although nothing was settled."""
    gate = own_lab.gate()
    head = Head(200, (("Content-Type", "text/event-stream"),), "chunked", flush=True)
    script = Script.of(head, Data(_FIRST), *map(Data, _REST), Wait(gate), End())
    with own_lab.open(CHAT, own_lab.stream_body(CHAT, script)) as connection:
        answer = connection.read_head()
        connection.read_until(b"[DONE]\n\n")
        (worker,) = own_weir.worker_pids()
        os.kill(worker, signal.SIGKILL)
        connection.read_rest()
    own_lab.upstream.open_gate(gate)

    check(own_weir.wait_record(answer.request_id), "123/0/0/45", "interrupted")
    assert len(own_lab.new_records()) == 1


def test_a_stopped_database_delays_no_answer_and_is_caught_up_with(
    own_weir: WeirProcess, own_lab: Lab
) -> None:
    own_lab.stream(CHAT, [_FIRST, *_REST])
    mongod = int(own_weir.database.client.admin.command("serverStatus")["pid"])
    request_ids = []
    os.kill(mongod, signal.SIGSTOP)
    try:
        for _ in range(20):
            with own_lab.open(CHAT, own_lab.stream_body(CHAT, Script.sse([_FIRST, *_REST]))) as connection:
                response = connection.read_response()
            assert response.is_whole
            assert response.body == b"".join([_FIRST, *_REST])
            request_ids.append(response.request_id)
    finally:
        os.kill(mongod, signal.SIGCONT)

    for request_id in request_ids:
        check(own_weir.wait_record(request_id), "123/0/0/45")
    assert len(own_lab.new_records()) == 1 + len(request_ids)

    def summed() -> int:
        return sum(document["requests"] for document in own_weir.database["request_rollups"].find())

    # Sums are brought up to date after the records they count.
    wait_until(lambda: summed() >= 1 + len(request_ids), what="the sums")
    assert summed() == 1 + len(request_ids)


def test_a_reload_lets_an_open_stream_finish(own_weir: WeirProcess, own_lab: Lab) -> None:
    gate = own_lab.gate()
    (old,) = own_weir.worker_pids()
    with own_lab.open(CHAT, own_lab.stream_body(CHAT, _gated(gate))) as connection:
        connection.read_head()
        connection.read_until(_FIRST)
        os.kill(own_weir.pid, signal.SIGHUP)
        wait_until(lambda: set(own_weir.worker_pids()) - {old}, what="a new worker")
        own_lab.stream(CHAT, [_FIRST, *_REST])  # the new one serves
        own_lab.upstream.open_gate(gate)
        response = connection.read_rest()

    assert response.ending is Ending.FINAL_CHUNK
    assert response.body == b"".join([_FIRST, *_REST])
    check(own_weir.wait_record(response.request_id), "123/0/0/45")
    wait_until(lambda: old not in own_weir.worker_pids(), what="the old worker's end")
    assert len(own_lab.new_records()) == 2
