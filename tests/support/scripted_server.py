"""A server on the loopback that plays scripts, and the scripts that answers are made of."""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

Script = Callable[[socket.socket], None]


class ScriptedServer:
    """Reads a request, plays the next script on the connection, and keeps what it read."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.scripts: list[Script] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed_by_peer = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._open: list[socket.socket] = []
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while request := _read_request(connection):
                    self.requests.append(request)
                    self.scripts.pop(0)(connection)
            except OSError:
                pass
        self.closed_by_peer.release()

    def stop(self) -> None:
        """Close everything, and wait for the threads."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    ]
    while len(body) < sum(lengths):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def sends(*parts: bytes) -> Script:
    return lambda connection: connection.sendall(b"".join(parts))


def sends_and_closes(*parts: bytes) -> Script:
    def play(connection: socket.socket) -> None:
        connection.sendall(b"".join(parts))
        connection.shutdown(socket.SHUT_RDWR)

    return play


def resets(*parts: bytes) -> Script:
    def play(connection: socket.socket) -> None:
        connection.sendall(b"".join(parts))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return play


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
