"""The simulator as a process of its own, driven over its control endpoints."""

from __future__ import annotations

import base64
import http.client
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from simulator.launcher import PATIENCE_S, Child
from simulator.script import Script, script_to_json


class SimulatorProcess:
    """Spawns ``python -m simulator`` and talks to it. Use it as a context manager, or `start` and `stop`.

    ``environment`` is what its interpreter needs to run, if anything.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._arguments = list(arguments)
        self._environment = environment or {}
        self._child: Child | None = None

    def start(self) -> Self:
        """Spawn; returns when the process accepts connections. `ProcessTrouble` if it ends instead."""
        command = [sys.executable, "-m", "simulator", "--host", self.host, "--port", str(self.port)]
        handle, log = tempfile.mkstemp(prefix="simulator-", suffix=".log")
        os.close(handle)
        self._child = child = Child([*command, *self._arguments], self._environment, Path(log))
        try:
            url = child.wait_for_line(lambda line: line.strip() if line.startswith("http://") else None)
        except BaseException:
            self.stop()
            raise
        self.port = int(url.rpartition(":")[2])
        return self

    def stop(self, timeout_s: float = PATIENCE_S) -> int | None:
        """SIGTERM (SIGKILL after ``timeout_s``); returns the exit status, None when not running."""
        child, self._child = self._child, None
        if child is None:
            return None
        status = child.stop(timeout_s)
        child.log_path.unlink(missing_ok=True)
        return status

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
        return self._child.pid if self._child else None

    def script(self, name: str, script: Script) -> str:
        """Register a script; returns the model name that plays it."""
        self._call("POST", "scripts", {"name": name, **script_to_json(script)})
        return f"script:{name}"

    def behave(self, model: str, spec: str, times: int | None = None) -> None:
        """Give requests for a model (``*``: any) a behaviour."""
        self._call("POST", "behave", {"model": model, "spec": spec, "times": times})

    def offer(self, *models: str) -> None:
        """List these models, until the next `reset`; any name is still answered."""
        self._call("POST", "models", {"models": models})

    def account(self, **facts: object) -> None:
        """Set what the management API says: see `simulator.account.Account.put`."""
        self._call("POST", "account", facts)

    def key(self, key: str, state: str) -> None:
        """Put an upstream key in a state."""
        self._call("POST", "keys", {key: state})

    def keys(self, states: Mapping[str, str]) -> None:
        """Put several upstream keys in states."""
        self._call("POST", "keys", dict(states))

    def tally(
        self, since: int = 0, *, ended: int = 0, begun: int = 0, timeout_s: float = PATIENCE_S
    ) -> list[dict[str, Any]]:
        """Return entries after ``since``; waits until as many requests ended or begun. `TimeoutError`."""
        query = f"tally?since={since}&ended={ended}&begun={begun}&timeout_s={timeout_s}"
        entries: list[dict[str, Any]] = self._call("GET", query, wait_s=timeout_s)["entries"]
        return entries

    def totals(self) -> dict[str, Any]:
        """Return the sums per model."""
        return self._call("GET", "totals")

    def connections(self) -> int:
        """Count open connections, not counting the one that asks."""
        return int(self._call("GET", "")["connections"]) - 1

    def requests(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the last requests in full; ``body`` is bytes."""
        seen: list[dict[str, Any]] = self._call("GET", f"requests?since={since}")["requests"]
        for item in seen:
            item["body"] = base64.b64decode(item.pop("body_base64"))
        return seen

    def open_gate(self, name: str) -> None:
        """Let scripts pass a `Wait`."""
        self._call("POST", f"gates/{name}")

    def wait_gate(self, name: str, count: int = 1, timeout_s: float = PATIENCE_S) -> None:
        """Block until ``count`` scripts have reached a `Wait`."""
        self._call("GET", f"gates/{name}?count={count}&timeout_s={timeout_s}", wait_s=timeout_s)

    def refuse_for(self, seconds: float) -> None:
        """Refuse new connections for so long (control calls too)."""
        self._call("POST", "listen", {"on": False, "off_s": seconds})

    def reset(self, *, keep_scripts: bool = False) -> None:
        """Forget tally, gates, rules and key states, and scripts unless they are to be kept."""
        self._call("POST", "reset", {"keep_scripts": keep_scripts})

    def _call(self, method: str, path: str, document: object = None, wait_s: float = 0.0) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE_S + wait_s)
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
