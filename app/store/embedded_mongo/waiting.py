"""Waiting for a condition with a limit, in a plain process and under gevent alike."""

import time
from collections.abc import Callable

STEP_S = 0.01


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Ask `condition` until it holds or `timeout_s` seconds have gone by; say whether it holds.

    It is asked at least once. Polling rather than a blocking call: gevent patches `time.sleep`, so the other
    greenlets go on, whereas a blocking `flock` or `waitid` would stop the whole process.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(STEP_S)
    return True
