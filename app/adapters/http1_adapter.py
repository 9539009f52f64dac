"""A transport for `requests`: HTTP/1.1 over pooled sockets, with nothing in between that is not needed here.

requests' own adapter goes through urllib3, http.client and the email package, which take more time than all
the rest of a request, and read one HTTP chunk at a time. This one sends a prepared request in one write,
parses the answer itself (`app.core.http1`) and hands on whatever has arrived. Errors are those that requests'
own adapter raises. Redirects, cookies, proxies of the environment and decoding are not its business.
"""

import http.client
import re
import select
import socket
import ssl
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
from gevent.monkey import get_original
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH, requote_uri

from app.adapters.passage import Passage
from app.adapters.upstream_connections import StaleConnectionError
from app.core.http1 import AnswerHead, BadAnswer, BodyReader, HeadReader
from app.core.ports import Passed

READ_SIZE: Final = 64 * 1024
"""The most bytes taken from a socket at once."""
_ONE_WRITE = 64 * 1024
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TARGET = re.compile(r"[\x21-\x7e]+")

Origin = tuple[str, str, int, bool | str]
"""Scheme, host, port, and what vouches for the certificate (True: the public authorities)."""


class Http1Adapter(BaseAdapter):
    """Sends prepared requests. At most `pool_size` idle connections are kept for each origin."""

    def __init__(self, *, pool_size: int = 1000) -> None:
        super().__init__()
        self._pool_size = pool_size
        self._idle: dict[Origin, list[_Connection]] = {}
        self._contexts: dict[bool | str, ssl.SSLContext] = {}

    def send(  # the interface is requests'
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send and wait for the head; `timeout` is (connect, read) in seconds; `cert`, `proxies` are unused.

        The body is not read. Raises what requests' own adapter raises.
        """
        connect_s, read_s = timeout
        origin, target, host = _destination(request.url or "", verify)
        message = _message(request, target, host)
        connection = self._take_idle(origin) or self._connect(origin, connect_s)
        connection.set_timeout(read_s)
        try:
            head, rest = connection.exchange(message)
        except BaseException:
            connection.close()
            raise
        return _Answer(request, self, AnswerBody(self, origin, connection, head, rest))

    def close(self) -> None:
        """Close the connections that are not in use; those in use are kept no longer than their answer."""
        self._pool_size = 0
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def give_back(self, origin: Origin, connection: "_Connection") -> None:
        """Keep a connection for the next request, if there is room."""
        idle = self._idle.setdefault(origin, [])
        if len(idle) < self._pool_size:
            idle.append(connection)
        else:
            connection.close()

    def _take_idle(self, origin: Origin) -> "_Connection | None":
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()  # the last one used: it is the least likely to have been closed
            if connection.is_quiet():
                return connection
            connection.close()
        return None

    def _connect(self, origin: Origin, timeout_s: float) -> "_Connection":
        scheme, host, port, verify = origin
        try:
            plain = socket.create_connection((host, port), timeout_s)
        except TimeoutError as error:
            raise requests.ConnectTimeout(error) from None
        except (OSError, ValueError) as error:  # ValueError: names that cannot be looked up at all
            raise requests.ConnectionError(error) from None
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if scheme == "http":
                return _Connection(plain)
            return _Connection(self._context(verify).wrap_socket(plain, server_hostname=host))
        except TimeoutError as error:
            plain.close()
            raise requests.ConnectTimeout(error) from None
        except (OSError, ValueError) as error:
            plain.close()
            raise requests.exceptions.SSLError(error) from None
        except BaseException:
            plain.close()
            raise

    def _context(self, verify: bool | str) -> ssl.SSLContext:
        context = self._contexts.get(verify)
        if context is None:
            trusted = DEFAULT_CA_BUNDLE_PATH if verify is True else str(verify)
            context = self._contexts[verify] = ssl.create_default_context(cafile=trusted)
            context.set_alpn_protocols(["http/1.1"])
        return context


class _Connection:
    """A socket, and whether it is still fit for a request."""

    __slots__ = ("_pending", "_poll", "_timeout_s", "has_served", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.has_served = False
        self._poll: Any = _real_poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._pending: Callable[[], int] | None = getattr(sock, "pending", None)
        self._timeout_s: float | None = None

    def is_quiet(self) -> bool:
        """Whether nothing has come unasked for, the other side's end included: else it must not be used."""
        return not self._poll.poll(0) and not (self._pending is not None and self._pending())

    def set_timeout(self, timeout_s: float) -> None:
        """How long to wait for the other side, each time."""
        if timeout_s != self._timeout_s:
            self._timeout_s = timeout_s
            self.socket.settimeout(timeout_s)

    def exchange(self, message: tuple[bytes, ...]) -> tuple[AnswerHead, bytes]:
        """Send a request and read the head of its answer, and what came with it."""
        reader = HeadReader()
        broken: OSError | None = None
        try:
            for part in message:
                # All of it goes at once nearly always; gevent's `sendall` asks for the buffer's size first.
                if (sent := self.socket.send(part)) < len(part):
                    self.socket.sendall(memoryview(part)[sent:])
        except TimeoutError as error:
            raise requests.ConnectionError(_aborted(error)) from None
        except OSError as error:
            broken = error  # an upstream may answer, with an error, before it has read everything
        try:
            while data := self.socket.recv(READ_SIZE):
                if (found := reader.feed(data)) is not None:
                    self.has_served = True
                    return found
        except TimeoutError as error:
            raise requests.ReadTimeout(error) from None
        except OSError as error:
            raise self._lost(reader, broken or error) from None
        except BadAnswer as error:
            raise requests.ConnectionError(_aborted(http.client.BadStatusLine(str(error)))) from None
        if not reader.is_untouched:
            raise requests.ConnectionError(_aborted(http.client.IncompleteRead(b"")))
        raise self._lost(reader, broken or http.client.RemoteDisconnected("no answer"))

    def _lost(self, reader: HeadReader, error: OSError) -> requests.ConnectionError:
        """The connection broke before the head was whole: perhaps it had been closed before the request."""
        if self.has_served and reader.is_untouched and isinstance(error, ConnectionError):
            error = StaleConnectionError(*error.args)
        return requests.ConnectionError(_aborted(error))

    def close(self) -> None:
        """Close it. Idempotent."""
        self.socket.close()


class AnswerBody:
    """The body of an answer; like urllib3's, it is what `requests.Response.raw` is.

    Once it has been read to its end, its connection is kept for the next request, unless it is not beyond
    doubt.
    """

    __slots__ = (
        "_adapter",
        "_connection",
        "_keeps_open",
        "_origin",
        "_passage",
        "_reader",
        "_rest",
        "headers",
        "status",
    )

    def __init__(
        self, adapter: Http1Adapter, origin: Origin, connection: _Connection, head: AnswerHead, rest: bytes
    ) -> None:
        self.status = head.status
        self.headers = head.headers
        """By lower-case name."""
        self._adapter = adapter
        self._origin = origin
        self._connection: _Connection | None = connection
        self._keeps_open = head.keeps_open
        self._reader = BodyReader(head)
        self._rest = rest
        self._passage: Passage | None = None
        if self._reader.is_whole:
            self._reader.feed(rest)

    def read1(self, amt: int = READ_SIZE, decode_content: bool = False) -> bytes:
        """What has arrived, at least a byte, waiting for it; `b""` at the proper end. Never decoded.

        Raises `http.client.HTTPException` for a body that is cut or badly framed, else OSError.
        """
        reader = self._reader
        data, self._rest = self._rest, b""
        try:
            while not reader.is_whole:
                if self._connection is None:
                    raise http.client.HTTPException("read after it was closed")
                if not data and not (data := self._connection.socket.recv(amt)):
                    if not reader.end():
                        raise http.client.IncompleteRead(b"")
                    break
                if body := reader.feed(data):
                    return body
                data = b""
        except BadAnswer as error:
            raise http.client.HTTPException(str(error)) from None
        self.release_conn()
        return b""

    def read_passing(self, pass_on: Callable[[bytes], Passed]) -> bytes | None:
        """Like `read1`, but bytes are offered to `pass_on` first (see `Passage.read`)."""
        if self._rest or self._reader.is_whole or self._connection is None:
            return self.read1()
        if self._passage is None:
            self._passage = Passage(self._connection.socket, self._reader, READ_SIZE)
        try:
            body = self._passage.read(pass_on)
        except BadAnswer as error:
            raise http.client.HTTPException(str(error)) from None
        if body == b"":
            if not self._reader.is_whole and not self._reader.end():
                raise http.client.IncompleteRead(b"")
            self.release_conn()
        return body

    def release_conn(self) -> None:
        """Give the connection back after a whole body, else close it. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._keeps_open and self._reader.is_whole and not self._reader.surplus:
            self._adapter.give_back(self._origin, connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the connection, whatever is still to come. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Answer(requests.Response):
    """A response without what is not used here: making a cookie jar takes as long as parsing the head.

    What is the same in all of them is the class's.
    """

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
    """The system's `poll`, not the one gevent puts in its place: it is only ever asked without waiting."""
    return get_original("select", "poll")()


Destination = tuple[Origin, str, str]
"""Where to connect, what to ask for, and the `Host` header."""


def _destination(url: str, verify: bool | str) -> Destination:
    # A query string is the client's: there are too many to keep, and they are not to be kept.
    return _split(url, verify) if "?" in url else _usual_destination(url, verify)


def _split(url: str, verify: bool | str) -> Destination:
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError as error:
        raise requests.exceptions.InvalidURL(str(error)) from None
    if not host or scheme not in _DEFAULT_PORTS:
        raise requests.exceptions.InvalidURL("no http URL")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _TARGET.fullmatch(target):
        target = requote_uri(target)
    default = _DEFAULT_PORTS[scheme]
    shown = f"[{host}]" if ":" in host else host
    name = shown if port in (None, default) else f"{shown}:{port}"
    return (scheme, host, port or default, verify), target, name


_usual_destination = lru_cache(maxsize=64)(_split)
"""The endpoints' destinations are always the same few."""


def _message(request: requests.PreparedRequest, target: str, host: str) -> tuple[bytes, ...]:
    """The request's bytes, in as many writes as are sensible."""
    headers: Mapping[str, str] = request.headers
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    text = f"{request.method} {target} HTTP/1.1\r\nHost: {host}\r\n{''.join(lines)}\r\n"
    breaks = len(lines) + 3
    if text.count("\n") != breaks or text.count("\r") != breaks:
        raise requests.exceptions.InvalidHeader("a header with a line break in it")
    try:
        head = text.encode("latin-1")
    except UnicodeEncodeError:
        raise requests.exceptions.InvalidHeader("a header that is not latin-1") from None
    body = request.body or b""
    if isinstance(body, str):
        body = body.encode()
    return (head + body,) if len(body) <= _ONE_WRITE else (head, body)


def _aborted(cause: BaseException) -> urllib3.exceptions.ProtocolError:
    return urllib3.exceptions.ProtocolError("Connection aborted.", cause)
