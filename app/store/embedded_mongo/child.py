"""Child processes that die with the process that started them."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.store.embedded_mongo.errors import EmbeddedMongoError
from app.store.embedded_mongo.waiting import wait_until

_LAUNCHER = Path(__file__).with_name("launcher.py")

# An environment of its own: the proxy's holds secrets that have no business in another process.
_ENVIRONMENT = {"LC_ALL": "C"}


class Child:
    """A running program, known by its pidfd.

    `subprocess` is avoided: gunicorn's master reaps every child it finds, gevent replaces Popen, and a pid
    that somebody else has reaped may by then belong to another program. A pidfd never does.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exit_code: int | None = None  # negative: the signal that killed it; None: not known
        self._fd: int | None = _open_pidfd(pid)

    def is_alive(self) -> bool:
        """Return whether the program still runs; reaps it if it does not. To be asked by its parent only."""
        if self._fd is None:
            return False
        try:
            ended = os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:  # gone, and gunicorn or gevent took its exit code
            self._forget()
            return False
        if ended is None:
            return True
        self.exit_code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        self._forget()
        return False

    def send(self, signal_number: signal.Signals) -> None:
        """Send the program a signal, if it still runs."""
        if self._fd is None:
            return
        try:
            signal.pidfd_send_signal(self._fd, signal_number)
        except ProcessLookupError:
            self._forget()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the program's end, up to `timeout_s` seconds; return whether it has ended."""
        return wait_until(lambda: not self.is_alive(), timeout_s)

    def stop(self, timeout_s: float) -> None:
        """Stop the program by SIGTERM, and by SIGKILL if it has not ended within `timeout_s` seconds."""
        self.send(signal.SIGTERM)
        if not self.wait(timeout_s):
            self.send(signal.SIGKILL)
            self.wait(timeout_s)

    def _forget(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def spawn(command: Sequence[str], output: Path, environment: Mapping[str, str] = _ENVIRONMENT) -> Child:
    """Start a program whose standard output and error go to the file `output`, emptied first.

    The program gets SIGTERM when the THREAD that called this ends: call it from a thread that lives as long
    as the process, best the main one.
    """
    argv = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *command]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    pid = os.posix_spawn(
        sys.executable,
        argv,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(output), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsigmask=[],
    )
    return Child(pid)


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:  # ended and reaped already
        return None
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        raise EmbeddedMongoError(
            f"cannot watch a child process ({error.strerror}): "
            "the embedded MongoDB needs Linux 5.3 or newer; set MONGODB_URI to use another server"
        ) from error
