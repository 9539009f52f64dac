"""`/api/admin/proxies…`: outbound proxies."""

from typing import Annotated, Literal, NotRequired

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.admin.auth import current_actor
from app.api.admin.users import DoneView
from app.api.operation import ApiSection, Body
from app.common.display import counted, json_ready
from app.management.proxies import ProxyAdmin, ProxyChange, StoredProxy
from app.management.views.proxies import ProxiesView, ProxyView, proxies_view, proxy_view

_NO_PROXY = {404: "There is no such proxy."}
_TWIN = {409: "There is a proxy of this name, or this one under another name."}

Name = Annotated[str, Field(min_length=1, max_length=100, description="A name for people.")]
Host = Annotated[str, Field(min_length=1, max_length=255, description="A name or an IP address.")]
Port = Annotated[int, Field(ge=1, le=65_535)]
Login = Annotated[str, Field(max_length=255)]
Kind = Literal["http", "socks5"]


class NewProxyBody(Body):
    """A proxy to add."""

    id: Annotated[str, Field(min_length=1, max_length=50)] | None = Field(
        None, description="Left out, it is the next free `proxy-N`."
    )
    name: Name | None = None
    type: Kind
    host: Host
    port: Port
    username: Login | None = None
    password: Login | None = None


class ProxyChangeBody(Body):
    """What to change; what is left out stays. An empty `username` takes the login away."""

    name: Name | None = None
    type: Kind | None = None
    host: Host | None = None
    port: Port | None = None
    username: Login | None = None
    password: Login | None = None
    isActive: bool | None = None


class ProxyCheckView(TypedDict):
    """One line of a proxy's health log."""

    status: str
    checkedAt: str
    latencyMs: NotRequired[int | None]
    errorMessage: NotRequired[str | None]


class ProxyHealthView(TypedDict):
    """How a proxy fares, and its latest checks, newest first."""

    id: str
    status: str
    lastLatencyMs: int | None
    lastCheckedAt: str | None
    lastError: str | None
    failCount: int
    history: list[ProxyCheckView]


def add_proxy_routes(routes: Blueprint, proxies: ProxyAdmin) -> None:
    """Add the routes."""
    describe = ApiSection("Proxies")

    @routes.get("/proxies")
    @describe("List the proxies", answers=ProxiesView)
    def list_proxies() -> Response:
        return jsonify(proxies_view(proxies.list()))

    @routes.post("/proxies")
    @describe("Add a proxy", answers={201: ProxyView}, errors=_TWIN)
    def add_proxy(body: NewProxyBody) -> tuple[Response, int]:
        """Add a proxy; running workers use it within seconds. Its password is kept encrypted."""
        change = ProxyChange(body.name, body.type, body.host, body.port, body.username, body.password)
        return jsonify(proxy_view(proxies.add(current_actor(), body.id, change))), 201

    @routes.get("/proxies/<proxy_id>")
    @describe("One proxy", answers=ProxyView, errors=_NO_PROXY)
    def get_proxy(proxy_id: str) -> Response:
        return jsonify(proxy_view(proxies.get(proxy_id)))

    @routes.patch("/proxies/<proxy_id>")
    @describe("Change a proxy", answers=ProxyView, errors=_NO_PROXY | _TWIN)
    def change_proxy(proxy_id: str, body: ProxyChangeBody) -> Response:
        """Change a proxy; what is known of its health is forgotten."""
        change = ProxyChange(
            body.name, body.type, body.host, body.port, body.username, body.password, body.isActive
        )
        return jsonify(proxy_view(proxies.change(current_actor(), proxy_id, change)))

    @routes.delete("/proxies/<proxy_id>")
    @describe("Delete a proxy and its bindings", answers=DoneView, errors=_NO_PROXY)
    def delete_proxy(proxy_id: str) -> Response:
        unbound = proxies.delete(current_actor(), proxy_id)
        bindings = counted(unbound, "bindings")
        return jsonify(DoneView(success=True, message=f"{proxy_id} is deleted, and {bindings} with it"))

    @routes.get("/proxies/<proxy_id>/health")
    @describe("How a proxy fares", answers=ProxyHealthView, errors=_NO_PROXY)
    def get_proxy_health(proxy_id: str) -> Response:
        return jsonify(_health_view(proxies.get(proxy_id), proxies))

    @routes.post("/proxies/<proxy_id>/check")
    @describe("Reach the upstream through a proxy now", answers=ProxyHealthView, errors=_NO_PROXY)
    def check_proxy(proxy_id: str) -> Response:
        """Reach the upstream without sending a key. `status` says what came of it."""
        return jsonify(_health_view(proxies.check(proxies.get(proxy_id)), proxies))


def _health_view(proxy: StoredProxy, proxies: ProxyAdmin) -> ProxyHealthView:
    health = proxy.health
    return ProxyHealthView(
        id=proxy.proxy_id,
        status=str(health.status),
        lastLatencyMs=health.latency_ms,
        lastCheckedAt=json_ready(health.checked_at),
        lastError=proxy.problem or health.last_error,
        failCount=health.fail_count,
        history=[_check_view(entry) for entry in proxies.history(proxy.proxy_id)],
    )


def _check_view(entry: dict[str, object]) -> ProxyCheckView:
    shown: ProxyCheckView = json_ready({name: value for name, value in entry.items() if name != "proxyId"})
    return shown
