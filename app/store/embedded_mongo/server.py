"""The server of one data directory, from the side of the process that owns it."""

import contextlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from app.common.file_lock import FileLock
from app.store.embedded_mongo.binary import find_mongod
from app.store.embedded_mongo.child import Child, spawn
from app.store.embedded_mongo.diagnosis import explain
from app.store.embedded_mongo.engine import record_engine, recorded_series
from app.store.embedded_mongo.errors import EmbeddedMongoError
from app.store.embedded_mongo.layout import layout_of, private_directory, uri_of, write_private
from app.store.embedded_mongo.orphan import end_orphan
from app.store.embedded_mongo.waiting import wait_until
from app.store.embedded_mongo.wire import ping

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 120.0  # after a crash mongod replays its journal first
_LOG_LIMIT_BYTES = 8 * 1024 * 1024

_OPTIONS = (
    *("--nounixsocket", "--filePermissions", "0600"),  # no second socket beside the one it is bound to
    *("--wiredTigerCacheSizeGB", "0.25"),
    *("--networkMessageCompressors", "disabled"),
    *("--setParameter", "diagnosticDataCollectionEnabled=false"),
    *("--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=20MB)"),
    *("--quiet", "--slowms", "1000", "--logappend", "--logRotate", "reopen"),
)


class EmbeddedMongo:
    """Runs mongod on `data_dir`; at most one object, in one process, does so at a time.

    Call `start` from a thread that lives as long as the process (see `spawn`). In a forked child of the owner
    every method does nothing, so a worker cannot stop its master's server.
    """

    def __init__(self, data_dir: Path, mongod_bin: str | None = None) -> None:
        self._layout = layout_of(data_dir)
        self._mongod_bin = mongod_bin
        self._lock = FileLock(self._layout.owner_lock)
        self._guard = threading.Lock()  # between a watcher's ensure_running() and stop()
        self._command: list[str] = []
        self._child: Child | None = None
        self.version = ""
        self._log_start = 0

    @property
    def uri(self) -> str:
        """The server's URI. Raises EmbeddedMongoError if the data directory's path is unusable."""
        return uri_of(self._layout.socket)

    @property
    def is_owner(self) -> bool:
        """Whether this process runs the server of the data directory."""
        return self._lock.is_held

    def start(self, lock_wait_s: float = 60.0) -> str:
        """Become the owner and start the server; return its URI, once it answers.

        A command that owns the server at this moment is waited for, up to `lock_wait_s` seconds: attaching to
        it instead would leave this process without a database when the command ends.
        """
        if not self.try_start():
            logger.info(
                "waiting for %s to leave DATA_DIR %s, whose embedded MongoDB it runs; to run beside it, set "
                "another DATA_DIR, or MONGODB_URI",
                self._holder(),
                self._layout.data_dir,
            )
            if not wait_until(self.try_start, lock_wait_s):
                raise EmbeddedMongoError(
                    f"the embedded MongoDB in {self._layout.data_dir} is still owned by {self._holder()}: "
                    "stop that process, or use another DATA_DIR"
                )
        return self.uri

    def try_start(self) -> bool:
        """Start the server if nobody owns the data directory; return whether this object now does."""
        if self._lock.is_held:
            return True
        try:
            self._layout.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._lock.try_acquire():
                return False
            self._lock.note(f"process {os.getpid()} ({Path(sys.argv[0]).name or 'python'})")
            self._start_as_owner()
        except OSError as error:
            self._give_up()
            raise EmbeddedMongoError(
                f"cannot use DATA_DIR {self._layout.data_dir} for the embedded MongoDB ({error}): "
                "give this user a directory it may write to, or set MONGODB_URI"
            ) from error
        except BaseException:
            self._give_up()
            raise
        return True

    def poll(self) -> bool:
        """Return whether the server's process is running. Owner only; False elsewhere."""
        return self.is_owner and self._child is not None and self._child.is_alive()

    def ensure_running(self) -> bool:
        """Start the server again if it has died by itself; return whether that was necessary.

        Socket and URI stay the same, so clients simply reconnect. Also keeps mongod's log small. To be called
        every second or so by the owner, from one thread that lives as long as the process. Raises
        EmbeddedMongoError if the server does not start; the next call tries again.
        """
        if not self.is_owner:
            return False
        with self._guard:
            return self._revive()

    def stop(self, timeout_s: float = 10.0, wait_for_users_s: float = 0.0) -> None:
        """Stop the server and leave the data directory to others; nothing happens if not the owner.

        First no new users are let in and those there are waited for, up to `wait_for_users_s` seconds. Then
        mongod gets SIGTERM, and SIGKILL after `timeout_s` seconds (acknowledged writes are in its journal).
        """
        if not self.is_owner:
            return
        with self._guard:
            try:
                self._layout.uri_file.unlink(missing_ok=True)
                self._wait_for_users(wait_for_users_s)
            finally:
                self._give_up(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_as_owner(self) -> None:
        layout = self._layout
        layout.uri_file.unlink(missing_ok=True)  # left by an owner that was killed
        private_directory(layout.home)
        private_directory(layout.database)
        end_orphan(layout.database, layout.socket)
        mongod = find_mongod(self._mongod_bin, layout.output, recorded_series(layout.engine_file))
        self._command = [
            *(str(mongod.path), "--dbpath", str(layout.database), "--logpath", str(layout.log)),
            *("--bind_ip", str(layout.socket), *_OPTIONS),
        ]
        self._launch()
        record_engine(layout.engine_file, mongod)
        write_private(layout.uri_file, self.uri + "\n")
        self.version = mongod.version
        logger.debug("embedded MongoDB %s is running in %s", mongod.version, layout.home)

    def _revive(self) -> bool:
        if self.poll():
            self._limit_log()
            return False
        if not self.is_owner:  # stopped while this thread waited for the guard
            return False
        logger.error("the embedded MongoDB died, starting it again: %s", self._why_it_died())
        self._launch()
        return True

    def _launch(self) -> None:
        socket = self._layout.socket
        private_directory(socket.parent)
        self._limit_log()
        self._log_start = self._log_size()
        self._child = child = spawn(self._command, self._layout.output)
        ready = wait_until(lambda: not child.is_alive() or ping(str(socket)), _START_TIMEOUT_S)
        if not child.is_alive():
            raise EmbeddedMongoError(f"the embedded MongoDB did not start: {self._why_it_died()}")
        if not ready:
            child.stop(timeout_s=1.0)
            raise EmbeddedMongoError(
                f"the embedded MongoDB did not answer within {_START_TIMEOUT_S:.0f} s: {self._why_it_died()}"
            )

    def _why_it_died(self) -> str:
        exit_code = self._child.exit_code if self._child else None
        return explain(self._layout.log, self._log_start, self._layout.output, exit_code)

    def _limit_log(self) -> None:
        """Keep mongod's log under twice the limit: the current file and one older."""
        if self._log_size() > _LOG_LIMIT_BYTES:
            self._layout.log.replace(self._layout.log.with_suffix(".log.1"))
            if self._child is not None:
                self._child.send(signal.SIGUSR1)  # mongod opens a new file

    def _log_size(self) -> int:
        try:
            return self._layout.log.stat().st_size
        except FileNotFoundError:
            return 0

    def _wait_for_users(self, timeout_s: float) -> None:
        users = FileLock(self._layout.users_lock)
        if users.try_acquire() or not timeout_s:
            users.release()
            return
        logger.info("waiting for other commands that use the embedded MongoDB in %s", self._layout.data_dir)
        wait_until(users.try_acquire, timeout_s)
        users.release()

    def _give_up(self, timeout_s: float = 10.0) -> None:
        """Stop the child, if there is one, and release the lock."""
        if not self._lock.is_held:
            return
        try:
            if self._child is not None:
                self._child.stop(timeout_s)
                self._child = None
                self._remove_socket()
        finally:
            self._lock.release()

    def _remove_socket(self) -> None:
        """Tidy up after a mongod that was killed; the next start does not depend on it."""
        socket = self._layout.socket
        with contextlib.suppress(OSError):
            socket.unlink(missing_ok=True)
            if socket.parent != self._layout.home:
                socket.parent.rmdir()

    def _holder(self) -> str:
        return self._lock.read_note() or "another process"
