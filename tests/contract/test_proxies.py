"""Proxies, bindings and the log of health against a real MongoDB."""

from datetime import UTC, datetime, timedelta

import pytest

from app.store.connection import ensure_indexes
from app.store.driver import AlreadyExistsError
from app.store.key_cipher import KeyCipher
from app.upstream.proxies import ProxyStore
from app.upstream.proxy_bindings import BindingStore
from app.upstream.proxy_choice import Binding, Health, ProxyEndpoint, ProxyKind, ProxyStatus

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PLAIN = ProxyEndpoint(ProxyKind.HTTP, "proxy.example", 3128)
SECRET = ProxyEndpoint(ProxyKind.SOCKS5, "2001:db8::1", 1080, "weir", "hunter2 ü")


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def proxies(database) -> ProxyStore:
    return ProxyStore(database, KeyCipher("secret"))


@pytest.fixture
def bindings(database) -> BindingStore:
    return BindingStore(database)


def test_a_proxy_is_stored_as_documented_and_read_back(proxies: ProxyStore, database) -> None:
    added = proxies.add("p1", SECRET, now=NOW, name="Berlin")
    document = database.proxies.find_one()
    assert document.pop("password").startswith("enc:v1:")
    assert document == {
        "_id": "p1", "name": "Berlin", "type": "socks5", "host": "2001:db8::1", "port": 1080,
        "username": "weir", "status": "unknown", "failCount": 0, "isActive": True, "createdAt": NOW,
    }  # fmt: skip
    assert added == proxies.get("p1")
    assert (added.endpoint, added.health, added.has_auth, added.problem) == (SECRET, Health(), True, None)
    assert "hunter2" not in repr(added)


def test_a_proxy_without_credentials_has_none(proxies: ProxyStore, database) -> None:
    added = proxies.add("p1", PLAIN, now=NOW)
    assert (added.endpoint, added.has_auth, added.name) == (PLAIN, False, "p1")
    assert {"username", "password"} & database.proxies.find_one().keys() == set()


def test_documents_of_existing_deployments_are_read(proxies: ProxyStore, database) -> None:
    database.proxies.insert_one(
        {
            "_id": "proxy-1", "name": "old", "type": "http", "host": "10.0.0.1", "port": 8080.0,
            "username": "u", "password": "plain", "status": "unhealthy", "failCount": 3.0, "isActive": True,
            "lastCheckedAt": NOW, "lastError": "timeout", "lastLatencyMs": None, "createdAt": NOW,
        }
    )  # fmt: skip
    proxy = proxies.get("proxy-1")
    assert proxy.endpoint == ProxyEndpoint(ProxyKind.HTTP, "10.0.0.1", 8080, "u", "plain")
    assert proxy.health == Health(ProxyStatus.UNHEALTHY, 3, NOW, None, "timeout")


@pytest.mark.parametrize(
    "document",
    [
        {"type": "ftp", "host": "h", "port": 1},
        {"type": "http", "host": "h"},
        {"type": "http", "host": "http://h", "port": 1},
        {"type": ["http"], "host": None, "port": "1"},
        {"type": "http", "host": "h", "port": 1, "username": "u", "password": "enc:v1:broken"},
        {"type": "http", "host": "h", "port": 1, "username": "a:b", "password": "c"},
        {},
    ],
)
def test_a_document_that_is_no_proxy_is_listed_with_its_problem(
    proxies: ProxyStore, database, document: dict[str, object]
) -> None:
    database.proxies.insert_one({"_id": "odd", "status": 5, "failCount": -1, "isActive": None, **document})
    (proxy,) = proxies.list()
    assert proxy.endpoint is None
    assert proxy.problem
    assert proxy.health == Health()


@pytest.mark.parametrize(
    ("proxy_id", "endpoint", "message"),
    [
        ("", PLAIN, "id"),
        ("p|1", PLAIN, "id"),
        ("p", ProxyEndpoint(ProxyKind.HTTP, "http://host", 1), "host"),
        ("p", ProxyEndpoint(ProxyKind.HTTP, "user:pw@host", 1), "host"),
        ("p", ProxyEndpoint(ProxyKind.HTTP, "", 1), "host"),
        ("p", ProxyEndpoint(ProxyKind.HTTP, "h", 0), "port"),
        ("p", ProxyEndpoint(ProxyKind.HTTP, "h", 65536), "port"),
        ("p", ProxyEndpoint(ProxyKind.HTTP, "h", 1, "a:b", "c"), "colon"),
        ("p", ProxyEndpoint(ProxyKind.SOCKS5, "h", 1, "u", "x" * 256), "password"),
        ("p", ProxyEndpoint(ProxyKind.SOCKS5, "h", 1, "u\r\nX: 1", "x"), "user name"),
        ("p", ProxyEndpoint(ProxyKind.SOCKS5, "h", 1, None, "x"), "user name"),
    ],
)
def test_what_cannot_be_a_proxy_is_refused(
    proxies: ProxyStore, proxy_id: str, endpoint: ProxyEndpoint, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        proxies.add(proxy_id, endpoint, now=NOW)


def test_an_id_is_taken_once(proxies: ProxyStore) -> None:
    proxies.add("p1", PLAIN, now=NOW)
    with pytest.raises(AlreadyExistsError, match="p1"):
        proxies.add("p1", SECRET, now=NOW)
    assert proxies.get("p1").endpoint == PLAIN


def test_an_update_changes_what_is_given_and_forgets_the_health(proxies: ProxyStore, database) -> None:
    proxies.add("p1", SECRET, now=NOW)
    proxies.set_health("p1", Health(ProxyStatus.UNHEALTHY, 2, after(1), None, "refused"))
    changed = proxies.update("p1", now=after(2), is_active=False)
    assert (changed.endpoint, changed.is_active, changed.health) == (SECRET, False, Health())
    changed = proxies.update("p1", now=after(3), endpoint=PLAIN, name="other")
    assert (changed.endpoint, changed.is_active, changed.name) == (PLAIN, False, "other")
    assert "username" not in database.proxies.find_one()
    assert proxies.update("unknown", now=NOW) is None
    with pytest.raises(ValueError, match="port"):
        proxies.update("p1", now=NOW, endpoint=ProxyEndpoint(ProxyKind.HTTP, "h", 0))


def test_the_newest_word_on_health_stays(proxies: ProxyStore) -> None:
    proxies.add("p1", PLAIN, now=NOW)
    up = Health(ProxyStatus.HEALTHY, 0, after(10), 12)
    assert proxies.set_health("p1", up)
    assert not proxies.set_health("p1", Health(ProxyStatus.UNHEALTHY, 1, after(9), None, "refused"))
    assert proxies.get("p1").health == up
    proxies.update("p1", now=after(20), is_active=True)
    assert not proxies.set_health("p1", Health(ProxyStatus.UNHEALTHY, 1, after(19), None, "refused"))
    assert proxies.get("p1").health == Health()
    assert not proxies.set_health("unknown", up)


def test_health_is_logged(proxies: ProxyStore) -> None:
    proxies.add("p1", PLAIN, now=NOW)
    proxies.set_health("p1", Health(ProxyStatus.HEALTHY, 0, after(1), 12))
    proxies.set_health("p1", Health(ProxyStatus.UNHEALTHY, 1, after(2), 12, "x" * 500))
    assert list(proxies.health_log("p1")) == [
        {"proxyId": "p1", "status": "unhealthy", "errorMessage": "x" * 200, "checkedAt": after(2)},
        {"proxyId": "p1", "status": "healthy", "latencyMs": 12, "checkedAt": after(1)},
    ]


def test_one_of_all_workers_checks(proxies: ProxyStore) -> None:
    proxies.add("p1", PLAIN, now=NOW)
    assert [proxies.claim_check("p1", now=NOW, lease_s=30) for _ in range(3)] == [True, False, False]
    assert not proxies.claim_check("p1", now=after(29.9), lease_s=30)
    assert proxies.claim_check("p1", now=after(30), lease_s=30)
    assert not proxies.claim_check("unknown", now=NOW, lease_s=30)


def test_the_next_check_need_not_wait_for_the_lease_of_one_that_is_done(proxies: ProxyStore) -> None:
    proxies.add("p1", PLAIN, now=NOW)
    assert proxies.claim_check("p1", now=NOW, lease_s=30)
    proxies.set_health("p1", Health(ProxyStatus.UNHEALTHY, 1, after(1), None, "refused"))
    assert not proxies.claim_check("p1", now=after(3), lease_s=30)  # by those who have not seen it yet
    assert proxies.claim_check("p1", now=after(6), lease_s=30)
    with pytest.raises(ValueError, match="moment"):
        proxies.set_health("p1", Health())


def test_deleting_a_proxy_unbinds_it(proxies: ProxyStore, bindings: BindingStore) -> None:
    proxies.add("p1", PLAIN, now=NOW)
    for proxy_id, key_id in (("p1", "k1"), ("p1", "k2"), ("p2", "k1")):
        bindings.add(proxy_id, key_id, now=NOW)
    assert [proxies.delete("p1"), proxies.delete("p1")] == [2, None]
    assert [stored.binding.proxy_id for stored in bindings.list()] == ["p2"]


def test_a_binding_is_stored_as_documented_changed_and_deleted(bindings: BindingStore, database) -> None:
    added = bindings.add("p1", "k1", now=NOW, priority=3)
    assert (added.binding, added.is_active) == (Binding("p1", "k1", 3), True)
    document = database.ohmygpt_bindings.find_one({}, {"_id": False})
    assert document == {
        "proxyId": "p1", "ohmygptKeyId": "k1", "priority": 3, "isActive": True, "createdAt": NOW,
    }  # fmt: skip
    changed = bindings.update("p1", "k1", now=after(1), priority=10, is_active=False)
    assert (changed.binding.priority, changed.is_active, changed.updated_at) == (10, False, after(1))
    assert bindings.update("p1", "unknown", now=NOW) is None
    assert [bindings.delete("p1", "k1"), bindings.delete("p1", "k1")] == [True, False]


def test_a_pair_is_bound_once_whoever_bound_it(bindings: BindingStore, database) -> None:
    bindings.add("p1", "k1", now=NOW)
    database.ohmygpt_bindings.insert_one({"proxyId": "p2", "ohmygptKeyId": "k1", "priority": 1.0})
    for proxy_id in ("p1", "p2"):
        with pytest.raises(AlreadyExistsError, match=f"k1 is bound to proxy {proxy_id} already"):
            bindings.add(proxy_id, "k1", now=NOW)


@pytest.mark.parametrize("priority", [0, 11, -1])
def test_a_priority_is_from_1_to_10(bindings: BindingStore, priority: int) -> None:
    with pytest.raises(ValueError, match="1 to 10"):
        bindings.add("p1", "k1", now=NOW, priority=priority)
    bindings.add("p1", "k1", now=NOW)
    with pytest.raises(ValueError, match="1 to 10"):
        bindings.update("p1", "k1", now=NOW, priority=priority)


def test_odd_bindings_are_read(bindings: BindingStore, database) -> None:
    database.ohmygpt_bindings.insert_one({"priority": "high", "isActive": False})
    (stored,) = bindings.list()
    assert (stored.binding, stored.is_active) == (Binding("", "", 1), False)


def test_the_indexes_of_existing_deployments_are_made(database) -> None:
    ensure_indexes(database, 0)
    logs = {tuple(index["key"]): index for index in database.proxy_health_logs.index_information().values()}
    assert logs[(("checkedAt", 1),)]["expireAfterSeconds"] == 7 * 86_400
    assert (("proxyId", 1), ("checkedAt", -1)) in logs
    bound = {tuple(index["key"]) for index in database.ohmygpt_bindings.index_information().values()}
    assert {(("proxyId", 1), ("isActive", 1)), (("ohmygptKeyId", 1),)} <= bound
