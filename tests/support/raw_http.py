"""An HTTP/1.1 client that sees the wire: exact bytes out, framing and its ending in."""

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from simulator.launcher import PATIENCE_S

_RECV = 64 * 1024


class Ending(Enum):
    """How a body ended."""

    FINAL_CHUNK = "final chunk"
    LENGTH = "content length reached"
    CLOSED = "closed, and only the closing marks the end"
    CUT = "closed before the framing was complete"
    RESET = "reset before the framing was complete"


@dataclass
class RawResponse:
    """One answer as it came; `pieces` are the chunks of a chunked body, or what single reads brought."""

    status: int
    header_list: list[tuple[str, str]]
    pieces: list[bytes] = field(default_factory=list)
    ending: Ending | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers by lower-case name; a repeated one is an error in the tests' eyes."""
        names = [name for name, _ in self.header_list]
        assert len(names) == len(set(names)), f"a header is there twice: {self.header_list}"
        return dict(self.header_list)

    @property
    def body(self) -> bytes:
        """What has been read of the body."""
        return b"".join(self.pieces)

    @property
    def is_whole(self) -> bool:
        """Whether the body is over and a client takes it for a whole one."""
        assert self.ending is not None, "not read to its end"
        return self.ending in (Ending.FINAL_CHUNK, Ending.LENGTH, Ending.CLOSED)

    @property
    def request_id(self) -> str:
        """The proxy's id of the request, which both of its names must agree on."""
        assert self.headers["x-request-id"] == self.headers["request-id"]
        return self.headers["x-request-id"]


class RawConnection:
    """One TCP connection to the proxy."""

    def __init__(self, url: str, *, receive_buffer: int | None = None) -> None:
        parts = urlsplit(url)
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(PATIENCE_S)
        try:
            self._socket.connect((parts.hostname, parts.port))
        except OSError:
            self._socket.close()
            raise
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._response: RawResponse | None = None
        self._left = 0
        self._is_chunked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The client's own."""
        port: int = self._socket.getsockname()[1]
        return port

    def send(self, data: bytes) -> None:
        """Send exactly these bytes."""
        self._socket.sendall(data)

    def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send a request with a Content-Length (unless a framing header is given) and a Host."""
        framing = {} if _has_framing(headers) else {"Content-Length": str(len(body))}
        lines = [
            f"{name}: {value}\r\n" for name, value in {"Host": "weir.test", **headers, **framing}.items()
        ]
        self.send(f"{method} {target} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1") + body)

    def read_head(self) -> RawResponse:
        """Status and headers of the next answer."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._fill():
                raise ConnectionError(f"closed within the headers: {bytes(self._buffer)!r}")
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        status_line, *lines = head.decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        response = RawResponse(
            int(status_line.split(" ")[1]), [(name.lower(), value.strip()) for name, _, value in pairs]
        )
        self._response = response
        names = [name for name, _ in response.header_list]
        self._is_chunked = "transfer-encoding" in names
        assert not (self._is_chunked and "content-length" in names), "two framings at once"
        self._left = int(response.headers["content-length"]) if "content-length" in names else -1
        return response

    def read_piece(self) -> bytes | None:
        """The next chunk (or, unchunked, whatever comes next); None once the body is over."""
        assert self._response is not None
        if self._response.ending is not None:
            return None
        try:
            piece = self._next_chunk() if self._is_chunked else self._next_bytes()
        except ConnectionError:
            self._response.ending = Ending.RESET
            return None
        if piece:
            self._response.pieces.append(piece)
        return piece or None

    def read_until(self, wanted: bytes) -> bytes:
        """Read pieces until the body so far contains `wanted`; all of the body so far."""
        assert self._response is not None
        while wanted not in self._response.body:
            if self.read_piece() is None:
                raise ConnectionError(f"over ({self._response.ending}) without {wanted!r}")
        return self._response.body

    def read_bytes(self, size: int) -> None:
        """Read pieces until the body has so many bytes."""
        assert self._response is not None
        while (have := len(self._response.body)) < size:
            if self.read_piece() is None:
                raise ConnectionError(f"over ({self._response.ending}) after {have} of {size} bytes")

    def read_rest(self) -> RawResponse:
        """The whole answer."""
        assert self._response is not None
        while self.read_piece() is not None:
            pass
        return self._response

    def read_response(self) -> RawResponse:
        """Head and body of the next answer."""
        self.read_head()
        return self.read_rest()

    def is_closed(self) -> bool:
        """Whether the server has closed: waits for that or for a byte, which would be one too many."""
        try:
            return not self._fill()
        except ConnectionError:
            return True

    def close(self) -> None:
        """Leave in order (FIN)."""
        self._socket.close()

    def reset(self) -> None:
        """Leave at once (RST), as a killed client does."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def _fill(self) -> bool:
        data = self._socket.recv(_RECV)
        self._buffer += data
        return bool(data)

    def _end(self, ending: Ending) -> bytes:
        assert self._response is not None
        self._response.ending = ending
        return b""

    def _next_bytes(self) -> bytes:
        if self._left == 0:
            return self._end(Ending.LENGTH)
        if not self._buffer and not self._fill():
            return self._end(Ending.CLOSED if self._left < 0 else Ending.CUT)
        piece = bytes(self._buffer if self._left < 0 else self._buffer[: self._left])
        del self._buffer[: len(piece)]
        self._left -= len(piece) if self._left > 0 else 0
        if self._left == 0:
            assert self._response is not None
            self._response.ending = Ending.LENGTH
        return piece

    def _next_chunk(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if not self._fill():
                return self._end(Ending.CUT)
        size_text, _, _ = bytes(self._buffer).partition(b"\r\n")
        size, start = int(size_text, 16), len(size_text) + 2
        while len(self._buffer) < start + size + 2:
            if not self._fill():
                assert self._response is not None
                self._response.pieces.append(bytes(self._buffer[start : start + size]))
                return self._end(Ending.CUT)
        assert self._buffer[start + size : start + size + 2] == b"\r\n", "a chunk without its line end"
        chunk = bytes(self._buffer[start : start + size])
        del self._buffer[: start + size + 2]
        return chunk if size else self._end(Ending.FINAL_CHUNK)


def _has_framing(headers: Mapping[str, str]) -> bool:
    return any(name.lower() in ("content-length", "transfer-encoding") for name in headers)


def chunked(body: bytes, size: int = 65_536) -> bytes:
    """A body in chunked framing."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
