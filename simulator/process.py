"""The simulator as a process of its own, driven over its control endpoints."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from simulator.script import Script, script_to_json

_ROOT = Path(__file__).resolve().parent.parent


class SimulatorProcess:
    """Spawns ``python -m simulator`` and talks to it. Use it as a context manager, or `start` and `stop`."""

    def __init__(self, port: int = 0, *, host: str = "127.0.0.1", arguments: Sequence[str] = ()) -> None:
        self.host = host
        self.port = port
        self._arguments = list(arguments)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Self:
        """Spawn; returns when the process accepts connections. `RuntimeError` if it ends instead."""
        command = [sys.executable, "-m", "simulator", "--host", self.host, "--port", str(self.port)]
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*command, *self._arguments], cwd=_ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        url = self._process.stdout.readline().strip()
        if not url.startswith("http://"):
            self.stop()
            raise RuntimeError("the simulator did not start")
        self.port = int(url.rpartition(":")[2])
        return self

    def stop(self, timeout_s: float = 10.0) -> int | None:
        """SIGTERM (SIGKILL after ``timeout_s``); returns the exit status, None when not running."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return process.returncode

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Base URL without a path."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while running."""
        return self._process.pid if self._process else None

    def script(self, name: str, script: Script) -> str:
        """Register a script; returns the model name that plays it."""
        self._call("POST", "scripts", {"name": name, **script_to_json(script)})
        return f"script:{name}"

    def behave(self, model: str, spec: str, times: int | None = None) -> None:
        """Give requests for a model (``*``: any) a behaviour."""
        self._call("POST", "behave", {"model": model, "spec": spec, "times": times})

    def key(self, key: str, state: str) -> None:
        """Put an upstream key in a state."""
        self._call("POST", "keys", {key: state})

    def keys(self, states: Mapping[str, str]) -> None:
        """Put several upstream keys in states."""
        self._call("POST", "keys", dict(states))

    def tally(
        self, since: int = 0, *, ended: int = 0, begun: int = 0, timeout_s: float = 10.0
    ) -> list[dict[str, Any]]:
        """Entries after ``since``; waits until so many requests ended or begun. `TimeoutError`."""
        query = f"tally?since={since}&ended={ended}&begun={begun}&timeout_s={timeout_s}"
        entries: list[dict[str, Any]] = self._call("GET", query, wait_s=timeout_s)["entries"]
        return entries

    def totals(self) -> dict[str, Any]:
        """Sums per model."""
        return self._call("GET", "totals")

    def connections(self) -> int:
        """Open connections, not counting the one that asks."""
        return int(self._call("GET", "")["connections"]) - 1

    def requests(self, since: int = 0) -> list[dict[str, Any]]:
        """The last requests in full; ``body`` is bytes."""
        seen: list[dict[str, Any]] = self._call("GET", f"requests?since={since}")["requests"]
        for item in seen:
            item["body"] = base64.b64decode(item.pop("body_base64"))
        return seen

    def open_gate(self, name: str) -> None:
        """Let scripts pass a `Wait`."""
        self._call("POST", f"gates/{name}")

    def wait_gate(self, name: str, count: int = 1, timeout_s: float = 10.0) -> None:
        """Block until ``count`` scripts have reached a `Wait`."""
        self._call("GET", f"gates/{name}?count={count}&timeout_s={timeout_s}", wait_s=timeout_s)

    def refuse_for(self, seconds: float) -> None:
        """Refuse new connections for so long (control calls too)."""
        self._call("POST", "listen", {"on": False, "off_s": seconds})

    def reset(self, *, keep_scripts: bool = False) -> None:
        """Forget tally, gates, rules and key states, and scripts unless they are to be kept."""
        self._call("POST", "reset", {"keep_scripts": keep_scripts})

    def _call(self, method: str, path: str, document: object = None, wait_s: float = 0.0) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10.0 + wait_s)
        try:
            body = None if document is None else json.dumps(document)
            connection.request(method, f"/_sim/{path}", body, {"Connection": "close"})
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status == 408:
            raise TimeoutError(answer["error"])
        if response.status != 200:
            raise ValueError(answer["error"])
        return answer
