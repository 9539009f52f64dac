"""Starts what tests, drill, benchmark and demo run beside them, waits for it, reads its log, ends all of it.

A program runs in a session of its own, so that Ctrl-C is for whoever started it, with exactly the variables
it is given; it writes into a log file, and gets SIGTERM should the process that started it die.
"""

import http.client
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The repository; of an installed wheel, the directory that its packages are in."""

PATIENCE_S = 90.0
"""How long what should happen at once is waited for: on a busy machine it takes many times as long."""

_PARENT_DEATH = Path(__file__).with_name("parent_death.py")
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 120.0
_KILL_TIMEOUT_S = 90.0
_SHORTEST_STEP_S = 0.002
_LISTENING = re.compile(r"Weir .*answers on http://[^ ;]+:(\d+)\D")


class Overdue(Exception):
    """What was waited for did not happen; the text says what."""


class ProcessTrouble(RuntimeError):
    """A process did not start or end as it should; the text ends with what it logged last."""


def wait_until(
    done: Callable[[], object], timeout_s: float = PATIENCE_S, what: str = "it", *, step_s: float = 0.05
) -> float:
    """Ask `done` until it says yes, soon again at first, later every `step_s`; how many seconds that took.

    Raises `Overdue` naming `what` after `timeout_s`. Where gevent has patched `time`, other greenlets go on.
    """
    began = time.monotonic()
    step = min(_SHORTEST_STEP_S, step_s)
    while not done():
        if time.monotonic() - began >= timeout_s:
            raise Overdue(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(step)
        step = min(step * 1.5, step_s)
    return time.monotonic() - began


class Child:
    """A running program; `command` begins with an absolute path. What it writes is added to the file `log`.

    Start it from a thread that lives as long as the process, best the main one: Linux takes the end of the
    thread for the end of the parent.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, *, cwd: Path = ROOT
    ) -> None:
        self.log_path = log
        with log.open("ab") as output:
            self._log_from = output.tell()
            self._process = subprocess.Popen(  # noqa: S603  what developers' tools run is their own
                [sys.executable, "-I", "-S", str(_PARENT_DEATH), str(os.getpid()), *command],
                cwd=cwd,
                env=_ENVIRONMENT | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def log(self) -> str:
        """Everything it has written so far, standard output and error together."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_from)
            return file.read().decode(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether the process itself (not its children) runs."""
        return self._process.poll() is None

    def wait_for(self, done: Callable[[], object], what: str, timeout_s: float = _START_TIMEOUT_S) -> float:
        """Wait until `done` says yes; the seconds that took.

        Raises `ProcessTrouble` with the end of the log if the process ends before, or if that takes too long.
        """

        def look() -> bool:
            is_over = not self.is_running
            if done():
                return True
            if is_over:
                status = self._process.poll()
                raise ProcessTrouble(f"no {what}: the process ended, status {status}:\n{tail(self.log)}")
            return False

        try:
            return wait_until(look, timeout_s, what)
        except Overdue as error:
            raise ProcessTrouble(f"{error}; the log ends with\n{tail(self.log)}") from None

    def wait_for_line(self, wanted: Callable[[str], str | None], timeout_s: float = _START_TIMEOUT_S) -> str:
        """Wait for a line in which `wanted` finds something; what that is. Raises like `wait_for`."""
        found: list[str] = []

        def look() -> bool:
            lines = self.log.splitlines(keepends=True)
            whole = (line for line in lines if line.endswith("\n"))
            found.extend(value for line in whole if (value := wanted(line)) is not None)
            return bool(found)

        self.wait_for(look, "line that was waited for", timeout_s)
        return found[0]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send(signal.SIGTERM)

    def wait(self, timeout_s: float | None = _STOP_TIMEOUT_S) -> int:
        """Its exit status (negative: the signal that killed it); `Overdue` if it does not end in time."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            end = tail(self.log)
            raise Overdue(f"waited {timeout_s} s in vain for process {self.pid} to end:\n{end}") from None

    def stop(self, timeout_s: float = _KILL_TIMEOUT_S) -> int:
        """SIGTERM, after `timeout_s` SIGKILL, also for whatever is left of its group; its exit status."""
        self.terminate()
        with suppress(Overdue):
            self.wait(timeout_s)
        self.kill_tree()
        return self.wait()

    def kill_tree(self) -> int:
        """SIGKILL for it, all that descends from it, and what is left of its group; how many those were."""
        found = set(process_tree(self.pid) if self.is_running else ()) | set(group_members(self.pid))
        killed = sum(_kill(pid) for pid in found)
        self.wait(_KILL_TIMEOUT_S)
        wait_until(lambda: not any(map(_runs, found)), _KILL_TIMEOUT_S, f"the end of {found}")
        return killed


class Proxy:
    """Weir as an operator runs it: a master, its workers, perhaps an embedded MongoDB; driven from outside.

    With `PORT` 0 in `environment`, each start takes a port of its own. All starts are logged in one file.
    """

    command: Sequence[str] = (sys.executable, "-m", "gunicorn", "wsgi:app")

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.environment = dict(environment)
        self.port = int(self.environment["PORT"])
        self.log_path = log
        self._child: Child | None = None
        self._last: Child | None = None

    @property
    def url(self) -> str:
        """Base URL without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the present (or last) run has logged."""
        return self._last.log if self._last else ""

    @property
    def is_running(self) -> bool:
        """Whether the master runs."""
        return self._child is not None and self._child.is_running

    @property
    def running(self) -> Child:
        """The master."""
        assert self._child is not None, "not running"  # noqa: S101  else it was not started
        return self._child

    @property
    def pid(self) -> int:
        """The master's process id."""
        return self.running.pid

    def start(self) -> float:
        """Start; returns once it is up, with the seconds that took. Raises `ProcessTrouble`."""
        self.port = int(self.environment["PORT"])
        self._child = self._last = child = Child(self.command, self.environment, self.log_path)
        try:
            return child.wait_for(self.is_up, "answer from the proxy")
        except BaseException:
            self.discard()
            raise

    def is_up(self) -> bool:
        """Whether it listens, and `GET /health` is answered; its port is known from then on."""
        return self.is_listening() and self.answers()

    def is_listening(self) -> bool:
        """Whether its port is known, which its log tells where it took any."""
        if not self.port:
            found = _LISTENING.search(self.log)
            self.port = int(found[1]) if found else 0
        return bool(self.port)

    def answers(self) -> bool:
        """Whether `GET /health` is answered with 200."""
        return self.is_ok("/health")

    def is_ok(self, path: str) -> bool:
        """Whether a GET is answered with 200."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
            try:
                connection.request("GET", path)
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False

    def send(self, number: signal.Signals) -> None:
        """Send the master a signal, if it runs."""
        if self._child is not None:
            self._child.send(number)

    def terminate(self) -> None:
        """Send the master SIGTERM, without waiting for anything."""
        self.running.terminate()

    def stop(self, *, ctrl_c: bool = False) -> None:
        """SIGTERM, and wait; nothing if it does not run.

        `ctrl_c` is what a terminal does instead: SIGINT to every process of the group at once. Raises
        `ProcessTrouble` unless it ends by itself, in time, with status 0, and leaves no process behind.
        """
        child, self._child = self._child, None
        if child is None:
            return
        if ctrl_c:
            os.killpg(child.pid, signal.SIGINT)
        else:
            child.terminate()
        try:
            status, left = child.wait(), group_members(child.pid)
        finally:
            child.kill_tree()
        if status or left:
            raise ProcessTrouble(
                f"the proxy ended with status {status}, leaving {left or 'nothing'}:\n{tail(child.log)}"
            )

    def discard(self, timeout_s: float = _KILL_TIMEOUT_S) -> None:
        """End it by any means, after a failure."""
        child, self._child = self._child, None
        if child is not None:
            child.stop(timeout_s)

    def kill_tree(self) -> int:
        """SIGKILL for master, workers and embedded database at once; how many that were."""
        child, self._child = self._child, None
        return 0 if child is None else child.kill_tree()

    def worker_pids(self) -> list[int]:
        """Return the workers, not the database beside them."""
        found = children_of(self._child.pid) if self._child is not None else []
        return [pid for pid in found if b"gunicorn" in command_line(pid)]


def free_port() -> int:
    """Find a port nobody listens on now, of those below the ones that connections are given by themselves.

    So it is not some connection's own when a process that is started, or started again, listens on it.
    """
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def tail(text: str, lines: int = 15) -> str:
    """Return the last lines of a log."""
    return "\n".join(text.splitlines()[-lines:])


def process_tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for parent in found:
        found += children_of(parent)
    return found


def children_of(pid: int) -> list[int]:
    """Return the direct children of a process, whichever of its threads started them; none if it is gone."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def group_members(pgid: int) -> list[int]:
    """Return the processes of a group that still run (zombies do not)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            state, _, group = _stat(int(entry.name))
            if group == str(pgid) and state != "Z":
                found.append(int(entry.name))
    return found


def command_line(pid: int) -> bytes:
    """Return the arguments of a process, each with a zero byte at its end; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def resident_bytes(pid: int) -> int:
    """Memory a process holds in RAM, its share of libraries included (RSS)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def _stat(pid: int) -> tuple[str, str, str]:
    """State, parent and process group; empty texts of a process that is gone."""
    try:
        state, parent, group = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return "", "", ""
    return state, parent, group


def _runs(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    return _stat(pid)[0] not in ("", "Z")


def _kill(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
