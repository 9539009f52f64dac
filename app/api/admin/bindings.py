"""`/api/admin/ohmygpt/bindings…`: which proxies an OhMyGPT key goes through."""

from typing import Annotated

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.api.admin.auth import current_actor
from app.api.admin.users import DoneView
from app.api.operation import ApiSection, Body
from app.common.display import counted
from app.management.administration import Administration
from app.management.bindings import StoredBinding
from app.management.views.proxies import BindingView, binding_view

_UNBOUND = {404: "There is no such binding."}

Priority = Annotated[int, Field(ge=1, le=10, description="1 comes first; equals take turns.")]
Id = Annotated[str, Field(min_length=1, max_length=50)]


class NewBindingBody(Body):
    """A key and a proxy to go through."""

    proxyId: Id
    ohmygptKeyId: Id
    priority: Priority = 1


class BindingChangeBody(Body):
    """What to change; what is left out stays."""

    priority: Priority | None = None
    isActive: bool | None = None


class NamedBindingView(BindingView):
    """A binding, with the proxy's name and the key's status; null where there is none any more."""

    proxyName: str | None
    keyStatus: str | None


class ProxyChoiceView(TypedDict):
    """A proxy that can be bound."""

    id: str
    name: str
    isActive: bool


class KeyChoiceView(TypedDict):
    """A key that can be bound."""

    id: str
    status: str


class BindingsView(TypedDict):
    """All bindings, by key and priority, and what can be bound."""

    total: int
    bindings: list[NamedBindingView]
    byProxy: dict[str, list[NamedBindingView]]
    proxies: list[ProxyChoiceView]
    keys: list[KeyChoiceView]


class BindingsOfProxyView(TypedDict):
    """One proxy's bindings."""

    bindings: list[NamedBindingView]


class RepairView(TypedDict):
    """What a repair did; `details` in words."""

    success: bool
    message: str
    checked: int
    repaired: int
    deleted: int
    details: list[str]


def add_binding_routes(routes: Blueprint, administration: Administration) -> None:
    """Add the routes."""
    describe = ApiSection("Bindings")
    bindings = administration.bindings

    def named(found: list[StoredBinding]) -> list[NamedBindingView]:
        proxies = {proxy.proxy_id: proxy.name for proxy in administration.proxies.list()}
        keys = {key.key_id: key.status for key in administration.keys.list()}
        return [
            NamedBindingView(
                **binding_view(stored),
                proxyName=proxies.get(stored.binding.proxy_id),
                keyStatus=keys.get(stored.binding.key_id),
            )
            for stored in found
        ]

    @routes.get("/ohmygpt/bindings")
    @describe("List the bindings", answers=BindingsView)
    def list_bindings() -> Response:
        found = named(bindings.list())
        by_proxy: dict[str, list[NamedBindingView]] = {}
        for binding in found:
            by_proxy.setdefault(binding["proxyId"], []).append(binding)
        proxies = administration.proxies.list()
        keys = administration.keys.list()
        return jsonify(
            BindingsView(
                total=len(found),
                bindings=found,
                byProxy=by_proxy,
                proxies=[ProxyChoiceView(id=p.proxy_id, name=p.name, isActive=p.is_active) for p in proxies],
                keys=[KeyChoiceView(id=key.key_id, status=key.status) for key in keys],
            )
        )

    @routes.post("/ohmygpt/bindings")
    @describe(
        "Have a key go through a proxy",
        answers={201: BindingView},
        errors={409: "The two are bound already."},
    )
    def add_binding(body: NewBindingBody) -> tuple[Response, int]:
        """Bind a key to a proxy, which both have to exist. Running workers follow within seconds."""
        found = bindings.add(current_actor(), body.proxyId, body.ohmygptKeyId, body.priority)
        return jsonify(binding_view(found)), 201

    @routes.get("/ohmygpt/bindings/<proxy_id>")
    @describe("One proxy's bindings", answers=BindingsOfProxyView)
    def get_bindings_of_proxy(proxy_id: str) -> Response:
        return jsonify(bindings=named(bindings.list(proxy_id)))

    @routes.patch("/ohmygpt/bindings/<proxy_id>/<key_id>")
    @describe("Change a binding", answers=BindingView, errors=_UNBOUND)
    def change_binding(proxy_id: str, key_id: str, body: BindingChangeBody) -> Response:
        found = bindings.change(current_actor(), proxy_id, key_id, body.priority, body.isActive)
        return jsonify(binding_view(found))

    @routes.delete("/ohmygpt/bindings/<proxy_id>")
    @describe("Unbind all keys from a proxy", answers=DoneView, errors=_UNBOUND)
    def delete_bindings_of_proxy(proxy_id: str) -> Response:
        count = bindings.delete(current_actor(), proxy_id)
        return jsonify(DoneView(success=True, message=f"{counted(count, 'bindings')} of {proxy_id} deleted"))

    @routes.delete("/ohmygpt/bindings/<proxy_id>/<key_id>")
    @describe("Unbind a key from a proxy", answers=DoneView, errors=_UNBOUND)
    def delete_binding(proxy_id: str, key_id: str) -> Response:
        bindings.delete(current_actor(), proxy_id, key_id)
        return jsonify(DoneView(success=True, message=f"{key_id} is not bound to {proxy_id} any more"))

    @routes.post("/ohmygpt/repair-bindings")
    @describe("Repair the bindings", answers=RepairView)
    def repair_bindings() -> Response:
        """Bind keys as the ones they replaced are; delete bindings that lead nowhere."""
        done = bindings.repair(current_actor())
        message = f"{done.checked} checked, {done.repaired} repaired, {done.deleted} deleted"
        return jsonify(
            RepairView(
                success=True,
                message=message,
                checked=done.checked,
                repaired=done.repaired,
                deleted=done.deleted,
                details=done.details,
            )
        )
