"""The processes a drill runs: the proxy, the simulated upstream, flask commands. None outlives the drill."""

import http.client
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from simulator import SimulatorProcess
from simulator.launcher import PATIENCE_S, Child, Proxy, free_port

CLIENT_KEY = "sk-drill-client-key"
"""The `PROXY_API_KEY` of every instance."""

_COMMAND_TIMEOUT_S = 300.0
_NOT_FOUND = "MongoDB: No servers found"


class Upstream(SimulatorProcess):
    """The simulator, with its tally fetched piece by piece so that no answer grows without bound."""

    def __init__(self) -> None:
        super().__init__()
        self._over: list[dict[str, Any]] = []
        self._since = 0

    def begin_books(self) -> None:
        """Start counting anew."""
        self.reset()
        self._over, self._since = [], 0

    def collect(self) -> list[dict[str, Any]]:
        """Return entries of all requests since `begin_books`; those still open are the last ones.

        What the pool asks by itself, about keys that it doubts, is nobody's request.
        """
        entries = self.tally(self._since)
        is_over = [entry["end"] != "open" for entry in entries]
        settled = is_over.index(False) if False in is_over else len(entries)
        self._over += filter(_is_asked_for, entries[:settled])
        if settled:
            self._since = entries[settled - 1]["seq"]
        return [*self._over, *filter(_is_asked_for, entries[settled:])]


def _is_asked_for(entry: Mapping[str, Any]) -> bool:
    return bool(entry["path"] != "/v1/models")


class Weir(Proxy):
    """`gunicorn wsgi:app` on a data directory; its port stays the same for good."""

    def __init__(self, directory: Path, upstream_url: str, environment: Mapping[str, str]) -> None:
        self.data_dir = directory / "data"
        super().__init__(
            {
                "HOST": "127.0.0.1",
                "PORT": str(free_port()),
                "DATA_DIR": str(self.data_dir),
                "OHMYGPT_BASE_URL": upstream_url,
                "OHMYGPT_API_KEYS": "sk-drill-upstream-one,sk-drill-upstream-two",
                "PROXY_API_KEY": CLIENT_KEY,
                "WEB_CONCURRENCY": "2",
                "RATE_LIMIT_RPM": "0",
                "REFUSAL_RECORDS_RPM": "1000000",
                "LOG_FORMAT": "text",
                "LOG_LEVEL": "warning",
                "GRACEFUL_TIMEOUT_S": "30",
            }
            | dict(environment),
            log=directory / "weir.log",
        )
        self._directory = directory
        self._commands = 0

    def is_ready(self) -> bool:
        """Whether `GET /ready` is answered with 200."""
        return self.is_ok("/ready")

    def metric(self, sample: str) -> float | None:
        """Return the value of a sample (its name and labels) of `GET /metrics`; None if it is not there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request("GET", "/metrics")
            page = connection.getresponse().read().decode()
        finally:
            connection.close()
        values = [line.rpartition(" ") for line in page.splitlines()]
        return next((float(value) for name, _, value in values if name == sample), None)

    def kill_worker(self, random: Random) -> bool:
        """Kill one of the workers (SIGKILL); False when there was none."""
        pids = self.worker_pids()
        if not pids:
            return False
        try:
            os.kill(random.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def flask(self, *arguments: str) -> tuple[int, str]:
        """Run a command beside the proxy; return its exit status, and what it printed on either stream.

        It looks for MongoDB for two seconds, for which a machine may stand still: then it is run once more.
        The line that says which database was written to is left out: it would be in the way of JSON.
        """
        status, printed = self._run(arguments)
        return self._run(arguments) if status and _NOT_FOUND in printed else (status, printed)

    def _run(self, arguments: Sequence[str]) -> tuple[int, str]:
        self._commands += 1
        log = self._directory / f"flask-{self._commands}.log"
        child = Child([sys.executable, "-m", "flask", "--app", "wsgi.py", *arguments], self.environment, log)
        try:
            status = child.wait(_COMMAND_TIMEOUT_S)
        finally:
            child.stop()
        printed = child.log.splitlines(keepends=True)
        return status, "".join(line for line in printed if not line.startswith("weir: wrote to "))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:
            self.discard()
