"""Outbound proxies and their bindings."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from app.common.display import json_ready
from app.upstream.proxies import StoredProxy
from app.upstream.proxy_bindings import StoredBinding


class ProxyView(TypedDict):
    """A proxy, without its login's secrets."""

    id: str
    _id: str
    name: str
    type: str
    host: str
    port: int | None
    hasAuth: bool
    username: str | None
    status: Annotated[str, Field(description="`healthy`, `unhealthy` or `unknown`.")]
    lastLatencyMs: int | None
    lastCheckedAt: str | None
    lastError: str | None
    failCount: int
    isActive: bool
    createdAt: str | None
    updatedAt: str | None


class ProxiesView(TypedDict):
    """The proxies, oldest first; `inactive` ones are counted as nothing else."""

    total: int
    healthy: int
    unhealthy: int
    unknown: int
    inactive: int
    proxies: list[ProxyView]


class BindingView(TypedDict):
    """A binding."""

    proxyId: str
    ohmygptKeyId: str
    priority: int
    isActive: bool
    createdAt: str | None
    updatedAt: str | None


def proxy_view(proxy: StoredProxy) -> ProxyView:
    """Show a proxy."""
    health = proxy.health
    return ProxyView(
        id=proxy.proxy_id,
        _id=proxy.proxy_id,
        name=proxy.name,
        type=proxy.kind,
        host=proxy.host,
        port=proxy.port,
        hasAuth=proxy.has_auth,
        username=proxy.endpoint.username if proxy.endpoint else None,
        status=str(health.status),
        lastLatencyMs=health.latency_ms,
        lastCheckedAt=json_ready(health.checked_at),
        lastError=proxy.problem or health.last_error,
        failCount=health.fail_count,
        isActive=proxy.is_active,
        createdAt=json_ready(proxy.created_at),
        updatedAt=json_ready(proxy.updated_at),
    )


def proxies_view(proxies: Iterable[StoredProxy]) -> ProxiesView:
    """Show a list of proxies."""
    found = [proxy_view(proxy) for proxy in proxies]
    active = [proxy["status"] for proxy in found if proxy["isActive"]]
    return ProxiesView(
        total=len(found),
        healthy=active.count("healthy"),
        unhealthy=active.count("unhealthy"),
        unknown=active.count("unknown"),
        inactive=len(found) - len(active),
        proxies=found,
    )


def binding_view(stored: StoredBinding) -> BindingView:
    """Show a binding."""
    return BindingView(
        proxyId=stored.binding.proxy_id,
        ohmygptKeyId=stored.binding.key_id,
        priority=stored.binding.priority,
        isActive=stored.is_active,
        createdAt=json_ready(stored.created_at),
        updatedAt=json_ready(stored.updated_at),
    )
