"""A client's socket that misses a deadline, in the place of the plain one that gunicorn would use."""

import errno
import socket
import time
from contextlib import suppress
from typing import Any

from gunicorn.http.errors import ParseException

from app.exchange.ports import NoPace, Pace
from app.server.client_limits import ClientDeadlines, ClientLimits, Phase
from app.server.client_watch import reset_on_close
from app.upstream.readiness import Readiness, bare

# What the system keeps of an answer for a client that reads slowly: by itself it would take megabytes.
_SEND_BUFFER = 256 * 1024
_SKIP_SIZE = 64 * 1024

# How long a client whose body was refused may go on sending it before the connection is closed: closing with
# unread bytes resets the connection, and the refusal may be lost with it (RFC 9112 §9.6).
LINGER_S = 30.0
# The same for a client that sent what is no HTTP, or too slowly.
SHORT_LINGER_S = 2.0
_LINGER_IDLE_S = 5.0
_LINGER_BYTES = 64 * 1024 * 1024


class HeadTimeout(ParseException):  # type: ignore[misc]  # gunicorn has no types
    """A request's head was begun and not ended in time."""


class ClientConnection:
    """What gunicorn reads requests from and writes answers to; all else is the socket's own.

    A silent client looks like one that has left: between requests as its orderly end, within an answer as a
    reset. Within a body it raises `TimeoutError`, within a head `HeadTimeout`.
    """

    __slots__ = (
        *("_limits", "_patience", "_recv", "_send", "_socket"),
        *("gives_way", "is_let_go", "is_spare", "linger_s", "pace", "readiness"),
    )

    def __init__(self, sock: Any, limits: ClientLimits, pace: Pace | None = None) -> None:
        with suppress(OSError):  # it is gone already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        # Never waits by itself: setting a time limit for each call would cost more than most calls do.
        sock.settimeout(0)
        self._socket = sock
        self._recv, self._send = bare(sock).recv, bare(sock).send
        self._limits = limits
        self.pace: Pace = pace or NoPace()
        # Whether it has one of the places that are kept for operators' questions.
        self.is_spare = False
        # Whether no more is read than has arrived: an end of what the client sends would be of our making.
        self.is_let_go = False
        # Whether its last request was refused.
        self.gives_way = False
        self._patience = ClientDeadlines(limits, time.monotonic())
        # How long to read on before closing, since the client may still be sending what nobody will use.
        self.linger_s = 0.0
        self.readiness = Readiness(sock.fileno())

    def __repr__(self) -> str:
        return f"ClientConnection({self._patience})"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def expect_request(self) -> float:
        """Keep the connection for another request; return since when."""
        now = time.monotonic()
        self._patience.expect_request(now)
        return now

    def expect_body(self) -> None:
        """Note that a head has been read, and is about to be answered."""
        self._patience.expect_body(time.monotonic())

    @property
    def patience_until(self) -> float:
        """Until when more of the body is waited for; the lowest is that of the slowest sender."""
        return self._patience.until

    def let_go(self) -> None:
        """Have the connection end after the request that has arrived, if there is one."""
        self.is_let_go = True
        with suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_RD)

    def give_up(self) -> None:
        """Give up the connection, as its place is needed: reading a body from it raises `TimeoutError`."""
        self._patience.give_up()
        with suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_RD)

    def expect_rest(self) -> None:
        """Note that what is left of an answered request's body is being skipped."""
        self._patience.expect_rest(time.monotonic())

    def recv(self, size: int) -> bytes:
        """Receive at most `size` bytes, `b""` at the end or when no request came."""
        patience = self._patience
        now = time.monotonic()
        left_s = patience.left_s(now)
        if left_s <= 0:
            return self._end_of_deadline()
        until = now + left_s
        if patience.phase is Phase.REQUEST:
            # It has seldom come yet. And if it has, others come first: who sends without pause gets no worker
            # to himself.
            self.readiness.wait(until)
            now = time.monotonic()
        has_waited = False
        while True:
            try:
                data: bytes = self._recv(size)
            except BlockingIOError:
                # Only now: a process that got no time itself hears of the timer before it hears of the bytes.
                if now >= until:
                    return self._end_of_deadline()
            else:
                if not data and patience.left_s(now) <= 0:
                    return self._end_of_deadline()
                patience.received(len(data), now)
                if not has_waited and patience.phase is not Phase.HEAD:
                    self.pace.rest()  # who sends faster than is read would keep the worker to himself
                return data
            self.readiness.wait(until)
            now = time.monotonic()
            has_waited = True

    def send(self, data: bytes) -> int:
        """Send all of the data; return its size."""
        self.sendall(data)
        return len(data)

    def sendall(self, data: bytes | memoryview) -> None:
        """Send all of the data; a client that does not take it in time is cut off, as if it had left."""
        sent = self.send_now(data)
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:])

    def send_now(self, data: bytes | memoryview) -> int:
        """Send as much as needs no waiting, and how much that was."""
        try:
            sent: int = self._send(data)
        except BlockingIOError:
            return 0
        return sent

    def close(self) -> None:
        """Close; where a body was refused, only after it has been sent or the client has heard so."""
        try:
            if self.linger_s:
                with suppress(OSError):
                    self._skip_what_comes()
        finally:
            self.readiness.close()
            self._socket.close()

    def _send_rest(self, data: memoryview) -> None:
        self._socket.settimeout(self._limits.write_s)
        try:
            self._socket.sendall(data)
        except TimeoutError:
            reset_on_close(self._socket)
            raise ConnectionResetError(errno.ECONNRESET, "the client does not read its answer") from None
        finally:
            self._socket.settimeout(0)

    def _end_of_deadline(self) -> bytes:
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
            self.pace.rest()
