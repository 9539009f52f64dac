"""A replica set of one's own on loopback ports, to be stepped down, killed, paused and rolled back.

Tests use it too. Processes are ended by SIGKILL: a primary that is asked politely waits for a successor.
"""

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pymongo import MongoClient, WriteConcern
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from app.store.embedded_mongo.binary import find_mongod
from simulator.launcher import Child, ProcessTrouble, free_port, tail, wait_until

Document = dict[str, Any]

NAME = "rs0"
PRIMARY, SECONDARY, ARBITER = 1, 2, 7

_OPTIONS = (
    "--bind_ip",
    "127.0.0.1",
    "--nounixsocket",
    "--oplogSize",
    "64",
    "--wiredTigerCacheSizeGB",
    "0.25",
)
_START_S = 60.0
_LOOK_MS = 2000
_ALREADY_INITIALISED = 23


@dataclass(slots=True)
class Member:
    """One mongod. `options` are added to its command line, `client_options` to those of its client."""

    directory: Path
    options: Sequence[str] = ()
    client_options: Document = field(default_factory=dict)
    is_arbiter: bool = False
    port: int = field(default_factory=free_port)
    _child: Child | None = None
    _client: MongoClient[Document] | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def client(self) -> MongoClient[Document]:
        """A connection to this very member."""
        if self._client is None:
            self._client = MongoClient(
                f"mongodb://{self.address}/?directConnection=true",
                serverSelectionTimeoutMS=_LOOK_MS,
                socketTimeoutMS=_LOOK_MS,
                **self.client_options,
            )
        return self._client

    @property
    def log(self) -> str:
        """What it has said since it was started last."""
        return self._child.log if self._child is not None else ""

    def start(self, mongod: Path) -> None:
        """Spawn the member; it may take seconds until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        place = ["--dbpath", str(self.directory), "--port", str(self.port)]
        command = [str(mongod), *_OPTIONS, *place, *self.options]
        self._child = Child(command, {}, self.directory / "mongod.log")

    @property
    def is_running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._child is not None and self._child.is_running

    def send(self, number: signal.Signals) -> None:
        """Send the member a signal."""
        if self._child is not None:
            self._child.send(number)

    def pause(self) -> None:
        """Stop the process (SIGSTOP): connections stay open, and nothing answers."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process go on (SIGCONT)."""
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process (SIGKILL), and wait for its end."""
        self.send(signal.SIGKILL)
        if self._child is not None:
            self._child.wait(10.0)

    def state(self) -> int | None:
        """Return the member's state as replica sets number it; None when it does not answer."""
        try:
            hello = self.client.admin.command("hello")
        except PyMongoError:
            return None
        if hello.get("isWritablePrimary"):
            return PRIMARY
        return ARBITER if hello.get("arbiterOnly") else SECONDARY if hello.get("secondary") else 0

    def rolled_back(self) -> int:
        """Count the files of documents the member has kept that were rolled back."""
        return sum(1 for path in (self.directory / "rollback").rglob("*.bson"))

    def close(self) -> None:
        """End the member for good."""
        self.kill()
        if self._client is not None:
            self._client.close()


class ReplicaSet:
    """Members on a directory; `with` starts them and waits for a primary.

    `election_s` is how long a primary may be silent before another one is elected.
    """

    def __init__(
        self,
        directory: Path,
        *,
        members: int = 3,
        arbiters: int = 0,
        election_s: float = 2.0,
        options: Sequence[str] = (),
        **client_options: Any,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._mongod = find_mongod(None, directory / "probe", None).path
        self._election_ms = round(election_s * 1000)
        self._client_options = client_options
        self.members = [
            Member(
                directory / f"member-{number}",
                ("--replSet", NAME, *options),
                client_options,
                is_arbiter=number >= members,
            )
            for number in range(members + arbiters)
        ]
        self._client: MongoClient[Document] | None = None

    @property
    def uri(self) -> str:
        """What `MONGODB_URI` is set to."""
        return f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet={NAME}"

    @property
    def client(self) -> MongoClient[Document]:
        """A client that follows the primary, and waits for there being one."""
        if self._client is None:
            options: Document = {"tz_aware": True, "serverSelectionTimeoutMS": 30_000, "w": "majority"}
            self._client = MongoClient(self.uri, **options, **self._client_options)
        return self._client

    @property
    def database(self) -> Database[Document]:
        """The product's database."""
        return self.client["fproxy"]

    def start(self) -> None:
        """Spawn all members and make a set of them; returns when there is a primary."""
        for member in self.members:
            member.start(self._mongod)
        wait_until(self._initiate, _START_S, "the replica set to be made")
        self.primary()

    def primary(self, among: Sequence[Member] | None = None) -> Member:
        """Wait for a primary; return it."""
        found: list[Member] = []

        def look() -> bool:
            found[:] = [member for member in among or self.members if member.state() == PRIMARY][:1]
            return bool(found)

        wait_until(look, _START_S, "a primary", step_s=0.1)
        return found[0]

    def others(self, member: Member) -> list[Member]:
        """Return all members but this one."""
        return [other for other in self.members if other is not member]

    def revive(self, member: Member) -> None:
        """Start a killed member again, and wait until it has caught up."""
        member.start(self._mongod)
        self.wait_state(member, SECONDARY, PRIMARY)
        running = sum(other.is_running and not other.is_arbiter for other in self.members)
        everywhere = WriteConcern(w=running, wtimeout=round(_START_S * 1000))
        # A member that has this has taken back what the others did not have.
        self.client["drill"].get_collection("caught_up", write_concern=everywhere).insert_one({})

    def wait_state(self, member: Member, *states: int) -> None:
        """Wait until the member is in one of these states."""
        wait_until(lambda: member.state() in states, _START_S, "a member to catch up", step_s=0.1)

    def step_down(self) -> None:
        """Have the primary give up its place, and another one take it."""
        primary = self.primary()
        try:
            primary.client.admin.command("replSetStepDown", 5, secondaryCatchUpPeriodSecs=2, force=True)
        except PyMongoError:
            return  # it closes connections; whether it went is seen by who asks for the primary

    def roll_back(self, wait: Callable[[], None]) -> None:
        """Have a primary take writes that no other member gets, and lose them to the next one.

        `wait` passes the time in which it takes them. Paused members would find them in their sockets, so the
        others are killed.
        """
        primary = self.primary()
        others = self.others(primary)
        for other in others:
            other.kill()
        wait()
        primary.kill()
        for other in others:
            other.start(self._mongod)
        self.primary(others)
        wait()
        self.revive(primary)

    def stop(self) -> None:
        """End all members for good."""
        if self._client is not None:
            self._client.close()
        for member in self.members:
            member.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _initiate(self) -> bool:
        members = [
            {"_id": number, "host": member.address, "arbiterOnly": member.is_arbiter}
            | ({"priority": 0} if member.is_arbiter else {})
            for number, member in enumerate(self.members)
        ]
        pace = {"electionTimeoutMillis": self._election_ms, "heartbeatIntervalMillis": self._election_ms // 4}
        try:
            self.members[0].client.admin.command(
                "replSetInitiate", {"_id": NAME, "members": members, "settings": pace}
            )
        except OperationFailure as error:
            return error.code == _ALREADY_INITIALISED
        except PyMongoError:
            if not all(member.is_running for member in self.members):
                raise ProcessTrouble(f"a mongod did not start:\n{tail(self.members[0].log)}") from None
            return False
        return True
