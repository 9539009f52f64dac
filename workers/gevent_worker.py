"""gunicorn's gevent worker, but one that waits for no client longer than it should.

It tells connections that wait for a request from those that are being answered; gunicorn counts both as
busy. So a stop need not wait for idle ones, and when there are too many connections the one that has waited
longest makes room: thousands of idle or half-open ones cannot keep anybody out.
"""

import math
import mmap
import socket
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from http import HTTPStatus
from typing import Any

import gevent
from gunicorn.arbiter import Arbiter
from gunicorn.http import errors as http_errors
from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.workers.ggevent import GeventWorker

from app.core.client_limits import ClientLimits
from app.core.error_bodies import render_error
from app.core.errors import ErrorKind, Refusal
from app.core.wire_format import WireFormat
from workers.client_connection import LINGER_S, SHORT_LINGER_S, ClientConnection, HeadTimeout

_RETRY_S = 2.0
_MOMENT_S = 0.9

_MOST_SKIPPED = 64 * 1024
"""A longer rest of a body that nobody reads is not waited for: the connection is closed instead."""

_FULL = 0.95
"""The part of the connections allowed from which on waiting ones have to go."""

_REFUSED_HEADS = (
    (HeadTimeout, HTTPStatus.REQUEST_TIMEOUT),
    (http_errors.LimitRequestLine, HTTPStatus.REQUEST_URI_TOO_LONG),
    (http_errors.LimitRequestHeaders, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    (http_errors.ExpectationFailed, HTTPStatus.EXPECTATION_FAILED),
    (http_errors.UnsupportedTransferCoding, HTTPStatus.NOT_IMPLEMENTED),
    (http_errors.ForbiddenProxyRequest, HTTPStatus.FORBIDDEN),
    (http_errors.ConfigurationProblem, HTTPStatus.BAD_REQUEST),
    (http_errors.ParseException, HTTPStatus.BAD_REQUEST),
)
_APPLICATION_FAULTS = (http_errors.InvalidResponseHeader, http_errors.InvalidResponseHeaderName)

_has_loaded = mmap.mmap(-1, 1)
"""1 once a worker has loaded the application: memory that the master's children share."""


class WeirWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """Tells who waits from who is answered, and limits both in time and number."""

    client_limits = ClientLimits()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Who waits for a request, or has been answered and still sends, and since when: the longest first.
        self._idle: dict[ClientConnection, float] = {}
        self._leaving: set[ClientConnection] = set()
        self._open = 0
        self._most = int(self.worker_connections * _FULL)

    def load_wsgi(self) -> None:
        """Load the application. One that cannot be loaded ends the server, but only if none ever was."""
        try:
            super().load_wsgi()
        except SystemExit as end:
            if end.code != Arbiter.APP_LOAD_ERROR or not _has_loaded[0]:
                raise
            # A file was spoilt while the server runs: other workers serve, and this one is tried again.
            gevent.sleep(_RETRY_S)
            raise SystemExit(1) from None
        _has_loaded[0] = 1

    def timeout_ctx(self) -> AbstractContextManager[None]:
        """Around the reading of a head: no limit from here, since connections have their own."""
        return nullcontext()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """One connection, from its first request to its end."""
        connection = ClientConnection(client, self.client_limits)
        self._open += 1
        self._make_room()
        self._idle[connection] = time.monotonic()
        try:
            super().handle(listener, connection, addr)
        finally:
            self._open -= 1
            self._idle.pop(connection, None)
            self._leaving.discard(connection)

    def handle_request(self, listener_name: Any, req: Any, sock: ClientConnection, addr: Any) -> None:
        """One request on a connection, which ends with it if the worker is to stop."""
        _settle_framing(req)
        self._idle.pop(sock, None)
        sock.expect_body()
        _close_unless_read(req)
        try:
            super().handle_request(listener_name, req, sock, addr)
        finally:
            unread = _unread(req.body)
            if unread:
                sock.linger_s = SHORT_LINGER_S if req.body.failed else LINGER_S
                self._idle[sock] = time.monotonic()
        if not self.alive:
            # Also where the answer was cut: gunicorn would go on to wait for the connection's next request.
            raise StopIteration
        if unread:
            sock.expect_rest()
            if not _is_skipped(req.body):
                raise StopIteration
            sock.linger_s = 0.0
            self._idle.pop(sock, None)
        sock.expect_request()
        self._idle[sock] = time.monotonic()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what is no request, or failed outside the application.

        gunicorn would log what the client sent, and answer in HTML. A malformed line may hold a secret.
        """
        is_client_fault = not isinstance(exc, _APPLICATION_FAULTS)
        found = (status for kind, status in _REFUSED_HEADS if is_client_fault and isinstance(exc, kind))
        status = next(found, HTTPStatus.INTERNAL_SERVER_ERROR)
        if status is HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log.error("a connection failed", exc_info=exc)
        else:
            self.log.debug("not a request: %s", type(exc).__name__)
            reason = "request_timeout" if status is HTTPStatus.REQUEST_TIMEOUT else "malformed_request"
            self.wsgi.extensions["weir"].metrics.recorder.refused(reason)
        with suppress(OSError):
            client.sendall(_refusal(status))
            client.linger_s = SHORT_LINGER_S
            self._idle[client] = time.monotonic()

    def notify(self) -> None:
        """Called every second: the worker is alive. Once it is to stop it lets go of who waits."""
        super().notify()
        if not self.alive:
            self._hang_up()

    def _make_room(self) -> None:
        """Before a connection too many: let the one go that has waited longest for a request."""
        while self._open - len(self._leaving) > self._most and self._idle:
            longest = next(iter(self._idle))
            self._leaving.add(longest)
            self._let_go(longest)

    def _hang_up(self) -> None:
        """Let connections without a request end; one that has arrived already is still read, and answered.

        Who was busy just now gets a moment more: the next request may be on its way, and would be lost.
        """
        waiting_since = time.monotonic() - _MOMENT_S
        for client in [client for client, since in self._idle.items() if since <= waiting_since]:
            self._let_go(client)

    def _let_go(self, client: ClientConnection) -> None:
        self._idle.pop(client, None)
        with suppress(OSError):  # it is gone already
            client.shutdown(socket.SHUT_RD)


def _settle_framing(req: Any) -> None:
    """Refuse every transfer coding but `chunked` alone: gunicorn lets some pass that it does not undo.

    And overlook wishes for another protocol, as RFC 9110 §7.8 allows: Flask would refuse a websocket itself.
    """
    codings = [value.strip(" \t").lower() for name, value in req.headers if name == "TRANSFER-ENCODING"]
    if codings and codings != ["chunked"]:
        raise http_errors.UnsupportedTransferCoding("")
    if any(name == "UPGRADE" for name, _ in req.headers):
        req.headers = [header for header in req.headers if header[0] != "UPGRADE"]


def _unread(body: Any) -> float:
    """How much of a request's body has not been read, in bytes; infinite where only the client knows."""
    reader = body.reader
    if body.failed:
        return math.inf
    if isinstance(reader, LengthReader):
        return float(reader.length)
    return math.inf if isinstance(reader, ChunkedReader) and reader.parser else 0.0


def _close_unless_read(req: Any) -> None:
    """Have an answer that comes before its request's body was read end the connection, and say so."""
    should_close = req.should_close
    req.should_close = lambda: should_close() or _unread(req.body) > _MOST_SKIPPED


def _is_skipped(body: Any) -> bool:
    """Read the rest of a body; whether its end was reached."""
    try:
        while body.read(_MOST_SKIPPED):
            pass
    except (OSError, http_errors.ParseException):
        return False
    return _unread(body) == 0


def _refusal(status: HTTPStatus) -> bytes:
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    error = Refusal(ErrorKind(status, kind, "bad_request", kind), f"{status.phrase}: not a valid request.")
    body = render_error(error, WireFormat.OPENAI, "")
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
