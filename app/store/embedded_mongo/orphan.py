"""A mongod that has outlived its owner."""

import contextlib
import logging
import os
import signal
from pathlib import Path

from app.common.file_lock import is_locked
from app.store.embedded_mongo.errors import EmbeddedMongoError
from app.store.embedded_mongo.waiting import wait_until

logger = logging.getLogger(__name__)

_SHUTDOWN_S = 15.0
_KILL_S = 30.0  # what it has written may have to reach the disk first


def end_orphan(database: Path, socket: Path) -> None:
    """Stop the mongod that still has `database` open: SIGTERM, and SIGKILL if it does not end in time.

    The caller owns the data directory, so nobody needs that server any more: its owner was killed, and most
    likely it is shutting down already. mongod holds a flock on its lock file while it runs. One that was not
    started by us (it does not listen on `socket`) is waited for, never killed: it may be a person's repair.
    Raises EmbeddedMongoError if it is still there at the end.
    """
    lock_file = database / "mongod.lock"
    if not is_locked(lock_file):
        return
    logger.info("waiting for the mongod that was left in %s to shut down", database)
    pid = _pid_in(lock_file)
    if pid and _is_ours(pid, database, socket):
        _send(pid, signal.SIGTERM)
    if wait_until(lambda: not is_locked(lock_file), _SHUTDOWN_S):
        return
    if pid and _is_ours(pid, database, socket):
        logger.warning("killing the mongod that was left in %s (process %d)", database, pid)
        _send(pid, signal.SIGKILL)
        if wait_until(lambda: not is_locked(lock_file), _KILL_S):
            return
    raise EmbeddedMongoError(
        f"another mongod (process {pid or 'unknown'}) uses {database}: stop it and try again"
    )


def _pid_in(lock_file: Path) -> int | None:
    try:
        return int(lock_file.read_text())
    except (OSError, ValueError):
        return None


def _send(pid: int, signal_number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal_number)


def _is_ours(pid: int, database: Path, socket: Path) -> bool:
    """Return whether the process is a server of this data directory; its id alone may by now mean another."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(database) in arguments and os.fsencode(socket) in arguments
