"""What `weir doctor` looks at on the upstream's side: each of its hosts, and with `--probe` its endpoints."""

import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit
from uuid import uuid4

from app.cli.checks import Check, CheckState
from app.settings import Settings
from app.upstream.host_choice import is_front_page
from app.upstream.proxy_pool import ProxyPool
from app.upstream.transport import LIST_MODELS, PLAIN, ProviderKey, UpstreamFailure, UpstreamRequest
from app.upstream.upstream import RequestsUpstream
from app.wires.endpoints import API, FORWARDED, Endpoint

_TIMEOUT_S = 5.0
_OK = 200
_KEY_REFUSED = (401, 402, 403)
_NOT_THERE = (404, 405, 501)


def check_upstream(
    settings: Settings, key: ProviderKey | None, proxies: ProxyPool | None = None
) -> Iterator[Check]:
    """Check of each host that it can be reached, the way requests go, and takes a key of the pool.

    Where one of several does, a host that does not is a warning.
    """
    urls = settings.ohmygpt_base_url
    found = [_check_host(settings, url, key, proxies) for url in urls]
    serves = any(check.state is not CheckState.FAILED for check in found)
    for position, check in enumerate(found):
        if len(urls) == 1:
            yield check
            continue
        name = f"upstream host {position}"
        is_spare = serves and check.state is CheckState.FAILED
        yield replace(check, name=name, state=CheckState.WARNING if is_spare else check.state)


def _check_host(
    settings: Settings, base_url: str, key: ProviderKey | None, proxies: ProxyPool | None
) -> Check:
    url = urlsplit(base_url)
    name, host = "upstream", url.hostname or ""
    is_forced = settings.upstream_proxy_pool == "on" and settings.upstream_proxy_fallback_direct == "off"
    if proxies is None and is_forced:
        detail = "not asked: UPSTREAM_PROXY_FALLBACK_DIRECT is off, and which proxies there are is not known"
        return Check(name, CheckState.WARNING, detail, "see to the store first")
    is_direct = proxies is None or (proxies.allow_direct and not proxies.health())
    try:
        if is_direct:
            _connect(host, url.port or (443 if url.scheme == "https" else 80), tls=url.scheme == "https")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        advice = "check OHMYGPT_BASE_URL, the network and DNS"
        return Check(name, CheckState.FAILED, f"{host} cannot be reached: {reason}", advice)
    if key is None:
        reached = f"{host} can be reached" if is_direct else f"{host} is reached through proxies"
        return Check(name, CheckState.WARNING, f"{reached}; without a key no more can be said")
    return _list_models(settings, base_url, key, proxies)


def _connect(host: str, port: int, *, tls: bool) -> None:
    with socket.create_connection((host, port), _TIMEOUT_S) as connection:
        if tls:
            with ssl.create_default_context().wrap_socket(connection, server_hostname=host):
                pass


def upstream_for_commands(settings: Settings, base_url: str, proxies: ProxyPool | None) -> RequestsUpstream:
    """Make a transport to one host for a command, which waits seconds, not minutes."""
    return RequestsUpstream(
        base_url,
        connect_timeout_s=_TIMEOUT_S,
        read_timeout_s=_TIMEOUT_S,
        auth=settings.upstream_auth,
        pool_size=1,
        proxies=proxies,
    )


def _list_models(settings: Settings, base_url: str, key: ProviderKey, proxies: ProxyPool | None) -> Check:
    host = urlsplit(base_url).hostname or ""
    upstream = upstream_for_commands(settings, base_url, proxies)
    try:
        reply = upstream.send(LIST_MODELS, key)
        status, is_page = reply.status, is_front_page(reply.status, reply.headers)
        reply.close()
    except UpstreamFailure as error:
        return Check(
            "upstream", CheckState.FAILED, f"{host}: {error}", "check OHMYGPT_BASE_URL and the network"
        )
    finally:
        upstream.close()
    if is_page:
        detail = f"{host}: a proxy in front of it answers {status} with a web page"
        return Check("upstream", CheckState.FAILED, detail, "wait, or name another host in OHMYGPT_BASE_URL")
    if status == _OK:
        return Check("upstream", CheckState.OK, f"{host} answers and takes key {key.key_id}")
    if status in _KEY_REFUSED:
        detail = f"{host} refuses key {key.key_id} with {status}"
        return Check(
            "upstream", CheckState.FAILED, detail, f"weir keys delete {key.key_id}, then add a valid one"
        )
    # Not every upstream lists models; that it answered at all is what counts.
    return Check("upstream", CheckState.WARNING, f"{host} answered {status} to GET /v1/models")


def probe_endpoints(
    settings: Settings, key: ProviderKey | None, proxies: ProxyPool | None = None
) -> Iterator[Check]:
    """Check which endpoints the first host that answers seems to have.

    Each gets a request without a model, for which nothing can be done or charged: what refuses it is there.
    What the host says of a path that cannot exist is the measure: where that is the same, nothing is known.
    Paths with an id in them are not asked.
    """
    if key is None:
        yield Check("endpoints", CheckState.WARNING, "not probed: no key can be used", "weir keys list")
        return
    for base_url in settings.ohmygpt_base_url:
        upstream = upstream_for_commands(settings, base_url, proxies)
        try:
            nowhere = _status(upstream, key, "POST", f"{API}/weir-doctor-{uuid4().hex}")
            if nowhere is None:
                continue
            for endpoint in FORWARDED:
                if not endpoint.has_parameters:
                    status = _status(upstream, key, endpoint.method, endpoint.path)
                    yield _endpoint_check(endpoint, status, nowhere)
            return
        finally:
            upstream.close()
    yield Check("endpoints", CheckState.WARNING, "not probed: no host answers")


def _status(upstream: RequestsUpstream, key: ProviderKey, method: str, path: str) -> int | None:
    body = b"{}" if method == "POST" else b""
    headers = PLAIN | ({"Content-Type": "application/json"} if body else {})
    headers["anthropic-version"] = "2023-06-01"
    try:
        reply = upstream.send(UpstreamRequest(method, path, "", headers, body), key)
    except UpstreamFailure:
        return None
    reply.close()
    return None if is_front_page(reply.status, reply.headers) else reply.status


def _endpoint_check(endpoint: Endpoint, status: int | None, nowhere: int) -> Check:
    name = f"{endpoint.method} {endpoint.path}"
    if status is None:
        return Check(name, CheckState.WARNING, "no answer in time")
    if status in _NOT_THERE:
        return Check(name, CheckState.WARNING, f"seems not to be there ({status})")
    if status == nowhere:
        detail = f"not known: it answers {status}, as it does to a path that cannot exist"
        return Check(name, CheckState.WARNING, detail)
    return Check(name, CheckState.OK, f"seems to be there ({status} to a request without a model)")
