"""The machine: which core does what, what processes have used, what it is called."""

import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROC = Path("/proc")

_SCHEDULER_CLOCK = 2
"""With it, and the complement of a process id, Linux makes the id of that process's CPU clock."""


def cores() -> tuple[int, int]:
    """The core of the proxies, and that of load, upstream and database; the same one if there is no other."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextmanager
def pinned(*to: int) -> Iterator[None]:
    """What is started within runs on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time the processes have used so far, to the nanosecond, threads that have ended included."""
    total = 0
    for pid in pids:
        with suppress(OSError):  # the process has ended
            total += time.clock_gettime_ns(~pid << 3 | _SCHEDULER_CLOCK)
    return total / 1e9


def resident_bytes(pid: int) -> int:
    """Memory a process holds in RAM, its share of libraries included (RSS)."""
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def private_bytes(pid: int) -> int:
    """Memory that only this process holds in RAM (USS): what its end would give back."""
    lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def process_tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        for task in _tasks(parent):
            try:
                found += [int(child) for child in (task / "children").read_text().split()]
            except OSError:
                continue
    return found


def describe() -> dict[str, str | int]:
    """What the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in (PROC / "cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = int((PROC / "meminfo").read_text().split()[1]) // 1024
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": memory,
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
    }


def _tasks(pid: int) -> list[Path]:
    try:
        return list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return []
