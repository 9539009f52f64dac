"""Outbound proxies and which keys go through them."""

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from flask_wtf import FlaskForm
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse
from wtforms import IntegerField, PasswordField, SelectField, StringField
from wtforms.validators import InputRequired, Length, NumberRange, Optional

from app.admin.acting import actor, attempt, sent, text_of
from app.admin.asking import ask
from app.management.administration import Administration
from app.management.errors import Missing
from app.management.proxies import ProxyAdmin, ProxyChange, StoredProxy

_REFUSED = 400
_PORT = [InputRequired("is required"), NumberRange(1, 65_535, "takes 1 to 65535")]


class ProxyForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """A proxy. An empty password leaves the stored one as it is."""

    name = StringField("Name", [Length(max=100)], description="What it is called; empty: its id")
    kind = SelectField("Type", choices=["http", "socks5"])
    host = StringField("Host", [InputRequired("is required"), Length(max=255)])
    port = IntegerField("Port", _PORT)
    username = StringField("Login", [Length(max=255)], render_kw={"autocomplete": "off"})
    password = PasswordField("Password", [Length(max=255)], render_kw={"autocomplete": "new-password"})


class BindingForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """A key, and the proxy it is to go through."""

    key_id = SelectField("Upstream key", choices=[], validate_choice=False)
    proxy_id = SelectField("Proxy", choices=[], validate_choice=False)
    priority = IntegerField(
        "Priority", [Optional(), NumberRange(1, 10, "takes 1 to 10")], default=1, description="1 comes first"
    )


def proxy_pages(administration: Administration) -> Blueprint:
    """Make the pages `/upstream/proxies` and `/upstream/proxies/<id>`."""
    routes = Blueprint("proxies", __name__)
    proxies, bindings = administration.proxies, administration.bindings

    def known(proxy_id: str) -> StoredProxy:
        try:
            return proxies.get(proxy_id)
        except Missing:
            raise NotFound from None

    def draw(
        proxy_form: ProxyForm | None = None, binding_form: BindingForm | None = None, status: int = 200
    ) -> AnyResponse:
        found = ask(proxies.list)
        keys = ask(administration.keys.list) or []
        form = binding_form or BindingForm(formdata=None, prefix="bind")
        form.key_id.choices = [key.key_id for key in keys]
        form.proxy_id.choices = [(proxy.proxy_id, _named(proxy)) for proxy in found or []]
        page = render_template(
            "proxies.html",
            proxies=found,
            bindings=ask(bindings.list),
            names={proxy.proxy_id: proxy.name for proxy in found or []},
            statuses={key.key_id: key.status for key in keys},
            proxy_form=proxy_form or ProxyForm(formdata=None),
            binding_form=form,
        )
        return make_response(page, status)

    def draw_one(proxy_id: str, form: ProxyForm | None = None) -> AnyResponse:
        proxy = known(proxy_id)
        page = render_template(
            "proxy.html",
            proxy=proxy,
            form=form or _form_of(proxy),
            history=ask(lambda: proxies.history(proxy_id)) or [],
            bound=[
                stored.binding for stored in ask(bindings.list) or [] if stored.binding.proxy_id == proxy_id
            ],
        )
        return make_response(page, 200 if form is None else _REFUSED)

    @routes.get("/upstream/proxies")
    def all_proxies() -> AnyResponse:
        return draw()

    @routes.post("/upstream/proxies")
    def add() -> AnyResponse:
        form = ProxyForm()

        def action() -> str:
            made = proxies.add(actor(), None, _change(form))
            return f"{made.name} is added as {made.proxy_id}; workers use it within seconds."

        return _back() if sent(form, action) else draw(proxy_form=form, status=_REFUSED)

    @routes.get("/upstream/proxies/<proxy_id>")
    def one_proxy(proxy_id: str) -> AnyResponse:
        return draw_one(proxy_id)

    @routes.post("/upstream/proxies/<proxy_id>")
    def change(proxy_id: str) -> AnyResponse:
        form = ProxyForm()

        def action() -> str:
            proxies.change(actor(), proxy_id, _change(form))
            return f"{proxy_id} is changed."

        return _to(proxy_id) if sent(form, action) else draw_one(proxy_id, form)

    @routes.post("/upstream/bindings")
    def bind() -> AnyResponse:
        form = BindingForm(prefix="bind")

        def action() -> str:
            found = bindings.add(
                actor(), form.proxy_id.data or "", form.key_id.data or "", form.priority.data or 1
            ).binding
            return f"Key {found.key_id} goes through {found.proxy_id}, priority {found.priority}."

        return _to_bindings() if sent(form, action) else draw(binding_form=form, status=_REFUSED)

    _add_proxy_actions(routes, proxies)
    _add_binding_routes(routes, administration)
    return routes


def _back() -> AnyResponse:
    return redirect(url_for("proxies.all_proxies"), code=303)


def _to(proxy_id: str) -> AnyResponse:
    return redirect(url_for("proxies.one_proxy", proxy_id=proxy_id), code=303)


def _to_bindings() -> AnyResponse:
    return redirect(url_for("proxies.all_proxies", _anchor="bindings"), code=303)


def _named(proxy: StoredProxy) -> str:
    return proxy.proxy_id if proxy.name == proxy.proxy_id else f"{proxy.name} ({proxy.proxy_id})"


def _form_of(proxy: StoredProxy) -> ProxyForm:
    login = proxy.endpoint.username if proxy.endpoint else None
    return ProxyForm(
        formdata=None, name=proxy.name, kind=proxy.kind, host=proxy.host, port=proxy.port, username=login
    )


def _add_proxy_actions(routes: Blueprint, proxies: ProxyAdmin) -> None:
    @routes.post("/upstream/proxies/<proxy_id>/active")
    def set_active(proxy_id: str) -> AnyResponse:
        is_active = request.form.get("active") == "yes"

        def action() -> str:
            proxies.change(actor(), proxy_id, ProxyChange(is_active=is_active))
            return f"{proxy_id} is {'used again' if is_active else 'not used any more'}."

        return _to(proxy_id) if attempt(action) else _back()

    @routes.post("/upstream/proxies/<proxy_id>/check")
    def check(proxy_id: str) -> AnyResponse:
        def action() -> str:
            health = proxies.check(proxies.get(proxy_id)).health
            if health.is_usable:
                return f"The upstream is reached through {proxy_id}, in {health.latency_ms} ms."
            return f"The upstream is not reached through {proxy_id}: {health.last_error}."

        attempt(action)
        return _to(proxy_id)

    @routes.post("/upstream/proxies/<proxy_id>/delete")
    def delete(proxy_id: str) -> AnyResponse:
        attempt(lambda: f"{proxy_id} is deleted, and {proxies.delete(actor(), proxy_id)} bindings with it.")
        return _back()


def _add_binding_routes(routes: Blueprint, administration: Administration) -> None:
    bindings = administration.bindings

    @routes.post("/upstream/bindings/<proxy_id>/<key_id>")
    def change_binding(proxy_id: str, key_id: str) -> AnyResponse:
        given = request.form.get("priority", "")
        priority = int(given) if given.isascii() and given.isdigit() and len(given) <= 2 else 0

        def action() -> str:
            found = bindings.change(actor(), proxy_id, key_id, priority, None).binding
            return f"Key {key_id} goes through {proxy_id} with priority {found.priority}."

        attempt(action)
        return _to_bindings()

    @routes.post("/upstream/bindings/<proxy_id>/<key_id>/delete")
    def unbind(proxy_id: str, key_id: str) -> AnyResponse:
        def action() -> str:
            bindings.delete(actor(), proxy_id, key_id)
            return f"Key {key_id} is not bound to {proxy_id} any more."

        attempt(action)
        return _to_bindings()

    @routes.post("/upstream/bindings/repair")
    def repair() -> AnyResponse:
        def action() -> str:
            done = bindings.repair(actor())
            counts = f"{done.checked} checked, {done.repaired} repaired, {done.deleted} deleted."
            return " ".join([counts, *(f"{detail}." for detail in done.details)])

        attempt(action)
        return _to_bindings()


def _change(form: ProxyForm) -> ProxyChange:
    return ProxyChange(
        name=text_of(form.name),
        kind=form.kind.data,
        host=text_of(form.host),
        port=form.port.data,
        username=(form.username.data or "").strip(),
        password=form.password.data or None,
    )
