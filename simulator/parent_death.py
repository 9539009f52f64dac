"""Becomes a command that ends with its parent: `python -I -S parent_death.py PARENT_PID PROGRAM ARGUMENT...`.

A file of its own, run in a fresh interpreter: what happens between fork and exec must not be Python code in
a process that has threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent_pid: int, command: list[str]) -> None:
    """Tie this process to its parent, then become `command`; returns only if the parent is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the line above
        return
    os.execv(command[0], command)  # noqa: S606  replacing this process is the purpose


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
    sys.exit(127)
