"""Which proxies an upstream key goes through (`ohmygpt_bindings`)."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.store.driver import AlreadyExistsError
from app.store.fields import optional_date, optional_int
from app.upstream.proxy_choice import Binding

Document = dict[str, Any]

PRIORITIES = range(1, 11)
"""What a priority can be; 1 comes first."""


@dataclass(frozen=True, slots=True)
class StoredBinding:
    """A binding as stored."""

    binding: Binding
    is_active: bool
    created_at: datetime | None = None
    updated_at: datetime | None = None


class BindingStore:
    """The bindings, one document for each pair of proxy and key."""

    def __init__(self, db: Database[Document]) -> None:
        self._bindings = db["ohmygpt_bindings"]

    def add(self, proxy_id: str, key_id: str, *, now: datetime, priority: int = 1) -> StoredBinding:
        """Bind a key to a proxy; ValueError for a bad priority, `AlreadyExistsError` for a bound pair."""
        _check_priority(priority)
        taken = AlreadyExistsError(f"key {key_id} is bound to proxy {proxy_id} already")
        if self.get(proxy_id, key_id) is not None:
            raise taken
        document = {
            # The pair itself: two that are added at the same moment cannot both be stored.
            "_id": f"{proxy_id}|{key_id}",
            "proxyId": proxy_id,
            "ohmygptKeyId": key_id,
            "priority": priority,
            "isActive": True,
            "createdAt": now,
        }
        try:
            self._bindings.insert_one(document)
        except DuplicateKeyError:
            raise taken from None
        return _read(document)

    def get(self, proxy_id: str, key_id: str) -> StoredBinding | None:
        """Return the binding of the pair, or None."""
        document = self._bindings.find_one(_pair(proxy_id, key_id))
        return _read(document) if document else None

    def list(self) -> Iterator[StoredBinding]:
        """Yield all bindings, by key and priority."""
        order = [("ohmygptKeyId", 1), ("priority", 1), ("proxyId", 1)]
        for document in self._bindings.find().sort(order):
            yield _read(document)

    def update(
        self,
        proxy_id: str,
        key_id: str,
        *,
        now: datetime,
        priority: int | None = None,
        is_active: bool | None = None,
    ) -> StoredBinding | None:
        """Change what is given; None if key and proxy are not bound. Raises ValueError for a bad priority."""
        changes: Document = {"updatedAt": now}
        if priority is not None:
            _check_priority(priority)
            changes["priority"] = priority
        if is_active is not None:
            changes["isActive"] = is_active
        self._bindings.update_many(_pair(proxy_id, key_id), {"$set": changes})
        return self.get(proxy_id, key_id)

    def inherit(self, key_id: str, heir_id: str, *, now: datetime) -> None:
        """Bind a key as another one is bound; its own bindings stay as they are. May be repeated."""
        for document in self._bindings.find({"ohmygptKeyId": key_id}):
            pair = _pair(str(document.get("proxyId", "")), heir_id)
            kept: Document = {name: document[name] for name in ("priority", "isActive") if name in document}
            made = {"_id": f"{pair['proxyId']}|{heir_id}", **kept, "createdAt": now}
            with suppress(DuplicateKeyError):  # made by another worker in this very moment
                self._bindings.update_one(pair, {"$setOnInsert": made}, upsert=True)

    def delete(self, proxy_id: str, key_id: str) -> bool:
        """Unbind the key from the proxy; False when they were not bound."""
        return self._bindings.delete_many(_pair(proxy_id, key_id)).deleted_count > 0


def _check_priority(priority: int) -> None:
    if priority not in PRIORITIES:
        raise ValueError(f"the priority takes {PRIORITIES.start} to {PRIORITIES.stop - 1}")


def _pair(proxy_id: str, key_id: str) -> Document:
    return {"proxyId": proxy_id, "ohmygptKeyId": key_id}


def _read(document: Document) -> StoredBinding:
    priority = optional_int(document.get("priority"))
    return StoredBinding(
        Binding(
            str(document.get("proxyId", "")),
            str(document.get("ohmygptKeyId", "")),
            PRIORITIES.start if priority is None else priority,
        ),
        document.get("isActive", True) is not False,
        optional_date(document.get("createdAt")),
        optional_date(document.get("updatedAt")),
    )
