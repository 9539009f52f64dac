"""Outbound proxies: added, changed, checked, deleted."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pymongo.database import Database

from app.common.clock import now_ms
from app.management.audit import Actor, AuditLog
from app.management.errors import Conflict, Missing, Unusable, asks_store
from app.store.driver import AlreadyExistsError
from app.store.key_cipher import KeyCipher
from app.upstream.proxies import ProxyStore, StoredProxy
from app.upstream.proxy_choice import Health, ProxyEndpoint, ProxyKind, failed, succeeded
from app.upstream.proxy_transport import ProxyAdapter, RouteFault

__all__ = ["ProxyAdmin", "ProxyChange", "StoredProxy"]

Document = dict[str, Any]
Documents = list[Document]

_AUTO_ID = "proxy-"
_HISTORY = 100


@dataclass(frozen=True, slots=True)
class ProxyChange:
    """What is to be another way; None leaves it as it is. An empty user name takes the login away."""

    name: str | None = None
    kind: str | None = None
    host: str | None = None
    port: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    is_active: bool | None = None

    @property
    def changes_endpoint(self) -> bool:
        """Whether the proxy is to be reached in another way."""
        given = (self.kind, self.host, self.port, self.username, self.password)
        return any(value is not None for value in given)


class ProxyAdmin:
    """Actions on proxies; a check reaches one of the upstream's hosts, each within `timeout_s`.

    `base_urls` are those hosts, in order of preference.
    """

    def __init__(
        self,
        db: Database[Document],
        cipher: KeyCipher,
        audit: AuditLog,
        base_urls: tuple[str, ...],
        timeout_s: float,
    ) -> None:
        self._store = ProxyStore(db, cipher)
        self._audit = audit
        self._base_urls = base_urls
        self._timeout_s = timeout_s

    @asks_store
    def list(self) -> list[StoredProxy]:
        """Return all proxies, oldest first."""
        return list(self._store.list())

    @asks_store
    def get(self, proxy_id: str) -> StoredProxy:
        """Return one proxy."""
        return self._known(proxy_id)

    @asks_store
    def history(self, proxy_id: str) -> Documents:
        """Return the latest entries of the proxy's health log, newest first."""
        self._known(proxy_id)
        return list(self._store.health_log(proxy_id, _HISTORY))

    @asks_store
    def add(self, actor: Actor, proxy_id: str | None, change: ProxyChange) -> StoredProxy:
        """Add a proxy, active; without an id it gets the next free `proxy-N`."""
        endpoint = _endpoint(None, change)
        with self._audit.action(
            actor, "proxies.add", _target(proxy_id or f"{_AUTO_ID}N"), _shown(change, is_new=True)
        ):
            self._refuse_twin(change.name or proxy_id, endpoint, proxy_id)
            try:
                if proxy_id is not None:
                    return self._store.add(proxy_id, endpoint, now=now_ms(), name=change.name)
                return self._add_numbered(endpoint, change.name)
            except ValueError as error:
                raise Unusable("", str(error)) from None

    @asks_store
    def change(self, actor: Actor, proxy_id: str, change: ProxyChange) -> StoredProxy:
        """Change what is given, and forget how the proxy fared before."""
        with self._audit.action(actor, "proxies.change", _target(proxy_id), _shown(change)):
            known = self._known(proxy_id)
            endpoint = _endpoint(known, change) if change.changes_endpoint else None
            # Twins of before that are left as they are can still be changed in what else they have.
            is_renamed = change.name is not None and _plain(change.name) != _plain(known.name)
            is_moved = known.endpoint is None or endpoint is None or not _same(endpoint, known.endpoint)
            self._refuse_twin(change.name if is_renamed else None, endpoint if is_moved else None, proxy_id)
            try:
                found = self._store.update(
                    proxy_id,
                    now=now_ms(),
                    endpoint=endpoint,
                    name=change.name,
                    is_active=change.is_active,
                )
            except ValueError as error:
                raise Unusable("", str(error)) from None
            if found is None:
                raise _unknown(proxy_id)
            return found

    @asks_store
    def delete(self, actor: Actor, proxy_id: str) -> int:
        """Delete the proxy; return how many bindings went with it."""
        with self._audit.action(actor, "proxies.delete", _target(proxy_id)):
            unbound = self._store.delete(proxy_id)
            if unbound is None:
                raise _unknown(proxy_id)
            return unbound

    def check(self, proxy: StoredProxy) -> StoredProxy:
        """Reach the upstream through the proxy now, and keep what came of it. No action: nothing changes."""
        if proxy.endpoint is None:
            return replace(proxy, health=failed(proxy.health, now_ms(), proxy.problem or "it cannot be used"))
        adapter = ProxyAdapter(proxy.endpoint)
        try:
            health = self._reach(adapter, proxy.health)
        finally:
            adapter.close()
        if health is not proxy.health:
            self._keep(proxy.proxy_id, health)
        return replace(proxy, health=health)

    def _reach(self, adapter: ProxyAdapter, before: Health) -> Health:
        """Return the health after a check: the first host that is reached, or fails for certain, decides."""
        health = before
        for base_url in self._base_urls:
            try:
                return succeeded(before, now_ms(), adapter.check(base_url, timeout_s=self._timeout_s))
            except RouteFault as fault:
                health = failed(before, now_ms(), fault.reason)
                if fault.is_certain:
                    break
        return health

    @asks_store
    def _keep(self, proxy_id: str, health: Health) -> None:
        self._store.set_health(proxy_id, health)

    def _refuse_twin(self, name: str | None, endpoint: ProxyEndpoint | None, own_id: str | None) -> None:
        """Raise `Conflict` where another proxy has this name, or is this way out already.

        Two at one address are different ways out where they are logged into as different users, or with
        different passwords: many vendors tell their customers' addresses by these.
        """
        for other in self._store.list():
            if other.proxy_id == own_id:
                continue
            if name is not None and _plain(other.name) == _plain(name):
                raise Conflict(f"there is a proxy named {other.name} already: {other.proxy_id}", "name")
            if endpoint is not None and other.endpoint is not None and _same(endpoint, other.endpoint):
                where = f"{endpoint.kind}, {endpoint.host}, port {endpoint.port}"
                raise Conflict(
                    f"{other.proxy_id} is this proxy already: {where}, with the same login", "host"
                )

    def _add_numbered(self, endpoint: ProxyEndpoint, name: str | None) -> StoredProxy:
        for proxy_id in self._free_ids():
            try:
                return self._store.add(proxy_id, endpoint, now=now_ms(), name=name)
            except AlreadyExistsError:
                continue  # taken in this very moment
        raise Conflict("no free id")

    def _free_ids(self) -> Iterator[str]:
        taken = {proxy.proxy_id for proxy in self._store.list()}
        numbers = range(1, 2 * len(taken) + 10)
        return (proxy_id for number in numbers if (proxy_id := f"{_AUTO_ID}{number}") not in taken)

    def _known(self, proxy_id: str) -> StoredProxy:
        found = self._store.get(proxy_id)
        if found is None:
            raise _unknown(proxy_id)
        return found


def _endpoint(known: StoredProxy | None, change: ProxyChange) -> ProxyEndpoint:
    """Return the endpoint as it is to be: what is not given stays. Raises `Unusable`."""
    old = known.endpoint if known is not None else None
    if known is not None and old is None and known.has_auth and change.username is None:
        raise Unusable("username", f"give the login anew: {known.problem}")
    kind = change.kind or (known.kind if known else None)
    host = change.host or (known.host if known else None)
    port = change.port if change.port is not None else (known.port if known else None)
    for name, value in (("type", kind), ("host", host), ("port", port)):
        if value is None:
            raise Unusable(name, "is required")
    username = change.username if change.username is not None else (old.username if old else None)
    password = change.password
    if password is None and old is not None and change.username in (None, old.username):
        password = old.password
    if kind not in tuple(ProxyKind):
        raise Unusable("type", "takes http or socks5")
    login = (username, password) if username else (None, change.password or None)
    return ProxyEndpoint(ProxyKind(str(kind)), str(host).strip("[]"), int(port or 0), *login)


def _plain(name: str) -> str:
    return name.strip().casefold()


def _same(one: ProxyEndpoint, other: ProxyEndpoint) -> bool:
    """Return whether these are one way out: in names of hosts, capitals and a last dot say nothing."""
    return replace(one, host=one.host.rstrip(".").lower()) == replace(
        other, host=other.host.rstrip(".").lower()
    )


def _shown(change: ProxyChange, *, is_new: bool = False) -> Document:
    """Return what the audit log keeps: that the login changed, not to what."""
    shown = {"name": change.name, "type": change.kind, "host": change.host, "port": change.port}
    shown["isActive"] = change.is_active
    details: Document = {name: value for name, value in shown.items() if value is not None}
    login = (change.username, change.password)
    # A form that says nothing of it takes a login away, but a new proxy has none.
    if any(login) if is_new else login != (None, None):
        details["login"] = "changed"
    return details


def _target(proxy_id: str) -> str:
    return f"proxy:{proxy_id}"


def _unknown(proxy_id: str) -> Missing:
    return Missing(f"there is no proxy {proxy_id[:80]}")
