"""A MongoDB that belongs to the drill, to be stopped, killed and brought back as it likes."""

import os
import signal
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from pymongo import MongoClient
from pymongo.database import Database

from app.store.embedded_mongo import EmbeddedMongo

Document = dict[str, Any]


class Store:
    """A mongod on a directory of its own, with a client of the drill's beside it."""

    def __init__(self, directory: Path) -> None:
        self._server = EmbeddedMongo(directory)
        self._client: MongoClient[Document] | None = None
        self.pid = 0

    @property
    def uri(self) -> str:
        """What `MONGODB_URI` is set to; valid before and after starts."""
        return self._server.uri

    @property
    def socket_path(self) -> str:
        """The socket behind the URI."""
        return unquote(urlsplit(self.uri).netloc)

    @property
    def database(self) -> Database[Document]:
        """The product's database, by a connection of the drill's own."""
        if self._client is None:
            self._client = MongoClient(self.uri, tz_aware=True, serverSelectionTimeoutMS=10_000)
        return self._client["fproxy"]

    def start(self) -> None:
        """Start the database, or bring it back after `kill`."""
        if not self._server.try_start():
            raise RuntimeError("the drill's database directory is in use")
        self._server.ensure_running()
        self.pid = int(self.database.client.admin.command("serverStatus")["pid"])

    def pause(self) -> None:
        """Stop the process (SIGSTOP): connections stay open, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process (SIGKILL)."""
        os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the database for good."""
        if self._client is not None:
            self._client.close()
        if self._server.poll():
            self.resume()  # a stopped process does not hear SIGTERM
        self._server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
