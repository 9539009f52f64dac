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

from app.adapters.journal import SlotReport, survey
from drill.books import Audit, check_sums, read_records
from drill.levels import Level
from drill.load import Load
from drill.mix import Caller, Mix
from drill.prices import model_table
from drill.processes import CLIENT_KEY, ProcessTrouble, Upstream, Weir
from drill.report import Console, Findings
from drill.store import Store
from drill.waiting import Overdue, wait_until

Document = dict[str, Any]

SETTLE_TIMEOUT_S = 90.0
"""How long what journals hold may take to be booked, once the load is over and the database is there."""

FIXED_KEY = Caller("env", CLIENT_KEY, "env", None)


@dataclass(slots=True)
class Stage:
    """One running product. `store` is the drill's own database; None: the embedded one of the product."""

    directory: Path
    upstream: Upstream
    weir: Weir
    store: Store | None
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
        if self.store is not None:
            return self.store.database
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
        """What journals hold now."""
        while True:
            try:
                return survey(self.journal_root)
            except FileNotFoundError:
                gevent.sleep(0.01)  # a segment was settled and removed while it was looked at

    def is_settled(self) -> bool:
        """Whether everything that was journaled is booked, and no request is open."""
        return not any(slot.unsettled or slot.open_requests for slot in self.slots())

    def wait_settled(self) -> float:
        """Wait for that; how long it took. Raises `Overdue`."""
        return wait_until(self.is_settled, SETTLE_TIMEOUT_S, "the journals to be settled", step_s=0.2)

    def killed(self, count: int, findings: Findings) -> None:
        """Note kills that were made now."""
        findings.kills += count
        self.kill_times.append(time.monotonic())

    def close_books(self, findings: Findings, *, is_verified: bool = True, reduced: int = 0) -> None:
        """Compare everything, the load being over; `flask verify` has the last word.

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
        """`flask verify` has to exit 0."""
        status, output = self.weir.flask("verify")
        findings.expect(status == 0, f"flask verify: {status}\n{output}")

    def import_keys(self, command: str, keys: Mapping[str, str]) -> None:
        """Store upstream keys by their ids, as an operator does; `command` is `keys` or `backup-keys`."""
        path = self.weir.data_dir.with_name(f"{command}.txt")
        path.write_text("".join(f"{key_id}|{secret}\n" for key_id, secret in keys.items()))
        status, output = self.weir.flask(command, "import", str(path))
        if status:
            raise ProcessTrouble(f"flask {command} import: {output}")

    def add_user(self, name: str, credits_usd: str) -> Caller:
        """Make a user as an operator does."""
        status, output = self.weir.flask("users", "add", name, "--credits", credits_usd, "--json")
        if status:
            raise ProcessTrouble(f"flask users add: {output}")
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
        users: int = 2,
        is_started: bool = True,
        **environment: str,
    ) -> Iterator[Stage]:
        """A product with an empty database; variables may be given by name. All ends with the block."""
        directory = self.directory / name
        directory.mkdir()
        models = directory / "models.toml"
        models.write_text(model_table())
        self.upstream.begin_books()
        store = None if is_embedded else Store(directory / "store")
        settings: Mapping[str, str] = {"MODELS_FILE": str(models)} | environment
        if store is not None:
            settings = {"MONGODB_URI": store.uri, **settings}
        weir = Weir(directory, self.upstream.url, settings)
        mix = Mix([FIXED_KEY], self.random)
        stage = Stage(directory, self.upstream, weir, store, [FIXED_KEY], Load(weir.port), mix, self.console)
        try:
            if store is not None:
                store.start()
            with weir:
                names = [f"user-{number}" for number in range(users)]
                # An embedded database is there once the proxy runs; otherwise nobody need wait.
                if is_started and store is None:
                    weir.start()
                made = [gevent.spawn(stage.add_user, name, "1000") for name in names]
                if is_started and store is not None:
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
