"""Work that is done again and again in a greenlet of its own, and what the log says while it fails."""

import logging
from collections.abc import Callable
from typing import Protocol

from pymongo.errors import ConnectionFailure, PyMongoError

from app.common.errors import StoreUnavailable
from app.store.driver import store_problem


class StopEvent(Protocol):
    """`threading.Event` or gevent's: set when the process is about to end."""

    def is_set(self) -> bool:
        """Return whether it is set."""

    def wait(self, timeout: float) -> object:
        """Wait until it is set, then return something true; something false after `timeout` seconds."""


class FailureLog:
    """Logs failures when they begin and when they are over, not with every try in between.

    `failing` is what the log says first, with the reason, and `recovered` what it says afterwards. A failure
    of another kind than those before it is logged, too: the first may hide it.
    """

    def __init__(self, log: logging.Logger, failing: str, recovered: str) -> None:
        self._log = log
        self._failing = failing
        self._recovered = recovered
        self._kinds: set[type[Exception]] = set()
        self.in_a_row = 0

    @property
    def is_failing(self) -> bool:
        """Whether the last try failed."""
        return self.in_a_row > 0

    def note_failure(self, error: Exception) -> None:
        """Log the failure, unless one of its kind has been logged since the last success.

        What comes from the surroundings (database, disk) takes one line; anything else brings its traceback.
        """
        self.in_a_row += 1
        # An outage shows as several of pymongo's errors in turn.
        kind = ConnectionFailure if isinstance(error, ConnectionFailure | StoreUnavailable) else type(error)
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        if isinstance(error, PyMongoError):
            self._log.warning("%s: %s", self._failing, store_problem(error))
        elif isinstance(error, StoreUnavailable | OSError):
            self._log.warning("%s: %s", self._failing, error)
        else:
            self._log.error("%s", self._failing, exc_info=error)

    def note_success(self) -> None:
        """Log that failures are over, if there were any."""
        if self.is_failing:
            self._log.info("%s", self._recovered)
        self.in_a_row = 0
        self._kinds.clear()


def every(
    stop: StopEvent,
    interval_s: float | Callable[[], float],
    work: Callable[[], object],
    failures: FailureLog,
    *,
    is_at_once: bool = False,
) -> None:
    """Do the work after each interval, in seconds, until `stop` is set; `is_at_once`: before the first, too.

    Whatever it raises is noted in `failures` and does not end this. Work that returns False was not tried: it
    counts neither as a failure nor as a success.
    """
    pause_s = interval_s if callable(interval_s) else lambda: interval_s
    if not is_at_once and stop.wait(pause_s()):
        return
    _attempt(stop, work, failures)
    while not stop.wait(pause_s()):
        _attempt(stop, work, failures)


def until_done(stop: StopEvent, interval_s: float, work: Callable[[], object], failures: FailureLog) -> None:
    """Try the work once an interval, in seconds, until it succeeds or `stop` is set."""
    while not stop.is_set() and not _attempt(stop, work, failures):
        stop.wait(interval_s)


def _attempt(stop: StopEvent, work: Callable[[], object], failures: FailureLog) -> bool:
    """Do the work once; return whether it raised nothing. A failure because of the stop is not mentioned."""
    try:
        is_tried = work() is not False
    except Exception as error:  # noqa: BLE001  whatever it is, the next try may succeed
        if not stop.is_set():
            failures.note_failure(error)
        return False
    if is_tried:
        failures.note_success()
    return True
