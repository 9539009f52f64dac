"""Starts that must fail at once, reloads that must not, and stops that neither wait nor lose anything."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.adapters.embedded_mongo import EmbeddedMongo
from app.adapters.journal.slots import is_owned, slot_names
from simulator import Data, End, Head, Script, Stall, Wait
from tests.support import sse
from tests.support.lab import CHAT, Lab
from tests.support.processes import Child, wait_until
from tests.support.raw_http import Ending, RawConnection
from tests.support.sse import chunk
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import CLIENT_KEY, MODELS_FILE, WeirProcess

SSE_HEAD = Head(200, (("Content-Type", "text/event-stream"),), "chunked")
NO_MODELS = "/nonexistent/models.toml"
SOON_S = 10.0
"""Longer than any of these stops takes, shorter than what they took when they waited for the wrong thing."""


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
    assert "weir: DATA_DIR: " in log
    assert "Traceback" not in log


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
    child = Child([sys.executable, "-m", "gunicorn", *arguments], weir.environment)
    try:
        return child.wait(20), child.log
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it still runs:\n{child.log}") from None
    finally:
        child.kill_group()


def test_a_reload_of_a_broken_configuration_changes_nothing(
    upstream: UpstreamProcess, tmp_path: Path
) -> None:
    models = tmp_path / "models.toml"
    models.write_text(MODELS_FILE.read_text())
    with WeirProcess(tmp_path / "weir", upstream.url, MODELS_FILE=str(models)) as weir:
        lab = Lab(weir, upstream)
        assert lab.plain(CHAT, "out=2").response.status == 200
        before = weir.worker_pids()
        models.write_text("models = 1")
        os.kill(weir.pid, signal.SIGHUP)
        wait_until(lambda: "not reloaded" in weir.log, what="the refusal")
        (message,) = weir.log_messages("ERROR")
        assert message.startswith("not reloaded, all goes on as before: MODELS_FILE: ")
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
    assert weir.stop() == 0
    return time.monotonic() - started


def test_connections_that_wait_do_not_hold_up_a_stop(upstream: UpstreamProcess, tmp_path: Path) -> None:
    with WeirProcess(tmp_path, upstream.url, GRACEFUL_TIMEOUT_S="60") as weir:
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
        assert stop(weir) < SOON_S
        assert "1 records stay in the journal" in child.log
        assert "after close" not in child.log
    with WeirProcess(tmp_path, upstream.url) as weir:
        wait_until(lambda: weir.record_count() == 1, what="the record")
