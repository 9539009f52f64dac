"""The product as it really runs: gunicorn, gevent workers and the embedded MongoDB, on a free port."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pymongo import MongoClient
from pymongo.database import Database

from app.adapters.mongo.key_states import env_store_id
from tests.support.processes import Child, children_of, group_members, wait_until

CLIENT_KEY = "sk-e2e-client-key"
"""The `PROXY_API_KEY` of every instance."""
UPSTREAM_KEY = "sk-upstream-0123456789abcdef"
"""The only upstream key unless a test configures others; its pool id is `env-1`."""
MODELS_FILE = Path(__file__).with_name("models.toml")
"""The model table of the tests, with round prices."""

_LISTENING = re.compile(r"Listening at: http://[^ ]+:(\d+) ")


class WeirProcess:
    """`gunicorn wsgi:app` on a data directory, in front of `upstream_url`; `environment` adds variables.

    Use it as a context manager; leaving it stops the server and checks that it stopped as it should.
    """

    def __init__(self, data_dir: Path, upstream_url: str, **environment: str) -> None:
        self.data_dir = data_dir
        self.port = 0
        self.environment = {
            "HOST": "127.0.0.1",
            "PORT": "0",
            "DATA_DIR": str(data_dir),
            "OHMYGPT_BASE_URL": upstream_url,
            "OHMYGPT_API_KEYS": UPSTREAM_KEY,
            "PROXY_API_KEY": CLIENT_KEY,
            "MODELS_FILE": str(MODELS_FILE),
            "LOG_FLUSH_MS": "10",
            "KEY_SYNC_MS": "50",
            "LOG_FORMAT": "json",
            "RATE_LIMIT_RPM": "0",
            "GRACEFUL_TIMEOUT_S": "20",
        } | environment
        self._child: Child | None = None
        self._client: MongoClient[dict[str, Any]] | None = None

    def start(self) -> Self:
        """Start; returns once requests are answered."""
        self._child = child = Child([sys.executable, "-m", "gunicorn", "wsgi:app"], self.environment)
        try:
            self.port = int(child.wait_for_line(_port_in))
            workers = int(self.environment.get("WEB_CONCURRENCY", "1"))
            wait_until(lambda: len(self.worker_pids()) == workers, what="the workers")
        except BaseException:
            child.kill_group()
            raise
        return self

    def stop(self) -> int:
        """SIGTERM; the exit status, after checking that nothing of it runs any more."""
        child, self._child = self._child, None
        assert child is not None, "not running"
        self._disconnect()
        child.terminate()
        try:
            status = child.wait()
            left = group_members(child.pid)
        finally:
            child.kill_group()
        assert not left, f"processes left behind: {left}\n{child.log}"
        assert status == 0, f"exit status {status}\n{child.log}"
        assert not (self.data_dir / "mongodb.uri").exists(), "the embedded MongoDB was not stopped"
        return status

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self.stop()

    @property
    def url(self) -> str:
        """Base URL without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._child.log if self._child else ""

    @property
    def pid(self) -> int:
        """The master's process id."""
        assert self._child is not None
        return self._child.pid

    def terminate(self) -> None:
        """SIGTERM, without waiting for anything."""
        assert self._child is not None
        self._child.terminate()

    def worker_pids(self) -> list[int]:
        """The gunicorn workers, not the database beside them."""
        assert self._child is not None
        names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children_of(self._child.pid)}
        return [pid for pid, name in names.items() if b"gunicorn" in name]

    @property
    def database(self) -> Database[dict[str, Any]]:
        """The store of this instance, through a connection of the tests' own."""
        if self._client is None:
            uri = self.environment.get("MONGODB_URI") or (self.data_dir / "mongodb.uri").read_text().strip()
            self._client = MongoClient(uri, tz_aware=True)
        return self._client["fproxy"]

    def records(self, query: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Records in the store, oldest first."""
        return list(self.database["request_logs"].find(query or {}).sort("_id", 1))

    def record_count(self) -> int:
        """How many records there are."""
        return self.database["request_logs"].count_documents({})

    def wait_record(self, request_id: str, timeout_s: float = 15.0) -> dict[str, Any]:
        """The record of a request, once the background writer has booked it."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            record = self.database["request_logs"].find_one({"_id": request_id})
            found.extend([record] if record else [])
            return bool(found)

        wait_until(look, timeout_s, f"the record {request_id}; the log says\n{self.log}")
        return found[0]

    def forgive_keys(self) -> None:
        """Make all configured upstream keys healthy, as another program would; returns when that is known.

        For one worker only: it completes a state it did not write, which shows that it has read it.
        """
        states = self.database["upstream_key_states"]
        ids = [env_store_id(secret) for secret in self.environment["OHMYGPT_API_KEYS"].split(",")]
        word = {"$set": {"status": "healthy", "stateSeverity": -1}, "$inc": {"stateVersion": 1}}
        gone = {"$unset": dict.fromkeys(("cooldownUntil", "lastError", "suspectedBy"), "")}
        for store_id in ids:
            states.update_one({"_id": store_id}, word | gone, upsert=True)
        good = {"_id": {"$in": ids}, "stateSeverity": 0}
        wait_until(lambda: states.count_documents(good) == len(ids), what="good keys")

    def log_messages(self, level: str) -> list[str]:
        """Messages logged at a level, for the absence of errors."""
        lines = (json.loads(line) for line in self.log.splitlines() if line.startswith("{"))
        return [line["message"] for line in lines if line["level"] == level]

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def _port_in(line: str) -> str | None:
    found = _LISTENING.search(line)
    return found[1] if found else None
