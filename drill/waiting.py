"""Waiting for something that another process does."""

import time
from collections.abc import Callable

import gevent


class Overdue(Exception):
    """What was waited for did not happen; the text says what."""


def wait_until(done: Callable[[], object], timeout_s: float, what: str, *, step_s: float = 0.05) -> float:
    """Ask `done` until it says yes; how long that took. `Overdue` naming `what` after `timeout_s`."""
    began = time.monotonic()
    while not done():
        if time.monotonic() - began >= timeout_s:
            raise Overdue(f"waited {timeout_s:.0f} s in vain for {what}")
        gevent.sleep(step_s)
    return time.monotonic() - began
