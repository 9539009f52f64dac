"""Passing an answer's bytes on from within the event loop, as long as there is nothing else to do with them.

Waking a greenlet for every chunk of a stream, and putting it to sleep again, costs more than the chunk
itself. So while most chunks only have to be handed on, the greenlet sleeps, and the loop's own callback
reads them and offers them to the request, which takes what it can without waiting:

    request's greenlet                  event loop                      client
    ------------------                  ----------                      ------
    read(pass_on) -> _wait: sleeps
                                        upstream readable
                                          recv -> feed -> pass_on(chunk)
                                            text only, socket takes it   -> bytes
                                        upstream readable
                                          recv -> feed -> pass_on(chunk) -> bytes
                                        upstream readable
                                          recv -> feed -> pass_on(chunk)
                                            not text only: Passed.NOT
    woken with the chunk  <-----------  waiter.switch(chunk)
    meters, journals, sends it                                           -> bytes
    read(pass_on) ...

Three answers of `pass_on` decide who goes on. `ON`: all is sent, and the loop waits for more. `NOT`: nothing
is, and the greenlet gets the chunk as if it had read it. `PARTLY`: the client has the chunk but is slow, so
the greenlet, which may wait, flushes it before anything more is read; backpressure reaches the upstream by
that.

What must hold. The callback never waits and never raises into the loop: an error is thrown into the greenlet
that waits, where an error of its own read would be, and only what means the whole process goes further.
One greenlet reads a connection at a time, and it is asleep while the callback runs, so they need no lock. The
silence of the upstream is timed by one timer for the whole stream: setting it back for each chunk would cost
as much as the chunk, so it looks when it fires how long ago the last one came, and sleeps for the rest. Under
TLS, bytes that have been decrypted already do not make the socket readable, so the callback asks for another
turn while there are some. And the end of a body always wakes the greenlet: settling a request is no work for
the loop.
"""

import ssl
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import gevent
from gevent.hub import Waiter

from app.upstream.http1 import BodyReader
from app.upstream.readiness import bare
from app.upstream.transport import Passed

_READABLE: Final = 1
_NOTHING_YET: Final = (BlockingIOError, ssl.SSLWantReadError)
# After this many reads that did not have to wait, others get their turn.
_MOST_AT_ONCE: Final = 8
_SLACK_S: Final = 0.001


class _Step(Enum):
    """What one read leads to, if not to something to return."""

    GO_ON = "go on"
    WAIT = "wait"


# At hand, for each chunk: to look up a member of an enumeration takes CPython 3.11 ten times as long.
_GO_ON: Final = _Step.GO_ON
_WAIT: Final = _Step.WAIT
_PASSED_ON: Final = Passed.ON


def _refuse(_data: bytes) -> Passed:
    return Passed.NOT


class FastPath:
    """Reads one connection's body for a greenlet, which must not use it twice at a time."""

    __slots__ = (
        "_body",
        "_io",
        "_last_at",
        "_loop",
        "_pass_on",
        "_pending",
        "_read_size",
        "_recv",
        "_socket",
        "_timer",
        "_waiter",
    )

    def __init__(self, sock: Any, body: BodyReader, read_size: int) -> None:
        self._socket = sock
        self._recv = bare(sock).recv
        self._body = body
        self._read_size = read_size
        # TLS: bytes that have been decrypted do not make the socket readable.
        self._pending: Callable[[], int] | None = getattr(sock, "pending", None)
        self._loop = gevent.get_hub().loop
        self._pass_on: Callable[[bytes], Passed] = _refuse
        self._waiter: Any = None

    def read(self, pass_on: Callable[[bytes], Passed]) -> bytes | None:
        """Offer what comes to `pass_on`, and return the first body bytes that it does not take.

        `b""` at the end of the bytes or of the body, None when the client does not keep up with what it
        takes. Raises TimeoutError when nothing came for the socket's timeout, and what reading raises.
        """
        timeout_s = self._socket.gettimeout()
        self._pass_on = pass_on
        self._socket.settimeout(0)
        try:
            for _ in range(_MOST_AT_ONCE):
                found = self._read_once()
                if not isinstance(found, _Step):
                    return found
                if found is _WAIT:
                    break
            return self._wait(timeout_s)
        finally:
            self._pass_on = _refuse  # whose owner refers to this: a reference cycle
            self._socket.settimeout(timeout_s)

    def _read_once(self) -> bytes | _Step | None:
        try:
            data = self._recv(self._read_size)
        except _NOTHING_YET:
            return _WAIT
        if not data:
            return b""
        chunk = self._body.feed(data)
        if self._body.is_whole:
            return chunk
        passed = self._pass_on(chunk) if chunk else _PASSED_ON
        if passed is _PASSED_ON:
            return _GO_ON
        return None if passed is Passed.PARTLY else chunk

    def _wait(self, timeout_s: float) -> bytes | None:
        """Sleep until there is something to return."""
        loop = self._loop
        self._waiter = Waiter()
        self._io = loop.io(self._socket.fileno(), _READABLE)
        self._timer = loop.timer(timeout_s)
        self._last_at = time.monotonic()
        try:
            self._io.start(self._on_readable)
            self._timer.start(self._on_time, timeout_s)
            if self._pending is not None:
                loop.run_callback(self._on_readable)
            found: bytes | None = self._waiter.get()
            return found
        finally:
            self._waiter = None
            for watcher in (self._io, self._timer):
                watcher.stop()
                watcher.close()

    def _on_readable(self) -> None:
        """Pass on what has come. This runs in the event loop: nothing here may wait."""
        waiter = self._waiter
        if waiter is None:
            return  # a turn that was asked for has come too late
        try:
            found = self._read_once()
        except BaseException as error:
            waiter.throw(error)  # where it is waited for
            if not isinstance(error, Exception):
                raise  # a signal's: it means the whole process
            return
        if found is _GO_ON:
            self._last_at = time.monotonic()
            if self._pending is not None and self._pending():
                self._loop.run_callback(self._on_readable)
        elif found is not _WAIT:
            waiter.switch(found)

    def _on_time(self, timeout_s: float) -> None:
        """Look when the last chunk came, also in the loop: the timer is not set back for every chunk."""
        left_s = self._last_at + timeout_s - time.monotonic()
        if left_s <= _SLACK_S:
            self._waiter.throw(TimeoutError("nothing came"))
            return
        self._timer.stop()
        self._timer.close()
        self._timer = self._loop.timer(left_s)
        self._timer.start(self._on_time, timeout_s)
