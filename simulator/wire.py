"""One accepted connection: reading HTTP/1.x requests, writing exact bytes, noticing that the peer left."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import gevent
from gevent.socket import timeout as gevent_timeout
from gevent.socket import wait_read

_MAX_HEAD = 64 * 1024
_RECV = 256 * 1024
_SHORT_PAUSE_S = 0.05


class PeerGoneError(Exception):
    """The other side closed or reset the connection."""


class BadRequestError(Exception):
    """The bytes received are no HTTP request this server can answer; the connection ends."""


@dataclass(slots=True)
class Request:
    """One request. ``headers`` keeps order, case and duplicates; ``body`` is de-chunked, not decoded."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    path: str = ""
    query: str = ""
    fields: dict[str, str] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        """Return a header's value by its lower-case name (duplicates joined with a comma), or None."""
        return self.fields.get(name)

    def params(self) -> dict[str, str]:
        """Return the query string's parameters, the last value of each name."""
        return {name: values[-1] for name, values in parse_qs(self.query).items()}

    @property
    def keep_alive(self) -> bool:
        """Whether the client lets the connection serve another request."""
        connection = self.fields.get("connection", "").lower()
        if self.version == "HTTP/1.0":
            return "keep-alive" in connection
        return "close" not in connection


class Wire:
    """Buffered reads and exact writes on one socket. Every failure of the peer is a `PeerGoneError`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self.bytes_out = 0
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_request(self) -> Request | None:
        """Block until a whole request is in; None when the peer closes between requests."""
        end = self._buffer.find(b"\r\n\r\n")
        while end < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise BadRequestError("the header section is too long")
            if not self._fill():
                if self._buffer:
                    raise PeerGoneError
                return None
            end = self._buffer.find(b"\r\n\r\n")
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        request = _parse_head(head)
        request.body = self._read_body(request)
        return request

    def send(self, data: bytes, per_send: int = 0, gap_s: float = 0.0) -> None:
        """Write ``data``, at most ``per_send`` bytes per system call (0: as few calls as possible)."""
        try:
            if not per_send:
                self._sock.sendall(data)
            else:
                for start in range(0, len(data), per_send):
                    self._sock.sendall(data[start : start + per_send])
                    gevent.sleep(gap_s)
        except OSError as error:
            raise PeerGoneError from error
        self.bytes_out += len(data)

    def peer_gone(self) -> bool:
        """Return whether the peer has closed its side; never blocks, never consumes."""
        try:
            self._sock.settimeout(0.0)
            return self._sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            if self._sock.fileno() >= 0:
                self._sock.settimeout(None)

    def pause(self, seconds: float | None) -> None:
        """Do nothing for ``seconds`` (None: for ever); raise `PeerGoneError` as soon as the peer leaves."""
        if seconds is not None and seconds <= _SHORT_PAUSE_S:
            gevent.sleep(max(0.0, seconds))
            if self.peer_gone():
                raise PeerGoneError
            return
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            wait_read(self._sock.fileno(), timeout=seconds)
        except gevent_timeout:
            return
        except OSError as error:
            raise PeerGoneError from error
        if self.peer_gone():
            raise PeerGoneError
        # The peer sent more (a pipelined request): from here on its leaving shows at the next write only.
        gevent.sleep(3600.0 if deadline is None else max(0.0, deadline - time.monotonic()))

    def finish(self) -> None:
        """Close in order: everything written arrives, then end of file."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return
        finally:
            self._sock.close()

    def reset(self) -> None:
        """Close with RST: what the peer has not read yet is lost, its next read fails."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            return
        finally:
            self._sock.close()

    def _fill(self) -> bool:
        try:
            data = self._sock.recv(_RECV)
        except OSError as error:
            raise PeerGoneError from error
        self._buffer += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        if len(self._buffer) >= size:
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            return data
        while len(self._buffer) < size:
            if not self._fill():
                raise PeerGoneError
        return self._take(size)

    def _take_line(self) -> bytes:
        end = self._buffer.find(b"\r\n")
        while end < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise BadRequestError("a chunk size or trailer line is too long")
            if not self._fill():
                raise PeerGoneError
            end = self._buffer.find(b"\r\n")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _read_body(self, request: Request) -> bytes:
        coding = request.fields.get("transfer-encoding", "").lower()
        length = request.fields.get("content-length", "0")
        if not coding and not length.isdigit():
            raise BadRequestError("bad Content-Length")
        if not coding and length == "0":
            return b""
        if request.fields.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not coding:
            return self._take(int(length))
        if coding != "chunked":
            raise BadRequestError("unknown Transfer-Encoding")
        return self._read_chunks()

    def _read_chunks(self) -> bytes:
        parts: list[bytes] = []
        while True:
            size_text = self._take_line().partition(b";")[0].strip()
            try:
                size = int(size_text, 16)
            except ValueError as error:
                raise BadRequestError("bad chunk size") from error
            if size == 0:
                while self._take_line():
                    pass
                return b"".join(parts)
            parts.append(self._take(size))
            self._take_line()


def _parse_head(head: bytes) -> Request:
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequestError("bad request line")
    headers: list[tuple[str, str]] = []
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequestError("bad header line")
        value = value.strip()
        headers.append((name, value))
        key = name.lower()
        fields[key] = f"{fields[key]}, {value}" if key in fields else value
    path, _, query = words[1].partition("?")
    return Request(words[0], words[1], words[2], headers, path=path, query=query, fields=fields)
