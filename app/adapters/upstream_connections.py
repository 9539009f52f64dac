"""Connections through a proxy that never give one request the answer to another.

Python 3.11's `http.client` takes an interim answer other than 100 (say `103 Early Hints`) for the final one,
and forgets what it has read beyond an answer's end. Both would leave an answer on a pooled connection for
whoever comes next. Here interim answers are skipped, and a connection whose state is not beyond doubt is
closed when its answer ends, before it can be used again. (What comes later, while it is idle, urllib3 sees
when it takes it out of the pool.)
"""

import http.client
import re
import ssl
from http import HTTPStatus
from typing import Any

from app.core.http1 import MAX_INTERIM_ANSWERS

_LENGTH = re.compile(r"[0-9]{1,18}")


class _Answer(http.client.HTTPResponse):
    """An answer that skips interim ones before it, and closes its connection if anything is odd at its end.

    It overrides two methods that are not public: no public one is between a status line and what is made of
    it, or between the last byte and the loss of what was read beyond it. Tests would show a change of them.
    """

    def __init__(self, connection: Any, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._upstream_connection = connection
        self._upstream_socket = sock

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM_ANSWERS + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            self._upstream_connection.may_be_stale = False
            if status >= HTTPStatus.OK or status == HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("too many interim answers")

    def begin(self) -> None:
        """Read the head; raises for a length that could be read in two ways (RFC 9112 §6.3)."""
        super().begin()
        lengths = self.headers.get_all("content-length") if not self.chunked else None
        if lengths and (len(set(lengths)) > 1 or not _LENGTH.fullmatch(lengths[0])):
            raise http.client.HTTPException("an odd Content-Length")

    def _close_conn(self) -> None:
        # A status that is no number belongs to a proxy's answer to CONNECT, or to none at all.
        is_odd = isinstance(self.status, int) and (self.status < HTTPStatus.OK or self._has_more())
        super()._close_conn()  # type: ignore[misc]
        # One that is to be closed after this answer is not the connection's any more, but the answer's own.
        if is_odd and self._upstream_connection.sock is self._upstream_socket:
            self._upstream_connection.close()

    def _has_more(self) -> bool:
        """Whether bytes beyond the answer have been read, or can be without waiting."""
        sock = self._upstream_socket
        try:
            timeout = sock.gettimeout()
            sock.settimeout(0)
            try:
                return bool(self.fp.peek(1))
            finally:
                sock.settimeout(timeout)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except (OSError, ValueError):
            return True  # broken or closed: not to be used again either


class StaleConnectionError(ConnectionResetError):
    """A connection that had served before was closed by the upstream before it answered again."""


class CleanConnection:
    """Makes a urllib3 connection read `_Answer`s, and tell when it had grown stale in the pool.

    To be mixed in before the connection's class.
    """

    may_be_stale = False
    """Whether the connection has served, and no byte has come in answer to what was sent since."""

    def connect(self) -> None:
        """Connect; a connection is not stale before it has served."""
        self.may_be_stale = False
        super().connect()  # type: ignore[misc]

    def request(self, *args: Any, **options: Any) -> None:
        """Send a request."""
        try:
            super().request(*args, **options)  # type: ignore[misc]
        except BrokenPipeError:
            raise  # urllib3 looks whether an answer was given all the same
        except ConnectionError as error:
            raise self._told(error) from None

    def getresponse(self) -> Any:
        """Wait for the answer's headers."""
        try:
            response = super().getresponse()  # type: ignore[misc]
        except ConnectionError as error:
            raise self._told(error) from None
        self.may_be_stale = True
        return response

    def _told(self, error: ConnectionError) -> ConnectionError:
        return StaleConnectionError(*error.args) if self.may_be_stale else error

    def response_class(self, sock: Any, *args: Any, **options: Any) -> http.client.HTTPResponse:
        """What reads an answer; `http.client` calls it as it would call the class."""
        return _Answer(self, sock, *args, **options)
