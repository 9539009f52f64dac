"""This proxy as a target: as an operator runs it, with everything on, beside a MongoDB of its own."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.machine import pinned
from bench.native import Aim, BenchTrouble
from bench.shapes import MODELS
from bench.targets import Target
from drill.processes import Weir
from drill.store import Store
from simulator.launcher import process_tree

USER = "bench"
_NO_LIMIT = "1000000000"


class WeirTarget(Target):
    """Authentication, rate limit, credits, metering, journal (`group`) and writer into MongoDB are on.

    MongoDB runs on the load's core, as it would run on another machine; its CPU time is told apart.
    """

    name = "weir"
    recorded = "MongoDB"
    survives = "kill -9"
    variables: Mapping[str, str] = {}
    """What it is told besides."""

    def __init__(
        self,
        upstream_port: int,
        directory: Path,
        cores: tuple[int, ...],
        load_core: int,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._upstream = f"http://127.0.0.1:{upstream_port}"
        self._cores = cores
        self._load_core = load_core
        self._settings = {**self.variables, **(settings or {})}
        self._stack = ExitStack()
        self._key = ""
        self.start_s = 0.0
        self.store: Store | None = None
        self.proxy: Weir | None = None

    @property
    def aim(self) -> Aim:
        """Its chat completions, as a user with credit."""
        assert self.proxy is not None
        return Aim(self.proxy.port, self._key)

    def start(self) -> None:
        """Start MongoDB and the proxy, with a user who has credit and a rate limit that is never reached."""
        self._directory.mkdir(parents=True, exist_ok=True)
        models = self._directory / "models.toml"
        models.write_text("\n".join(f'[[models]]\nid = "{model}"\ninput = 1\noutput = 4' for model in MODELS))
        with pinned(self._load_core):
            self.store = self._stack.enter_context(Store(self._directory / "store"))
            self.fill()
        self.proxy = self._make_proxy(
            {
                "MODELS_FILE": str(models),
                "MONGODB_URI": self.store.uri,
                "RATE_LIMIT_RPM": _NO_LIMIT,
                "WEB_CONCURRENCY": "1",
                "JOURNAL_SYNC": "group",
                "ABORT_DRAIN_S": "1",
                "OHMYGPT_API_KEYS": ",".join(f"sk-bench-upstream-{number}" for number in range(4)),
            }
            | self._settings
        )
        with pinned(*self._cores):
            self._stack.enter_context(self.proxy)
            self.start_s = self.proxy.start()
        self._key = self._add_user()

    def fill(self) -> None:
        """Put into the database what is there before the proxy starts: nothing."""

    def _add_user(self) -> str:
        """Add a user with credit; return their client key."""
        assert self.proxy is not None
        status, output = self.proxy.flask("users", "add", USER, "--credits", "1000000", "--json")
        if status:
            raise BenchTrouble(f"flask users add: {output}")
        key: str = json.loads(output)["apiKey"]
        return key

    def _make_proxy(self, settings: Mapping[str, str]) -> Weir:
        return Weir(self._directory, self._upstream, settings)

    def stop(self) -> None:
        """Stop by SIGTERM: what is left is booked."""
        self._stack.close()

    def pids(self) -> list[int]:
        """Master and workers."""
        return process_tree(self.proxy.pid) if self.proxy and self.proxy.is_running else []

    def workers(self) -> list[int]:
        """Return the processes without the master."""
        return self.proxy.worker_pids() if self.proxy else []

    def database(self) -> Any:
        """Return the database in use."""
        assert self.store is not None
        return self.store.database

    def database_pids(self) -> list[int]:
        """Return the mongod."""
        return [self.store.pid] if self.store else []

    def records(self) -> int:
        """Count all records; the collection does that itself."""
        return int(self.database()["request_logs"].estimated_document_count())


class WeirAlways(WeirTarget):
    """The same proxy with `JOURNAL_SYNC=always`: an answer ends when its record is on disk."""

    name = "weir-always"
    survives = "power loss"
    variables: Mapping[str, str] = {"JOURNAL_SYNC": "always"}


class WeirOff(WeirTarget):
    """The same proxy without journal, writer, records and metering (`bench/off.py`): what those cost."""

    name = "weir-off"
    recorded = survives = ""

    def _make_proxy(self, settings: Mapping[str, str]) -> Weir:
        return _OffWeir(self._directory, self._upstream, settings)


class _OffWeir(Weir):
    command = (*Weir.command[:-1], "bench.off:app")
