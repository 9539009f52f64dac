"""The deployment document: whose database it is, and which SECRET_KEY belongs to it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo.database import Database

from app.store.deployment import (
    COLLECTION,
    SecretKeyState,
    WrongSecretKeyError,
    adopt,
    deployment,
    is_used,
    require_secret_key,
)
from app.store.key_cipher import KeyCipher

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECRET, OTHER = "the secret of this deployment", "the secret of another"


def test_an_empty_database_and_one_of_somebody_else_have_never_been_used(database: Database[Any]) -> None:
    assert not is_used(database)
    database["proxies"].insert_one({"_id": "of a scraper"})
    assert not is_used(database)


@pytest.mark.parametrize("collection", ["request_logs", "usersNew", "ohmygpt_keys"])
def test_databases_of_version_0_1_and_of_the_earlier_software_are_known(
    database: Database[Any], collection: str
) -> None:
    database.create_collection(collection)
    assert is_used(database)


def test_whoever_adopts_a_database_first_decides_on_its_secret_key(database: Database[Any]) -> None:
    assert adopt(database, SECRET, NOW) is True
    assert adopt(database, SECRET, NOW) is False
    assert require_secret_key(database, SECRET) is SecretKeyState.SAME
    for refuse in (require_secret_key, lambda db, secret: adopt(db, secret, NOW)):
        with pytest.raises(WrongSecretKeyError, match=r"set SECRET_KEY .* or copy DATA_DIR/secret-key"):
            refuse(database, OTHER)
    assert is_used(database)


def test_of_two_that_adopt_it_at_once_with_different_secrets_one_is_refused(database: Database[Any]) -> None:
    def outcome(secret: str) -> str:
        try:
            return str(adopt(database, secret, NOW))
        except WrongSecretKeyError:
            return "refused"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(outcome, (SECRET, OTHER))) == ["True", "refused"]


def test_a_database_of_version_0_1_is_adopted_by_who_can_read_one_of_its_secrets(
    database: Database[Any],
) -> None:
    for number, secret in enumerate((OTHER, SECRET)):  # the first was added in a shell without the secret
        value = KeyCipher(secret).encrypt("sk-upstream-1")
        database["ohmygpt_keys"].insert_one({"_id": f"k{number}", "apiKey": value})
    with pytest.raises(WrongSecretKeyError):
        adopt(database, "a third", NOW)
    assert deployment(database) is None
    assert require_secret_key(database, SECRET) is SecretKeyState.UNKNOWN
    assert adopt(database, SECRET, NOW) is True


def test_the_document_has_nothing_of_the_secret_in_it(database: Database[Any]) -> None:
    adopt(database, SECRET, NOW)
    (stored,) = database[COLLECTION].find()
    assert SECRET not in str(stored)
    assert stored["secretKey"].keys() == {"salt", "digest"}
