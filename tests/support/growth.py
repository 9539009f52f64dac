"""How work grows with its input, told by ratios of CPU time, which other load on the machine leaves alone."""

import time
from collections.abc import Callable

_FACTOR = 4
_LINEAR_AT_MOST = 10.0  # linear growth gives 4, quadratic 16


def assert_grows_linearly(work: Callable[[int], object], size: int) -> None:
    """Do the work at this size and at four times it; fail where the time grows like the square.

    `size` is to take a millisecond or more, so that the clock's steps do not matter.
    """
    ratio = min(_cpu_time(work, _FACTOR * size) / max(_cpu_time(work, size), 1e-4) for _ in range(3))
    assert ratio < _LINEAR_AT_MOST, f"{_FACTOR} times the input took {ratio:.1f} times as long"


def _cpu_time(work: Callable[[int], object], size: int) -> float:
    started = time.process_time()
    work(size)
    return time.process_time() - started
