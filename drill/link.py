"""A TCP way to a mongod that can be made slow, lossy or broken."""

import contextlib
import socket as plain_socket
from types import TracebackType
from typing import Self

import gevent
from gevent import socket
from gevent.server import StreamServer

_RECV = 64 * 1024


class Link:
    """Listens on a port of its own and passes bytes to and from a Unix socket.

    `delay_s` holds every reply back so long; `loses_replies` lets requests through (so that they take effect)
    and closes the connection in place of each reply; `cut` closes everything that is open.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._open: set[socket.socket] = set()
        self.delay_s = 0.0
        self.loses_replies = False
        self.lost_replies = 0

    @property
    def uri(self) -> str:
        """A URI through this link; valid once it is entered."""
        return f"mongodb://127.0.0.1:{self._server.server_port}/?directConnection=true&w=1&journal=true"

    def cut(self) -> None:
        """Close all connections."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(plain_socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._server.stop(timeout=1)

    def _serve(self, near: socket.socket, _address: object) -> None:
        with near, socket.socket(plain_socket.AF_UNIX) as far:
            try:
                far.connect(self._target)
            except OSError:
                return
            self._open |= {near, far}
            back = gevent.spawn(self._pass_replies, far, near)
            try:
                self._pass(near, far)
            finally:
                back.join(timeout=self.delay_s + 1)
                back.kill()
                self._open -= {near, far}

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_RECV):
                target.sendall(data)
            target.shutdown(plain_socket.SHUT_WR)

    def _pass_replies(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_RECV):
                if self.loses_replies:
                    self.lost_replies += 1
                    break
                if self.delay_s:
                    gevent.sleep(self.delay_s)
                target.sendall(data)
            target.shutdown(plain_socket.SHUT_RDWR)
