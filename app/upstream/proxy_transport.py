"""The ways through outbound proxies, and what it means when no connection comes about on one.

An adapter through a proxy is our own (`http1_adapter`) with another way to connect: HTTP proxies get CONNECT
for an `https` upstream and requests with the whole URL for an `http` one; SOCKS5 proxies connect to both.
All else is as it is without a proxy: pools, the reading of answers, what makes a connection stale, timeouts.

Whatever goes wrong until the connection to the upstream stands is raised as `RouteFault`: not a byte of the
request has been sent, so another route can be taken without doing anything twice. What goes wrong later looks
as it does without a proxy.

Credentials are in no URL and no text of an error.
"""

import re
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any

import gevent
import requests
import socks

from app.upstream.http1 import BadAnswer, HeadReader
from app.upstream.http1_adapter import Destination, Http1Adapter, Http1Response, destination_of
from app.upstream.proxy_choice import ProxyEndpoint, ProxyKind
from app.upstream.transport import UpstreamFailure

WRONG_CREDENTIALS = "it refuses the user name or password"
UPSTREAM_UNREACHED = "it does not reach the upstream"
_NO_TLS = "no TLS connection to the upstream comes about through it"
_NO_HTTP_PROXY = "it does not answer as an HTTP proxy"
_TOO_SLOW = "it cannot be reached in time"

PROXY_AUTHENTICATION_REQUIRED = 407
_GATEWAY_ERRORS = (502, 503, 504)
_SUCCESSFUL = range(200, 300)
_TUNNEL_READ_SIZE = 4096
# SOCKS5 replies about the way from the proxy to the upstream: general failure, network or host unreachable,
# refused, expired (RFC 1928, section 6).
_SOCKS_TARGET = re.compile(r"0x0[13456]\b")


class RouteFault(Exception):
    """No connection to the upstream came about through this proxy; `reason` is fit for an operator.

    `is_certain` is False where the upstream may be the one to blame: the proxy was there, but did not get
    through to it.
    """

    def __init__(self, reason: str, *, is_certain: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_certain = is_certain


class ProxyAdapter(Http1Adapter):
    """Sends prepared requests through one proxy; its connections are closed with it."""

    def __init__(self, endpoint: ProxyEndpoint, *, pool_size: int = 1000) -> None:
        super().__init__(pool_size=pool_size)
        self.endpoint = endpoint
        self._credentials = _credentials(endpoint)

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Http1Response:
        """Send and wait for the head; raises `RouteFault` as long as the upstream has got nothing."""
        response = super().send(request, *args, **options)
        if response.status_code == PROXY_AUTHENTICATION_REQUIRED and self._forwards(request.url or ""):
            response.raw.close()
            raise RouteFault(WRONG_CREDENTIALS, is_certain=True)
        return response

    def check(self, base_url: str, *, timeout_s: float, verify: bool | str = True) -> int:
        """Reach the upstream's host through the proxy; return the milliseconds it took. Raises `RouteFault`.

        No key is sent: with `https` not even a request, the connection ends after the TLS handshake.
        """
        started = time.monotonic()
        destination = destination_of(base_url, verify)
        connection = self.open(destination[0], timeout_s)
        try:
            if self._forwards(base_url):
                # Without a tunnel only a request shows whether the proxy takes our credentials.
                connection.set_timeout(timeout_s)
                request = requests.PreparedRequest()
                request.method = "HEAD"
                head, _ = connection.exchange(self.write(request, destination, {}))
                _judge_check(head.status)
        except UpstreamFailure:
            raise RouteFault(_NO_HTTP_PROXY, is_certain=False) from None
        finally:
            connection.close()
        return round((time.monotonic() - started) * 1000)

    def connect(self, scheme: str, host: str, port: int, timeout_s: float) -> socket.socket:
        """Open a socket that the upstream is at the other end of, or the proxy where it forwards requests.

        Reaching the proxy may take `timeout_s`, and its handshake as long again. Raises `RouteFault`, or what
        connecting raises where nothing is known but that.
        """
        if self.endpoint.kind is ProxyKind.SOCKS5:
            return self._connect_socks(host, port, timeout_s)
        try:
            plain = socket.create_connection((self.endpoint.host, self.endpoint.port), timeout_s)
        except (OSError, ValueError) as error:
            raise RouteFault(_of_system(error), is_certain=True) from None
        if scheme == "https":
            try:
                self._tunnel(plain, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", timeout_s)
            except BaseException:
                plain.close()
                raise
        return plain

    def connect_failure(self, error: Exception) -> RouteFault:
        """Return what the failure of a connection to come about behind the proxy says about it."""
        return RouteFault(
            _NO_TLS if isinstance(error, ssl.SSLError) else UPSTREAM_UNREACHED, is_certain=False
        )

    def write(
        self, request: requests.PreparedRequest, destination: Destination, headers: Mapping[str, str]
    ) -> Iterable[bytes]:
        """Return the request's bytes: for a proxy that forwards it with the whole URL and the credentials."""
        origin, target, host = destination
        if self._forwards(origin[0]):
            destination = origin, f"http://{host}{target}", host
            headers = {**headers, **self._credentials}
        return super().write(request, destination, headers)

    def _forwards(self, url: str) -> bool:
        """Whether the proxy speaks HTTP itself with us, in place of passing bytes on; a scheme will do."""
        return self.endpoint.kind is ProxyKind.HTTP and not url.lower().startswith("https")

    def _tunnel(self, sock: socket.socket, authority: str, timeout_s: float) -> None:
        """Have the proxy connect to the upstream (RFC 9110, section 9.3.6)."""
        deadline = time.monotonic() + timeout_s
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        lines += [f"{name}: {value}" for name, value in self._credentials.items()]
        sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        reader = HeadReader()
        found = None
        try:
            while found is None:
                if (left_s := deadline - time.monotonic()) <= 0:
                    raise TimeoutError("the handshake takes too long")
                sock.settimeout(left_s)
                if not (data := sock.recv(_TUNNEL_READ_SIZE)):
                    raise ConnectionResetError("no answer")
                found = reader.feed(data)
        except BadAnswer:
            raise RouteFault(_NO_HTTP_PROXY, is_certain=False) from None
        head, rest = found
        if head.status not in _SUCCESSFUL:
            raise _tunnel_fault(head.status)
        if rest:  # the upstream does not speak first: whoever says this is not to be listened to
            raise RouteFault(_NO_HTTP_PROXY, is_certain=False)
        sock.settimeout(timeout_s)

    def _connect_socks(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Have the proxy connect to the upstream, whose name it resolves."""
        endpoint = self.endpoint
        try:
            addresses = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:
            raise RouteFault(_of_system(error), is_certain=True) from None
        reason = "it cannot be reached"
        for family, kind, protocol, _, address in addresses:
            through = socks.socksocket(family, kind, protocol)
            through.set_proxy(
                socks.SOCKS5, address[0], address[1], True, endpoint.username, endpoint.password
            )
            through.settimeout(timeout_s)
            try:
                # PySocks waits as long for every byte.
                with gevent.Timeout(2 * timeout_s, TimeoutError("the handshake takes too long")):
                    through.connect((host, port))
                return _plain(through)
            except socks.ProxyConnectionError as error:
                reason = _socks_fault(error).reason
            except socks.ProxyError as error:
                raise _socks_fault(error) from None
            finally:
                through.close()
        raise RouteFault(reason, is_certain=True)


def _plain(through: socks.socksocket) -> socket.socket:
    """Return a socket like any other: PySocks' has a part in each call, though its work is done."""
    family, kind, protocol, timeout_s = through.family, through.type, through.proto, through.gettimeout()
    plain = socket.socket(family, kind, protocol, fileno=through.detach())
    plain.settimeout(timeout_s)
    return plain


def _judge_check(status: int) -> None:
    """Raise `RouteFault` for what only a proxy answers, not the upstream."""
    if status == PROXY_AUTHENTICATION_REQUIRED:
        raise RouteFault(WRONG_CREDENTIALS, is_certain=True)
    if status in _GATEWAY_ERRORS:
        raise RouteFault(UPSTREAM_UNREACHED, is_certain=False)


def _tunnel_fault(status: int) -> RouteFault:
    if status == PROXY_AUTHENTICATION_REQUIRED:
        return RouteFault(WRONG_CREDENTIALS, is_certain=True)
    if status in _GATEWAY_ERRORS:
        return RouteFault(f"{UPSTREAM_UNREACHED} ({status})", is_certain=False)
    return RouteFault(f"it refuses to connect to the upstream ({status})", is_certain=True)


def _socks_fault(error: socks.ProxyError) -> RouteFault:
    while isinstance(error.socket_err, socks.ProxyError):  # PySocks wraps its own errors, too
        error = error.socket_err
    if isinstance(error, socks.SOCKS5AuthError):
        return RouteFault(WRONG_CREDENTIALS, is_certain=True)
    if isinstance(error, socks.ProxyConnectionError):
        return RouteFault(_of_system(error.socket_err), is_certain=True)
    if isinstance(error, socks.SOCKS5Error) and not _SOCKS_TARGET.search(str(error)):
        return RouteFault("it refuses to connect to the upstream", is_certain=True)
    if isinstance(error, socks.SOCKS5Error) or isinstance(error.socket_err, TimeoutError):
        return RouteFault(UPSTREAM_UNREACHED, is_certain=False)
    return RouteFault("it does not answer as a SOCKS5 proxy", is_certain=False)


def _of_system(error: object) -> str:
    if isinstance(error, socket.gaierror | ValueError):
        return "its host name is not known"
    if isinstance(error, TimeoutError):
        return _TOO_SLOW
    if isinstance(error, ConnectionRefusedError):
        return "it refuses connections"
    reason = error.strerror if isinstance(error, OSError) else None
    return f"it cannot be reached ({reason})" if reason else "it cannot be reached"


def _credentials(endpoint: ProxyEndpoint) -> dict[str, str]:
    if endpoint.username is None:
        return {}
    pair = f"{endpoint.username}:{endpoint.password or ''}".encode()
    return {"Proxy-Authorization": f"Basic {b64encode(pair).decode('ascii')}"}
