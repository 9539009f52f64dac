"""The simulated upstream as a process that cannot outlive the tests."""

import sys
from types import TracebackType
from typing import Self

from simulator import SimulatorProcess
from tests.support.processes import Child


class UpstreamProcess(SimulatorProcess):
    """`SimulatorProcess`, started in such a way that it dies with the test process."""

    _child: Child | None = None

    def start(self) -> Self:
        """Spawn; returns when the process accepts connections."""
        command = [sys.executable, "-m", "simulator", "--host", self.host, "--port", str(self.port)]
        self._child = Child(command, {})
        url = self._child.wait_for_line(lambda line: line.strip() if line.startswith("http://") else None)
        self.port = int(url.rpartition(":")[2])
        return self

    def stop(self, timeout_s: float = 10.0) -> int | None:
        """End it for good; returns the exit status, None when not running."""
        child, self._child = self._child, None
        if child is None:
            return None
        child.terminate()
        try:
            return child.wait(timeout_s)
        finally:
            child.kill_group()

    def last_seq(self) -> int:
        """The number of the newest request, 0 when there is none."""
        return int(self._call("GET", f"tally?since={10**9}")["count"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
