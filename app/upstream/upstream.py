"""The transport to the upstream: `requests`, used so that bytes pass as they arrive.

Requests are prepared by hand and given to a transport adapter directly, our own (`http1_adapter`): a session
would read the environment, follow redirects (carrying the key to another host) and decode bodies, and where
it is told not to, it still takes as long as the adapter itself.
"""

import requests

from app.upstream.host_choice import HOST_FAILURES, is_front_page
from app.upstream.hosts import UpstreamHosts
from app.upstream.http1_adapter import AnswerBody, Http1Adapter
from app.upstream.proxy_pool import DIRECT, ProxyPool, Route
from app.upstream.proxy_transport import RouteFault
from app.upstream.transport import (
    LIST_MODELS,
    ClientGone,
    LargeBody,
    ProviderKey,
    UpstreamFailure,
    UpstreamRequest,
)


class RequestsUpstream:
    """Sends requests to the upstream over pooled connections, through proxies where there are any.

    `hosts` are the upstream's, or the base URL of its only one.
    """

    def __init__(
        self,
        hosts: UpstreamHosts | str,
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        auth: str = "bearer",
        pool_size: int = 1000,
        proxies: ProxyPool | None = None,
        ca_file: str | None = None,
    ) -> None:
        self._hosts = UpstreamHosts([hosts]) if isinstance(hosts, str) else hosts
        self._timeout = (connect_timeout_s, read_timeout_s)
        self._auth = auth
        self._proxies = proxies
        self._verify: bool | str = ca_file or True
        # Retrying belongs to the attempt loop alone, which keeps count and changes keys.
        self._adapter = Http1Adapter(pool_size=pool_size)

    def send(
        self, request: UpstreamRequest, key: ProviderKey, avoiding: frozenset[int] = frozenset()
    ) -> AnswerBody:
        """Send to the best host but for those in `avoiding`, and wait for the headers.

        Raises `UpstreamFailure`, whose `is_of_host` says that another host may serve the request. Where a
        proxy does not connect, nothing was sent, and the next route is taken. A proxy that did not get
        through to the upstream is held responsible only if another route did.
        """
        hosts = self._hosts
        if not hosts.are_several:
            return self._send_to(hosts.urls[0], request, key)
        host, sent_at = hosts.choose(avoiding), hosts.clock()
        try:
            reply = self._send_to(hosts.urls[host], request, key)
        except UpstreamFailure as failure:
            failure.host = host
            if (is_certain := HOST_FAILURES.get(failure.kind)) is not None:
                failure.is_of_host = hosts.note_failure(
                    host, sent_at, str(failure), avoiding, is_certain=is_certain
                )
            raise
        except ClientGone as gone:
            gone.host = host
            hosts.note_departure(host, sent_at)
            raise
        reply.host = host
        if is_front_page(reply.status, reply.headers):
            reply.is_of_host = hosts.note_failure(
                host, sent_at, _page(reply.status), avoiding, is_certain=False
            )
        else:
            hosts.note_answer(host, sent_at)
        return reply

    def probe(self, host: int) -> str | None:
        """Ask a host, without a key, for its models: return what speaks against sending requests there.

        Any answer will do, a refusal too, but not a page of what is in front of it.
        """
        try:
            reply = self._send_to(self._hosts.urls[host], LIST_MODELS, None)
        except UpstreamFailure as failure:
            return str(failure)
        reply.close()
        return _page(reply.status) if is_front_page(reply.status, reply.headers) else None

    def _send_to(self, base_url: str, request: UpstreamRequest, key: ProviderKey | None) -> AnswerBody:
        prepared = self._prepare(base_url, request, key)
        if self._proxies is None:
            return self._send_along(DIRECT, prepared)
        return self._send_routed(prepared, self._proxies, key.key_id if key is not None else "")

    def _send_routed(self, prepared: requests.PreparedRequest, proxies: ProxyPool, key_id: str) -> AnswerBody:
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

    def _send_along(self, route: Route, prepared: requests.PreparedRequest) -> AnswerBody:
        adapter = route.adapter or self._adapter
        answer = adapter.send(prepared, timeout=self._timeout, verify=self._verify).raw
        answer.proxy_id = route.proxy_id
        return answer

    def close(self) -> None:
        """Close the pooled connections."""
        self._adapter.close()

    def _prepare(
        self, base_url: str, request: UpstreamRequest, key: ProviderKey | None
    ) -> requests.PreparedRequest:
        headers = dict(request.headers)
        if key is not None and self._auth in ("bearer", "both"):
            headers["Authorization"] = f"Bearer {key.secret}"
        if key is not None and self._auth in ("x-api-key", "both"):
            headers["x-api-key"] = key.secret
        if request.body or request.method == "POST":
            headers["Content-Length"] = str(len(request.body))
        url = base_url + request.path
        return _Prepared(
            request.method, f"{url}?{request.query}" if request.query else url, headers, request.body
        )


class _Prepared(requests.PreparedRequest):
    """A request that needs no preparing. Its headers are a plain dictionary, names spelt as they are sent."""

    def __init__(self, method: str, url: str, headers: dict[str, str], body: bytes | LargeBody) -> None:
        self.method = method
        self.url = url
        self.headers = headers  # type: ignore[assignment]  # whoever sends it only walks and reads them
        self.body = body or None  # type: ignore[assignment]  # the adapter knows both
        self.hooks = {}
        self._cookies = None
        self._body_position = None


def _page(status: int) -> str:
    return f"a web page with status {status}"


def _note_connected(proxies: ProxyPool, route: Route, doubted: list[tuple[str, str]]) -> None:
    """Note that the upstream was reached on this route: the proxies that did not get there failed."""
    if route.proxy_id is not None:
        proxies.note_success(route.proxy_id)
    for proxy_id, reason in doubted:
        proxies.note_failure(proxy_id, reason)
