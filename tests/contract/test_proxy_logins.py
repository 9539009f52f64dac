"""Changing a proxy: which login it has afterwards."""

import pytest

from app.management.audit import Actor, AuditLog
from app.management.errors import Unusable
from app.management.proxies import ProxyAdmin, ProxyChange
from app.store.key_cipher import KeyCipher
from app.upstream.proxies import ProxyStore
from app.upstream.proxy_choice import ProxyEndpoint

ROOT = Actor("root", "cli")


def admin_of(database) -> ProxyAdmin:
    """Return the actions of a process that has read no password yet."""
    return ProxyAdmin(database, KeyCipher("secret"), AuditLog(database), "http://upstream.example", 1)


@pytest.fixture
def admin(database) -> ProxyAdmin:
    made = admin_of(database)
    made.add(ROOT, "p", ProxyChange(None, "http", "old.example", 3128, "ann", "ann's password"))
    return made


def login(endpoint: ProxyEndpoint | None) -> tuple[str | None, str | None]:
    assert endpoint is not None
    return endpoint.username, endpoint.password or None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (ProxyChange(username="bob"), ("bob", None)),
        (ProxyChange(username="bob", password="bob's"), ("bob", "bob's")),
        (ProxyChange(username="ann"), ("ann", "ann's password")),
        (ProxyChange(password="new"), ("ann", "new")),
        (ProxyChange(username=""), (None, None)),
        (ProxyChange(port=8080, kind="socks5"), ("ann", "ann's password")),
        (ProxyChange(host="new.example"), ("ann", "ann's password")),
        (ProxyChange(host="new.example", username="bob"), ("bob", None)),
        (ProxyChange(name="Berlin", is_active=False), ("ann", "ann's password")),
    ],
)
def test_a_password_stays_with_the_login_it_belongs_to(
    admin: ProxyAdmin, database, change: ProxyChange, expected: tuple[str | None, str | None]
) -> None:
    assert login(admin.change(ROOT, "p", change).endpoint) == expected
    stored = ProxyStore(database, KeyCipher("secret")).get("p")
    assert stored is not None
    assert login(stored.endpoint) == expected


@pytest.mark.usefixtures("admin")
def test_a_login_that_cannot_be_read_has_to_be_given_anew(database) -> None:
    database.proxies.update_one({"_id": "p"}, {"$set": {"password": "enc:v1:broken"}})
    admin = admin_of(database)
    with pytest.raises(Unusable, match="give the login anew"):
        admin.change(ROOT, "p", ProxyChange(host="new.example"))
    changed = admin.change(ROOT, "p", ProxyChange(host="new.example", username="bob", password="bob's"))
    assert login(changed.endpoint) == ("bob", "bob's")
