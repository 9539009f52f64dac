"""One admin stays, whoever else stops being one at the same time."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from pymongo.errors import AutoReconnect

from app.accounts.last_admin import LastAdmin, LastAdminError
from app.accounts.users import PasswordHash, UserStore

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
PASSWORD = PasswordHash("00", "00", 1)


@pytest.fixture
def users(database):
    return UserStore(database)


def leaves(database, name) -> bool:
    """Whether the admin may go, and goes."""
    try:
        with LastAdmin(database).leaving(name, NOW):
            UserStore(database).set_fields(name, {"role": "user"})
    except LastAdminError:
        return False
    return True


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"role": "user"}, id="no owner"),
        pytest.param({"role": "admin", "isActive": False}, id="disabled"),
        pytest.param({"role": "admin", "expiresAt": NOW - timedelta(days=1)}, id="expired"),
        pytest.param({"role": "admin", "passwordHash": ""}, id="without password"),
    ],
)
def test_only_an_admin_who_can_log_in_takes_the_place_of_the_last(database, users, other):
    for name in ("root", "other"):
        users.add(name, now=NOW, role="admin", password=PASSWORD)
    database.usersNew.update_one({"_id": "other"}, {"$set": other})
    assert not leaves(database, "root")
    assert users.get("root").role == "admin"
    database.usersNew.update_one(
        {"_id": "other"},
        {
            "$set": {
                "role": "admin",
                "isActive": True,
                "expiresAt": NOW + timedelta(days=1),
                "passwordHash": "0",
            }
        },
    )
    assert leaves(database, "root")


def test_who_is_no_admin_may_always_go(database, users):
    users.add("root", now=NOW, role="admin")
    users.add("ann", now=NOW)
    assert leaves(database, "ann")
    assert leaves(database, "nobody")
    users.add("$name.with.dots", now=NOW, role="admin")
    assert leaves(database, "$name.with.dots")


def test_of_two_who_go_at_once_the_second_stays(database, users):
    for name in ("first", "second"):
        users.add(name, now=NOW, role="admin")
    with LastAdmin(database).leaving("first", NOW):
        assert not leaves(database, "second")  # although the first is still an admin
        users.set_fields("first", {"role": "user"})
    assert users.get("second").role == "admin"
    users.set_fields("first", {"role": "admin"})
    assert leaves(database, "second")  # nothing is left of the announcements


def test_who_was_refused_stands_in_nobodys_way(database, users):
    for name in ("first", "second"):
        users.add(name, now=NOW, role="admin")
    with pytest.raises(ZeroDivisionError), LastAdmin(database).leaving("first", NOW):
        raise ZeroDivisionError
    assert leaves(database, "second")


def test_who_may_be_gone_is_not_counted_on_until_that_is_over(database, users):
    for name in ("first", "second"):
        users.add(name, now=NOW, role="admin")
    with pytest.raises(AutoReconnect), LastAdmin(database).leaving("first", NOW):
        raise AutoReconnect("nobody knows whether it was done")
    assert not leaves(database, "second")
    past = datetime.now(UTC) - timedelta(seconds=1)
    database.deployment.update_one({"_id": "admins"}, {"$set": {"leaving.0.until": past}})
    assert leaves(database, "second")
    assert database.deployment.find_one({"_id": "admins"})["leaving"] == []


def test_of_many_who_go_in_parallel_one_stays(database, users):
    names = [f"admin-{number}" for number in range(8)]
    for name in names:
        users.add(name, now=NOW, role="admin")
    with ThreadPoolExecutor(len(names)) as threads:
        gone = list(threads.map(lambda name: leaves(database, name), names))
    assert gone.count(False) == 1
    assert [user.username for user in users.list() if user.role == "admin"] == [names[gone.index(False)]]
