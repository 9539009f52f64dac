"""Child processes of the tests: in a process group of their own, read line by line, never left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
"""The repository."""

_PARENT_DEATH = Path(__file__).with_name("parent_death.py")


def wait_until(done: Callable[[], object], timeout_s: float = 15.0, what: str = "it") -> None:
    """Ask `done` again and again until it says yes; `TimeoutError` naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(0.005)


class Child:
    """A running command whose output is collected; it gets SIGTERM when the test process dies.

    It must be started from the main thread: Linux takes the end of the thread for the end of the parent.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        base = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_PARENT_DEATH), str(os.getpid()), *command],
            cwd=ROOT,
            env=base | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._collect, name=f"output of {self.pid}", daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        """Everything it has written so far, standard output and error together."""
        return "".join(self._lines)

    @property
    def is_running(self) -> bool:
        """Whether the process itself (not its children) runs."""
        return self._process.poll() is None

    def wait_for_line(self, wanted: Callable[[str], str | None], timeout_s: float = 30.0) -> str:
        """The first thing `wanted` finds in a line; `RuntimeError` if the process ends before."""
        seen = 0
        found: str | None = None

        def look() -> bool:
            nonlocal seen, found
            is_over = not self.is_running
            while found is None and seen < len(self._lines):
                found = wanted(self._lines[seen])
                seen += 1
            return found is not None or (is_over and not self._reader.is_alive())

        wait_until(look, timeout_s, f"a line of process {self.pid}")
        if found is None:
            raise RuntimeError(f"the process ended (status {self._process.poll()}):\n{self.log}")
        return found

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def wait(self, timeout_s: float = 30.0) -> int:
        """Its exit status; `subprocess.TimeoutExpired`."""
        status = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return status

    def kill_group(self) -> None:
        """SIGKILL for whatever is left of its process group. Idempotent."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)


def group_members(pgid: int) -> list[int]:
    """The processes of a group that still run (zombies do not)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(group) == pgid and state != "Z":
                found.append(int(entry.name))
    return found


def resident_bytes(pid: int) -> int:
    """How much memory a process has in use now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
