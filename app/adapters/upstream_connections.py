"""Connections through a proxy that never give one request the answer to another.

Python 3.11's `http.client` takes an interim answer other than 100 (say `103 Early Hints`) for the final one,
and forgets what it has read beyond an answer's end. Both would leave an answer on a pooled connection for
whoever comes next. Here interim answers are skipped, and a connection whose state is not beyond doubt is
closed when its answer ends, before it can be used again. (What comes later, while it is idle, urllib3 sees
when it takes it out of the pool.)
"""

import http.client
import ssl
from http import HTTPStatus
from typing import Any

from urllib3.connection import HTTPConnection

from app.core.http1 import MAX_INTERIM_ANSWERS


class _Answer(http.client.HTTPResponse):
    """An answer that skips interim ones before it, and closes its connection if anything is odd at its end.

    It overrides two methods that are not public: no public one is between a status line and what is made of
    it, or between the last byte and the loss of what was read beyond it. Tests would show a change of them.
    """

    def __init__(self, connection: HTTPConnection, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._upstream_connection = connection
        self._upstream_socket = sock

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM_ANSWERS + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status >= HTTPStatus.OK or status == HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("too many interim answers")

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


class CleanConnection:
    """Makes a urllib3 connection read `_Answer`s: to be mixed in before its class."""

    def response_class(self, sock: Any, *args: Any, **options: Any) -> http.client.HTTPResponse:
        """What reads an answer; `http.client` calls it as it would call the class."""
        return _Answer(self, sock, *args, **options)  # type: ignore[arg-type]
