"""gunicorn's gevent worker, but one that waits for no client longer than it should.

It tells connections that wait for a request from those that are being answered; gunicorn counts both as
busy. So a stop need not wait for idle ones, and when there are too many connections the one that has waited
longest makes room, and after those the one whose body comes most slowly: thousands of idle, half-open or
trickling ones cannot keep anybody out. The last places are for operators' questions alone, which are
answered whatever else the others are full of.
"""

import errno
import mmap
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import datetime
from functools import partial
from http import HTTPStatus
from operator import attrgetter
from typing import Any

import gevent
from gunicorn.arbiter import Arbiter
from gunicorn.http import errors as http_errors
from gunicorn.http import wsgi
from gunicorn.util import close
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from app.common.clock import SystemClock
from app.exchange.exchange import Answer
from app.server.client_connection import LINGER_S, SHORT_LINGER_S, ClientConnection, HeadTimeout
from app.server.client_limits import ClientLimits
from app.server.cross_origin import CrossOrigin
from app.server.http_request import PlainRequest, RequestReading, settle_framing, unread
from app.server.http_response import MOST_SKIPPED, ClientResponse
from app.server.pace import Pace, Turns
from app.wires.endpoints import format_of_path, is_of_api
from app.wires.error_bodies import error_headers, id_headers, render_error
from app.wires.errors import NO_PLACE, ErrorKind, Refusal
from app.wires.wire_format import WireFormat

_RETRY_S = 2.0
_MOMENT_S = 0.9
_QUIT_S = 0.1

_FULL = 0.95
"""The part of the connections allowed from which on waiting ones have to go."""
# At least this many places are kept for `_SPARE_PATHS`, however few there are in all.
_LEAST_SPARE = 4
_SPARE_PATHS = frozenset(("/health", "/ready", "/metrics"))
# The slowest upload is looked for among this many, the oldest.
_COMPARED = 64
_BUSY_RETRY_S = 2

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
    # This process's copy of the queue that the master's signal handlers fill.
    masters_signals: Any = None
    alive: bool
    _is_quitting = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Who waits for a request, or has been answered and still sends, and since when: the longest first.
        self._idle: dict[ClientConnection, float] = {}
        self._leaving: set[ClientConnection] = set()
        self._serving: set[gevent.Greenlet] = set()
        # Whose body was not there yet when its head was, with the body, the oldest first.
        self._uploading: dict[ClientConnection, Any] = {}
        self._open = 0
        self._most = min(int(self.worker_connections * _FULL), self.worker_connections - _LEAST_SPARE)
        self._heavy, self._light = Turns(), Turns()

    def init_signals(self) -> None:
        """Handle signals as a worker does, from now on, and heed a stop that came before.

        Until then the master's handlers, inherited by the fork, put it into a queue that nobody reads here.
        """
        super().init_signals()
        early = self.masters_signals
        while early is not None and not early.empty():
            number = early.get_nowait()
            if number == signal.SIGTERM:
                self.handle_exit(number, None)
            elif number in (signal.SIGINT, signal.SIGQUIT):
                self.handle_quit(number, None)

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

    def handle_quit(self, sig: int, frame: object) -> None:
        """Stop without waiting for answers, on SIGINT or SIGQUIT.

        Ctrl-C sends one to every process, and the master then the other. gunicorn would raise `SystemExit`
        for each, and the second one in the midst of what the first one had begun.
        """
        if not self._is_quitting:
            self._is_quitting = True
            gevent.spawn(self._quit)

    def _quit(self) -> None:
        self.alive = False
        self._hang_up(0.0)
        gevent.sleep(_QUIT_S)
        cut = list(self._serving)
        if cut:
            self.log.warning("%d answers are cut, since the server is to stop at once", len(cut))
            gevent.killall(cut)

    def look_up(self) -> None:
        """Take from the configuration what every request needs: gunicorn would ask it each time."""
        self._reading = RequestReading(self.cfg)
        self._is_keeping = bool(self.cfg.keepalive)
        self._before = partial(self.cfg.pre_request, self)
        self._after = partial(self.cfg.post_request, self)

    def timeout_ctx(self) -> AbstractContextManager[None]:
        """Give gunicorn's reading of a head no limit from here, since connections have their own."""
        return nullcontext()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Handle one connection, from its first request to its end."""
        connection = ClientConnection(client, self.client_limits, Pace(self._heavy, self._light))
        greenlet = gevent.getcurrent()
        self._serving.add(greenlet)
        self._open += 1
        connection.is_spare = not self._make_room()
        self._idle[connection] = time.monotonic()
        try:
            if self._reading.is_http1:
                self._serve(listener.getsockname(), connection, addr)
            else:
                AsyncWorker.handle(self, listener, connection, addr)
        finally:
            self._open -= 1
            self._serving.discard(greenlet)
            self._idle.pop(connection, None)
            self._uploading.pop(connection, None)
            self._leaving.discard(connection)

    def _serve(self, listener_name: Any, connection: ClientConnection, addr: Any) -> None:
        """Serve a connection as gunicorn's `handle` does, for plain HTTP/1."""
        reader = self._reading.reader(connection, listener_name, addr)
        try:
            while (request := reader.next_request()) is not None:
                self.handle_request(listener_name, request, connection, addr)
        except (http_errors.NoMoreData, StopIteration):
            pass
        except OSError as error:
            if error.errno not in _BROKEN_OFF:
                self.log.exception("Socket error processing request.")
        except BaseException as error:  # noqa: BLE001  as gunicorn does: it ends the connection, not the worker
            self._refuse_faulty(connection, error, reader.odd_head)
        finally:
            close(connection)

    def handle_request(self, listener_name: Any, req: Any, sock: ClientConnection, addr: Any) -> None:
        """Handle one request on a connection, which ends with it if the worker is to stop."""
        if not isinstance(req, PlainRequest):
            settle_framing(req)
        self._idle.pop(sock, None)
        if sock.gives_way:
            sock.pace.give_way()  # its last request was refused, and this one may be, too
        if sock in self._leaving:
            # It was let go while its request was on its way: it is served if there is a place all the same.
            self._leaving.discard(sock)
            sock.is_spare = True
        if sock.is_spare and not self._may_be_served(req, sock):
            self._count_refused("no_place")
            self._refuse_for_want_of_place(req, sock)
            raise StopIteration
        rest = unread(req.body)
        is_coming = rest > 0
        if is_coming:
            sock.expect_body()
            self._uploading[sock] = req.body
        try:
            is_last = self._answer(listener_name, req, sock, addr)
        except (gevent.GreenletExit, SystemExit):
            # The answer was cut; gunicorn would go on to wait for the connection's next request.
            raise StopIteration from None
        finally:
            if is_coming:
                self._uploading.pop(sock, None)
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
        sock.pace.rest()  # its next request may be here already, and the one after that

    def _answer(self, listener_name: Any, req: Any, sock: ClientConnection, addr: Any) -> bool:
        """Answer as gunicorn's `handle_request` does, hooks and log included; say if the connection ends."""
        began = datetime.now()  # noqa: DTZ005  the access log wants a difference
        environ: dict[str, Any] = {}
        response = None
        try:
            self._before(req)
            response, environ = self._response(listener_name, req, sock, addr)
            self._count_request()
            if not self.alive or not self._is_keeping or sock.is_spare:
                response.force_close()
            body = self.wsgi(environ, response.start_response)
            try:
                for piece in body:
                    response.write(piece)
                    sock.pace.rest()
                response.close()
            finally:
                self.log.access(response, req, environ, datetime.now() - began)  # noqa: DTZ005
                if hasattr(body, "close"):
                    body.close()
            sock.gives_way = response.status_code >= HTTPStatus.BAD_REQUEST
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
            # The response knows its request and that its environment: a reference cycle, which only the
            # garbage collector would open, and it would have half of all objects to look at.
            for name in _RESPONSE_KEYS:
                environ.pop(name, None)

    def _response(
        self, listener_name: Any, req: Any, sock: ClientConnection, addr: Any
    ) -> tuple[ClientResponse, dict[str, Any]]:
        if isinstance(req, PlainRequest):
            response, environ = ClientResponse(req, sock, self.cfg), req.environ
            environ["weir.stream"] = response
            environ["weir.pace"] = sock.pace
            return response, environ
        response, environ = wsgi.create(
            req, sock, addr, listener_name, self.cfg, response_class=ClientResponse
        )
        environ["wsgi.multithread"] = True
        if isinstance(sock, ClientConnection):
            environ["weir.stream"] = response
            environ["weir.pace"] = sock.pace
        return response, environ

    def _count_request(self) -> None:
        self.nr += 1
        if self.alive and self.nr >= self.max_requests:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what is no request, or failed outside the application, in place of gunicorn."""
        self._refuse_faulty(client, exc, b"")

    def _refuse_faulty(self, client: ClientConnection, exc: BaseException, head: bytes) -> None:
        """Answer the same; `head` is what is known of how it began.

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
            self._count_refused(reason)
        shared = self._cross_origin()
        self._refuse(client, _refusal(status), shared, shared.headers_of(head))

    def _refuse_for_want_of_place(self, req: Any, client: ClientConnection) -> None:
        """Refuse a request; a page that asks whether it may send one is told, to read the refusal then."""
        path, headers = str(req.path), {name.lower(): value for name, value in req.headers}
        shared = self._cross_origin() if is_of_api(path) else CrossOrigin()
        answer = shared.preflight(str(req.method), headers)
        if answer is None:
            answer = _refusal(HTTPStatus.SERVICE_UNAVAILABLE, format_of_path(path))
        self._refuse(client, answer, shared, headers)

    def _cross_origin(self) -> CrossOrigin:
        return CrossOrigin(self.wsgi.extensions["weir"].settings.cors_origins)

    def _count_refused(self, reason: str) -> None:
        self.wsgi.extensions["weir"].metrics.recorder.refused(reason)

    def _refuse(
        self, client: ClientConnection, answer: Answer, shared: CrossOrigin, headers: Mapping[str, str]
    ) -> None:
        """Refuse whom nobody has identified; the connection is to end."""
        with suppress(OSError):
            client.sendall(_written(shared.share(answer, headers)))
            client.linger_s = SHORT_LINGER_S
            self._idle[client] = time.monotonic()

    def notify(self) -> None:
        """Tell gunicorn every second that the worker is alive. Once it is to stop, let idle clients go."""
        super().notify()
        if not self.alive:
            self._hang_up()

    def _make_room(self) -> bool:
        """Return whether there is room for one more connection, if need be after another one was let go.

        The one let go has waited longest for a request; if none waits, its body comes most slowly.
        """
        while self._is_full():
            if self._idle:
                longest = next(iter(self._idle))
                self._leaving.add(longest)
                self._let_go(longest)
            elif (slowest := self._slowest()) is not None:
                self._leaving.add(slowest)
                self._uploading.pop(slowest)
                slowest.give_up()
            else:
                return False
        return True

    def _is_full(self) -> bool:
        return bool(self._open - len(self._leaving) > self._most)

    def _slowest(self) -> ClientConnection | None:
        """Return the connection that should go first among those whose bodies are still on their way."""
        compared: list[ClientConnection] = []
        for connection, body in list(self._uploading.items()):
            if not unread(body):
                del self._uploading[connection]
                continue
            compared.append(connection)
            if len(compared) == _COMPARED:
                break
        return min(compared, key=attrgetter("patience_until"), default=None)

    def _may_be_served(self, req: Any, sock: ClientConnection) -> bool:
        """Return whether the request of a connection that came when all places were taken can be answered."""
        sock.is_spare = self._is_full()
        return not sock.is_spare or str(req.path) in _SPARE_PATHS

    def _hang_up(self, moment_s: float = _MOMENT_S) -> None:
        """Let connections without a request end; a request that has arrived is still read, and answered.

        Who was busy just now gets a moment more: the next request may be on its way, and would be lost.
        """
        waiting_since = time.monotonic() - moment_s
        for client in [client for client, since in self._idle.items() if since <= waiting_since]:
            self._let_go(client)

    def _let_go(self, client: ClientConnection) -> None:
        self._idle.pop(client, None)
        client.let_go()


def _is_skipped(body: Any) -> bool:
    """Read the rest of a body; return whether its end was reached."""
    try:
        while body.read(MOST_SKIPPED):
            pass
    except (OSError, http_errors.ParseException):
        return False
    return unread(body) == 0


def _refusal(status: HTTPStatus, wire_format: WireFormat = WireFormat.OPENAI) -> Answer:
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    error = Refusal(ErrorKind(status, kind, "bad_request", kind), f"{status.phrase}: not a valid request.")
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        error = Refusal(
            NO_PLACE, "The proxy serves as many requests as it can. Try again.", retry_after_s=_BUSY_RETRY_S
        )
    request_id = SystemClock().new_request_id()  # nothing is recorded, but whoever reports it has it, too
    headers = [*error_headers(error), *id_headers(request_id)]
    return Answer(status, headers, [render_error(error, wire_format, request_id)])


def _written(answer: Answer) -> bytes:
    """Write a whole answer, the last of its connection."""
    status, body = HTTPStatus(answer.status), b"".join(answer.body)
    fields = "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
    length = "" if status is HTTPStatus.NO_CONTENT else f"Content-Length: {len(body)}\r\n"
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n{fields}{length}\r\n"
    return head.encode() + body
