"""gunicorn's gevent worker, but one that stops without waiting for clients that only keep a connection."""

import mmap
import socket
import time
from typing import Any

import gevent
from gunicorn.arbiter import Arbiter
from gunicorn.workers.ggevent import GeventWorker

_RETRY_S = 2.0
_MOMENT_S = 0.9

_has_loaded = mmap.mmap(-1, 1)
"""1 once a worker has loaded the application: memory that the master's children share."""


class WeirWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """Tells connections that wait for a request from those that are being answered.

    gunicorn counts both as busy: one idle keep-alive connection would hold up a stop for as long as it may
    be kept.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._idle: dict[Any, float] = {}  # and since when

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

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """One connection, from its first request to its end."""
        self._idle[client] = time.monotonic()
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.pop(client, None)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """One request on a connection, which ends with it if the worker is to stop."""
        self._idle.pop(sock, None)
        super().handle_request(listener_name, req, sock, addr)
        if not self.alive:
            # Also where the answer was cut: gunicorn would go on to wait for the connection's next request.
            raise StopIteration
        self._idle[sock] = time.monotonic()

    def notify(self) -> None:
        """Called every second: the worker is alive. Once it is to stop it lets go of who waits."""
        super().notify()
        if not self.alive:
            self._hang_up()

    def _hang_up(self) -> None:
        """Let connections without a request end; one that has arrived already is still read, and answered.

        Who was busy just now gets a moment more: the next request may be on its way, and would be lost.
        """
        waiting_since = time.monotonic() - _MOMENT_S
        for client in [client for client, since in self._idle.items() if since <= waiting_since]:
            try:
                client.shutdown(socket.SHUT_RD)
            except OSError:
                self._idle.pop(client, None)  # it is gone already
