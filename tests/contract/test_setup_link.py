"""The link that makes the first owner: offered once, used once, whoever else is at it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pymongo
import pytest

from app.accounts.setup_link import GOOD_FOR, SetupLink
from app.accounts.users import PasswordHash, UserStore
from app.management.audit import Actor, AuditLog
from app.management.errors import Conflict, Unusable
from app.management.first_owner import FirstOwner
from app.management.users import NewUser, UserAdmin

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ACTOR = Actor("setup-link", "dashboard")
HASHED = PasswordHash("00" * 64, "00", 1)


@pytest.fixture
def link(database):
    return SetupLink(database)


@pytest.fixture
def first(database):
    return FirstOwner(database, UserAdmin(database, AuditLog(database), derive=lambda _: HASHED))


def test_one_start_of_many_offers_it_and_none_ever_after(link):
    with ThreadPoolExecutor(8) as pool:
        offered = [secret for secret in pool.map(lambda _: link.offer(NOW), range(16)) if secret]
    assert len(offered) == 1
    assert link.offer(NOW + timedelta(days=1)) is None
    assert link.is_good(offered[0], NOW)


def test_its_secret_is_not_in_the_database(link, database):
    secret = link.offer(NOW)
    assert secret not in str(list(database.deployment.find()))


def test_where_there_are_users_none_is_offered(link, database):
    UserStore(database).add("ann", now=NOW)
    assert link.offer(NOW) is None


@pytest.mark.parametrize("secret", ["", "x", "\udcff"])
def test_another_secret_is_worth_nothing(link, secret):
    assert not link.is_good(secret, NOW)
    link.offer(NOW)
    assert not link.is_good(secret, NOW)
    assert not link.use(secret, NOW)


def test_it_expires(link):
    secret = link.offer(NOW)
    assert link.is_good(secret, NOW + GOOD_FOR - timedelta(seconds=1))
    assert not link.is_good(secret, NOW + GOOD_FOR)
    assert not link.use(secret, NOW + GOOD_FOR)


def test_of_many_who_use_it_at_once_one_becomes_the_owner(first, database):
    secret = first.offer(NOW)

    def become(number: int) -> bool:
        try:
            first.make(ACTOR, secret, f"owner-{number}", "correct horse battery", NOW)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(become, range(16))) == 1
    [owner] = database.usersNew.find()
    assert (owner["role"], owner["passwordHash"]) == ("owner", HASHED.hash_hex)
    assert database.user_keys.count_documents({}) == 0
    assert not first.is_open(secret, NOW)


@pytest.mark.parametrize(("name", "password"), [("no name", "correct horse battery"), ("root", "short")])
def test_what_is_refused_does_not_use_it_up(first, name, password):
    secret = first.offer(NOW)
    with pytest.raises(Unusable):
        first.make(ACTOR, secret, name, password, NOW)
    assert first.is_open(secret, NOW)


def test_a_name_that_is_taken_does_not_use_it_up(first, database):
    secret = first.offer(NOW)
    UserStore(database).add("root", now=NOW)
    with pytest.raises(Conflict):
        first.make(ACTOR, secret, "root", "correct horse battery", NOW)
    assert first.is_open(secret, NOW)


@pytest.mark.parametrize("role", ["owner", "admin"])
def test_an_owner_with_a_password_ends_it_however_they_were_made(link, database, role):
    secret = link.offer(NOW)
    UserStore(database).add("ann", now=NOW, role="viewer", password=HASHED)
    UserStore(database).add("bob", now=NOW, role=role)
    assert link.is_good(secret, NOW)
    UserStore(database).set_password("bob", HASHED)
    assert not link.is_good(secret, NOW)
    assert not link.use(secret, NOW)


def test_it_ends_when_an_owner_logs_in(first):
    secret = first.offer(NOW)
    first.is_not_needed(NOW)
    assert not first.is_open(secret, NOW)
    with pytest.raises(Conflict):
        first.make(ACTOR, secret, "root", "correct horse battery", NOW)


def test_hashing_a_password_does_not_take_of_the_databases_time(database, monkeypatch):
    """It is slow on purpose, and slower on a busy machine: then the owner could not be made."""
    bounded: list[float | None] = []
    hashed_within: list[list[float | None]] = []

    @contextmanager
    def timeout(seconds: float | None) -> Iterator[None]:
        bounded.append(seconds)
        yield
        bounded.pop()

    def derive(_password: str) -> PasswordHash:
        hashed_within.append(bounded.copy())
        return HASHED

    monkeypatch.setattr(pymongo, "timeout", timeout)
    users = UserAdmin(database, AuditLog(database), derive=derive)
    users.add_owner(ACTOR, "ann", "correct horse battery")
    users.add(ACTOR, NewUser("bob", password="staple horse battery"))
    users.set_password(ACTOR, "bob", "better horse battery")
    assert hashed_within == [[], [], []]
