"""Noticing that a client has left while its request waits for the upstream.

A departure shows only on the next write, and a silent upstream gives nothing to write. So the client's
socket is watched by the event loop: readable with no bytes in it means that the peer closed it. The watcher
is the one by which the connection waits for its requests: making another one would cost two system calls.
"""

import array
import fcntl
import socket
import struct
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent

from app.upstream.readiness import Readiness
from app.upstream.transport import ClientGone, StillSilent, UpstreamFailure

_LINGER_NOT = struct.pack("ii", 1, 0)
"""On, for 0 seconds: what is unsent is dropped and RST is sent in place of FIN (socket(7))."""


class SocketWatch:
    """Watches one client's connection during one request; `None` for a client without one (tests)."""

    __slots__ = (
        "_client",
        "_end",
        "_ends_at",
        "_grace_s",
        "_greenlet",
        "_heard_at",
        "_is_expired",
        "_is_watched",
        "_readiness",
        "_silence_s",
        "_silence_timer",
        "_timer",
        "departed",
    )

    def __init__(self, client: Any) -> None:
        self._client = client
        # While the client is to be watched. Where nothing more is read, its leaving does not show.
        is_blind = client is None or client.is_let_go
        self._readiness: Readiness | None = None if is_blind else client.readiness
        self._is_watched = False
        self.departed = False
        """Whether the client has left."""
        self._is_expired = False
        self._grace_s = 0.0
        self._greenlet: Any = None
        self._timer: Any = None
        # When the upstream has to have ended, and the timer that sees to it while it is waited for.
        self._ends_at: float | None = None
        self._end: Any = None
        # After which silence the greenlet is told of it, and what says when the upstream was last heard.
        self._silence_s = 0.0
        self._heard_at: Callable[[], float] | None = None
        self._silence_timer: Any = None

    def waiting(self) -> None:
        """Note that the current greenlet waits for the upstream from now on."""
        self._greenlet = gevent.getcurrent()
        if self._readiness is not None and not self._is_watched:
            # Not before: until the body has been read, the socket is readable because of that.
            self._is_watched = True
            self._readiness.watch(self._on_readable)
        if self.departed and self._timer is None:
            self._start_grace()
        if self._ends_at is not None:
            self._end = gevent.get_hub().loop.timer(max(0.0, self._ends_at - time.monotonic()))
            self._end.start(self._interrupt, UpstreamFailure("timeout", "it did not end its answer"))

    def working(self) -> None:
        """Note that the greenlet does not wait any more: nothing is thrown into it."""
        self._greenlet = None
        if self._end is not None:
            _close(self._end)
            self._end = None

    def give(self, grace_s: float) -> None:
        """Set how long the upstream may go on after the client left, in seconds."""
        self._grace_s = grace_s

    def end_within(self, seconds: float) -> None:
        """Set how long the upstream is waited for from now on, in seconds, all waits together."""
        self._ends_at = time.monotonic() + seconds

    def tell_silence(self, after_s: float, heard_at: Callable[[], float]) -> None:
        """Throw `StillSilent` into a wait once the upstream has been silent for so long, and again and again.

        `heard_at` tells when it was last heard, in seconds of the monotonic clock. One timer does, however
        many chunks come: it looks when it rings what is left of the time.
        """
        self.tell_no_silence()
        self._silence_s, self._heard_at = after_s, heard_at
        self._await_silence(after_s)

    def tell_no_silence(self) -> None:
        """Stop telling."""
        if self._silence_timer is not None:
            _close(self._silence_timer)
            self._silence_timer = None
        self._heard_at = None  # which knows the request, which knows this: a reference cycle

    def depart(self) -> None:
        """Note that the client has left: the grace begins."""
        if not self.departed:
            self.departed = True
            self.tell_no_silence()
            self._unwatch()
            self._start_grace()

    def stop(self) -> None:
        """Stop watching. Idempotent."""
        self.working()
        self.tell_no_silence()
        self._unwatch()
        if self._timer is not None:
            _close(self._timer)
            self._timer = None

    def reset_on_close(self) -> None:
        """Have the server's closing of the connection arrive as a reset, not as an end."""
        if self._client is not None:
            reset_on_close(self._client)

    def _on_readable(self) -> None:
        if _waiting_bytes(self._client) > 0:
            # The next request on this connection, sent early: somebody is there.
            self._unwatch()
        else:
            self.depart()

    def _unwatch(self) -> None:
        readiness, self._readiness = self._readiness, None
        if readiness is not None and self._is_watched:
            readiness.unwatch()

    def _await_silence(self, seconds: float) -> None:
        self._silence_timer = gevent.get_hub().loop.timer(seconds)
        self._silence_timer.start(self._on_silence)

    def _on_silence(self) -> None:
        _close(self._silence_timer)
        if self._heard_at is None:
            return
        left_s = self._heard_at() + self._silence_s - time.monotonic()
        is_told = left_s <= 0
        self._await_silence(self._silence_s if is_told else left_s)
        if is_told:
            self._interrupt(StillSilent())

    def _start_grace(self) -> None:
        # Always by way of the loop, even for no grace at all: this may run inside the very greenlet.
        self._timer = gevent.get_hub().loop.timer(0.0 if self._is_expired else self._grace_s)
        self._timer.start(self._expire)

    def _expire(self) -> None:
        self._is_expired = True
        _close(self._timer)
        self._timer = None
        self._interrupt(ClientGone())

    def _interrupt(self, reason: BaseException) -> None:
        greenlet = self._greenlet
        if greenlet is not None:
            self.working()
            greenlet.throw(reason)


def _close(watcher: Any) -> None:
    """Stop one of the loop's watchers, if there is one."""
    if watcher is not None:
        watcher.stop()
        watcher.close()


def reset_on_close(sock: Any) -> None:
    """Have the closing of this socket arrive as a reset, what is unsent being dropped."""
    with suppress(OSError):  # closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def _waiting_bytes(sock: Any) -> int:
    """Count the bytes that can be read without waiting (FIONREAD); works on the bare descriptor."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
    except OSError:
        return 0
    return count[0]
