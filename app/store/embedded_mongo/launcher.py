"""Becomes mongod: `python -I -S launcher.py OWNER_PID PROGRAM ARGUMENT...`.

Run as a file of its own, in a fresh interpreter, because what it does must happen between fork and exec,
where Python code in a process with threads (or with gevent) can deadlock. It imports nothing of this project.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_OPEN_FILES = 64_000  # what mongod asks for; systems start processes with 1024


def main(owner_pid: int, command: list[str]) -> int:
    """Tie this process to its owner, then become `command`; returns (127) only if that fails."""
    # A session of its own: Ctrl-C at the terminal is for the proxy, which still writes its last records.
    os.setsid()
    os.chdir("/")
    os.closerange(3, 1 << 16)  # gunicorn makes its listening sockets inheritable
    _raise_open_files()
    # SIGTERM rather than SIGKILL: mongod then writes a checkpoint, and the next start needs no recovery.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != owner_pid:  # the owner died before the line above
        return 127
    try:
        os.execv(command[0], command)  # noqa: S606 -- replacing this process is the purpose
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
    return 127


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
