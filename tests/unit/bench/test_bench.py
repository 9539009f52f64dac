"""The benchmark's own parts: load client and upstream agree on every chunk, and reports say what was lost."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import requests

from bench import crowd, long_run, report
from bench.chart import draw_memory
from bench.long_run import Curve
from bench.machine import cpu_seconds
from bench.native import Aim, BenchTrouble, LoadUpstream, Programs, Reading, Shape, compile_programs, run_load
from bench.run import Bench, Book, Figure, Results, Site, measure_by_turns
from bench.shapes import LEVELS, plain
from bench.targets import Target
from bench.workers import both

ANY_CORE = None


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("this machine has no C compiler: apt install gcc libc6-dev")
    return compile_programs(tmp_path_factory.mktemp("programs"))


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        (Shape("b-plain", 4, 0.2, warmup_s=0.0), 0),
        (Shape("b-stream-50-0", 4, 0.2, warmup_s=0.0, chunks=50), 50),
        (Shape("b-stream-5-10", 20, 0.3, warmup_s=0.0, ramp_s=0.05, chunks=5), 5),
    ],
    ids=["plain", "burst", "paced"],
)
def test_everything_sent_is_answered_and_counted(
    programs: Programs, tmp_path: Path, shape: Shape, chunks: int
) -> None:
    with LoadUpstream(programs, tmp_path, 0) as upstream:
        figures = run_load(programs, Aim(upstream.port), shape, ANY_CORE).figures
    assert figures["answered"] == figures["sent"] > 0
    assert not any(figures[name] for name in ("failed", "lost", "reordered", "unfinished"))
    assert bool(figures["chunks"]) is bool(chunks)


@pytest.mark.parametrize(
    ("shape", "least_ms"),
    [
        (Shape("b-embedding", 4, 0.2, warmup_s=0.0, path="/v1/embeddings"), 0.0),
        (Shape("b-late-40", 4, 0.2, warmup_s=0.0), 40.0),
    ],
    ids=["embeddings", "late"],
)
def test_other_answers_are_whole_and_take_their_time(
    programs: Programs, tmp_path: Path, shape: Shape, least_ms: float
) -> None:
    with LoadUpstream(programs, tmp_path, 0) as upstream:
        figures = run_load(programs, Aim(upstream.port), shape, ANY_CORE).figures
    assert figures["answered"] == figures["sent"] > 0
    assert not figures["failed"]
    assert figures["latency_ms"]["p50"] >= least_ms


def test_the_upstream_lists_its_models_and_answers_as_an_api_does(programs: Programs, tmp_path: Path) -> None:
    with LoadUpstream(programs, tmp_path, 0, ("b-plain", "b-embedding")) as upstream:
        listed = requests.get(f"{upstream.url}/v1/models", timeout=90).json()
        vector = requests.post(
            f"{upstream.url}/v1/embeddings", json={"model": "b-embedding"}, timeout=90
        ).json()
        late = requests.post(
            f"{upstream.url}/v1/chat/completions", json={"model": "b-late-1"}, timeout=90
        ).json()
    assert [model["id"] for model in listed["data"]] == ["b-plain", "b-embedding"]
    assert len(vector["data"][0]["embedding"]) == 1536
    assert late["usage"]["total_tokens"] == 48


def test_a_chunk_that_does_not_come_is_counted(programs: Programs, tmp_path: Path) -> None:
    """The client is told to expect more than the upstream sends."""
    shape = Shape("b-stream-3-0", 1, 0.1, warmup_s=0.0, chunks=4)
    with LoadUpstream(programs, tmp_path, 0) as upstream:
        figures = run_load(programs, Aim(upstream.port), shape, ANY_CORE).figures
    assert figures["lost"] == figures["answered"]


def test_a_stream_the_client_leaves_is_no_loss(programs: Programs, tmp_path: Path) -> None:
    shape = Shape("b-stream-50-1", 2, 0.2, warmup_s=0.0, chunks=50, abort_after=3)
    with LoadUpstream(programs, tmp_path, 0) as upstream:
        figures = run_load(programs, Aim(upstream.port), shape, ANY_CORE).figures
    assert figures["answered"] == figures["sent"] > 0
    assert 0 < figures["chunks"] < 25 * figures["answered"]
    assert not any(figures[name] for name in ("failed", "lost", "unfinished"))


@pytest.mark.parametrize(("expected", "is_failure"), [(400, False), (200, True)])
def test_a_refusal_is_a_failure_unless_it_is_expected(
    programs: Programs, tmp_path: Path, expected: int, is_failure: bool
) -> None:
    shape = Shape("b-refused", 1, 0.1, warmup_s=0.0, status=expected)
    with LoadUpstream(programs, tmp_path, 0) as upstream:
        figures = run_load(programs, Aim(upstream.port), shape, ANY_CORE).figures
    assert (figures["failed"] == figures["answered"]) is is_failure
    assert bool(figures["failed"]) is is_failure


def test_all_users_ask_before_any_asks_again(programs: Programs) -> None:
    asked: list[str] = []

    class Seen(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.headers["Authorization"])
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Seen) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        aim = Aim(server.server_port, crowd.client_key(0), users=10, from_request=3)
        figures = run_load(programs, aim, Shape("b-plain", 1, 1.0, warmup_s=0.0), ANY_CORE).figures
        server.shutdown()
        thread.join()
    assert figures["answered"] == len(asked) >= 10
    everybody = {f"Bearer {crowd.client_key(number)}" for number in range(10)}
    assert all(set(asked[at : at + 10]) == everybody for at in range(0, len(asked) - 9, 10))


def test_growth_and_workers_are_told_as_ratios_of_the_last_row_to_the_first() -> None:
    figures = {
        "growth, one user": {
            "weir-10": {"cpu_us_per_request": 800.0},
            "weir-10000": {"cpu_us_per_request": 900.0, "start_s": 2.0},
            "weir-1000000": {"cpu_us_per_request": 880.0, "start_s": 3.0},
        },
        "workers, plain": {
            "weir, 1": {"requests_per_s": 1000.0, "cpu_us_per_request": 900.0},
            "weir, 2": {"requests_per_s": 1800.0, "cpu_us_per_request": 1000.0},
        },
    }
    assert report.ratios(figures) == {
        "growth, one user: weir-1000000/weir-10: CPU µs/request": 1.1,
        "growth, one user: weir-1000000/weir-10000: start s": 1.5,
        "workers, plain: weir, 2/weir, 1: requests/s": 1.8,
        "workers, plain: weir, 2/weir, 1: CPU µs/request": pytest.approx(1.111, abs=0.001),
        "workers, plain: weir, 2: on cores of their own": 1.8,
    }


def test_the_warm_up_of_a_long_run_is_no_growth_and_a_leak_is(tmp_path: Path) -> None:
    requests = [1000 * second for second in range(100)]
    flat = Curve(list(range(100)), requests, [2e8] * 100, [5e7] * 8 + [6e7] * 92)
    leaking = Curve(list(range(100)), requests, [2e8] * 100, [6e7 + 1024 * number for number in requests])
    assert (flat.summary()["growth"], flat.summary()["slope"]) == (1.0, pytest.approx(0.0))
    assert leaking.summary()["growth"] > 1.5
    assert leaking.summary()["slope"] == pytest.approx(1000)
    draw_memory({"flat": flat, "leaking": leaking}, tmp_path / "memory.svg")
    drawn = (tmp_path / "memory.svg").read_text()
    assert "leaking" in drawn
    assert "<script" not in drawn


def test_cpu_time_includes_threads_that_have_ended() -> None:
    def work() -> None:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass

    before = cpu_seconds([os.getpid()])
    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert cpu_seconds([os.getpid()]) - before >= 0.05
    assert cpu_seconds([2**22 + 1]) == 0.0  # there is no such process


def results(weir: float, *, lost: int = 0) -> Results:
    return Results(
        figures={
            "plain": {
                "litellm": {"requests_per_s": 100.0},
                "weir": {"requests_per_s": weir, "failed": 0.0},
            }
        },
        books={"weir": Book(sent=10, records=10 - lost)},
    )


def test_ratios_are_of_this_proxy_to_the_others() -> None:
    document = report.document(results(1500.0), "short")
    assert document["ratios"] == {"plain: weir/litellm": 15.0}
    assert report.problems(document) == []


def test_a_lost_record_is_a_problem() -> None:
    assert report.problems(report.document(results(1.0, lost=2), "short")) == [
        "weir: 2 of 10 requests left no record"
    ]


def test_parts_of_a_run_make_one() -> None:
    earlier, later = report.document(results(1000.0, lost=1), "short"), report.document(results(2.0), "short")
    later["figures"] = {"burst": {"weir": {"chunks_per_s": 5.0}, "nginx": {"chunks_per_s": 10.0}}}
    both = report.merged(earlier, later)
    assert both["ratios"] == {"plain: weir/litellm": 10.0, "burst: weir/nginx": 0.5}
    assert both["books"]["weir"] == {"sent": 20, "records": 19, "lost": 1}


def test_the_proxy_without_its_log_starts(tmp_path: Path) -> None:
    """It puts stand-ins into the middle of the product: a change there must not leave it behind unnoticed."""
    environ = {
        "PATH": os.defpath,
        "DATA_DIR": str(tmp_path),
        "MONGODB_URI": "mongodb://127.0.0.1:9/",
        "OHMYGPT_API_KEYS": "sk-upstream-of-the-benchmark",
        "PROXY_API_KEY": "sk-bench-Yh7q0vJ2mXw9",
    }
    code = """
import bench.off
from unittest.mock import Mock
exchange = object.__new__(bench.off.handler.Exchange)
exchange.is_settled, exchange.call, exchange.reservation = False, Mock(), None
exchange.spool, exchange.share, exchange.held = Mock(), Mock(), Mock()
exchange.settle(None, 200)
# Else its key has too many requests running after a while, and all are refused.
assert exchange.share.leave.call_count == exchange.held.leave.call_count == 1
print(type(bench.off._gateway.sink).__name__)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=environ,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert (ran.stdout.strip(), ran.returncode) == ("_NoSink", 0), ran.stderr


def test_more_workers_and_hosts_are_told_beside_one() -> None:
    cpu = {"weir, 1": 900.0, "weir, 2": 1000.0, "weir, 4": 1200.0}
    figures = {
        "workers, plain": {name: {"cpu_us_per_request": value} for name, value in cpu.items()},
        "hosts, plain": {
            "weir, 1 host": {"requests_per_s": 1000.0},
            "weir, 2 hosts": {"requests_per_s": 1900.0},
        },
    }
    assert report.ratios(figures) == {
        "workers, plain: weir, 4/weir, 1: CPU µs/request": pytest.approx(4 / 3),
        "workers, plain: weir, 2: on cores of their own": pytest.approx(1.8),
        "workers, plain: weir, 4: on cores of their own": pytest.approx(3.0),
        "hosts, plain: weir, 2 hosts/weir, 1 host: requests/s": 1.9,
    }


def test_the_number_of_streams_that_fills_a_core_is_told() -> None:
    figures = {
        f"streams, {number}": {"weir": {"added_chunk_p99_ms": late, "proxy_busy": busy}}
        for number, late, busy in (
            (200, 2.0, 30.0),
            (800, 29.0, 80.0),
            (1000, 56.0, 96.0),
            (5000, 900.0, 99.0),
        )
    }
    assert report.ratios(figures) == {
        "streams: most with a chunk's added p99 of 30 ms": 800,
        "streams: fewest that fill the core": 1000,
    }


def test_two_load_clients_are_added_up_and_the_worse_latency_counts() -> None:
    def reading(answered: int, p99: float, error: str) -> Reading:
        figures = {
            "seconds": 2.0,
            "answered": answered,
            "error": error,
            "latency_ms": {"p50": 1.0, "p99": p99},
        }
        return Reading(figures, 0.5, 3.0)

    total = both(reading(10, 5.0, ""), reading(20, 4.0, "status: no"))
    assert total.figures == {
        "seconds": 2.0,
        "answered": 30,
        "error": "status: no",
        "latency_ms": {"p50": 1.0, "p99": 5.0},
    }
    assert (total.load_cpu_s, total.wall_s) == (1.0, 3.0)


def test_half_load_asks_half_as_often_and_waits_for_the_upstream() -> None:
    rates = {"plain": 1000, "streams": 100, "left": 200, "refused": 5000, "wrong key": 5000}
    readings = [Reading({"answered": 4 * rate, "seconds": 4.0}, 0.0, 0.0) for rate in rates.values()]
    mix = {what: shape for what, shape, _ in long_run.half(readings)}
    # Requests a second of so many connections, each of which waits so long for every answer.
    assert {what: shape.connections for what, shape in mix.items()} == {
        "plain": 500 * 0.2,
        "streams": 50 * 0.6,
        "left": 100 * 0.06,
    }
    assert mix["left"].abort_after


class Peer(Target):
    """Answers as it is told, and books all but `loses` of it."""

    def __init__(self, name: str, measured: int, *, recorded: str = "", loses: int = 0) -> None:
        self.name, self.recorded, self._measured, self._loses = name, recorded, measured, loses
        self.survives = "power loss" if recorded else ""
        self._booked = 0

    @property
    def aim(self) -> Aim:
        return Aim(1)

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def pids(self) -> list[int]:
        return []

    def records(self) -> int:
        return self._booked

    def run_load(self, programs: Programs, shape: Shape, core: int | None) -> Reading:
        self._booked += 10 - self._loses
        failed = 10 - self._measured
        figures = {
            "answered": 10,
            "measured": self._measured,
            "failed": failed,
            "seconds": 1.0,
            "latency_ms": {},
        }
        return Reading({**figures, "error": "status: not implemented" if failed else ""}, 0.0, 1.0)


def test_what_a_peer_cannot_do_is_said_and_its_losses_are_shown_as_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.run._BOOKING_S", 0.01)
    results, level = Results(), replace(LEVELS["short"], rounds=2)
    upstream = LoadUpstream(Programs(tmp_path, tmp_path), tmp_path, 0)
    site = Site(Programs(tmp_path, tmp_path), upstream, tmp_path, 0, 0, lambda _: None)
    bench = Bench(
        site,
        [
            Peer("weir", 10, recorded="MongoDB"),
            Peer("loser", 10, recorded="SQLite", loses=3),
            Peer("mute", 0),
        ],
        results,
    )
    bench.measure([Figure("plain", plain)], level)
    bench.close_books()
    document = report.document(results, "short")
    assert set(document["figures"]["plain"]) == {"weir", "loser"}
    assert document["left_out"] == {
        "mute, plain": "most of its answers were no answers: status: not implemented"
    }
    assert document["books"]["loser"] == {"sent": 20, "records": 14, "lost": 6}
    assert report.problems(document) == [], "its losses are no fault of this proxy"
    rows = {line.split()[0]: line.split() for line in report.table(document).splitlines() if line}
    assert rows["loser"][-4:] == ["SQLite", "power", "loss", "6"]
    assert rows["weir"][-4:] == ["MongoDB", "power", "loss", "0"]


class Started(Peer):
    """One that notes when it is started and stopped, and may not start."""

    def __init__(self, name: str, said: list[str], starts: bool = True) -> None:
        super().__init__(name, 10, recorded="MongoDB")
        self._said, self._starts = said, starts

    def start(self) -> None:
        self._said.append(f"{self.name} starts")
        if not self._starts:
            raise BenchTrouble("no port is free")

    def stop(self) -> None:
        self._said.append(f"{self.name} stops")

    def run_load(self, programs: Programs, shape: Shape, core: int | None) -> Reading:
        self._said.append(self.name)
        return super().run_load(programs, shape, core)


@pytest.mark.parametrize("starts", [True, False])
def test_targets_are_measured_by_turns_and_stopped_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: bool
) -> None:
    monkeypatch.setattr("bench.run._BOOKING_S", 0.01)
    results, level, said = Results(), replace(LEVELS["short"], rounds=2), list[str]()
    upstream = LoadUpstream(Programs(tmp_path, tmp_path), tmp_path, 0)
    site = Site(Programs(tmp_path, tmp_path), upstream, tmp_path, 0, 0, lambda _: None)
    targets, figures = [Started("a", said), Started("b", said, starts)], [Figure("one", plain)]
    with nullcontext() if starts else pytest.raises(BenchTrouble):
        measure_by_turns(site, level, results, targets, figures)
    measured = ["a", "b"] * 2 if starts else []
    assert said == ["a starts", "b starts", *measured, "b stops", "a stops"]
    assert [book.records for book in results.books.values()] == ([20, 20] if starts else [])
