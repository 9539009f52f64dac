"""Noticing that a client has left while its request waits for the upstream.

A departure shows only on the next write, and a silent upstream gives nothing to write. So the client's
socket is watched by the event loop: readable with no bytes in it means that the peer closed it.
"""

import array
import fcntl
import socket
import struct
import termios
from contextlib import suppress
from typing import Any

import gevent

from app.core.ports import ClientGone

_LINGER_NOT = struct.pack("ii", 1, 0)
"""On, for 0 seconds: what is unsent is dropped and RST is sent in place of FIN (socket(7))."""


class SocketWatch:
    """Watches one client's socket during one request; `None` for a client without one (tests)."""

    __slots__ = ("_client", "_grace_s", "_greenlet", "_io", "_is_expired", "_socket", "_timer", "departed")

    def __init__(self, sock: Any) -> None:
        self._client = sock
        self._socket = sock  # while it is to be watched
        self.departed = False
        """Whether the client has left."""
        self._is_expired = False
        self._grace_s = 0.0
        self._greenlet: Any = None
        self._io: Any = None
        self._timer: Any = None

    def waiting(self) -> None:
        """The current greenlet waits for the upstream from now on."""
        self._greenlet = gevent.getcurrent()
        if self._socket is not None and self._io is None:
            # Not before: until the body has been read, the socket is readable because of that.
            self._io = gevent.get_hub().loop.io(self._socket.fileno(), 1)
            self._io.start(self._on_readable)
        if self.departed and self._timer is None:
            self._start_grace()

    def working(self) -> None:
        """It does not wait any more: nothing is thrown into it."""
        self._greenlet = None

    def give(self, grace_s: float) -> None:
        """How long the upstream may go on after the client left, in seconds."""
        self._grace_s = grace_s

    def depart(self) -> None:
        """The client has left: the grace begins."""
        if not self.departed:
            self.departed = True
            self._stop_io()
            self._start_grace()

    def stop(self) -> None:
        """Stop watching. Idempotent."""
        self._greenlet = None
        self._stop_io()
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def reset_on_close(self) -> None:
        """Have the server's closing of the connection arrive as a reset, not as an end."""
        if self._client is not None:
            reset_on_close(self._client)

    def _on_readable(self) -> None:
        if _waiting_bytes(self._socket) > 0:
            # The next request on this connection, sent early: somebody is there.
            self._stop_io()
        else:
            self.depart()

    def _stop_io(self) -> None:
        if self._io is not None:
            self._io.stop()
            self._io.close()
            self._io = None
        self._socket = None

    def _start_grace(self) -> None:
        # Always by way of the loop, even for no grace at all: this may run inside the very greenlet.
        self._timer = gevent.get_hub().loop.timer(0.0 if self._is_expired else self._grace_s)
        self._timer.start(self._interrupt)

    def _interrupt(self) -> None:
        self._is_expired = True
        greenlet = self._greenlet
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        if greenlet is not None:
            self._greenlet = None
            greenlet.throw(ClientGone())


def reset_on_close(sock: Any) -> None:
    """Have the closing of this socket arrive as a reset, what is unsent being dropped."""
    with suppress(OSError):  # closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def _waiting_bytes(sock: Any) -> int:
    """How many bytes can be read without waiting (FIONREAD): works on the bare descriptor."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
    except OSError:
        return 0
    return count[0]
