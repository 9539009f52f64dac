"""A client's socket that runs out of patience, in the place of the plain one that gunicorn would use."""

import errno
import socket
import time
from contextlib import suppress
from typing import Any

from gunicorn.http.errors import ParseException

from app.adapters.client_watch import reset_on_close
from app.core.client_limits import ClientLimits, Patience, Phase

_SEND_BUFFER = 256 * 1024
"""What the system keeps of an answer for a client that reads slowly: by itself it would take megabytes."""
_SKIP_SIZE = 64 * 1024

LINGER_S = 30.0
"""How long a client whose body was refused may go on sending it before the connection is closed.

Closing with unread bytes resets the connection, and the refusal may be lost with it (RFC 9112 §9.6).
"""
SHORT_LINGER_S = 2.0
"""The same for one that sent what is no HTTP, or too slowly."""
_LINGER_IDLE_S = 5.0
_LINGER_BYTES = 64 * 1024 * 1024


class HeadTimeout(ParseException):  # type: ignore[misc]  # gunicorn has no types
    """A request's head was begun and not ended in time."""


class ClientConnection:
    """What gunicorn reads requests from and writes answers to; all else is the socket's own.

    A silent client looks like one that has left: between requests as its orderly end, within an answer as a
    reset. Within a body it raises `TimeoutError`, within a head `HeadTimeout`.
    """

    __slots__ = ("_limits", "_patience", "_socket", "linger_s")

    def __init__(self, sock: Any, limits: ClientLimits) -> None:
        with suppress(OSError):  # it is gone already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._socket = sock
        self._limits = limits
        self._patience = Patience(limits, time.monotonic())
        # How long to read on before closing, since the client may still be sending what nobody will use.
        self.linger_s = 0.0

    def __repr__(self) -> str:
        return f"ClientConnection({self._patience})"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def expect_request(self) -> None:
        """The connection is kept for another request."""
        self._patience.expect_request(time.monotonic())

    def expect_body(self) -> None:
        """A head has been read, and is about to be answered."""
        self._patience.expect_body(time.monotonic())

    def expect_rest(self) -> None:
        """What is left of an answered request's body is skipped."""
        self._patience.expect_rest(time.monotonic())

    def recv(self, size: int) -> bytes:
        """At most `size` bytes, `b""` at the end or when no request came."""
        patience = self._patience
        left_s = patience.left_s(time.monotonic())
        if left_s <= 0:
            return self._end_of_patience()
        self._socket.settimeout(left_s)
        try:
            data: bytes = self._socket.recv(size)
        except TimeoutError:
            # A process that got no time itself hears of the timer before it hears of the bytes.
            data = self._what_is_there(size)
            if not data:
                return self._end_of_patience()
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            # The wait was called off, since the worker lets go of the connection.
            data = self._what_is_there(size)
        patience.received(len(data), time.monotonic())
        return data

    def sendall(self, data: bytes) -> None:
        """Send all of it; a client that does not take it in time is cut off, and looks like one that left."""
        self._socket.settimeout(self._limits.write_s)
        try:
            self._socket.sendall(data)
        except TimeoutError:
            reset_on_close(self._socket)
            raise ConnectionResetError(errno.ECONNRESET, "the client does not read its answer") from None

    def close(self) -> None:
        """Close; where a body was refused, only after it has been sent or the client has heard so."""
        if self.linger_s:
            with suppress(OSError):
                self._skip_what_comes()
        self._socket.close()

    def _what_is_there(self, size: int) -> bytes:
        """What can be read without waiting."""
        try:
            self._socket.settimeout(0)
            data: bytes = self._socket.recv(size)
        except OSError:
            return b""
        return data

    def _end_of_patience(self) -> bytes:
        phase = self._patience.phase
        if phase is Phase.REQUEST:
            return b""
        if phase is Phase.HEAD:
            raise HeadTimeout
        raise TimeoutError(f"the client's {phase.value} does not come")

    def _skip_what_comes(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)
        until, skipped = time.monotonic() + self.linger_s, 0
        while skipped < _LINGER_BYTES and (left_s := until - time.monotonic()) > 0:
            self._socket.settimeout(min(left_s, _LINGER_IDLE_S))
            data = self._socket.recv(_SKIP_SIZE)
            if not data:
                return
            skipped += len(data)
