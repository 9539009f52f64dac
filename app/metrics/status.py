"""What each worker is doing now, left in a small file every second, so that any worker can answer for all."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from app import __version__
from app.metrics.metric_names import MetricSpec

# A state older than this is not counted: gunicorn has replaced a worker that is stuck for so long.
MAX_AGE_S = 120.0


@dataclass(frozen=True, slots=True)
class WorkerTraffic:
    """What windows of the dashboard follow: requests that have ended, records booked, requests under way.

    Both counts go on from where the slot's last worker was; what tells is how they grow. `requests` has the
    oldest that have not ended, with the names of records; their times are ISO 8601.
    """

    ended: float
    written: int
    requests: Sequence[Mapping[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker's gauges, by metric name; `keys` are the pool's keys by state, `updated_at` epoch seconds.

    `hosts` has for each upstream host whether this worker uses it (1) or leaves it alone (0); `prices` is the
    version of the model table that it charges by. `traffic` is there while somebody looks.
    """

    pid: int
    slot: int
    updated_at: float
    gauges: Mapping[str, float] = field(default_factory=dict)
    keys: Mapping[str, int] = field(default_factory=dict)
    hosts: Sequence[int] = field(default_factory=list)
    version: str = __version__
    prices: str = ""
    traffic: WorkerTraffic | None = None

    def write(self, path: Path) -> None:
        """Replace the file in one step; raises OSError."""
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the state in a file; return None when it is gone or not readable."""
        try:
            told = json.loads(path.read_text())
            if told.get("traffic") is not None:
                told["traffic"] = WorkerTraffic(**told["traffic"])
            return cls(**told)
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def is_live(self, now: float, is_running: Callable[[int], bool]) -> bool:
        """Return whether the worker still exists."""
        return now - self.updated_at <= MAX_AGE_S and is_running(self.pid)


def live_states(
    paths: Iterable[Path],
    *,
    now: Callable[[], float] = time.time,
    is_running: Callable[[int], bool] | None = None,
) -> list[WorkerStatus]:
    """Read the states of the workers that live, in the order of their slots."""
    running = is_running or _is_running
    states = [state for path in paths if (state := WorkerStatus.read(path)) is not None]
    return sorted((state for state in states if state.is_live(now(), running)), key=lambda state: state.slot)


def forget(paths: Iterable[Path], pid: int) -> None:
    """Remove the state of a worker that has died; raises OSError."""
    for path in paths:
        state = WorkerStatus.read(path)
        if state is not None and state.pid == pid:
            path.unlink(missing_ok=True)


def across_workers(spec: MetricSpec, states: Iterable[WorkerStatus]) -> float:
    """Merge the workers' values of a gauge into one; 0 when there is none."""
    values = [state.gauges[spec.name] for state in states if spec.name in state.gauges]
    if not values:
        return 0.0
    if spec.across == "sum":
        return sum(values)
    return max(values) if spec.across == "max" else min(values)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
