import hashlib
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from bson import Decimal128

from app.accounts.users import UserStore, hash_password
from app.common.errors import SettingsError
from app.store.connection import NEVER_S, connect, ensure_indexes, server_version
from app.store.driver import AlreadyExistsError
from app.store.fields import nano_usd

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def users(database) -> UserStore:
    ensure_indexes(database, 0)
    return UserStore(database)


def test_a_new_user_has_the_fields_old_readers_expect(users: UserStore, database) -> None:
    users.add("alice", now=NOW, credits_usd=Decimal("5.5"), rpm=60)
    document = database.usersNew.find_one({"_id": "alice"})
    assert document["credits"] == 5.5
    assert document["role"] == "user"
    assert document["isActive"] is True
    assert document["createdAt"] == NOW
    assert document["rpm"] == 60
    assert "apiKey" not in document


def test_many_users_without_an_account_key_may_exist(users: UserStore) -> None:
    users.add("bob", now=NOW)
    users.add("alice", now=NOW)
    assert [user.username for user in users.list()] == ["alice", "bob"]


def test_a_name_is_taken_once(users: UserStore) -> None:
    users.add("alice", now=NOW, credits_usd=Decimal(1))
    with pytest.raises(AlreadyExistsError):
        users.add("alice", now=NOW)
    assert users.get("alice").credits_nano == 1_000_000_000


def test_an_unknown_user_is_none_everywhere(users: UserStore) -> None:
    assert users.get("nobody") is None
    assert users.set_active("nobody", False) is None
    assert users.set_password("nobody", hash_password("x")) is None
    assert users.login("nobody").password.matches("x") is False


def test_a_disabled_user_can_be_enabled_again(users: UserStore) -> None:
    users.add("alice", now=NOW)
    assert users.set_active("alice", False).is_active is False
    assert users.get("alice").is_active is False
    assert users.set_active("alice", True).is_active is True


def test_passwords_are_verified_and_replaced(users: UserStore) -> None:
    users.add("alice", now=NOW, password=hash_password("first"))
    assert users.login("alice").password.matches("first")
    assert not users.login("alice").password.matches("second")
    users.set_password("alice", hash_password("second"))
    assert users.login("alice").password.matches("second")
    users.set_active("alice", False)
    assert not users.login("alice").password.matches("second")


def test_passwords_of_existing_deployments_are_verified(users: UserStore, database) -> None:
    salt = "00ff" * 8
    derived = hashlib.pbkdf2_hmac("sha512", b"old", salt.encode(), 1000, 64).hex()
    database.usersNew.insert_one({"_id": "old", "passwordHash": derived, "passwordSalt": salt})
    assert users.login("old").password.matches("old")
    assert not users.login("old").password.matches("new")


@pytest.mark.parametrize("password", ["", " ", "x"])
def test_a_user_without_a_password_cannot_log_in(users: UserStore, password: str) -> None:
    users.add("alice", now=NOW)
    assert not users.login("alice").password.matches(password)


def test_the_account_key_of_an_existing_deployment_leads_to_its_user(users: UserStore, database) -> None:
    database.usersNew.insert_one({"_id": "old", "apiKey": "sk-trollllm-1"})
    assert users.find_username_by_api_key("sk-trollllm-1") == "old"
    assert users.find_username_by_api_key("sk-trollllm-2") is None


@pytest.mark.parametrize(
    ("value", "nano"),
    [
        (5, 5 * 10**9),
        (0.1, 10**8),
        (-0.25, -25 * 10**7),
        (Decimal128("1.000000001"), 1_000_000_001),
        (float("nan"), 0),
        (float("inf"), 0),
        (True, 0),
        (None, 0),
        ("5", 0),
    ],
)
def test_any_number_in_the_database_is_read_as_nano_dollars(value: object, nano: int) -> None:
    assert nano_usd(value) == nano


def index_of(database, field: str):
    (index,) = [i for i in database.request_logs.index_information().values() if i["key"] == [(field, -1)]]
    return index


def test_retention_is_set_changed_and_lifted(database) -> None:
    ensure_indexes(database, 0)
    assert "expireAfterSeconds" not in index_of(database, "createdAt")
    ensure_indexes(database, 86_400)
    assert index_of(database, "createdAt")["expireAfterSeconds"] == 86_400
    ensure_indexes(database, 3600)
    assert index_of(database, "createdAt")["expireAfterSeconds"] == 3600
    ensure_indexes(database, 0)
    assert index_of(database, "createdAt")["expireAfterSeconds"] == NEVER_S


def test_an_equal_index_under_another_name_is_left_alone(database) -> None:
    database.request_logs.create_index([("userId", 1)], name="theirs")
    database.request_logs.create_index([("createdAt", -1)], name="age", expireAfterSeconds=60)
    ensure_indexes(database, 120)
    names = set(database.request_logs.index_information())
    assert {"theirs", "age"} <= names
    assert not {"userId_1", "createdAt_-1"} & names
    assert index_of(database, "createdAt")["expireAfterSeconds"] == 120


def test_an_index_that_cannot_be_made_does_not_stop_the_start(database, caplog) -> None:
    database.usersNew.insert_many([{"_id": 1, "apiKey": "x"}, {"_id": 2, "apiKey": "x"}])
    ensure_indexes(database, 0)
    assert "usersNew was not made" in caplog.text.replace("index (('apiKey', 1),) on ", "")


@pytest.mark.parametrize(
    "uri", ["mongodb://user:pa:ss@w0rd@host/", "http://user:w0rd@host", "mongodb://u:w0rd@h:port/", ""]
)
def test_a_bad_uri_is_refused_without_showing_its_password(uri: str) -> None:
    with pytest.raises(SettingsError, match="MONGODB_URI") as caught:
        connect(uri, "fproxy")
    assert "w0rd" not in str(caught.value)


def test_the_uri_wins_over_the_defaults(mongo_uri: str) -> None:
    uri = mongo_uri.partition("&")[0] + "&serverSelectionTimeoutMS=61230"
    db = connect(uri, "fproxy", socketTimeoutMS=45_600)
    options = db.client.options
    assert options.server_selection_timeout == 61.23
    assert options.pool_options.socket_timeout == 45.6
    assert options.pool_options.connect_timeout == 2.0
    assert server_version(db)
    db.client.close()
