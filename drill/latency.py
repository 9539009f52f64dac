"""Latencies of the load in windows, so that one bad moment of a shared machine does not decide."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from drill.load import Call
from drill.wire import Ending

WINDOW_S = 2.0

# In fewer windows one bad moment of a shared machine decides after all: the short drill's are no measurement.
FEWEST_WINDOWS = 5


@dataclass(frozen=True, slots=True)
class Latency:
    """Medians, over windows, of each window's percentiles, in milliseconds; `p99_spread` is how far apart
    the windows' p99 are (from the lower to the upper quartile)."""

    p50: float
    p99: float
    p99_spread: float
    windows: int

    @property
    def is_telling(self) -> bool:
        """Whether there are windows enough to compare it with another one."""
        return self.windows >= FEWEST_WINDOWS

    @classmethod
    def of(cls, calls: Iterable[Call], since: float, until: float) -> "Latency":
        """Take the latencies of the whole answers that began in this time (monotonic seconds)."""
        windows: dict[int, list[float]] = {}
        for call in calls:
            if call.ending is Ending.WHOLE and since <= call.began < until:
                windows.setdefault(int((call.began - since) / WINDOW_S), []).append(call.ms)
        if not windows:
            return cls(0.0, 0.0, 0.0, 0)
        p99s = sorted(_percentile(values, 0.99) for values in windows.values())
        spread = _percentile(p99s, 0.75) - _percentile(p99s, 0.25)
        p50 = median(_percentile(values, 0.5) for values in windows.values())
        return cls(round(p50, 1), round(median(p99s), 1), round(spread, 1), len(windows))


def _percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
