"""Connections through a proxy, pooled for each proxy, and what it means when none comes about.

Whatever goes wrong until the connection to the upstream stands is raised as `RouteFault`: not a byte of the
request has been sent, so another route can be taken without doing anything twice. What goes wrong later looks
as it does without a proxy.

Credentials are handed over apart from the proxy's URL, so that no text of a lower layer can hold them.
"""

import http.client
import re
import socket
import ssl
import time
from base64 import b64encode
from typing import Any
from urllib.parse import urlsplit

import requests
import socks
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.contrib.socks import SOCKSConnection, SOCKSHTTPSConnection, SOCKSProxyManager
from urllib3.poolmanager import PoolManager, ProxyManager

from app.adapters.upstream_connections import CleanConnection
from app.core.proxy_choice import ProxyEndpoint, ProxyKind

WRONG_CREDENTIALS = "it refuses the user name or password"
UPSTREAM_UNREACHED = "it does not reach the upstream"
_TOO_SLOW = "it cannot be reached in time"

PROXY_AUTHENTICATION_REQUIRED = 407
_GATEWAY_ERRORS = (502, 503, 504)
# ValueError: names that cannot be looked up at all.
_CONNECT_ERRORS = (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError)
_TUNNEL_STATUS = re.compile(r"Tunnel connection failed: (\d{3})")
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


class _FaultTelling:
    """A connection whose failure to come about is a `RouteFault`."""

    def connect(self) -> None:
        try:
            super().connect()  # type: ignore[misc]
        except _CONNECT_ERRORS as error:
            raise fault_of(error) from None


class _HTTPConnection(_FaultTelling, CleanConnection, HTTPConnection):  # type: ignore[misc]
    pass


class _HTTPSConnection(_FaultTelling, CleanConnection, HTTPSConnection):  # type: ignore[misc]
    pass


class _SOCKSConnection(_FaultTelling, CleanConnection, SOCKSConnection):  # type: ignore[misc]
    pass


class _SOCKSHTTPSConnection(_FaultTelling, CleanConnection, SOCKSHTTPSConnection):  # type: ignore[misc]
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _SOCKSPool(HTTPConnectionPool):
    ConnectionCls = _SOCKSConnection


class _SOCKSTLSPool(HTTPSConnectionPool):
    ConnectionCls = _SOCKSHTTPSConnection


class ProxyAdapter(HTTPAdapter):
    """requests' adapter with one proxy before it: connections are pooled, and closed with it."""

    def __init__(self, endpoint: ProxyEndpoint, *, pool_size: int = 1000) -> None:
        self.endpoint = endpoint
        self._manager = _manager(endpoint, pool_size)
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0, pool_block=False)

    def send_through(
        self, request: requests.PreparedRequest, *, timeout: tuple[float, float], verify: bool | str = True
    ) -> requests.Response:
        """Send and wait for the headers; raises `RouteFault` or what requests raises."""
        url = _proxy_url(self.endpoint)
        try:
            response = self.send(
                request, stream=True, timeout=timeout, verify=verify, proxies={"http": url, "https": url}
            )
        except requests.exceptions.ProxyError as error:
            raise _behind_proxy(error) from None
        if response.status_code == PROXY_AUTHENTICATION_REQUIRED and self._is_forwarding(request.url or ""):
            response.close()
            raise RouteFault(WRONG_CREDENTIALS, is_certain=True)
        return response

    def check(self, base_url: str, *, timeout_s: float, verify: bool | str = True) -> int:
        """Reach the upstream's host through the proxy; the milliseconds it took. Raises `RouteFault`.

        No key is sent: with `https` not even a request, the connection ends after the TLS handshake.
        """
        started = time.monotonic()
        url = urlsplit(base_url)
        tls = {"cert_reqs": "CERT_REQUIRED", "ca_certs": DEFAULT_CA_BUNDLE_PATH if verify is True else verify}
        options = (tls if url.scheme == "https" else {}) | {"timeout": timeout_s}
        pool = self._manager.connection_from_host(url.hostname, url.port, url.scheme, pool_kwargs=options)
        connection: Any = pool._new_conn()
        try:
            if url.scheme == "https" and self.endpoint.kind is ProxyKind.HTTP:
                pool._prepare_proxy(connection)
            else:
                connection.connect()
            if self._is_forwarding(base_url):
                self._ask(connection, base_url, pool.proxy_headers)
        finally:
            connection.close()
        return round((time.monotonic() - started) * 1000)

    def close(self) -> None:
        """Close the connections that are not in use; those in use are closed when they are given back."""
        self._manager.clear()
        super().close()

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> PoolManager:
        """The manager of this proxy's connections (requests asks for it)."""
        return self._manager

    def _is_forwarding(self, url: str) -> bool:
        """Whether the proxy speaks HTTP itself with us, in place of passing bytes on."""
        return self.endpoint.kind is ProxyKind.HTTP and not url.lower().startswith("https")

    def _ask(self, connection: Any, base_url: str, headers: Any) -> None:
        # Without a tunnel only a request shows whether the proxy takes our credentials.
        try:
            connection.request("HEAD", base_url, headers=dict(headers), preload_content=False)
            status = connection.getresponse().status
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError):
            raise RouteFault("it does not answer as an HTTP proxy", is_certain=False) from None
        if status == PROXY_AUTHENTICATION_REQUIRED:
            raise RouteFault(WRONG_CREDENTIALS, is_certain=True)
        if status in _GATEWAY_ERRORS:
            raise RouteFault(UPSTREAM_UNREACHED, is_certain=False)


def _behind_proxy(error: requests.exceptions.ProxyError) -> requests.RequestException:
    """What really happened: urllib3 blames a forwarding proxy also for what came after the connection."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    cause = getattr(reason, "original_error", reason)
    if isinstance(cause, urllib3.exceptions.TimeoutError | TimeoutError):
        return requests.ReadTimeout(cause)
    return requests.ConnectionError(urllib3.exceptions.ProtocolError("Connection aborted.", cause))


def fault_of(error: BaseException) -> RouteFault:
    """What the failure of a connection to come about says about the proxy."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, socks.ProxyError):
        return _socks_fault(cause)
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return RouteFault(_of_system(cause), is_certain=True)
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
        return RouteFault(_TOO_SLOW, is_certain=True)
    if (found := _TUNNEL_STATUS.search(str(error))) is not None:
        return _tunnel_fault(int(found[1]))
    if isinstance(error, ssl.SSLError | urllib3.exceptions.SSLError):
        return RouteFault("no TLS connection to the upstream comes about through it", is_certain=False)
    if isinstance(error, http.client.HTTPException) and not isinstance(error, ConnectionError):
        return RouteFault("it does not answer as an HTTP proxy", is_certain=False)
    return RouteFault(UPSTREAM_UNREACHED, is_certain=False)


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
    if isinstance(error, socket.gaierror):
        return "its host name is not known"
    if isinstance(error, TimeoutError):
        return _TOO_SLOW
    if isinstance(error, ConnectionRefusedError):
        return "it refuses connections"
    reason = error.strerror if isinstance(error, OSError) else None
    return f"it cannot be reached ({reason})" if reason else "it cannot be reached"


def _proxy_url(endpoint: ProxyEndpoint) -> str:
    """Without credentials. The upstream's name is resolved by the proxy, as HTTP proxies do it anyway."""
    scheme = "socks5h" if endpoint.kind is ProxyKind.SOCKS5 else "http"
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{scheme}://{host}:{endpoint.port}"


def _manager(endpoint: ProxyEndpoint, pool_size: int) -> PoolManager:
    manager: PoolManager
    url = _proxy_url(endpoint)
    sizes: dict[str, Any] = {"num_pools": 4, "maxsize": pool_size, "block": False}
    if endpoint.kind is ProxyKind.SOCKS5:
        manager = SOCKSProxyManager(url, endpoint.username, endpoint.password, **sizes)
        manager.pool_classes_by_scheme = {"http": _SOCKSPool, "https": _SOCKSTLSPool}
    else:
        manager = ProxyManager(url, proxy_headers=_credentials(endpoint), **sizes)
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager


def _credentials(endpoint: ProxyEndpoint) -> dict[str, str]:
    if endpoint.username is None:
        return {}
    pair = f"{endpoint.username}:{endpoint.password or ''}".encode()
    return {"Proxy-Authorization": f"Basic {b64encode(pair).decode('ascii')}"}
