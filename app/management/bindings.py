"""Bindings: which proxies a key goes through, and their repair after keys and proxies went."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pymongo.database import Database

from app.common.clock import now_ms
from app.management.audit import Actor, AuditLog
from app.management.errors import Missing, Unusable, asks_store
from app.management.upstream_keys import UpstreamKeyAdmin
from app.store.driver import AlreadyExistsError
from app.store.key_cipher import KeyCipher
from app.upstream.proxies import ProxyStore
from app.upstream.proxy_bindings import BindingStore, StoredBinding

__all__ = ["BindingAdmin", "Repair", "StoredBinding"]

Document = dict[str, Any]
T = TypeVar("T")


@dataclass(slots=True)
class Repair:
    """What a repair found: bindings looked at, passed on to a new key, deleted; `details` in words."""

    checked: int = 0
    repaired: int = 0
    deleted: int = 0
    details: list[str] = field(default_factory=list)


class BindingAdmin:
    """Actions on bindings."""

    def __init__(
        self, db: Database[Document], cipher: KeyCipher, audit: AuditLog, keys: UpstreamKeyAdmin
    ) -> None:
        self._store = BindingStore(db)
        self._proxies = ProxyStore(db, cipher)
        self._keys = keys
        self._audit = audit

    @asks_store
    def list(self, proxy_id: str | None = None) -> list[StoredBinding]:
        """Return all bindings, or one proxy's, by key and priority."""
        return [found for found in self._store.list() if proxy_id in (None, found.binding.proxy_id)]

    @asks_store
    def add(self, actor: Actor, proxy_id: str, key_id: str, priority: int) -> StoredBinding:
        """Have the key go through the proxy. Both have to exist: a slip of the pen would never be noticed."""
        with self._audit.action(actor, "bindings.add", _target(proxy_id, key_id), {"priority": priority}):
            if self._proxies.get(proxy_id) is None:
                raise Unusable("proxyId", f"there is no proxy {proxy_id[:80]}")
            if key_id not in {key.key_id for key in self._keys.list()}:
                raise Unusable("ohmygptKeyId", f"there is no key {key_id[:80]}")
            return _of_priority(lambda: self._store.add(proxy_id, key_id, now=now_ms(), priority=priority))

    @asks_store
    def change(
        self, actor: Actor, proxy_id: str, key_id: str, priority: int | None, is_active: bool | None
    ) -> StoredBinding:
        """Change what is given."""
        details = {"priority": priority, "isActive": is_active}
        with self._audit.action(actor, "bindings.change", _target(proxy_id, key_id), details):
            if self._store.get(proxy_id, key_id) is None:
                raise _unbound(proxy_id, key_id)
            found = _of_priority(
                lambda: self._store.update(
                    proxy_id, key_id, now=now_ms(), priority=priority, is_active=is_active
                )
            )
            if found is None:
                raise _unbound(proxy_id, key_id)
            return found

    @asks_store
    def delete(self, actor: Actor, proxy_id: str, key_id: str | None = None) -> int:
        """Unbind the key from the proxy, or all keys; return how many bindings went."""
        with self._audit.action(actor, "bindings.delete", _target(proxy_id, key_id or "*")):
            if key_id is not None:
                if not self._store.delete(proxy_id, key_id):
                    raise _unbound(proxy_id, key_id)
                return 1
            mine = self.list(proxy_id)
            if not mine:
                raise Missing(f"nothing is bound to proxy {proxy_id[:80]}")
            return sum(self._store.delete(proxy_id, found.binding.key_id) for found in mine)

    @asks_store
    def repair(self, actor: Actor) -> Repair:
        """Bind keys as the ones they replaced are bound; delete bindings that lead nowhere.

        A replaced key keeps its own: after a reset it serves again.
        """
        with self._audit.action(actor, "bindings.repair", "bindings"):
            proxies = {proxy.proxy_id for proxy in self._proxies.list()}
            keys = {key.key_id: key.replaced_by for key in self._keys.list()}
            done = Repair()
            for found in self._store.list():
                done.checked += 1
                binding = found.binding
                successor = _successor(keys, binding.key_id)
                if binding.proxy_id in proxies and successor == binding.key_id:
                    continue
                where = f"key {binding.key_id} through proxy {binding.proxy_id}"
                if binding.proxy_id not in proxies:
                    why = "there is no such proxy"
                elif successor is None:
                    why = "there is no such key"
                else:
                    if self._pass_on(found, successor):
                        done.repaired += 1
                        done.details.append(f"{where}: passed on to key {successor}, which replaced it")
                    continue
                self._store.delete(binding.proxy_id, binding.key_id)
                done.deleted += 1
                done.details.append(f"{where}: deleted, {why}")
            return done

    def _pass_on(self, found: StoredBinding, key_id: str) -> bool:
        """Bind another key in the same way; False if it is bound to that proxy already."""
        binding = found.binding
        try:
            self._store.add(binding.proxy_id, key_id, now=now_ms(), priority=binding.priority)
        except AlreadyExistsError:
            return False
        if not found.is_active:
            self._store.update(binding.proxy_id, key_id, now=now_ms(), is_active=False)
        return True


def _successor(keys: dict[str, str | None], key_id: str) -> str | None:
    """Return the key that stands for this one now; None when there is none any more."""
    seen = set()
    while key_id in keys and key_id not in seen:
        seen.add(key_id)
        replaced_by = keys[key_id]
        if replaced_by is None or replaced_by not in keys:
            return key_id
        key_id = replaced_by
    return None


def _of_priority(work: Callable[[], T]) -> T:
    try:
        return work()
    except ValueError as error:
        raise Unusable("priority", str(error)) from None


def _target(proxy_id: str, key_id: str) -> str:
    return f"binding:{proxy_id}|{key_id}"


def _unbound(proxy_id: str, key_id: str) -> Missing:
    return Missing(f"key {key_id[:80]} is not bound to proxy {proxy_id[:80]}")
