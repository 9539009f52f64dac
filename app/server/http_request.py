"""Requests as they come off a connection: in one go where they have the usual form, else read by gunicorn."""

import os
from io import BytesIO
from typing import Any

from gunicorn.http import wsgi
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import InvalidChunkSize, UnsupportedTransferCoding
from gunicorn.http.message import MAX_HEADERS, MAX_REQUEST_LINE, HeaderPolicy, Request
from gunicorn.http.unreader import SocketUnreader

from app.server.request_head import HeadOptions, read_head

FREE_FRAMING = 64 * 1024
"""Bytes of chunk sizes, extensions and line ends that any body may have."""
# This many bytes of body allow one more byte of framing: chunks of 48 bytes, on the average, have enough.
BODY_PER_FRAMING = 8
_CHUNK_ENDS = 4


class PlainRequest:
    """A request that `read_head` could read: what gunicorn's `Request` is to responses, hooks and loggers.

    `body` is the body itself when it has come already, else gunicorn's reader.
    """

    __slots__ = ("body", "environ", "must_close", "peer_addr", "req_number")

    version = (1, 1)
    fragment = ""
    proxy_protocol_info: dict[str, Any] = {}  # noqa: RUF012  there is none
    trailers: tuple[()] = ()

    def __init__(self, environ: dict[str, Any], body: Any, peer_addr: Any, req_number: int) -> None:
        self.environ = environ
        self.body = environ["wsgi.input"] = body
        self.peer_addr = peer_addr
        self.req_number = req_number
        self.must_close = False

    @property
    def remote_addr(self) -> Any:
        """Who is at the other end."""
        return self.peer_addr

    @property
    def method(self) -> Any:
        """The method."""
        return self.environ["REQUEST_METHOD"]

    @property
    def uri(self) -> Any:
        """The request target."""
        return self.environ["RAW_URI"]

    @property
    def path(self) -> Any:
        """The target's path as it was sent."""
        return self.uri.partition("?")[0]

    @property
    def query(self) -> Any:
        """What is behind the target's question mark."""
        return self.environ["QUERY_STRING"]

    @property
    def scheme(self) -> Any:
        """http or https."""
        return self.environ["wsgi.url_scheme"]

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names in capitals, and values."""
        return [
            (key.removeprefix("HTTP_").replace("_", "-"), value)
            for key, value in self.environ.items()
            if key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH")
        ]

    def force_close(self) -> None:
        """Note that the connection is to end with this request."""
        self.must_close = True

    def should_close(self) -> bool:
        """Return whether the connection ends with this request, for all the client has said."""
        return self.must_close or self.environ.get("HTTP_CONNECTION", "").lower() == "close"


class RequestReading:
    """What the reading of requests takes from gunicorn's configuration, looked up once."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg
        # TLS, HTTP/2, uwsgi and the PROXY protocol are gunicorn's own business.
        self.is_http1 = (
            not cfg.is_ssl
            and cfg.protocol == "http"
            and cfg.proxy_protocol == "off"
            and cfg.http2_cleartext not in ("prior-knowledge", "upgrade", "both")
        )
        line = cfg.limit_request_line
        field = cfg.limit_request_field_size
        fields = cfg.limit_request_fields
        self._max_bytes = min(
            line if 0 < line < MAX_REQUEST_LINE else MAX_REQUEST_LINE,
            field if field > 0 else MAX_REQUEST_LINE,
        )
        self._max_fields = fields if 0 < fields <= MAX_HEADERS else MAX_HEADERS
        is_mounted = "SCRIPT_NAME" in os.environ  # noqa: TID251  gunicorn reads it there
        self._knows_heads = not is_mounted and not any("_" in name for name in cfg.secure_scheme_headers)

    def reader(self, connection: Any, listener_name: Any, addr: Any) -> "RequestReader":
        """Read the requests of one connection."""
        terms = None
        if self._knows_heads and isinstance(addr, tuple) and isinstance(listener_name, tuple):
            terms = HeadOptions(self._max_bytes, self._max_fields, self._scheme_headers(addr))
        environ = {} if terms is None else self._environ(connection, listener_name, addr)
        return RequestReader(self._cfg, connection, addr, terms, environ)

    def _scheme_headers(self, addr: Any) -> tuple[tuple[str, str], ...]:
        policy = HeaderPolicy()
        policy.cfg, policy.peer_addr = self._cfg, addr
        headers, _ = policy._peer_trusted_for_forwarded()
        return tuple((f"HTTP_{name.replace('-', '_')}", value) for name, value in headers.items())

    def _environ(self, connection: Any, listener_name: Any, addr: Any) -> dict[str, Any]:
        """Return what all requests of a connection have in their environment."""
        return {
            **wsgi.base_environ(self._cfg),
            "wsgi.multithread": True,
            "wsgi.url_scheme": "http",
            "gunicorn.socket": connection,
            "REMOTE_ADDR": addr[0],
            "REMOTE_PORT": str(addr[1]),
            "SERVER_NAME": listener_name[0],
            "SERVER_PORT": str(listener_name[1]),
            "SCRIPT_NAME": "",
        }


class RequestReader:
    """Reads one request after the other off a connection."""

    def __init__(
        self, cfg: Any, connection: Any, addr: Any, terms: HeadOptions | None, environ: dict[str, Any]
    ) -> None:
        self._cfg = cfg
        self._unreader = SocketUnreader(connection)
        self._addr = addr
        self._terms = terms
        self._environ = environ
        self._count = 0
        self.odd_head = b""
        """The beginning of the last head that was left to gunicorn to read, and may be none."""

    def next_request(self) -> Any:
        """Read a `PlainRequest` or gunicorn's; None at the connection's end. Raises what gunicorn raises."""
        unreader = self._unreader
        data = unreader.take_buffered() or unreader.chunk()
        if not data:
            return None
        self._count += 1
        environ = self._environ.copy()
        head = None if self._terms is None else read_head(data, environ, self._terms)
        if head is None:
            unreader.unread(data)
            self.odd_head = data
            return Request(self._cfg, unreader, self._addr, self._count)
        begin, length = head
        end = begin + length
        if end <= len(data):
            body: Any = BytesIO(data[begin:end])
            if end < len(data):
                unreader.unread(data[end:])
        else:
            unreader.unread(data[begin:])
            body = Body(LengthReader(unreader, length))
        return PlainRequest(environ, body, self._addr, self._count)


class BoundedChunks(ChunkedReader):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's reader of chunked bodies, for such as have more body than framing.

    Each chunk costs some microseconds, however little is in it, and an extension is read to be dropped.
    """

    def __init__(self, req: Any, unreader: Any) -> None:
        super().__init__(req, unreader)
        self._left = FREE_FRAMING

    def parse_chunk_size(self, unreader: Any, data: bytes | None = None) -> tuple[int, bytes | None]:
        """Return the size of the next chunk, and what follows it already; raises gunicorn's errors."""
        line = bytearray(data or b"")
        while (end := line.find(b"\r\n")) < 0:
            if len(line) > self.limit_chunk_size_line:
                raise InvalidChunkSize(b"a line without an end")
            self.read_into(unreader, line)
        self._left -= end + _CHUNK_ENDS
        if self._left < 0:
            raise InvalidChunkSize(b"more framing than body")
        found: tuple[int, bytes | None] = super().parse_chunk_size(unreader, line)
        self._left += found[0] // BODY_PER_FRAMING
        return found


def settle_framing(request: Any) -> None:
    """Refuse every transfer coding but `chunked` alone: gunicorn lets some pass that it does not undo.

    And chunked bodies that are hardly more than framing.
    """
    codings = [value.strip(" \t").lower() for name, value in request.headers if name == "TRANSFER-ENCODING"]
    if codings and codings != ["chunked"]:
        raise UnsupportedTransferCoding("")
    if isinstance(getattr(request.body, "reader", None), ChunkedReader):
        request.body.reader = BoundedChunks(request, request.unreader)


def unread(body: Any) -> float:
    """Return how much of a request's body is still to come, in bytes; infinite if only the client knows."""
    if isinstance(body, BytesIO):
        return 0.0
    if body.failed:
        return float("inf")
    reader = body.reader
    if isinstance(reader, LengthReader):
        return float(reader.length)
    return float("inf") if isinstance(reader, ChunkedReader) and reader.parser else 0.0
