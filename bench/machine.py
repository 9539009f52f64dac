"""The machine: which core does what, what processes have used, what it is called."""

import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROC = Path("/proc")

# With it, and the complement of a process id, Linux makes the id of that process's CPU clock.
_SCHEDULER_CLOCK = 2


def cores() -> tuple[int, int]:
    """Return the core of the proxies, and that of load, upstream and database; the same if there is one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextmanager
def pinned(*to: int) -> Iterator[None]:
    """Run what is started within the block on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Sum up the CPU time the processes have used so far, to the nanosecond, ended threads included."""
    total = 0
    for pid in pids:
        with suppress(OSError):  # the process has ended
            total += time.clock_gettime_ns(~pid << 3 | _SCHEDULER_CLOCK)
    return total / 1e9


def private_bytes(pid: int) -> int:
    """Return the memory that only this process holds in RAM (USS): what its end would give back."""
    lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def describe() -> dict[str, str | int]:
    """Describe the machine the figures were measured on."""
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
