"""Crowds that mean no good: connections that are held, and callers nobody knows."""

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import gevent
from gevent.pool import Pool

from drill.latency import Latency
from drill.mix import CHAT, make_request
from drill.processes import CLIENT_KEY
from drill.report import Findings
from drill.stage import FIXED_KEY, Drill, Stage
from drill.wire import Ending
from simulator.launcher import PATIENCE_S, wait_until

# Requests of the healthy, per second: well below what one worker can do.
_RATE = 40.0
_LATENCY_FACTOR = 2.0
# Less than this is no change of a p99 on a shared machine.
_FLOOR_MS = 20.0
_FLOODERS = 8
_GROWTH_MB = 64
# Who has been refused gives way to all others: for as long as a worker has no time for more than these.
_LAST_S = 600.0


def slow_clients(drill: Drill) -> Findings:
    """Hold sockets of four kinds, on one worker: the healthy do not notice, and each leaves its record."""
    findings = Findings("slow-clients")
    count = drill.level.held_connections
    limits: dict[str, Any] = {
        "CLIENT_HEAD_TIMEOUT_S": "600",
        "CLIENT_BODY_TIMEOUT_S": "600",
        "CLIENT_WRITE_TIMEOUT_S": "600",
    }
    with drill.stage("slow-clients", WEB_CONCURRENCY="1", LOG_LEVEL="error", **limits) as stage:
        calm_s = drill.level.calm_s
        calm = _measured(stage, calm_s)
        before = _resident_mb(stage)
        with _held(stage, count) as held:
            crowded = _measured(stage, calm_s)
            growth = _resident_mb(stage) - before
            alive = sum(_is_open(sock) for sock in held)
        findings.expect(alive >= count * 0.99, f"only {alive} of {count} sockets were still held")
        _compare(findings, calm, crowded)
        _check_healthy(findings, stage)
        share = count // len(_WAYS)
        for outcome in ("rejected", "client_abort"):
            done = partial(_are_recorded, stage, outcome, share)
            wait_until(done, PATIENCE_S, f"{share} records {outcome}")
    findings.requests = len(stage.load)
    findings.figures["sockets held"] = alive
    findings.figures["memory of a held socket, kB"] = round(growth * 1024 / count, 1)
    return findings


def strangers(drill: Drill) -> Findings:
    """Flood with keys nobody knows: counted exactly, nothing grows, the known are served as before."""
    findings = Findings("strangers")
    with drill.stage("strangers", WEB_CONCURRENCY="1", LOG_LEVEL="error", is_embedded=True) as stage:
        calm = _measured(stage, drill.level.calm_s)
        size, memory = _documents(stage), _resident_mb(stage)
        counted = _strangers_counted(stage)
        began = time.monotonic()
        with stage.load.steadily(_RATE, stage.mix.steady):
            answered = _flood(stage, drill.random, drill.level.strangers)
        took = time.monotonic() - began
        flooded = Latency.of(stage.load.calls, began, began + took)
        findings.expect(answered == drill.level.strangers, f"{answered} were answered with 401")
        told = _strangers_counted(stage) - counted
        findings.expect(told == drill.level.strangers, f"the metrics count {told}")
        _compare(findings, calm, flooded)
        _check_healthy(findings, stage)
        grown = _resident_mb(stage) - memory
        findings.expect(grown < _GROWTH_MB, f"the worker grew by {grown:.0f} MB")
        stage.close_books(findings)
        others = {name: count for name, count in _documents(stage).items() if name not in _OF_RECORDS}
        findings.expect(
            all(count <= size.get(name, 0) + 10 for name, count in others.items()),
            f"collections grew: {size} to {others}",
        )
    findings.figures["strangers, per second"] = round(drill.level.strangers / took)
    findings.figures["the worker grew by, MB"] = round(grown, 1)
    return findings


_OF_RECORDS = ("request_logs", "request_rollups", "rate_limits")


def _measured(stage: Stage, seconds: float) -> Latency:
    began = time.monotonic()
    with stage.load.steadily(_RATE, stage.mix.steady):
        gevent.sleep(seconds)
    return Latency.of(stage.load.calls, began, began + seconds)


def _compare(findings: Findings, calm: Latency, crowded: Latency) -> None:
    if calm.is_telling and crowded.is_telling:
        bound = max(_LATENCY_FACTOR * calm.p99, calm.p99 + _FLOOR_MS)
        findings.expect(crowded.p99 <= bound, f"p99 {crowded.p99} ms, {calm.p99} ms before")
    findings.figures["p50, p99 before, ms"] = (calm.p50, calm.p99)
    findings.figures["p50, p99 with the crowd, ms"] = (crowded.p50, crowded.p99)


def _check_healthy(findings: Findings, stage: Stage) -> None:
    hurt = [call for call in stage.load.calls if call.ending is not Ending.WHOLE or call.status != 200]
    findings.expect(not hurt, f"{len(hurt)} answers suffered: {dict(stage.load.endings())}")


def _are_recorded(stage: Stage, outcome: str, count: int) -> bool:
    return stage.database["request_logs"].count_documents({"outcome": outcome}) == count


@contextmanager
def _held(stage: Stage, count: int) -> Iterator[list[socket.socket]]:
    """Hold `count` connections, each stuck in one of four ways."""
    held: list[socket.socket] = []
    try:
        for hold, _ in zip(cycle(_WAYS), range(count), strict=False):
            sock = socket.socket()
            held.append(sock)
            if hold is _unread_answer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", stage.weir.port))
            hold(sock)
            if len(held) % 50 == 0:
                gevent.sleep(0.05)
        gevent.sleep(1.0)
        yield held
    finally:
        for sock in held:
            sock.close()


def _half_a_head(sock: socket.socket) -> None:
    sock.sendall(b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nX-Slow: ")


def _half_a_body(sock: socket.socket) -> None:
    sock.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n"
        b"Authorization: Bearer " + CLIENT_KEY.encode() + b'\r\n\r\n{"model":'
    )


def _unread_answer(sock: socket.socket) -> None:
    """Ask for a stream of more than the buffers between two sockets take, and do not read it."""
    sock.sendall(make_request(FIXED_KEY, CHAT, "chunks=20,size=60000,out=9", is_stream=True).wire)


def _idle(sock: socket.socket) -> None:
    sock.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    sock.recv(4096)


_WAYS = (_half_a_head, _half_a_body, _unread_answer, _idle)


def _is_open(sock: socket.socket) -> bool:
    sock.settimeout(0)
    try:
        return bool(sock.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _flood(stage: Stage, random: Random, count: int) -> int:
    """Ask with `count` keys that do not exist, over kept connections; return how many got a 401."""
    pool, shares = Pool(_FLOODERS), [count // _FLOODERS] * _FLOODERS
    shares[0] += count - sum(shares)
    return sum(pool.map(lambda share: _ask_as_stranger(stage.weir.port, random, share), shares))


def _ask_as_stranger(port: int, random: Random, share: int) -> int:
    """Ask with so many keys, with each until it is known that nobody has it; return how many got a 401.

    Whoever cannot be looked up at once, on a machine that stands still, is told to ask again.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_LAST_S)
    answered = 0
    for _ in range(share):
        key = f"sk-stranger-{random.getrandbits(128):032x}"
        until = time.monotonic() + PATIENCE_S
        while (status := _status(connection, key)) == 503 and time.monotonic() < until:
            gevent.sleep(0.1)
        answered += status == 401
    connection.close()
    return answered


def _status(connection: http.client.HTTPConnection, key: str) -> int:
    connection.request("POST", CHAT, b"{}", {"Authorization": f"Bearer {key}"})
    response = connection.getresponse()
    response.read()
    return response.status


def _strangers_counted(stage: Stage) -> int:
    return int(stage.weir.metric('weir_unauthenticated_requests_total{reason="invalid_api_key"}') or 0)


def _documents(stage: Stage) -> dict[str, int]:
    database = stage.database
    return {name: database[name].count_documents({}) for name in database.list_collection_names()}


def _resident_mb(stage: Stage) -> float:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in stage.weir.worker_pids())
    return pages * 4096 / 2**20
