"""A transport adapter for `requests`: HTTP/1.1 over pooled sockets, with nothing needless in between.

requests' own adapter goes through urllib3, http.client and the email package, which take more time than all
the rest of a request, and read one HTTP chunk at a time. This one sends a prepared request in one write,
parses the answer itself (`app.upstream.http1`) and hands on whatever has arrived.

Of requests, what its documentation calls a transport adapter is used, and no more: a `BaseAdapter` takes a
`PreparedRequest` and returns a `Response`, whose `raw` is the answer as it arrives (`AnswerBody`). No session
is used (docs/performance.md has what one costs), nor urllib3; redirects, cookies, proxies of the environment
and decoding are nobody's business here. What goes wrong is raised as `UpstreamFailure`, where it happens.
"""

import math
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import lru_cache
from itertools import chain
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from gevent.monkey import get_original
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH, requote_uri

from app.upstream.fast_path import FastPath
from app.upstream.http1 import AnswerHead, BadAnswer, BodyReader, HeadReader
from app.upstream.readiness import Readiness
from app.upstream.transport import ClientGone, LargeBody, Passed, UpstreamFailure

READ_SIZE: Final = 64 * 1024
"""The most bytes taken from a socket at once."""
_ONE_WRITE = 64 * 1024
_LOWEST_ERROR = 400
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TARGET = re.compile(r"[\x21-\x7e]+")
_BREAKS = (BadAnswer, OSError)
"""What reading a body raises."""

Origin = tuple[str, str, int, bool | str]
"""Scheme, host, port, and what vouches for the certificate (True: the public authorities)."""
Destination = tuple[Origin, str, str]
"""Where to connect, what to ask for, and the `Host` header."""


class Http1Adapter(BaseAdapter):
    """Sends prepared requests directly. At most `pool_size` idle connections are kept for each origin.

    Another way to the origin is a subclass that says how to `connect`, what it means when that fails
    (`connect_failure`), and how a request is written there (`write`).
    """

    def __init__(self, *, pool_size: int = 1000) -> None:
        super().__init__()
        self._pool_size = pool_size
        self._idle: dict[Origin, list[Connection]] = {}

    def send(  # the interface is requests'
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> "Http1Response":
        """Send and wait for the head; `timeout` is (connect, read) in seconds; `cert`, `proxies` are unused.

        The body is not read. Raises `UpstreamFailure`, or what `connect_failure` makes of a failure to
        connect.
        """
        connect_s, read_s = timeout
        destination = destination_of(request.url or "", verify)
        origin = destination[0]
        message = self.write(request, destination, request.headers)
        try:
            connection = self._take_idle(origin) or self.open(origin, connect_s)
        except ClientGone as gone:
            gone.is_unsent = True
            raise
        connection.set_timeout(read_s)
        try:
            head, rest = connection.exchange(message)
        except BaseException:
            connection.close()
            raise
        return Http1Response(request, self, AnswerBody(self, origin, connection, head, rest))

    def connect(self, scheme: str, host: str, port: int, timeout_s: float) -> socket.socket:
        """Open a socket that the origin is at the other end of, before TLS; may raise OSError or ValueError.

        ValueError: names that cannot be looked up at all.
        """
        return socket.create_connection((host, port), timeout_s)

    def connect_failure(self, error: Exception) -> Exception:
        """Return what to raise for an OSError or ValueError of connecting, TLS included."""
        return UpstreamFailure("unreachable", type(error).__name__)

    def write(
        self, request: requests.PreparedRequest, destination: Destination, headers: Mapping[str, str]
    ) -> Iterable[bytes]:
        """Return the request's bytes, with these headers and `Host`, in as many writes as are sensible."""
        _, target, host = destination
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        text = f"{request.method} {target} HTTP/1.1\r\nHost: {host}\r\n{''.join(lines)}\r\n"
        breaks = len(lines) + 3
        if text.count("\n") != breaks or text.count("\r") != breaks:
            raise UpstreamFailure("garbled", "a header with a line break in it")
        try:
            head = text.encode("latin-1")
        except UnicodeEncodeError:
            raise UpstreamFailure("garbled", "a header that is not latin-1") from None
        body: bytes | str | LargeBody = request.body or b""
        if isinstance(body, str):
            body = body.encode()
        if not isinstance(body, bytes):
            return chain((head,), body.pieces())
        return (head + body,) if len(body) <= _ONE_WRITE else (head, body)

    def open(self, origin: Origin, timeout_s: float) -> "Connection":
        """Connect anew; each wait takes `timeout_s` at most. Raises what `connect_failure` returns."""
        scheme, host, port, verify = origin
        sock: socket.socket | None = None
        try:
            sock = self.connect(scheme, host, port, timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if scheme == "https":
                # In two steps: a client that leaves during the handshake has it closed at once, too.
                sock = secured = _context(verify).wrap_socket(
                    sock, server_hostname=host, do_handshake_on_connect=False
                )
                secured.do_handshake()
            return Connection(sock)
        except BaseException as error:
            if sock is not None:
                sock.close()
            if isinstance(error, OSError | ValueError):
                raise self.connect_failure(error) from None
            raise

    def close(self) -> None:
        """Close the connections that are not in use; those in use are kept no longer than their answer."""
        self._pool_size = 0
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def give_back(self, origin: Origin, connection: "Connection") -> None:
        """Keep a connection for the next request, if there is room."""
        idle = self._idle.setdefault(origin, [])
        if len(idle) < self._pool_size:
            idle.append(connection)
        else:
            connection.close()

    def _take_idle(self, origin: Origin) -> "Connection | None":
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()  # the last one used: it is the least likely to have been closed
            if connection.is_quiet():
                return connection
            connection.close()
        return None


class Connection:
    """A socket, and whether it is still fit for a request."""

    __slots__ = ("_pending", "_poll", "_readiness", "_timeout_s", "has_served", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.has_served = False
        self._poll: Any = _real_poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._pending: Callable[[], int] | None = getattr(sock, "pending", None)
        self._readiness = Readiness(sock.fileno())
        self._timeout_s: float | None = None

    def is_quiet(self) -> bool:
        """Return whether nothing came unasked for, not even the other side's end: else it is not used."""
        return not self._poll.poll(0) and not (self._pending is not None and self._pending())

    def set_timeout(self, timeout_s: float) -> None:
        """Set how long to wait for the other side, each time."""
        if timeout_s != self._timeout_s:
            self._timeout_s = timeout_s
            self.socket.settimeout(timeout_s)

    def exchange(self, message: Iterable[bytes]) -> tuple[AnswerHead, bytes]:
        """Send a request and read the head of its answer, and what came with it; raises `UpstreamFailure`."""
        reader = HeadReader()
        broken: OSError | None = None
        parts = iter(message)
        try:
            for part in parts:
                # All of it goes at once nearly always; gevent's `sendall` asks for the buffer's size first.
                if (sent := self.socket.send(part)) == len(part):
                    continue
                if (found := self._send_watchfully(memoryview(part)[sent:], reader, parts)) is not None:
                    return found
        except BadAnswer as error:
            raise UpstreamFailure("garbled", str(error)) from None
        except TimeoutError:
            raise UpstreamFailure("reset", "it does not take the request") from None
        except OSError as error:
            broken = error  # an upstream may answer, with an error, before it has read everything
        try:
            while data := self._receive():
                if (found := reader.feed(data)) is not None:
                    self.has_served = True
                    return found
        except TimeoutError as error:
            raise UpstreamFailure("timeout", type(error).__name__) from None
        except OSError as error:
            raise self._lost(reader, broken or error) from None
        except BadAnswer as error:
            raise UpstreamFailure("garbled", str(error)) from None
        if not reader.is_untouched:
            raise UpstreamFailure("truncated", "within the headers")
        raise self._lost(reader, broken or ConnectionResetError("no answer"))

    def _send_watchfully(
        self, rest: memoryview, reader: HeadReader, parts: Iterable[bytes]
    ) -> tuple[AnswerHead, bytes] | None:
        """Send the rest of a part, and `parts`, unless an answer comes that makes it pointless: return that.

        Some servers refuse a body without reading it to its end, and leave the connection open (RFC 9110
        §7.5 has us watch for that). The connection cannot be used again then.
        """
        while rest:
            if _arrived_while_sending(self.socket):
                data = self._receive_now()
                if data == b"":
                    raise ConnectionResetError("closed while the request was being sent")
                found = reader.feed(data) if data else None
                if found is None:
                    continue
                self.has_served = True
                if found[0].status < _LOWEST_ERROR:
                    self.socket.sendall(rest)
                    for part in parts:
                        self.socket.sendall(part)
                else:
                    found[0].keeps_open = False
                return found
            rest = rest[self.socket.send(rest[:_ONE_WRITE]) :]
        return None

    def _receive(self) -> bytes:
        """Return what comes next of an answer that has hardly come yet, `b""` at the end.

        Raises TimeoutError when nothing comes, and what reading raises.
        """
        if not (self._pending is not None and self._pending()):
            until = math.inf if self._timeout_s is None else time.monotonic() + self._timeout_s
            if not self._readiness.wait(until):
                if (data := self._receive_now()) is None:
                    raise TimeoutError("timed out")
                return data
        return self.socket.recv(READ_SIZE)

    def _receive_now(self) -> bytes | None:
        """Return what can be read without waiting; None if that is nothing."""
        self.socket.settimeout(0)
        try:
            return self.socket.recv(READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        finally:
            self.socket.settimeout(self._timeout_s)

    def _lost(self, reader: HeadReader, error: OSError) -> UpstreamFailure:
        """Return the failure of a connection that broke before the head was whole.

        It is stale where it had served before, and had perhaps been closed before the request came.
        """
        is_stale = self.has_served and reader.is_untouched and isinstance(error, ConnectionError)
        return UpstreamFailure("reset", type(error).__name__, is_stale=is_stale)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._readiness.close()
        self.socket.close()


class AnswerBody:
    """An answer whose head is there, and the body as it arrives, undecoded.

    It is the exchange's `UpstreamReply`, and what requests calls a response's `raw`. Once the body has been
    read to its end, its connection is kept for the next request, unless it is not beyond doubt.
    """

    __slots__ = (
        "_adapter",
        "_connection",
        "_fast_path",
        "_keeps_open",
        "_origin",
        "_reader",
        "_rest",
        "headers",
        "host",
        "is_of_host",
        "proxy_id",
        "status",
    )

    def __init__(
        self, adapter: Http1Adapter, origin: Origin, connection: Connection, head: AnswerHead, rest: bytes
    ) -> None:
        self.status = head.status
        self.headers: Mapping[str, str] = head.headers
        """By lower-case name."""
        self.proxy_id: str | None = None
        """The outbound proxy it came through."""
        self.host: int | None = None
        self.is_of_host = False
        self._adapter = adapter
        self._origin = origin
        self._connection: Connection | None = connection
        self._keeps_open = head.keeps_open
        self._reader = BodyReader(head)
        self._rest = rest
        self._fast_path: FastPath | None = None
        if self._reader.is_whole:
            self._reader.feed(rest)

    def read(self, amt: int = READ_SIZE) -> bytes:
        """Return what has arrived, at least a byte, waiting for it; `b""` at the proper end.

        `amt` is the most to take from the socket. Raises `UpstreamFailure`.
        """
        reader = self._reader
        data, self._rest = self._rest, b""
        try:
            while not reader.is_whole:
                if self._connection is None:
                    raise UpstreamFailure("truncated", "read after it was closed")
                if not data and not (data := self._connection.socket.recv(amt)):
                    self._end()
                    break
                if body := reader.feed(data):
                    return body
                data = b""
        except _BREAKS as error:
            raise _broken_off(error) from None
        self.close()
        return b""

    def read_passing(self, pass_on: Callable[[bytes], Passed]) -> bytes | None:
        """Like `read`, but bytes are offered to `pass_on` first (see `FastPath.read`)."""
        if self._rest or self._reader.is_whole or self._connection is None:
            return self.read()
        if self._fast_path is None:
            self._fast_path = FastPath(self._connection.socket, self._reader, READ_SIZE)
        try:
            body = self._fast_path.read(pass_on)
        except _BREAKS as error:
            raise _broken_off(error) from None
        if body == b"":
            self._end()
            self.close()
        return body

    def _end(self) -> None:
        """Take note that no more bytes come."""
        if not self._reader.is_whole and not self._reader.end():
            raise UpstreamFailure("truncated", "within the body")

    def close(self) -> None:
        """Give the connection back after a whole body, else close it. Idempotent.

        An unread rest would poison the next answer.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._keeps_open and self._reader.is_whole and not self._reader.surplus:
            self._adapter.give_back(self._origin, connection)
        else:
            connection.close()


def _broken_off(error: Exception) -> UpstreamFailure:
    """Return the failure of a body that did not come to its end. Texts of the system may hold addresses."""
    if isinstance(error, BadAnswer):
        return UpstreamFailure("truncated", str(error))
    return UpstreamFailure(
        "timeout" if isinstance(error, TimeoutError) else "truncated", type(error).__name__
    )


class Http1Response(requests.Response):
    """A response without what is not used here: making a cookie jar takes as long as parsing the head.

    What is the same in all of them is the class's.
    """

    raw: AnswerBody
    _content = False  # type: ignore[assignment]  # as requests has it until the body is read
    _content_consumed = False
    _next = None
    encoding = None
    reason = ""
    elapsed = timedelta(0)

    def __init__(self, request: requests.PreparedRequest, adapter: Http1Adapter, body: AnswerBody) -> None:
        self.status_code = body.status
        self.raw = body
        self.url = request.url or ""
        self.request = request
        self.connection = adapter  # type: ignore[assignment]  # as any adapter
        self.history = []

    @property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        """As requests shows them."""
        return CaseInsensitiveDict(self.raw.headers)


def _real_poll() -> Any:
    """Return the system's `poll`, not gevent's in its place: it is only ever asked without waiting."""
    return get_original("select", "poll")()


def _arrived_while_sending(sock: socket.socket) -> bool:
    """Wait until a connection takes more bytes, or has some for us: whether it has; raises TimeoutError."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN | select.POLLOUT)
    timeout_s = sock.gettimeout()
    ready = poll.poll(None if timeout_s is None else timeout_s * 1000)
    if not ready:
        raise TimeoutError("timed out while sending")
    return any(events & ~select.POLLOUT for _, events in ready)


@lru_cache(maxsize=8)
def _context(verify: bool | str) -> ssl.SSLContext:
    """Return what checks certificates, for all ways to the upstream: reading the authorities takes long."""
    context = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH if verify is True else str(verify))
    context.set_alpn_protocols(["http/1.1"])
    return context


def destination_of(url: str, verify: bool | str) -> Destination:
    """Return where a URL leads; raises `UpstreamFailure` for one that leads nowhere."""
    # A query string is the client's: there are too many to keep, and they are not to be kept.
    return _split(url, verify) if "?" in url else _usual_destination(url, verify)


def _split(url: str, verify: bool | str) -> Destination:
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if not host or scheme not in _DEFAULT_PORTS:
        raise UpstreamFailure("garbled", "no http URL")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _TARGET.fullmatch(target):
        target = requote_uri(target)
    default = _DEFAULT_PORTS[scheme]
    shown = f"[{host}]" if ":" in host else host
    name = shown if port in (None, default) else f"{shown}:{port}"
    return (scheme, host, port or default, verify), target, name


# The endpoints' destinations are always the same few.
_usual_destination = lru_cache(maxsize=64)(_split)
