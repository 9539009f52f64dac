"""gunicorn's gevent worker, but one that waits for no client longer than it should.

It tells connections that wait for a request from those that are being answered; gunicorn counts both as
busy. So a stop need not wait for idle ones, and when there are too many connections the one that has waited
longest makes room: thousands of idle or half-open ones cannot keep anybody out.
"""

import errno
import mmap
import socket
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Any

import gevent
from gunicorn.arbiter import Arbiter
from gunicorn.http import errors as http_errors
from gunicorn.http import wsgi
from gunicorn.util import close
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from app.core.client_limits import ClientLimits
from app.core.error_bodies import render_error
from app.core.errors import ErrorKind, Refusal
from app.core.wire_format import WireFormat
from workers.client_connection import LINGER_S, SHORT_LINGER_S, ClientConnection, HeadTimeout
from workers.http_request import PlainRequest, RequestReading, settle_framing, unread
from workers.http_response import MOST_SKIPPED, ClientResponse

_RETRY_S = 2.0
_MOMENT_S = 0.9

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
_BROKEN_OFF = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
_APPLICATION_FAULTS = (http_errors.InvalidResponseHeader, http_errors.InvalidResponseHeaderName)

_RESPONSE_KEYS = ("weir.stream", "wsgi.early_hints")

_has_loaded = mmap.mmap(-1, 1)
"""1 once a worker has loaded the application: memory that the master's children share."""


class WeirWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """Tells who waits from who is answered, and limits both in time and number."""

    client_limits = ClientLimits()
    alive: bool

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

    def run(self) -> None:
        """Serve until the worker is to stop."""
        self.look_up()
        super().run()

    def look_up(self) -> None:
        """Take from the configuration what every request needs: gunicorn would ask it each time."""
        self._reading = RequestReading(self.cfg)
        self._is_keeping = bool(self.cfg.keepalive)
        self._before = partial(self.cfg.pre_request, self)
        self._after = partial(self.cfg.post_request, self)

    def timeout_ctx(self) -> AbstractContextManager[None]:
        """Around gunicorn's reading of a head: no limit from here, since connections have their own."""
        return nullcontext()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """One connection, from its first request to its end."""
        connection = ClientConnection(client, self.client_limits)
        self._open += 1
        self._make_room()
        self._idle[connection] = time.monotonic()
        try:
            if self._reading.is_http1:
                self._serve(listener.getsockname(), connection, addr)
            else:
                AsyncWorker.handle(self, listener, connection, addr)
        finally:
            self._open -= 1
            self._idle.pop(connection, None)
            self._leaving.discard(connection)

    def _serve(self, listener_name: Any, connection: ClientConnection, addr: Any) -> None:
        """gunicorn's `handle`, for plain HTTP/1."""
        try:
            reader = self._reading.reader(connection, listener_name, addr)
            while (request := reader.next_request()) is not None:
                self.handle_request(listener_name, request, connection, addr)
        except (http_errors.NoMoreData, StopIteration):
            pass
        except OSError as error:
            if error.errno not in _BROKEN_OFF:
                self.log.exception("Socket error processing request.")
        except BaseException as error:  # noqa: BLE001  as gunicorn does: it ends the connection, not the worker
            self.handle_error(None, connection, addr, error)
        finally:
            close(connection)

    def handle_request(self, listener_name: Any, req: Any, sock: ClientConnection, addr: Any) -> None:
        """One request on a connection, which ends with it if the worker is to stop."""
        if not isinstance(req, PlainRequest):
            settle_framing(req)
        self._idle.pop(sock, None)
        if unread(req.body):
            sock.expect_body()
        try:
            is_last = self._answer(listener_name, req, sock, addr)
        except (gevent.GreenletExit, SystemExit):
            # The answer was cut; gunicorn would go on to wait for the connection's next request.
            raise StopIteration from None
        finally:
            rest = unread(req.body)
            if rest:
                sock.linger_s = SHORT_LINGER_S if req.body.failed else LINGER_S
                self._idle[sock] = time.monotonic()
        if is_last or not self.alive:
            raise StopIteration
        if rest:
            sock.expect_rest()
            if not _is_skipped(req.body):
                raise StopIteration
            sock.linger_s = 0.0
            self._idle.pop(sock, None)
        self._idle[sock] = sock.expect_request()

    def _answer(self, listener_name: Any, req: Any, sock: ClientConnection, addr: Any) -> bool:
        """gunicorn's `handle_request`, hooks and log included; whether the connection ends with it."""
        began = datetime.now()  # noqa: DTZ005  the access log wants a difference
        environ: dict[str, Any] = {}
        response = None
        try:
            self._before(req)
            response, environ = self._response(listener_name, req, sock, addr)
            self._count_request()
            if not self.alive or not self._is_keeping:
                response.force_close()
            body = self.wsgi(environ, response.start_response)
            try:
                for piece in body:
                    response.write(piece)
                response.close()
            finally:
                self.log.access(response, req, environ, datetime.now() - began)  # noqa: DTZ005
                if hasattr(body, "close"):
                    body.close()
            return response.should_close()
        except (StopIteration, OSError):
            raise
        except (Exception, SystemExit):
            if response is None or not response.headers_sent:
                raise
            # Another answer within this one would look like a part of it.
            self.log.exception("Error handling request")
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            return True
        finally:
            try:
                self._after(req, environ, response)
            except Exception:
                self.log.exception("Exception in post_request hook")
            # The response knows its request and that its environment: a circle, which only the collector of
            # cycles would open, and it would have half of all objects to look at.
            for name in _RESPONSE_KEYS:
                environ.pop(name, None)

    def _response(
        self, listener_name: Any, req: Any, sock: ClientConnection, addr: Any
    ) -> tuple[ClientResponse, dict[str, Any]]:
        if isinstance(req, PlainRequest):
            response, environ = ClientResponse(req, sock, self.cfg), req.environ
            environ["wsgi.early_hints"] = wsgi._make_early_hints_callback(req, sock, response)
            environ["weir.stream"] = response
            return response, environ
        response, environ = wsgi.create(
            req, sock, addr, listener_name, self.cfg, response_class=ClientResponse
        )
        environ["wsgi.multithread"] = True
        if isinstance(sock, ClientConnection):
            environ["weir.stream"] = response
        return response, environ

    def _count_request(self) -> None:
        self.nr += 1
        if self.alive and self.nr >= self.max_requests:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

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


def _is_skipped(body: Any) -> bool:
    """Read the rest of a body; whether its end was reached."""
    try:
        while body.read(MOST_SKIPPED):
            pass
    except (OSError, http_errors.ParseException):
        return False
    return unread(body) == 0


def _refusal(status: HTTPStatus) -> bytes:
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    error = Refusal(ErrorKind(status, kind, "bad_request", kind), f"{status.phrase}: not a valid request.")
    body = render_error(error, WireFormat.OPENAI, "")
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
