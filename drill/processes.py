"""The processes a drill runs: the proxy, the simulated upstream, flask commands. None outlives the drill.

All are started through the launcher of the embedded MongoDB: in a session of their own, so that Ctrl-C is
the drill's alone, and with SIGTERM as their lot when the drill dies.
"""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from app.adapters.embedded_mongo.child import Child, spawn
from drill.waiting import wait_until
from simulator import SimulatorProcess

ROOT = Path(__file__).resolve().parent.parent
CLIENT_KEY = "sk-drill-client-key"
"""The `PROXY_API_KEY` of every instance."""

_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 60.0
_PATIENCE_S = 5.0
_COMMAND_TIMEOUT_S = 300.0
_BASE = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}


class ProcessTrouble(Exception):
    """A process did not start or stop as it should; the text ends with what it logged."""


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
    """Run a command with exactly these variables, its output in a file."""
    variables = [f"{name}={value}" for name, value in {**_BASE, **environment}.items()]
    return spawn([shutil.which("env") or "/usr/bin/env", "-i", *variables, *command], log)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


class Upstream(SimulatorProcess):
    """The simulator, with its tally fetched piece by piece so that no answer grows without bound."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._child: Child | None = None
        self._over: list[dict[str, Any]] = []
        self._since = 0

    def start(self) -> Self:
        """Spawn; returns when it accepts connections."""
        ready, log = self._directory / "upstream.url", self._directory / "upstream.log"
        command = [sys.executable, "-m", "simulator", "--host", self.host, "--ready-file", str(ready)]
        child = self._child = start(command, {}, log)
        wait_until(lambda: ready.exists() or not child.is_alive(), _START_TIMEOUT_S, "the simulator")
        if not ready.exists():
            raise ProcessTrouble(f"the simulator did not start:\n{tail(log)}")
        self.port = int(ready.read_text().strip().rpartition(":")[2])
        return self

    def stop(self, timeout_s: float = 10.0) -> int | None:
        """End it; its exit status."""
        child, self._child = self._child, None
        if child is None:
            return None
        child.stop(timeout_s)
        return child.exit_code

    def begin_books(self) -> None:
        """Start counting anew."""
        self.reset()
        self._over, self._since = [], 0

    def collect(self) -> list[dict[str, Any]]:
        """Entries of all requests since `begin_books`; those still open are the last ones."""
        entries = self.tally(self._since, timeout_s=30.0)
        is_over = [entry["end"] != "open" for entry in entries]
        settled = is_over.index(False) if False in is_over else len(entries)
        self._over += entries[:settled]
        if settled:
            self._since = entries[settled - 1]["seq"]
        return self._over + entries[settled:]


class Weir:
    """`gunicorn wsgi:app` on a data directory, as an operator runs it; its port stays the same for good."""

    application = "wsgi:app"

    def __init__(self, directory: Path, upstream_url: str, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self.data_dir = directory / "data"
        self.environment = {
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "DATA_DIR": str(self.data_dir),
            "OHMYGPT_BASE_URL": upstream_url,
            "OHMYGPT_API_KEYS": "sk-drill-upstream-one,sk-drill-upstream-two",
            "PROXY_API_KEY": CLIENT_KEY,
            "WEB_CONCURRENCY": "2",
            "RATE_LIMIT_RPM": "0",
            "LOG_FORMAT": "text",
            "LOG_LEVEL": "warning",
            "GRACEFUL_TIMEOUT_S": "30",
        } | dict(environment)
        self._directory = directory
        self._starts = 0
        self._commands = 0
        self._child: Child | None = None

    @property
    def log(self) -> Path:
        """What the present (or last) run has logged."""
        return self._directory / f"weir-{self._starts}.log"

    @property
    def pid(self) -> int | None:
        """The master's, while it runs."""
        return self._child.pid if self._child is not None else None

    @property
    def is_running(self) -> bool:
        """Whether the master runs."""
        return self._child is not None and self._child.is_alive()

    def start(self) -> float:
        """Start; returns once requests are answered, with the seconds that took."""
        self._starts += 1
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            str(ROOT / "gunicorn.conf.py"),
            "--chdir",
            str(ROOT),
        ]
        child = self._child = start([*command, self.application], self.environment, self.log)
        took = wait_until(
            lambda: not child.is_alive() or self.answers(), _START_TIMEOUT_S, "the proxy to answer"
        )
        if not child.is_alive():
            raise ProcessTrouble(f"the proxy did not start:\n{tail(self.log)}")
        return took

    def stop(self) -> None:
        """SIGTERM, and wait; `ProcessTrouble` unless it ends by itself, with status 0."""
        child = self._child
        if child is None:
            return
        child.send(signal.SIGTERM)
        if not child.wait(_STOP_TIMEOUT_S):
            self.kill_tree()
            raise ProcessTrouble(f"the proxy did not end within {_STOP_TIMEOUT_S:.0f} s:\n{tail(self.log)}")
        self._child = None
        if child.exit_code != 0:
            raise ProcessTrouble(f"the proxy ended with status {child.exit_code}:\n{tail(self.log)}")

    def discard(self) -> None:
        """End it by any means, after a failure."""
        child = self._child
        if child is not None:
            child.send(signal.SIGTERM)
            if not child.wait(_PATIENCE_S):
                self.kill_tree()
            self._child = None

    def send(self, number: signal.Signals) -> None:
        """Send the master a signal."""
        if self._child is not None:
            self._child.send(number)

    def answers(self) -> bool:
        """Whether `GET /health` is answered with 200."""
        return self._is_ok("/health")

    def is_ready(self) -> bool:
        """Whether `GET /ready` is answered with 200."""
        return self._is_ok("/ready")

    def _is_ok(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def worker_pids(self) -> list[int]:
        """The workers, not the database beside them."""
        return [pid for pid in self._children() if b"gunicorn" in _command_line(pid)]

    def kill_worker(self, random: Random) -> bool:
        """SIGKILL for one of the workers; False when there was none."""
        pids = self.worker_pids()
        return bool(pids) and _kill(random.choice(pids))

    def kill_tree(self) -> int:
        """SIGKILL for master, workers and embedded database at once; how many that were."""
        child, self._child = self._child, None
        if child is None:
            return 0
        pids = [child.pid, *self._children_of(child.pid)]
        killed = sum(_kill(pid) for pid in pids)
        wait_until(
            lambda: not any(_runs(pid) for pid in pids[1:]) and not child.is_alive(), 10.0, "the killed"
        )
        return killed

    def flask(self, *arguments: str) -> tuple[int, str]:
        """Run a flask command beside the proxy; its exit status, and what it printed on either stream."""
        self._commands += 1
        log = self._directory / f"flask-{self._commands}.log"
        command = [sys.executable, "-m", "flask", "--app", str(ROOT / "wsgi.py"), *arguments]
        child = start(command, self.environment, log)
        try:
            wait_until(lambda: not child.is_alive(), _COMMAND_TIMEOUT_S, " ".join(arguments))
        finally:
            child.stop(10.0)
        return child.exit_code if child.exit_code is not None else -1, log.read_text(errors="replace")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:
            self.discard()

    def __enter__(self) -> Self:
        return self

    def _children(self) -> list[int]:
        return self._children_of(self._child.pid) if self._child is not None else []

    @staticmethod
    def _children_of(pid: int) -> list[int]:
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _runs(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _kill(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
