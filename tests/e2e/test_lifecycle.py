"""Starts that must fail at once, reloads that must not, and stops that neither wait nor lose anything."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from app.journal.slots import is_owned, slot_names
from app.store.embedded_mongo import EmbeddedMongo
from app.store.embedded_mongo.binary import find_mongod
from simulator import Data, End, Head, Script, Stall, Wait
from simulator.launcher import ROOT, Child, wait_until
from tests.support import sse
from tests.support.lab import CHAT, Lab
from tests.support.raw_http import Ending, RawConnection
from tests.support.sse import chunk
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import CLIENT_KEY, MODELS_FILE, WeirProcess
from workers.lifecycle import DRAIN_TIMEOUT_S

SSE_HEAD = Head(200, (("Content-Type", "text/event-stream"),), "chunked")
NO_MODELS = "/nonexistent/models.toml"
SOON_S = 55.0
"""Longer than these stops take on a busy machine, shorter than what they took waiting for the wrong thing."""
_LATE_MONGOD = """#!/bin/sh
case "$*" in *--version*) ;; *) while [ ! -e {go} ]; do sleep 0.05; done ;; esac
exec {mongod} "$@"
"""


# -- configuration ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MODELS_FILE", NO_MODELS, f"cannot read {NO_MODELS}"),
        ("MODELS_FILE", "README.md", "not valid TOML"),
        ("MONGODB_URI", "nonsense", "takes mongodb://"),
        ("MONGODB_URI", "mongodb://:hunter2@x:port", "not usable"),
        ("MONGODB_URI", "mongodb+srv://u:hunter2@x/?tls=perhaps", "not usable"),
        ("RATE_LIMIT_STORAGE_URI", "redis://:hunter2@x", "pip install redis"),
        ("RATE_LIMIT_STORAGE_URI", "async+memory://hunter2", "not a storage"),
        ("GRACEFUL_TIMEOUT_S", "long", "integer"),
        ("ADMIN_TOKEN", "hunter2", "takes at least 16 characters"),
    ],
)
def test_a_configuration_that_cannot_work_ends_the_start_with_one_line(
    tmp_path: Path, name: str, value: str, says: str
) -> None:
    weir = WeirProcess(tmp_path, "http://127.0.0.1:9", **{name: value})
    status, log = run(weir, "wsgi:app")
    (line,) = log.splitlines()
    assert status == 1
    assert line.startswith(f"weir: {name}: ")
    assert says in line
    assert "hunter2" not in line
    assert list(tmp_path.iterdir()) == [], "it was refused before anything was made"


def test_a_data_directory_that_cannot_be_made_ends_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    weir = WeirProcess(tmp_path / "file" / "var", "http://127.0.0.1:9")
    status, log = run(weir, "wsgi:app")
    assert status == 1
    assert log == (
        f"weir: DATA_DIR: cannot write to {tmp_path / 'file' / 'var'} (Not a directory): "
        "takes a directory that this user may write to\n"
    )


def test_a_data_directory_of_everybody_ends_the_start_with_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    status, log = run(WeirProcess(tmp_path, "http://127.0.0.1:9"), "wsgi:app")
    assert status == 1
    assert log.startswith(f"weir: DATA_DIR: {tmp_path} is open to other users")
    assert log.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("was_open", [True, False])
def test_nothing_in_the_data_directory_is_for_other_users(
    upstream: UpstreamProcess, tmp_path: Path, was_open: bool
) -> None:
    """Whoever made it, and whatever the umask was that Weir was started with."""
    data_dir = tmp_path / "data"
    if was_open:
        data_dir.mkdir()
        (data_dir / "admin-token").write_text("a-token-made-by-others\n")
        data_dir.chmod(0o755)
        (data_dir / "admin-token").chmod(0o644)
    umask = os.umask(0o022)
    try:
        with WeirProcess(data_dir, upstream.url, WEB_CONCURRENCY="2") as weir:
            Lab(weir, upstream).plain(CHAT, sse.chat_answer(sse.USAGE_9_2))
            wait_until(lambda: len(list(data_dir.glob("metrics/*/status_*"))) == 2, what="the states")
            found: dict[Path, int] = {}
            for folder, _, files in os.walk(data_dir):
                for path in map(Path(folder).joinpath, ["", *files]):
                    with suppress(FileNotFoundError):  # workers go on to move files meanwhile
                        found[path] = path.lstat().st_mode
    finally:
        os.umask(umask)
    assert [str(path) for path, mode in found.items() if mode & 0o077 and not stat.S_ISLNK(mode)] == []
    assert any("open to other users" in line for line in weir.complaints()) is was_open


def test_a_port_in_use_ends_the_start_with_one_line_that_names_who_uses_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        weir = WeirProcess(tmp_path, "http://127.0.0.1:9", PORT=str(port))
        status, log = run(weir, "wsgi:app")
    assert status == 1
    name = Path("/proc/self/comm").read_text().strip()
    assert log == (
        f"weir: PORT: {port} is in use by process {os.getpid()} ({name}): stop that, or set another PORT\n"
    )
    assert list(tmp_path.iterdir()) == [], "it was refused before anything was made"


def test_an_address_of_another_machine_ends_the_start_with_one_line(tmp_path: Path) -> None:
    status, log = run(WeirProcess(tmp_path, "http://127.0.0.1:9", HOST="192.0.2.1"), "wsgi:app")
    assert status == 1
    assert log.startswith("weir: HOST: 192.0.2.1 is no address of this machine: takes ")
    assert log.count("\n") == 1


def test_a_port_lost_to_another_start_ends_this_one_and_its_database(tmp_path: Path) -> None:
    """Both have bound it; the other listens while this one starts its MongoDB, which waits for that."""
    data_dir, mongod, go = tmp_path / "data", tmp_path / "mongod", tmp_path / "go"
    real = find_mongod(None, tmp_path / "mongod.out", None).path
    mongod.write_text(_LATE_MONGOD.format(go=go, mongod=real))
    mongod.chmod(0o700)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        weir = WeirProcess(data_dir, "http://127.0.0.1:9", PORT=str(port), MONGOD_BIN=str(mongod))
        child = Child([sys.executable, "-m", "gunicorn", "wsgi:app"], weir.environment, weir.log_path)
        try:
            wait_until((data_dir / "mongodb.lock").exists, what="the start of the database")
            other.listen()
            go.touch()
            assert child.wait() == 1
        finally:
            child.kill_tree()
    assert child.log.startswith(f"weir: PORT: {port} is in use by process {os.getpid()} ")
    assert child.log.count("\n") == 1
    with EmbeddedMongo(data_dir) as mongo:
        assert mongo.is_owner, "nobody else runs the database"


def test_tls_is_refused_in_one_line(tmp_path: Path) -> None:
    weir = WeirProcess(tmp_path, "http://127.0.0.1:9")
    status, log = run(weir, "--certfile", __file__, "--keyfile", __file__, "wsgi:app")
    assert status == 1
    assert "weir: certfile: " in log
    assert "Traceback" not in log


def test_a_worker_that_finds_the_configuration_unusable_ends_the_server(tmp_path: Path) -> None:
    """What the master does not see in advance (here it does not look) must not make it fork for ever."""
    (tmp_path / "bare.py").write_text('bind = "127.0.0.1:0"\n')
    weir = WeirProcess(tmp_path, "http://127.0.0.1:9", MODELS_FILE=NO_MODELS)
    status, log = run(weir, "-c", str(tmp_path / "bare.py"), "wsgi:app")
    assert status == 4
    assert log.count(f"weir: MODELS_FILE: cannot read {NO_MODELS}") == 1
    assert log.count("Booting worker") == 1


def run(weir: WeirProcess, *arguments: str) -> tuple[int, str]:
    """Exit status and output of a start that is expected to fail."""
    child = Child([sys.executable, "-m", "gunicorn", *arguments], weir.environment, weir.log_path)
    try:
        return child.wait(), child.log
    finally:
        child.kill_tree()


def test_a_reload_of_a_broken_configuration_changes_nothing(
    upstream: UpstreamProcess, tmp_path: Path
) -> None:
    models = tmp_path / "models.toml"
    models.write_text(MODELS_FILE.read_text())
    with WeirProcess(tmp_path / "weir", upstream.url, MODELS_FILE=str(models)) as weir:
        lab = Lab(weir, upstream)
        assert lab.plain(CHAT, "out=2").response.status == 200
        before = weir.worker_pids()
        token = weir.data_dir / "admin-token"
        for name, file, broken in (
            ("MODELS_FILE", models, "models = 1"),
            ("ADMIN_TOKEN", token, "hunter2"),
        ):
            whole = file.read_text()
            file.write_text(broken)
            os.kill(weir.pid, signal.SIGHUP)
            refusal = f"not reloaded, all goes on as before: {name}: "
            wait_until(lambda said=refusal: said in weir.log, what="the refusal")  # type: ignore[misc]
            file.write_text(whole)
        assert len(weir.log_messages("ERROR")) == 2
        assert "hunter2" not in weir.log
        assert lab.plain(CHAT, "out=2").response.status == 200
        assert weir.worker_pids() == before

        models.write_text(MODELS_FILE.read_text())
        os.kill(weir.pid, signal.SIGHUP)
        wait_until(lambda: len(weir.worker_pids()) == 1 and weir.worker_pids() != before, what="the reload")
        assert lab.plain(CHAT, "out=2").response.status == 200


def test_a_worker_that_dies_while_the_configuration_is_broken_does_not_end_the_others(
    upstream: UpstreamProcess, tmp_path: Path
) -> None:
    models = tmp_path / "models.toml"
    models.write_text(MODELS_FILE.read_text())
    with WeirProcess(tmp_path / "weir", upstream.url, MODELS_FILE=str(models), WEB_CONCURRENCY="2") as weir:
        lab = Lab(weir, upstream)
        wait_until(lambda: len(list_owned(weir)) == 2, what="both workers")
        assert lab.plain(CHAT, "out=2").response.status == 200
        models.write_text("models = 1")
        killed, left = weir.worker_pids()
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: "weir: MODELS_FILE: " in weir.log, what="the new worker's complaint")
        assert lab.plain(CHAT, "out=2").response.status == 200
        models.write_text(MODELS_FILE.read_text())
        wait_until(lambda: len(list_owned(weir)) == 2, what="the new worker")
        assert left in weir.worker_pids()


def list_owned(weir: WeirProcess) -> list[str]:
    """The slots of workers that run."""
    root = str(weir.data_dir / "journal")
    return [name for name in slot_names(root) if is_owned(root, name)]


# -- stops ------------------------------------------------------------------------------------------------


def stop(weir: WeirProcess) -> float:
    """Stop it; how long that took."""
    started = time.monotonic()
    weir.stop()
    return time.monotonic() - started


def test_a_server_ends_with_the_terminal_it_was_started_on(tmp_path: Path) -> None:
    """A terminal that is closed sends SIGHUP, which otherwise means to reload."""
    weir = WeirProcess(tmp_path, "http://127.0.0.1:9")
    terminal, end = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "wsgi:app"],
        cwd=ROOT,
        env={"PATH": os.defpath, **weir.environment},
        stdin=end,
        stdout=end,
        stderr=end,
    )
    os.close(end)
    try:
        with os.fdopen(terminal, "rb", buffering=0) as screen:
            shown = b""
            while b"answers on" not in shown:
                shown += screen.read(1000)
        process.send_signal(signal.SIGHUP)
        # 120: Python's word for an output that is gone.
        assert process.wait(120) in (0, 120)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "mongodb.uri").exists()


def test_connections_that_wait_do_not_hold_up_a_stop(upstream: UpstreamProcess, tmp_path: Path) -> None:
    with WeirProcess(tmp_path, upstream.url, GRACEFUL_TIMEOUT_S="180") as weir:
        lab = Lab(weir, upstream)
        gate = lab.gate()
        script = Script.of(SSE_HEAD, Data(chunk("hi")), Wait(gate), *map(Data, sse.chat()), End())
        with (
            RawConnection(weir.url) as silent,
            RawConnection(weir.url) as kept,
            lab.open(CHAT, lab.stream_body(CHAT, script)) as stream,
        ):
            kept.request("GET", "/health", {})
            assert kept.read_response().status == 200
            stream.read_head()
            stream.read_until(b"hi")
            weir.terminate()
            assert kept.is_closed()
            assert silent.is_closed()
            lab.upstream.open_gate(gate)
            assert stream.read_rest().ending is Ending.FINAL_CHUNK
            assert stream.is_closed(), "kept after its answer"
            assert stop(weir) < SOON_S


def test_answers_cut_after_the_grace_period_are_booked_before_the_exit(
    own_mongo: EmbeddedMongo, upstream: UpstreamProcess, tmp_path: Path
) -> None:
    """One waits for its upstream, one for its client, which does not read."""
    weir = WeirProcess(tmp_path / "weir", upstream.url, MONGODB_URI=own_mongo.uri, GRACEFUL_TIMEOUT_S="1")
    with weir:
        lab = Lab(weir, upstream)
        silent = Script.of(SSE_HEAD, Data(chunk("hi")), Stall())
        endless = Script.of(SSE_HEAD, *[Data(chunk("x" * 200_000))] * 200, Stall())
        with (
            lab.open(CHAT, lab.stream_body(CHAT, silent)) as waiting,
            RawConnection(weir.url, receive_buffer=4096) as slow,
        ):
            waiting.read_head()
            waiting.read_until(b"hi")
            slow.request("POST", CHAT, lab.headers(), lab.stream_body(CHAT, endless))
            slow.read_head()
            # Its answer is under way and much larger than what is on the way between two sockets.
            assert slow.read_piece()
            assert stop(weir) < SOON_S
            assert waiting.read_rest().ending in (Ending.CUT, Ending.RESET)
        records = weir.records()
        weir._disconnect()
    assert [record["outcome"] for record in records] == ["interrupted", "interrupted"]
    assert [record["errorType"] for record in records] == ["interrupted", "interrupted"]


def test_a_stop_without_a_store_leaves_the_rest_to_the_journal(
    upstream: UpstreamProcess, tmp_path: Path
) -> None:
    with WeirProcess(tmp_path, upstream.url, MONGODB_URI="mongodb://127.0.0.1:1") as weir:
        body = b'{"model": "gpt-test", "messages": [{"role": "user", "content": "hi"}], "user": "sim:out=2"}'
        with RawConnection(weir.url) as connection:
            connection.request("POST", CHAT, {"Authorization": f"Bearer {CLIENT_KEY}"}, body)
            assert connection.read_response().status == 200
        child = weir._child
        assert child is not None
        assert stop(weir) < DRAIN_TIMEOUT_S
        assert "1 records stay in the journal" in child.log
        assert "after close" not in child.log
        assert "Traceback" not in child.log
        assert weir.log_messages("ERROR") == []
    with WeirProcess(tmp_path, upstream.url) as weir:
        wait_until(lambda: weir.record_count() == 1, what="the record")
