"""The transport to the upstream: `requests`, used so that bytes pass as they arrive.

Requests are prepared by hand and given to the session's adapter directly: the session layer would read the
environment, follow redirects (carrying the key to another host) and decode bodies.
"""

import http.client
from collections.abc import Callable, Mapping
from typing import Any

import requests
import urllib3.exceptions

from app.adapters.http1_adapter import READ_SIZE, AnswerBody, Http1Adapter
from app.adapters.proxy_pool import ProxyPool, Route
from app.adapters.proxy_transport import RouteFault
from app.adapters.upstream_connections import StaleConnectionError
from app.core.ports import Passed, ProviderKey, UpstreamFailure, UpstreamRequest

FIRST_FINAL_STATUS = 200
"""Answers with a lower status are interim ones."""


class RequestsUpstream:
    """Sends requests to one upstream host over pooled connections, through proxies where there are any."""

    def __init__(
        self,
        base_url: str,
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        auth: str = "bearer",
        pool_size: int = 1000,
        proxies: ProxyPool | None = None,
        ca_file: str | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeout = (connect_timeout_s, read_timeout_s)
        self._auth = auth
        self._proxies = proxies
        self._verify: bool | str = ca_file or True
        # Retrying belongs to the attempt loop alone, which keeps count and changes keys.
        self._adapter = Http1Adapter(pool_size=pool_size)

    def send(self, request: UpstreamRequest, key: ProviderKey) -> "RequestsReply":
        """Send and wait for the headers; raises `UpstreamFailure`.

        Where a proxy does not connect, nothing was sent, and the next route is taken. A proxy that did not
        get through to the upstream is held responsible only if another route did.
        """
        prepared = self._prepare(request, key)
        if self._proxies is None:
            return self._send_directly(prepared)
        return self._send_routed(prepared, self._proxies, key.key_id)

    def _send_routed(
        self, prepared: requests.PreparedRequest, proxies: ProxyPool, key_id: str
    ) -> "RequestsReply":
        doubted: list[tuple[str, str]] = []
        for route in proxies.routes(key_id):
            try:
                reply = self._send_along(route, prepared)
            except RouteFault as fault:
                if route.proxy_id is not None and fault.is_certain:
                    proxies.note_failure(route.proxy_id, fault.reason)
                elif route.proxy_id is not None:
                    doubted.append((route.proxy_id, fault.reason))
                continue
            except UpstreamFailure as failure:
                failure.proxy_id = route.proxy_id
                if route.proxy_id is not None or failure.kind != "unreachable":
                    _note_connected(proxies, route, doubted)
                raise
            _note_connected(proxies, route, doubted)
            return reply
        if doubted:
            raise UpstreamFailure("unreachable", "no proxy reaches it")
        raise UpstreamFailure("no_proxy", "none can be used")

    def _send_along(self, route: Route, prepared: requests.PreparedRequest) -> "RequestsReply":
        if route.adapter is None:
            return self._send_directly(prepared)
        try:
            response = route.adapter.send_through(prepared, timeout=self._timeout, verify=self._verify)
        except _TRANSPORT_ERRORS as error:
            raise _as_failure(error) from None
        return RequestsReply(response, route.proxy_id)

    def _send_directly(self, prepared: requests.PreparedRequest) -> "RequestsReply":
        try:
            response = self._adapter.send(prepared, stream=True, timeout=self._timeout, verify=self._verify)
        except _TRANSPORT_ERRORS as error:
            raise _as_failure(error) from None
        return RequestsReply(response)

    def close(self) -> None:
        """Close the pooled connections."""
        self._adapter.close()

    def _prepare(self, request: UpstreamRequest, key: ProviderKey) -> requests.PreparedRequest:
        headers = dict(request.headers)
        if self._auth in ("bearer", "both"):
            headers["Authorization"] = f"Bearer {key.secret}"
        if self._auth in ("x-api-key", "both"):
            headers["x-api-key"] = key.secret
        if request.body or request.method == "POST":
            headers["Content-Length"] = str(len(request.body))
        url = self._base_url + request.path
        return _Prepared(
            request.method, f"{url}?{request.query}" if request.query else url, headers, request.body
        )


class _Prepared(requests.PreparedRequest):
    """A request that needs no preparing. Its headers are a plain dictionary, names spelt as they are sent."""

    def __init__(self, method: str, url: str, headers: dict[str, str], body: bytes) -> None:
        self.method = method
        self.url = url
        self.headers = headers  # type: ignore[assignment]  # whoever sends it only walks and reads them
        self.body = body or None
        self.hooks = {}
        self._cookies = None
        self._body_position = None


class RequestsReply:
    """An answer whose status and headers have arrived; the body is read undecoded.

    `proxy_id` is the proxy it came through, None without one.
    """

    def __init__(self, response: requests.Response, proxy_id: str | None = None) -> None:
        self.proxy_id = proxy_id
        self.status: int = response.status_code
        raw = response.raw
        self.headers: Mapping[str, str] = raw.headers if isinstance(raw, AnswerBody) else response.headers
        self._raw = raw
        self._at_end = False

    def read(self) -> bytes:
        """What has arrived, at least a byte; `b""` at the proper end; raises `UpstreamFailure`."""
        return self._read(lambda raw: raw.read1(READ_SIZE, decode_content=False) or b"") or b""

    def read_passing(self, pass_on: Callable[[bytes], Passed]) -> bytes | None:
        """What has arrived and was not passed on, None when the client does not keep up with that."""
        if not isinstance(self._raw, AnswerBody):
            return self.read()
        return self._read(lambda raw: raw.read_passing(pass_on))

    def _read(self, take: Callable[[Any], bytes | None]) -> bytes | None:
        if self._at_end or self.status < FIRST_FINAL_STATUS:
            return b""  # what follows an interim answer is none of its body: it is left unread, and so closed
        try:
            data = take(self._raw)
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError) as error:
            raise UpstreamFailure("timeout", _reason(error)) from None
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise UpstreamFailure("truncated", _reason(error)) from None
        self._at_end = data == b""
        return data

    def close(self) -> None:
        """Back to the pool when read to its end, else closed: an unread rest would poison the next answer."""
        if not self._at_end:
            self._raw.close()
        self._raw.release_conn()


def _note_connected(proxies: ProxyPool, route: Route, doubted: list[tuple[str, str]]) -> None:
    """The upstream was reached on this route: the proxies that did not get there failed."""
    if route.proxy_id is not None:
        proxies.note_success(route.proxy_id)
    for proxy_id, reason in doubted:
        proxies.note_failure(proxy_id, reason)


_TRANSPORT_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
)
"""What adapters raise until the headers are there."""


def _as_failure(error: Exception) -> UpstreamFailure:
    reason = _reason(error)
    if isinstance(
        error, (requests.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError)
    ):
        return UpstreamFailure("unreachable", reason)
    if isinstance(error, requests.ReadTimeout):
        return UpstreamFailure("timeout", reason)
    if isinstance(error, requests.ConnectionError):
        is_stale = isinstance(_broken(error), StaleConnectionError)
        return UpstreamFailure(_connection_failure(error), reason, is_stale=is_stale)
    return UpstreamFailure("garbled", reason)


def _connection_failure(error: requests.ConnectionError) -> str:
    """Whether no connection came about, or one broke before or within the headers, or they were no HTTP."""
    broken = _broken(error)
    if broken is None:
        return "unreachable"
    if isinstance(broken, http.client.IncompleteRead):
        return "truncated"
    # A peer that just hangs up is both kinds of error at once.
    is_garbled = isinstance(broken, http.client.HTTPException) and not isinstance(broken, ConnectionError)
    return "garbled" if is_garbled else "reset"


def _broken(error: requests.ConnectionError) -> object | None:
    """What broke the connection; None where there was none."""
    cause = error.args[0] if error.args else None
    return cause.args[-1] if isinstance(cause, urllib3.exceptions.ProtocolError) and cause.args else None


def _reason(error: BaseException) -> str:
    """The kind of error alone: texts of lower layers hold hosts and addresses."""
    cause = error.args[0] if error.args and isinstance(error.args[0], BaseException) else error
    reason = getattr(cause, "reason", None)
    return type(reason if isinstance(reason, BaseException) else cause).__name__
