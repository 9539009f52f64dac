"""A large export by a real server: constant memory, others are served meanwhile, and a client may leave."""

import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from pymongo import InsertOne

from simulator.launcher import wait_until
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess

COUNT = 20_000
TOKEN = "token-of-the-export-test"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def exporting(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory):
    """A proxy of its own with many records, which shared books would not like."""
    directory = tmp_path_factory.mktemp("export")
    with WeirProcess(directory, upstream.url, ADMIN_TOKEN=TOKEN) as process:
        seeds = [
            {"_id": f"s{n}", "requestId": f"s{n}", "model": "m" * 40, "userId": "=cmd", "outcome": "ok"}
            for n in range(COUNT // 1000)
        ]
        logs = process.database["request_logs"]
        process.database["seeds"].bulk_write([InsertOne(seed) for seed in seeds])
        process.database["seeds"].aggregate(
            [
                {"$addFields": {"n": {"$range": [0, 1000]}, "createdAt": datetime.now(UTC)}},
                {"$unwind": "$n"},
                {"$addFields": {"_id": {"$concat": ["$_id", "-", {"$toString": "$n"}]}}},
                {"$merge": {"into": "request_logs"}},
            ]
        )
        assert logs.count_documents({}) == COUNT
        yield process


def memory_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def export(weir: WeirProcess, form: str = "csv"):
    url = f"{weir.url}/api/admin/request-logs/export?format={form}"
    return requests.get(url, headers=HEADERS, stream=True, timeout=90)


def open_cursors(weir: WeirProcess) -> int:
    status = weir.database.client.admin.command("serverStatus")
    return int(status["metrics"]["cursor"]["open"]["total"])


def test_it_is_whole_in_constant_memory_while_others_are_served(exporting):
    (pid,) = exporting.worker_pids()
    for form in ("csv", "jsonl"):
        with export(exporting, form) as warm_up:
            assert warm_up.status_code == 200
            next(warm_up.iter_content(100_000))
    before = memory_kib(pid)
    served, done, most = [], threading.Event(), []

    def others():
        while not done.is_set():
            assert requests.get(f"{exporting.url}/health", timeout=90).status_code == 200
            served.append(time.monotonic())
            most.append(memory_kib(pid))

    beside = threading.Thread(target=others)
    beside.start()
    try:
        with export(exporting) as answer:
            began, lines, size = time.monotonic(), 0, 0
            for chunk in answer.iter_content(65_536):
                lines += chunk.count(b"\n")
                size += len(chunk)
            ended = time.monotonic()
    finally:
        done.set()
        beside.join()
    assert lines == COUNT + 1
    # It would be several times its size in memory, were it put together there.
    assert max(most) - before < size / 1024, f"{size} bytes sent"
    assert sum(began < at < ended for at in served) > 5, "others wait for as long as the export takes"


def test_a_client_that_leaves_ends_the_reading(exporting):
    wait_until(lambda: open_cursors(exporting) == 0, what="the end of other readings")
    host, port = exporting.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=90) as client:
        request = (
            f"GET /api/admin/request-logs/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        )
        client.sendall(request.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        assert open_cursors(exporting) > 0
    wait_until(lambda: open_cursors(exporting) == 0, what="the cursor to be closed")
