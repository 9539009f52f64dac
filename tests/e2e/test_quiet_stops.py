"""A normal stop, reload, or change of workers logs nothing that looks like trouble."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.store.embedded_mongo import EmbeddedMongo
from app.store.embedded_mongo.layout import socket_of
from simulator import Data, Script, Stall
from simulator.launcher import wait_until
from tests.e2e.test_lifecycle import SSE_HEAD
from tests.support.lab import CHAT, Lab
from tests.support.proxy_servers import SlowMongo
from tests.support.raw_http import Ending, RawConnection
from tests.support.sse import chunk
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess


def traffic(lab: Lab, requests: int = 20) -> None:
    """Some requests at once, each whole."""

    def ask(number: int) -> int:
        body = lab.stream_body(CHAT, "out=5") if number % 2 else lab.body(CHAT, "out=2")
        with lab.open(CHAT, body) as connection:
            return connection.read_response().status

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(requests))) == {200}


@pytest.mark.parametrize(("workers", "ctrl_c"), [(1, False), (2, False), (2, True)])
def test_a_normal_stop_is_quiet(
    upstream: UpstreamProcess, tmp_path: Path, workers: int, ctrl_c: bool
) -> None:
    weir = WeirProcess(tmp_path, upstream.url, WEB_CONCURRENCY=str(workers))
    with weir, RawConnection(weir.url) as kept:
        kept.request("GET", "/health", {})
        assert kept.read_response().status == 200
        traffic(Lab(weir, upstream))
        weir.stop(ctrl_c=ctrl_c)
    assert weir.complaints() == []


def test_a_stop_within_the_exchange_with_a_slow_database_is_quiet(
    own_mongo: EmbeddedMongo, upstream: UpstreamProcess, tmp_path: Path
) -> None:
    """What runs in the background is nearly always in the middle of a round trip then."""
    with SlowMongo(socket_of(own_mongo.uri), 0.03) as store:
        weir = WeirProcess(
            tmp_path / "weir", upstream.url, MONGODB_URI=store.uri, WEB_CONCURRENCY="2", KEY_SYNC_MS="10"
        )
        with weir:
            for _ in range(2):
                traffic(Lab(weir, upstream))
                before = set(weir.worker_pids())
                os.kill(weir.pid, signal.SIGHUP)
                wait_until(lambda b=before: not b & set(weir.worker_pids()), what="new workers")  # type: ignore[misc]
            weir.stop()
    assert weir.complaints() == []


def test_reloads_and_changes_of_workers_are_quiet(upstream: UpstreamProcess, tmp_path: Path) -> None:
    with WeirProcess(tmp_path, upstream.url, GUNICORN_CMD_ARGS="--max-requests 15") as weir:
        lab = Lab(weir, upstream)
        for number, count in (
            (signal.SIGTTIN, 2),
            (signal.SIGHUP, 1),
            (signal.SIGTTIN, 2),
            (signal.SIGTTOU, 1),
        ):
            before = set(weir.worker_pids())
            os.kill(weir.pid, number)
            wait_until(lambda b=before: set(weir.worker_pids()) != b, what="a change")  # type: ignore[misc]
            wait_until(lambda n=count: len(weir.worker_pids()) == n, what="the workers")  # type: ignore[misc]
            traffic(lab)
        wait_until(lambda: "Autorestarting" in weir.log, what="a worker to be recycled")
        weir.stop()
    assert weir.complaints() == []


def test_ctrl_c_cuts_answers_and_books_them(
    own_mongo: EmbeddedMongo, upstream: UpstreamProcess, tmp_path: Path
) -> None:
    weir = WeirProcess(tmp_path / "weir", upstream.url, MONGODB_URI=own_mongo.uri)
    with weir:
        lab = Lab(weir, upstream)
        with lab.open(CHAT, lab.stream_body(CHAT, Script.of(SSE_HEAD, Data(chunk("hi")), Stall()))) as stream:
            stream.read_head()
            stream.read_until(b"hi")
            weir.stop(ctrl_c=True)
            assert stream.read_rest().ending in (Ending.CUT, Ending.RESET)
        assert [record["outcome"] for record in weir.records()] == ["interrupted"]
        weir._disconnect()
    assert len(weir.complaints()) == 1, "that answers were cut"
