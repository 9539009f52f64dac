"""The product as it really runs: gunicorn, gevent workers and the embedded MongoDB, on a free port."""

import itertools
import json
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pymongo import MongoClient
from pymongo.database import Database

from app.keys.key_state_store import env_store_id
from simulator.launcher import PATIENCE_S, Proxy, wait_until

CLIENT_KEY = "sk-e2e-client-key"
"""The `PROXY_API_KEY` of every instance."""
UPSTREAM_KEY = "sk-upstream-0123456789abcdef"
"""The only upstream key unless a test configures others; its pool id is `env-1`."""
MODELS_FILE = Path(__file__).with_name("models.toml")
"""The model table of the tests, with round prices."""

_BLEMISHES = ("cooldownUntil", "lastError", "suspectedBy", "limitedBy", "modelLimits")
"""The fields of a stored key state that good keys do not have."""
_numbers = itertools.count(1)


class WeirProcess(Proxy):
    """`gunicorn wsgi:app` on a data directory, in front of `upstream_url`; `environment` adds variables.

    Use it as a context manager; leaving it stops the server and checks that it stopped as it should.
    """

    def __init__(self, data_dir: Path, upstream_url: str, **environment: str) -> None:
        self.data_dir = data_dir
        logs = next(path for path in data_dir.parents if path.is_dir())
        super().__init__(
            {
                "HOST": "127.0.0.1",
                "PORT": "0",
                "DATA_DIR": str(data_dir),
                "OHMYGPT_BASE_URL": upstream_url,
                "OHMYGPT_API_KEYS": UPSTREAM_KEY,
                "PROXY_API_KEY": CLIENT_KEY,
                "MODELS_FILE": str(MODELS_FILE),
                "LOG_FLUSH_MS": "25",
                "KEY_SYNC_MS": "200",
                "LOG_FORMAT": "json",
                "RATE_LIMIT_RPM": "0",
                "REFUSAL_RECORDS_RPM": "1000000",
                "GRACEFUL_TIMEOUT_S": "20",
            }
            | environment,
            log=logs / f"{data_dir.name}-{next(_numbers)}.log",
        )
        self._client: MongoClient[dict[str, Any]] | None = None
        self._errors_told = 0

    def start(self) -> float:
        """Start; returns once all workers are there, with the seconds that took."""
        self._errors_told = 0
        return super().start()

    def is_up(self) -> bool:
        """Whether it listens, and all workers are there."""
        workers = int(self.environment.get("WEB_CONCURRENCY", "1"))
        return self.is_listening() and len(self.worker_pids()) == workers

    def stop(self, *, ctrl_c: bool = False) -> None:
        """Stop it, and check that nothing of it runs any more."""
        assert self._child is not None, "not running"
        self._disconnect()
        super().stop(ctrl_c=ctrl_c)
        assert not (self.data_dir / "mongodb.uri").exists(), "the embedded MongoDB was not stopped"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self.stop()

    @property
    def database(self) -> Database[dict[str, Any]]:
        """The store of this instance, through a connection of the tests' own."""
        if self._client is None:
            uri = self.environment.get("MONGODB_URI") or (self.data_dir / "mongodb.uri").read_text().strip()
            self._client = MongoClient(uri, tz_aware=True)
        return self._client["fproxy"]

    @property
    def admin_token(self) -> str:
        """The one it was given, or has made itself."""
        given = self.environment.get("ADMIN_TOKEN")
        return given or (self.data_dir / "admin-token").read_text().strip()

    def records(self, query: Mapping[str, Any] | None = None, *, skip: int = 0) -> list[dict[str, Any]]:
        """Records in the store but for the first `skip` of them, oldest first."""
        return list(self.database["request_logs"].find(query or {}, skip=skip).sort("_id", 1))

    def record_count(self) -> int:
        """How many records there are."""
        return self.database["request_logs"].count_documents({})

    def wait_record(self, request_id: str) -> dict[str, Any]:
        """The record of a request, once the background writer has booked it."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            record = self.database["request_logs"].find_one({"_id": request_id})
            found.extend([record] if record else [])
            return bool(found)

        wait_until(look, what=f"the record {request_id}; the log says\n{self.log}")
        return found[0]

    def restore_keys(self) -> None:
        """Forgive the configured upstream keys if worker or database have anything against one."""
        blemished = {"$or": [{name: {"$exists": True}} for name in _BLEMISHES]}
        stored = self.database["upstream_key_states"]
        if self._pool_counts()["healthy"] < len(self._key_ids()) or stored.find_one(blemished):
            self.forgive_keys()

    def forgive_keys(self) -> None:
        """Make all configured upstream keys healthy, as another program would; returns when that is known.

        For one worker only: it completes a state it did not write, which shows that it has read it.
        """
        states = self.database["upstream_key_states"]
        ids = self._key_ids()
        word = {"$set": {"status": "healthy", "stateSeverity": -1}, "$inc": {"stateVersion": 1}}
        gone = {"$unset": dict.fromkeys(_BLEMISHES, "")}
        for store_id in ids:
            states.update_one({"_id": store_id}, word | gone, upsert=True)
        good = {"_id": {"$in": ids}, "stateSeverity": 0}
        wait_until(lambda: states.count_documents(good) == len(ids), what="good keys")

    def log_messages(self, level: str) -> list[str]:
        """Messages logged at a level, for the absence of errors."""
        written = self.log.splitlines(keepends=True)
        # The last line may be half written.
        lines = (json.loads(line) for line in written if line.startswith("{") and line.endswith("\n"))
        return [line["message"] for line in lines if line["level"] == level]

    def new_errors(self) -> list[str]:
        """Errors logged since the last call or start: what one test caused is not told to the next."""
        errors = self.log_messages("ERROR")
        told, self._errors_told = self._errors_told, len(errors)
        return errors[told:]

    def complaints(self) -> list[str]:
        """What was logged at warning or above, and all lines that are no log lines, such as tracebacks."""
        usual = ("DEBUG", "INFO")
        # The last line may be half written.
        lines = [line[:-1] for line in self.log.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if not line.startswith("{") or json.loads(line)["level"] not in usual]

    def _key_ids(self) -> list[str]:
        """Under which the states of the configured keys are stored."""
        secrets = self.environment["OHMYGPT_API_KEYS"].split(",")
        return [env_store_id(secret) for secret in secrets if secret]

    def _pool_counts(self) -> dict[str, int]:
        """How many keys are in which state, as the worker that answers sees them."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with closing(connection):
            connection.request("GET", "/keys/status", headers={"Authorization": f"Bearer {self.admin_token}"})
            counts: dict[str, int] = json.load(connection.getresponse())["stats"]
        return counts

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
