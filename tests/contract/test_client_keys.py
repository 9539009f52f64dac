from datetime import UTC, datetime, timedelta

import pytest

from app.accounts.client_keys import ClientKeyStore
from app.accounts.credentials import hash_client_key

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
OLD_KEY = "sk-troll-abcdefghijklmnopqrstuvwx"


@pytest.fixture
def keys(database) -> ClientKeyStore:
    return ClientKeyStore(database)


def test_the_secret_is_given_once_and_never_stored(keys: ClientKeyStore, database) -> None:
    new = keys.add("alice", now=NOW, more={"rpm": 5, "notes": "laptop"})
    document = database.user_keys.find_one()
    assert document["_id"] == new.key_id == hash_client_key(new.secret)
    assert document["name"] == "alice"
    assert document["hint"] == f"sk-weir-...{new.secret[-4:]}"
    assert new.secret not in str(document)
    assert new.secret not in repr(new)


def test_a_key_is_found_by_its_secret(keys: ClientKeyStore) -> None:
    new = keys.add("alice", now=NOW, more={"rpm": 5})
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


def test_a_rotated_key_has_both_secrets_until_the_old_one_ends(keys: ClientKeyStore, database) -> None:
    made = keys.add("ann", now=NOW, more={"tpm": 5})
    key = keys.get(made.key_id)
    rotated = keys.rotate(key, now=NOW, until=NOW + timedelta(hours=2))
    assert (rotated.key_id, rotated.username) == (made.key_id, "ann")
    assert rotated.secret != made.secret
    new, old = keys.find(rotated.secret), keys.find(made.secret)
    assert (new.key_id, new.expires_at, new.limits.tpm, new.hint) == (made.key_id, None, 5, rotated.hint)
    assert (old.key_id, old.expires_at) == (made.key_id, NOW + timedelta(hours=2))
    assert rotated.secret not in str(database.user_keys.find_one({"_id": made.key_id}))
    # Neither the id nor a hash of a secret is a secret.
    assert keys.find(made.key_id) is None
    assert keys.find(hash_client_key(rotated.secret)) is None


def test_rotations_one_after_the_other_end_each_secret_once(keys: ClientKeyStore) -> None:
    made = keys.add("ann", now=NOW)
    secrets = [made.secret]
    for hour in range(8):
        now = NOW + timedelta(hours=hour)
        secrets.append(keys.rotate(keys.get(made.key_id), now=now, until=now + timedelta(hours=3)).secret)
    found = [keys.find(secret) for secret in secrets]
    # Those that have ended are forgotten; a later rotation prolongs none.
    assert [key and key.expires_at for key in found] == [
        *[None] * 5,
        NOW + timedelta(hours=8),
        NOW + timedelta(hours=9),
        NOW + timedelta(hours=10),
        None,
    ]
    assert found[:5] == [None] * 5
    assert found[-1] is not None


def test_of_two_rotations_at_once_one_is_made(keys: ClientKeyStore, database) -> None:
    made = keys.add("ann", now=NOW)
    key = keys.get(made.key_id)
    real = database.user_keys.find_one

    class Racing:
        def __getattr__(self, name: str):
            return getattr(database.user_keys, name)

        def find_one(self, *args):
            document = real(*args)
            ClientKeyStore(database).rotate(key, now=NOW, until=NOW)
            return document

    keys._keys = Racing()
    assert keys.rotate(key, now=NOW, until=NOW) is None


def test_a_rotated_key_of_an_older_deployment_keeps_its_id(keys: ClientKeyStore, database) -> None:
    database.user_keys.insert_one({"_id": "sk-old-secret-0123456789", "name": "ann"})
    key = keys.find("sk-old-secret-0123456789")
    rotated = keys.rotate(key, now=NOW, until=NOW + timedelta(hours=1))
    for secret in ("sk-old-secret-0123456789", rotated.secret):
        assert keys.find(secret).stored_id == "sk-old-secret-0123456789"
