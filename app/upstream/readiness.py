"""Waiting until a socket can be read, with one watcher and one timer for all waits of its life.

gevent's own way makes a `Timeout` and a timer for each wait with a time limit, and tries to read before it.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import gevent.socket
from gevent import get_hub, getcurrent

_READABLE = 1


class _TimeIsUp(BaseException):
    """Ends a wait."""


class Readiness:
    """Tells one greenlet at a time when there is something to read from a socket, its end included.

    The timer rings when the first wait would be over, and is then set for the one that is under way.
    """

    __slots__ = ("_due", "_fileno", "_timer", "_until", "_waiting", "_watcher")

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno
        self._watcher: Any = None
        self._waiting: Any = None
        self._timer: Any = None
        self._due = self._until = math.inf

    def wait(self, until: float) -> bool:
        """Wait until there is something to read, at most until then (monotonic); False: the time is over.

        Bytes may have come in time all the same: a process that got no time itself may hear of the timer
        before it hears of them. So whoever waits in vain is to look once more.
        """
        hub = get_hub()
        watcher = self._watcher or self._new_watcher()
        self._until = until
        if until < self._due:
            self._set_timer()
        self._waiting = getcurrent()
        try:
            hub.wait(watcher)
        except _TimeIsUp:
            return False
        finally:
            self._waiting = None
        return True

    def watch(self, call: Callable[[], None]) -> None:
        """Call this in the event loop as long as there is something to read; nobody may wait meanwhile."""
        (self._watcher or self._new_watcher()).start(call)

    def unwatch(self) -> None:
        """Watch no more. Idempotent."""
        if self._watcher is not None:
            self._watcher.stop()

    def _new_watcher(self) -> Any:
        watcher = self._watcher = get_hub().loop.io(self._fileno, _READABLE)
        return watcher

    def close(self) -> None:
        """Let go of watcher and timer, before the socket is closed. Idempotent."""
        for watcher in (self._watcher, self._timer):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._watcher = self._timer = None
        self._due = math.inf

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
        self._due = self._until
        self._timer = get_hub().loop.timer(max(0.0, self._until - time.monotonic()))
        self._timer.start(self._on_timer)

    def _on_timer(self) -> None:
        self._due = math.inf
        if self._waiting is None:
            return  # the next wait sets it
        if time.monotonic() < self._until:
            self._set_timer()
        else:
            self._waiting.throw(_TimeIsUp)


def bare(sock: Any) -> Any:
    """Return the system's socket within one of gevent's: it never waits, and spares a call each time.

    A socket of another kind is returned as it is: bytes of TLS pass through gevent's.
    """
    return sock._sock if type(sock) is gevent.socket.socket else sock
