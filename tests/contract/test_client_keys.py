from datetime import UTC, datetime

import pytest

from app.adapters.mongo.client_keys import ClientKeyStore
from app.core.credentials import hash_client_key

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
OLD_KEY = "sk-troll-abcdefghijklmnopqrstuvwx"


@pytest.fixture
def keys(database) -> ClientKeyStore:
    return ClientKeyStore(database)


def test_the_secret_is_given_once_and_never_stored(keys: ClientKeyStore, database) -> None:
    new = keys.add("alice", now=NOW, rpm=5, notes="laptop")
    document = database.user_keys.find_one()
    assert document["_id"] == new.key_id == hash_client_key(new.secret)
    assert document["name"] == "alice"
    assert document["hint"] == f"sk-weir-...{new.secret[-4:]}"
    assert new.secret not in str(document)
    assert new.secret not in repr(new)


def test_a_key_is_found_by_its_secret(keys: ClientKeyStore) -> None:
    new = keys.add("alice", now=NOW, rpm=5)
    found = keys.find(new.secret)
    assert (found.username, found.stored_id, found.rpm, found.is_active) == ("alice", new.key_id, 5, True)
    assert keys.find(new.secret + "x") is None


def test_an_id_is_not_accepted_in_place_of_its_secret(keys: ClientKeyStore) -> None:
    assert keys.find(keys.add("alice", now=NOW).key_id) is None


def test_keys_of_existing_deployments_work_as_they_are(keys: ClientKeyStore, database) -> None:
    database.user_keys.insert_one({"_id": OLD_KEY, "name": "old", "isActive": True, "createdAt": NOW})
    found = keys.find(OLD_KEY)
    assert found.stored_id == OLD_KEY
    assert found.key_id == hash_client_key(OLD_KEY)
    assert OLD_KEY not in repr(found)
    assert OLD_KEY not in found.hint


@pytest.mark.parametrize("way_of_naming", [str, hash_client_key], ids=["by the key", "by its shown id"])
def test_an_older_key_is_revoked(keys: ClientKeyStore, database, way_of_naming) -> None:
    database.user_keys.insert_one({"_id": OLD_KEY, "name": "old", "isActive": True})
    keys.add("alice", now=NOW)
    assert keys.revoke(way_of_naming(OLD_KEY), now=NOW).is_active is False
    assert keys.find(OLD_KEY).is_active is False


def test_a_revoked_key_stays_on_record(keys: ClientKeyStore, database) -> None:
    new = keys.add("alice", now=NOW)
    assert keys.revoke(new.key_id, now=NOW).is_active is False
    assert keys.get(new.key_id).is_active is False
    assert database.user_keys.find_one()["revokedAt"] == NOW
    assert keys.revoke("wk_unknown", now=NOW) is None
    assert keys.revoke("unknown", now=NOW) is None


def test_keys_are_listed_for_all_or_one(keys: ClientKeyStore) -> None:
    for name in ("bob", "alice", "bob"):
        keys.add(name, now=NOW)
    assert [key.username for key in keys.list()] == ["alice", "bob", "bob"]
    assert [key.username for key in keys.list("bob")] == ["bob", "bob"]
