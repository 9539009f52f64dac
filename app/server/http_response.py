"""gunicorn's response, writing what belongs together at once: the head with the first bytes of the body."""

import socket
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

from gunicorn.http.message import TOKEN_RE
from gunicorn.http.wsgi import Response
from gunicorn.util import http_date, is_hoppish

from app.server.http_request import unread
from app.upstream.transport import Passed

# A longer rest of a body that nobody reads is not waited for: the connection is closed instead.
MOST_SKIPPED = 64 * 1024
_JOINED_WITH_HEAD = 64 * 1024
_NAMES_KNOWN = 256
_PASSED_ON: Final = Passed.ON
_LAST_CHUNK = b"0\r\n\r\n"
_LENGTH: Final = "Content-Length"


class ClientResponse(Response):  # type: ignore[misc]  # gunicorn has no types
    """The answer to one request. Which headers may be sent, and how a body is framed, gunicorn says."""

    response_length: int | None
    _unsent = b""

    def should_close(self) -> bool:
        """Return whether the connection ends with this answer: also if its request was not read in full."""
        return bool(super().should_close()) or unread(self.req.body) > MOST_SKIPPED

    def can_sendfile(self) -> bool:
        """Return False: files go the way of all bodies, so that slow clients run out of time there too."""
        return False

    def process_headers(self, headers: Any) -> None:
        """Take over the application's headers; gunicorn judges all but the plainly valid ones."""
        if not _are_plain([value for _, value in headers]):
            super().process_headers(headers)
            return
        for name, value in headers:
            if _is_plain(name):
                self.headers.append((name, value.strip(" ")))
            elif name == _LENGTH and value.isdigit():
                self.response_length = int(value)
                self.headers.append((name, value))
            else:
                super().process_headers(((name, value),))

    def send_headers(self) -> None:
        """Send the head, unless it was sent."""
        if not self.headers_sent:
            self.sock.sendall(self._take_head())

    def write(self, arg: Any) -> None:
        """Send a piece of the body, in a chunk of its own where the answer is chunked."""
        if arg.__class__ is not bytes or self._omits_body:
            super().write(arg)
            return
        if self.response_length is not None and self.sent + len(arg) > self.response_length:
            arg = arg[: max(0, self.response_length - self.sent)]
        if len(arg) > _JOINED_WITH_HEAD:
            self.send_headers()
        data = self._framed(arg)
        self.sent += len(arg)
        if not self.headers_sent:
            data = self._take_head() + data
        if data:
            self.sock.sendall(data)

    def offer(self, chunk: bytes) -> Passed:
        """Send a further piece of the body, as far as that needs no waiting (`ClientStream`)."""
        if not self.headers_sent or self._unsent or self.response_length is not None:
            return Passed.NOT
        size = len(chunk)
        data = b"%X\r\n%b\r\n" % (size, chunk) if self.chunked and size else chunk
        try:
            sent = self.sock.send_now(data)
        except OSError:
            return Passed.NOT  # whoever sends it the usual way hears of it
        self.sent += size
        if sent == len(data):
            return _PASSED_ON
        self._unsent = data[sent:]
        return Passed.PARTLY

    def flush(self) -> None:
        """Wait until the client has taken what it was offered; raises OSError when it does not."""
        unsent, self._unsent = self._unsent, b""
        if unsent:
            self.sock.sendall(unsent)

    def break_off(self) -> None:
        """End the connection now, also while another greenlet waits for the client to take something."""
        with suppress(OSError):  # it is gone already
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the body as it should end."""
        last = _LAST_CHUNK if self.chunked else b""
        if not self.headers_sent:
            last = self._take_head() + last
        if last:
            self.sock.sendall(last)

    def _framed(self, data: bytes) -> bytes:
        """Frame the data as a chunk; an empty one would end the body."""
        return b"%X\r\n%b\r\n" % (len(data), data) if self.chunked and data else data

    def _take_head(self) -> bytes:
        """Take the head, which is sent once."""
        self.headers_sent = True
        connection = "upgrade" if self.upgrade else "close" if self.should_close() else "keep-alive"
        major, minor = self.req.version
        head = (
            f"HTTP/{major}.{minor} {self.status}\r\nServer: {self.version}\r\n"
            f"Date: {_date(int(time.time()))}\r\nConnection: {connection}\r\n"
        )
        if self.chunked:
            head += "Transfer-Encoding: chunked\r\n"
        fields = [f"{name}: {value}\r\n" for name, value in self.headers]
        return f"{head}{''.join(fields)}\r\n".encode("latin-1")


@lru_cache(1)
def _date(second: int) -> str:
    return str(http_date(second))


def _are_plain(values: list[Any]) -> bool:
    """Return whether all headers' values are texts that may be sent as they are."""
    try:
        text = "".join(values)
    except TypeError:
        return False
    return text.isascii() and text.isprintable()


@lru_cache(_NAMES_KNOWN)
def _is_plain(name: Any) -> bool:
    """Return whether a header of this name is sent as it is: not malformed, not of framing or connection."""
    return (
        isinstance(name, str)
        and TOKEN_RE.fullmatch(name) is not None
        and name.lower() != "content-length"
        and not is_hoppish(name)
    )
