from datetime import UTC, datetime, timedelta

import pytest

from app.keys.backup_keys import BackupKeyStore
from app.keys.provider_keys import KeyFileError, ProviderKeyStore, insert_all
from app.store.driver import AlreadyExistsError
from app.store.key_cipher import KeyCipher

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SECRET = "sk-upstream-0123456789-0123456789-0123456789"


@pytest.fixture
def keys(database) -> ProviderKeyStore:
    return ProviderKeyStore(database, KeyCipher("secret"))


@pytest.fixture
def spares(database) -> BackupKeyStore:
    return BackupKeyStore(database, KeyCipher("secret"))


def test_a_key_is_encrypted_at_rest_and_read_back(keys: ProviderKeyStore, database) -> None:
    added = keys.add("k1", SECRET, now=NOW)
    assert database.ohmygpt_keys.find_one()["apiKey"].startswith("enc:v1:")
    assert SECRET not in str(database.ohmygpt_keys.find_one())
    assert added == keys.get("k1")
    assert (added.secret, added.status, added.masked) == (SECRET, "healthy", "sk-upstr...6789")
    assert SECRET not in repr(added)


def test_plain_keys_of_an_existing_database_are_read(keys: ProviderKeyStore, database) -> None:
    database.ohmygpt_keys.insert_one({"_id": "old", "apiKey": SECRET, "status": "healthy"})
    assert keys.get("old").secret == SECRET


@pytest.mark.parametrize("stored", ["enc:v1:broken", None, 5, ""])
def test_an_unreadable_key_is_listed_without_a_secret(keys: ProviderKeyStore, database, stored) -> None:
    database.ohmygpt_keys.insert_one({"_id": "bad", "apiKey": stored, "status": "healthy"})
    (key,) = keys.list()
    assert key.secret is None
    assert key.last_error


@pytest.mark.parametrize(("key_id", "secret"), [("", SECRET), ("x" * 51, SECRET), ("k", "short"), ("k", "")])
def test_what_cannot_be_a_key_is_refused(keys: ProviderKeyStore, key_id: str, secret: str) -> None:
    with pytest.raises(ValueError, match=r"takes|missing"):
        keys.add(key_id, secret, now=NOW)


def test_an_id_is_taken_once(keys: ProviderKeyStore, spares: BackupKeyStore) -> None:
    keys.add("k1", SECRET, now=NOW)
    spares.add("k1", SECRET, now=NOW)
    with pytest.raises(AlreadyExistsError):
        keys.add("k1", SECRET, now=NOW)
    with pytest.raises(AlreadyExistsError):
        spares.add("k1", SECRET, now=NOW)


@pytest.mark.parametrize("kind", ["keys", "spares"])
def test_an_import_stores_all_lines_or_none(request, kind: str) -> None:
    store = request.getfixturevalue(kind)
    assert store.import_lines("a|sk-aaaaaaaa\nb|sk-bbbbbbbb\n", now=NOW) == ["a", "b"]
    assert store.get("a").secret == "sk-aaaaaaaa"
    with pytest.raises(KeyFileError) as caught:
        store.import_lines("c|sk-cccccccc\na|sk-dddddddd\n", now=NOW)
    assert caught.value.problems == [(2, "there is a key a already")]
    assert {key.key_id for key in store.list()} == {"a", "b"}


def test_an_id_taken_in_the_middle_of_an_import_leaves_nothing_behind(database) -> None:
    database.things.insert_one({"_id": "b", "first": True})
    with pytest.raises(AlreadyExistsError, match="nothing was imported"):
        insert_all(database.things, [{"_id": "a"}, {"_id": "b"}, {"_id": "c"}])
    assert list(database.things.find()) == [{"_id": "b", "first": True}]


def test_reset_makes_a_key_healthy(keys: ProviderKeyStore, database) -> None:
    keys.add("k1", SECRET, now=NOW)
    trouble = {"status": "rate_limited", "cooldownUntil": NOW + timedelta(hours=1), "lastError": "429"}
    database.ohmygpt_keys.update_one({"_id": "k1"}, {"$set": trouble})
    key = keys.reset("k1", now=NOW)
    assert (key.status, key.cooldown_until, key.last_error) == ("healthy", None, None)
    assert keys.reset("unknown", now=NOW) is None


def test_delete_says_whether_there_was_one(keys: ProviderKeyStore, spares: BackupKeyStore) -> None:
    keys.add("k1", SECRET, now=NOW)
    spares.add("k1", SECRET, now=NOW)
    assert [keys.delete("k1"), keys.delete("k1")] == [True, False]
    assert [spares.delete("k1"), spares.delete("k1")] == [True, False]


def test_a_used_spare_can_be_restored(spares: BackupKeyStore, database) -> None:
    spares.add("s1", SECRET, now=NOW)
    spares.add("s2", SECRET, now=NOW)
    used = {"isUsed": True, "activated": True, "usedFor": "k1", "usedAt": NOW}
    database.ohmygpt_backup_keys.update_one({"_id": "s1"}, {"$set": used})
    assert spares.count_available() == 1
    assert spares.get("s1").used_for == "k1"
    restored = spares.restore("s1")
    assert (restored.is_used, restored.activated, restored.used_for, restored.used_at) == (
        False,
        False,
        None,
        None,
    )
    assert spares.count_available() == 2
    assert spares.restore("unknown") is None
    assert SECRET not in repr(restored)
