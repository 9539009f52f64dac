"""What a scenario plays on: a proxy, its database and its users, and the comparison at the end."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import gevent
from pymongo import MongoClient
from pymongo.database import Database

from app.journal import SlotReport, survey
from drill.books import Audit, check_sums, read_records
from drill.levels import Level
from drill.load import Load
from drill.mix import Caller, Mix
from drill.prices import model_table
from drill.processes import CLIENT_KEY, Upstream, Weir
from drill.replica_set import ReplicaSet
from drill.report import Console, Findings
from drill.store import Store
from simulator.launcher import Overdue, ProcessTrouble, wait_until

Document = dict[str, Any]

SETTLE_TIMEOUT_S = 180.0
"""How long what journals hold may take to be booked, once the load is over and the database is there."""

FIXED_KEY = Caller("env", CLIENT_KEY, "env", None)


@dataclass(slots=True)
class Stage:
    """One running product. `store` or `replica_set` is the drill's own database; None: the embedded one."""

    directory: Path
    upstream: Upstream
    weir: Weir
    store: Store | None
    replica_set: ReplicaSet | None
    callers: list[Caller]
    load: Load
    mix: Mix
    console: Console
    kill_times: list[float] = field(default_factory=list)
    _client: MongoClient[Document] | None = None

    @property
    def journal_root(self) -> str:
        """Where the slots are."""
        return str(self.weir.data_dir / "journal")

    @property
    def database(self) -> Database[Document]:
        """The database in use."""
        own = self.store or self.replica_set
        if own is not None:
            return own.database
        if self._client is None:
            uri = (self.weir.data_dir / "mongodb.uri").read_text().strip()
            self._client = MongoClient(uri, tz_aware=True, serverSelectionTimeoutMS=5000)
        return self._client["fproxy"]

    def disconnect(self) -> None:
        """Let go of the embedded database."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def slots(self) -> list[SlotReport]:
        """Return what journals hold now."""
        while True:
            try:
                return survey(self.journal_root)
            except FileNotFoundError:
                gevent.sleep(0.01)  # a segment was settled and removed while it was looked at

    def is_settled(self) -> bool:
        """Return whether everything that was journaled is booked, and no request is open."""
        return not any(slot.unbooked or slot.open_requests for slot in self.slots())

    def wait_settled(self) -> float:
        """Wait until the stage is settled; return how long that took. Raises `Overdue`."""
        return wait_until(self.is_settled, SETTLE_TIMEOUT_S, "the journals to be settled", step_s=0.2)

    def killed(self, count: int, findings: Findings, *, since: float | None = None) -> None:
        """Note kills that were made now, or at some time from `since` (monotonic) on."""
        findings.kills += count
        self.kill_times += [time.monotonic(), *([] if since is None else [since])]

    def is_known_everywhere(self) -> bool:
        """Return whether each worker has served each user, by the marks it leaves where it charges."""
        workers = int(self.weir.environment["WEB_CONCURRENCY"])
        names = [caller.name for caller in self.callers if caller.granted_nano is not None]
        users = list(self.database["usersNew"].find({"_id": {"$in": names}}, {"applied": True}))
        return len(users) == len(names) and all(len(user.get("applied", ())) >= workers for user in users)

    def is_all_booked(self) -> bool:
        """Return whether the (only) worker has booked all that it knows of, also what is in memory alone."""
        return self.weir.metric("weir_unbooked_records") == 0

    def close_books(self, findings: Findings, *, is_verified: bool = True, reduced: int = 0) -> None:
        """Compare everything, the load being over; `weir verify` has the last word.

        `reduced` records may lack what MongoDB refused.
        """
        try:
            findings.figures["settled after, s"] = round(self.wait_settled(), 1)
        except Overdue as error:
            findings.problem(f"{error}: {self.slots()}")
        entries = self.upstream.collect()
        records = read_records(self.database)
        Audit(findings, self.load.calls, entries, records, self.kill_times).run(reduced)
        check_sums(findings, self.database, self.callers, records)
        findings.figures["load"] = dict(self.load.endings())
        findings.figures["upstream"] = len(entries)
        findings.figures["slowest answer, s"] = round(
            max((call.ms for call in self.load.calls), default=0) / 1e3, 1
        )
        damaged = sum(slot.damaged for slot in self.slots())
        findings.expect(not damaged, f"{damaged} damaged pieces in the journal")
        if is_verified:
            self.verify(findings)

    def verify(self, findings: Findings) -> None:
        """Check that `weir verify` exits 0."""
        status, output = self.weir.flask("verify")
        findings.expect(status == 0, f"weir verify: {status}\n{output}")

    def import_keys(self, command: str, keys: Mapping[str, str]) -> None:
        """Store upstream keys by their ids, as an operator does; `command` is `keys` or `backup-keys`."""
        path = self.weir.data_dir.with_name(f"{command}.txt")
        path.write_text("".join(f"{key_id}|{secret}\n" for key_id, secret in keys.items()))
        status, output = self.weir.flask(command, "import", str(path))
        if status:
            raise ProcessTrouble(f"weir {command} import: {output}")

    def init(self) -> None:
        """Make a database of Weir's of an empty one, for commands that come before the proxy."""
        status, output = self.weir.flask("init")
        if status:
            raise ProcessTrouble(f"weir init: {output}")

    def add_user(self, name: str, credits_usd: str, *options: str) -> Caller:
        """Make a user as an operator does."""
        status, output = self.weir.flask("users", "add", name, "--credits", credits_usd, "--json", *options)
        if status:
            raise ProcessTrouble(f"weir users add: {output}")
        made = json.loads(output)
        return Caller(name, made["apiKey"], made["keyId"], round(float(credits_usd) * 10**9))


@dataclass(slots=True)
class Drill:
    """What all scenarios share: the level, the source of randomness, the upstream, a place for data."""

    level: Level
    random: Random
    directory: Path
    upstream: Upstream
    console: Console

    @contextmanager
    def stage(
        self,
        name: str,
        *,
        is_embedded: bool = False,
        replica_set: ReplicaSet | None = None,
        users: int = 2,
        is_started: bool = True,
        **environment: str,
    ) -> Iterator[Stage]:
        """Run a product with an empty database; variables may be given by name. All ends with the block.

        A `replica_set` is started and stopped by the caller.
        """
        directory = self.directory / name
        directory.mkdir()
        models = directory / "models.toml"
        models.write_text(model_table())
        self.upstream.begin_books()
        store = None if is_embedded or replica_set is not None else Store(directory / "store")
        own = store or replica_set
        settings: Mapping[str, str] = {"MODELS_FILE": str(models)} | environment
        if own is not None:
            settings = {"MONGODB_URI": own.uri, **settings}
        weir = Weir(directory, self.upstream.url, settings)
        mix = Mix([FIXED_KEY], self.random)
        load = Load(weir.port)
        stage = Stage(
            directory, self.upstream, weir, store, replica_set, [FIXED_KEY], load, mix, self.console
        )
        try:
            if store is not None:
                store.start()
            with weir:
                names = [f"user-{number}" for number in range(users)]
                # An embedded database is there once the proxy runs; otherwise nobody need wait.
                if is_started and own is None:
                    weir.start()
                if own is not None and names:
                    stage.init()
                made = [gevent.spawn(stage.add_user, name, "1000") for name in names]
                if is_started and own is not None:
                    weir.start()
                gevent.joinall(made, raise_error=True)
                stage.callers += [greenlet.get() for greenlet in made]
                stage.mix = Mix(stage.callers, self.random)
                try:
                    yield stage
                finally:
                    stage.disconnect()  # while there is a server that can be told so
        finally:
            if store is not None:
                store.stop()
