"""The embedded MongoDB from the side of those who merely use it."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from app.common.file_lock import FileLock, is_locked
from app.store.embedded_mongo.errors import EmbeddedMongoError
from app.store.embedded_mongo.layout import Layout, layout_of, socket_of
from app.store.embedded_mongo.server import EmbeddedMongo
from app.store.embedded_mongo.wire import ping

_WAIT_FOR_USERS_S = 600.0
_ANSWER_S = 10.0


class Handle:
    """A claim on a running server: it stays up until `close`, or until the proxy stops if that owns it."""

    def __init__(self, uri: str, server: EmbeddedMongo | None, users: FileLock | None) -> None:
        self.uri = uri
        self.is_owner = server is not None
        self._server = server
        self._users = users

    def close(self) -> None:
        """Let go. The owner first waits for commands that have attached meanwhile, then stops the server."""
        if self._users is not None:
            self._users.release()
        if self._server is not None:
            self._server.stop(wait_for_users_s=_WAIT_FOR_USERS_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def acquire(data_dir: Path, mongod_bin: str | None = None, *, wait_s: float = 60.0) -> Handle:
    """Use the server of `data_dir`: the one that runs, else one started for as long as the handle is open.

    For commands. While another process is just starting or stopping the server, waits up to `wait_s` seconds.
    Raises EmbeddedMongoError.
    """
    server = EmbeddedMongo(data_dir, mongod_bin)
    layout = layout_of(data_dir)
    deadline = time.monotonic() + wait_s
    while True:
        if server.try_start():
            return Handle(server.uri, server, None)
        handle = _attach(layout)
        if handle is not None:
            return handle
        if time.monotonic() >= deadline:
            holder = FileLock(layout.owner_lock).read_note() or "another process"
            raise EmbeddedMongoError(
                f"{holder} is starting or stopping the embedded MongoDB in {layout.data_dir} and has not "
                f"finished within {wait_s:.0f} s: try again, or stop that process"
            )
        time.sleep(0.02)


def has_database(data_dir: Path) -> bool:
    """Return whether there is an embedded database in `data_dir`, or a process is just making one."""
    layout = layout_of(data_dir)
    return layout.engine_file.exists() or is_locked(layout.owner_lock)


def running_uri(data_dir: Path) -> str | None:
    """Return the URI of the server running on `data_dir`; None if none answers. For its owner's children."""
    uri = _read_uri(layout_of(data_dir))
    return uri if uri and ping(socket_of(uri), _ANSWER_S) else None


def _attach(layout: Layout) -> Handle | None:
    """Attach to the running server; None if there is none, or it is about to stop.

    The order matters: a claim first, then the URI. An owner that stops removes the URI first and then waits
    until no claims are left, so a URI that is still there after the claim is made stays good.
    """
    users = FileLock(layout.users_lock)
    if not users.try_acquire(shared=True):
        return None
    uri = _read_uri(layout)
    if uri and ping(socket_of(uri)):
        return Handle(uri, None, users)
    users.release()
    return None


def _read_uri(layout: Layout) -> str | None:
    try:
        return layout.uri_file.read_text().strip() or None
    except FileNotFoundError:
        return None
