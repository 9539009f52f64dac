"""Outbound proxies (`proxies`), their passwords encrypted at rest, and the log of their health."""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.store.driver import AlreadyExistsError
from app.store.fields import optional_date, optional_int
from app.store.key_cipher import KeyCipher, KeyCipherError
from app.upstream.proxy_choice import Health, ProxyEndpoint, ProxyKind, ProxyStatus

Document = dict[str, Any]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,49}")
_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*)(\.[A-Za-z0-9_-]+)*\.?")
_MAX_PORT = 65_535
_MAX_CREDENTIAL = 255  # bytes: what a SOCKS5 proxy can be sent
_MAX_ERROR = 200
# Longer than workers take to see what another one found, shorter than the first cooldown.
_SEEN_BY_ALL_S = 4.0


@dataclass(frozen=True, slots=True)
class StoredProxy:
    """A proxy as stored; `endpoint` is None when it cannot be used, and `problem` says why.

    `updated_at` is when an operator last changed it.
    """

    proxy_id: str
    name: str
    kind: str
    host: str
    port: int | None
    has_auth: bool
    endpoint: ProxyEndpoint | None
    health: Health
    is_active: bool
    problem: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class ProxyStore:
    """The proxies, one document each."""

    def __init__(self, db: Database[Document], cipher: KeyCipher) -> None:
        self._proxies = db["proxies"]
        self._bindings = db["ohmygpt_bindings"]
        self._health_logs = db["proxy_health_logs"]
        self._cipher = cipher

    def add(
        self, proxy_id: str, endpoint: ProxyEndpoint, *, now: datetime, name: str | None = None
    ) -> StoredProxy:
        """Store a proxy, active; raises ValueError for a bad one, `AlreadyExistsError` for a taken id."""
        if not _ID.fullmatch(proxy_id):
            raise ValueError("the id takes 1 to 50 letters, digits and . _ : @ -, a letter or digit first")
        document = {
            "_id": proxy_id,
            "name": name or proxy_id,
            **self._endpoint_fields(endpoint),
            "status": str(ProxyStatus.UNKNOWN),
            "failCount": 0,
            "isActive": True,
            "createdAt": now,
        }
        try:
            self._proxies.insert_one(document)
        except DuplicateKeyError:
            raise AlreadyExistsError(f"there is a proxy {proxy_id} already") from None
        return self._read(document)

    def get(self, proxy_id: str) -> StoredProxy | None:
        """Return the proxy, or None."""
        document = self._proxies.find_one({"_id": proxy_id})
        return self._read(document) if document else None

    def list(self) -> Iterator[StoredProxy]:
        """Yield all proxies, oldest first."""
        for document in self._proxies.find().sort([("createdAt", 1), ("_id", 1)]):
            yield self._read(document)

    def update(
        self,
        proxy_id: str,
        *,
        now: datetime,
        endpoint: ProxyEndpoint | None = None,
        name: str | None = None,
        is_active: bool | None = None,
    ) -> StoredProxy | None:
        """Change what is given, and forget how the proxy fared before; None when there is no such proxy.

        Raises ValueError for an endpoint that cannot be one.
        """
        changes: Document = {"status": str(ProxyStatus.UNKNOWN), "failCount": 0, "updatedAt": now}
        dropped = dict.fromkeys(("lastError", "lastCheckedAt", "lastLatencyMs", "checkClaimedUntil"), "")
        if endpoint is not None:
            fields = self._endpoint_fields(endpoint)
            changes |= fields
            dropped |= {field: "" for field in ("username", "password") if field not in fields}
        if name is not None:
            changes["name"] = name
        if is_active is not None:
            changes["isActive"] = is_active
        self._proxies.update_one({"_id": proxy_id}, {"$set": changes, "$unset": dropped})
        return self.get(proxy_id)

    def delete(self, proxy_id: str) -> int | None:
        """Remove the proxy; return how many bindings went with it, None when there is no such proxy."""
        if self._proxies.delete_one({"_id": proxy_id}).deleted_count == 0:
            return None
        return self._bindings.delete_many({"proxyId": proxy_id}).deleted_count

    def set_health(self, proxy_id: str, health: Health) -> bool:
        """Store how the proxy fares, and log it; False when the store knows something newer.

        `checked_at` has to be known. The claim of who checked ends with it.
        """
        moment = health.checked_at
        if moment is None:
            raise ValueError("health without a moment says nothing")
        changes: Document = {
            "status": str(health.status),
            "failCount": health.fail_count,
            "lastCheckedAt": moment,
            "lastLatencyMs": health.latency_ms,
            "lastError": _short(health.last_error),
            "checkClaimedUntil": moment + timedelta(seconds=_SEEN_BY_ALL_S),
        }
        selector = {  # `$not` holds also where there is no date yet
            "_id": proxy_id,
            "lastCheckedAt": {"$not": {"$gt": moment}},
            "updatedAt": {"$not": {"$gte": moment}},
        }
        if self._proxies.update_one(selector, {"$set": changes}).matched_count == 0:
            return False
        entry: Document = {"proxyId": proxy_id, "status": str(health.status), "checkedAt": moment}
        if health.is_usable:
            entry["latencyMs"] = health.latency_ms
        else:
            entry["errorMessage"] = _short(health.last_error)
        self._health_logs.insert_one(entry)
        return True

    def claim_check(self, proxy_id: str, *, now: datetime, lease_s: float) -> bool:
        """Claim the check of the proxy; True for one of all workers only, for `lease_s` seconds."""
        selector = {"_id": proxy_id, "checkClaimedUntil": {"$not": {"$gt": now}}}
        claim = {"$set": {"checkClaimedUntil": now + timedelta(seconds=lease_s)}}
        return self._proxies.update_one(selector, claim).modified_count == 1

    def health_log(self, proxy_id: str, limit: int = 100) -> Iterator[Document]:
        """Yield the latest entries of the proxy's health log, newest first."""
        found = self._health_logs.find({"proxyId": proxy_id}, {"_id": False})
        yield from found.sort("checkedAt", -1).limit(limit)

    def _endpoint_fields(self, endpoint: ProxyEndpoint) -> Document:
        check_endpoint(endpoint)
        fields: Document = {"type": str(endpoint.kind), "host": endpoint.host, "port": endpoint.port}
        if endpoint.username:
            fields["username"] = endpoint.username
            fields["password"] = self._cipher.encrypt(endpoint.password or "")
        return fields

    def _read(self, document: Document) -> StoredProxy:
        endpoint: ProxyEndpoint | None = None
        problem: str | None = None
        try:
            endpoint = self._endpoint(document)
        except (ValueError, KeyCipherError) as error:
            problem = str(error)
        return StoredProxy(
            proxy_id=str(document["_id"]),
            name=str(document.get("name") or document["_id"]),
            kind=str(document.get("type", "")),
            host=str(document.get("host", "")),
            port=optional_int(document.get("port")),
            has_auth=bool(document.get("username")),
            endpoint=endpoint,
            health=_health(document),
            is_active=document.get("isActive", True) is not False,
            problem=problem,
            created_at=optional_date(document.get("createdAt")),
            updated_at=optional_date(document.get("updatedAt")),
        )

    def _endpoint(self, document: Document) -> ProxyEndpoint:
        kind = document.get("type")
        if kind not in tuple(ProxyKind):
            raise ValueError("the type takes http or socks5")
        username, password = document.get("username") or None, document.get("password") or ""
        endpoint = ProxyEndpoint(
            ProxyKind(kind),
            str(document.get("host", "")),
            optional_int(document.get("port")) or 0,
            str(username) if username else None,
            self._cipher.decrypt(str(password), f"proxies/{document['_id']}") if username else None,
        )
        check_endpoint(endpoint)
        return endpoint


def check_endpoint(endpoint: ProxyEndpoint) -> None:
    """Raise ValueError, with a sentence that gives nothing away, for what cannot be a proxy."""
    if not _HOST_NAME.fullmatch(endpoint.host) and not _is_address(endpoint.host):
        raise ValueError("the host takes a name or an IP address, without a scheme or a port")
    if not 1 <= endpoint.port <= _MAX_PORT:
        raise ValueError(f"the port takes 1 to {_MAX_PORT}")
    if endpoint.password and not endpoint.username:
        raise ValueError("a password needs a user name")
    for name, value in (("user name", endpoint.username), ("password", endpoint.password)):
        if len((value or "").encode("utf-8", "surrogatepass")) > _MAX_CREDENTIAL:
            raise ValueError(f"the {name} takes up to {_MAX_CREDENTIAL} bytes")
        if value and not value.isprintable():
            raise ValueError(f"the {name} takes printable characters")
    if endpoint.kind is ProxyKind.HTTP and ":" in (endpoint.username or ""):
        raise ValueError("the user name of an HTTP proxy takes no colon")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def _health(document: Document) -> Health:
    status = document.get("status")
    error = document.get("lastError")
    return Health(
        ProxyStatus(status) if status in tuple(ProxyStatus) else ProxyStatus.UNKNOWN,
        max(optional_int(document.get("failCount")) or 0, 0),
        optional_date(document.get("lastCheckedAt")),
        optional_int(document.get("lastLatencyMs")),
        str(error) if error else None,
    )


def _short(error: str | None) -> str | None:
    return error[:_MAX_ERROR] if error else None
