"""Rotating SECRET_KEY: killed at any point and run again, nothing stored is ever lost."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo.collection import Collection
from pymongo.database import Database

from app.common.errors import StoreUnavailable
from app.keys.provider_keys import ProviderKeyStore
from app.store.deployment import SecretKeyState, WrongSecretKeyError, adopt, deployment, secret_key_state
from app.store.key_cipher import KeyCipher
from app.store.secret_key_watch import OK, ROTATED, ROTATING, SecretKeyWatch
from app.store.secret_rotation import NOTICE_S, RotationError, SecretRotation
from app.store.stored_secrets import PLACES, stored_secrets

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OLD, NEW, THIRD = "the secret of now", "the secret to come", "a third secret"
WRITES = 2 + 2 * len(PLACES)
"""To say that it is under way, each of the values, and to put the new secret in force."""


class Killed(BaseException):
    """The process is no more."""


class DyingCollection:
    def __init__(self, collection: Collection[Any], clock: Iterator[str]) -> None:
        self._collection, self._clock = collection, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    def update_one(self, *args: Any, **options: Any) -> Any:
        when = next(self._clock)
        if when == "before":
            raise Killed
        result = self._collection.update_one(*args, **options)
        if when == "after":
            raise Killed
        return result


class DyingDatabase:
    """The real database, for a process that is killed before or after its n-th write."""

    def __init__(self, db: Database[Any], number: int, when: str) -> None:
        self._db, self.name = db, db.name
        self._clock = iter(["", *[""] * (number - 1), when, *["before"] * 1000][1:])

    def __getitem__(self, name: str) -> Any:
        return DyingCollection(self._db[name], self._clock)


@pytest.fixture
def stored(database: Database[Any]) -> Database[Any]:
    adopt(database, OLD, NOW)
    cipher = KeyCipher(OLD)
    for collection, field in PLACES:
        for number in (1, 2):
            plain = f"{collection} {number}"
            database[collection].insert_one({"_id": f"k{number}", field: cipher.encrypt(plain)})
    return database


def rotate(db: Any, old: str = OLD, new: str = NEW, waits: list[float] | None = None) -> int:
    return SecretRotation(db, old, new).run(
        NOW, (waits if waits is not None else []).append, lambda _done: None
    )


def readable(db: Database[Any], *secrets: str) -> set[str]:
    ciphers = [KeyCipher(secret) for secret in secrets]
    found = [(item, [c for c in ciphers if item.is_readable(c)]) for item in stored_secrets(db)]
    return {able[0].decrypt(item.value) for item, able in found if able}


ALL = {f"{collection} {number}" for collection, _ in PLACES for number in (1, 2)}


def test_everything_is_encrypted_anew_and_the_old_secret_is_nothing_any_more(stored: Database[Any]) -> None:
    waits: list[float] = []
    assert rotate(stored, waits=waits) == len(ALL)
    assert waits == [NOTICE_S]
    assert readable(stored, NEW) == ALL
    assert readable(stored, OLD) == set()
    assert secret_key_state(deployment(stored), NEW) is SecretKeyState.SAME
    assert secret_key_state(deployment(stored), OLD) is SecretKeyState.DIFFERENT
    assert rotate(stored) == 0  # typed once more


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_write_it_is_taken_up_again(stored: Database[Any], when: str) -> None:
    for number in range(1, WRITES + 1):
        old, new = (OLD, NEW) if number % 2 else (NEW, OLD)
        with pytest.raises(Killed):
            rotate(DyingDatabase(stored, number, when), old, new)
        assert readable(stored, old, new) == ALL
        states = {secret_key_state(deployment(stored), secret) for secret in (old, new)}
        assert SecretKeyState.UNKNOWN not in states
        assert states != {SecretKeyState.DIFFERENT}
        rotate(stored, old, new)
        assert readable(stored, new) == ALL
        assert secret_key_state(deployment(stored), new) is SecretKeyState.SAME


def test_one_that_was_begun_is_not_turned_to_another_secret(stored: Database[Any]) -> None:
    with pytest.raises(Killed):
        rotate(DyingDatabase(stored, 3, "before"))
    with pytest.raises(RotationError, match="a rotation to another new SECRET_KEY is under way"):
        rotate(stored, new=THIRD)
    with pytest.raises(WrongSecretKeyError):
        rotate(stored, old=THIRD)
    assert readable(stored, OLD, NEW) == ALL


def test_what_cannot_be_read_is_named_before_anything_is_changed(stored: Database[Any]) -> None:
    stored["ohmygpt_keys"].insert_one({"_id": "nine", "apiKey": KeyCipher(THIRD).encrypt("sk-nine")})
    with pytest.raises(RotationError, match="nine of ohmygpt_keys cannot be read"):
        rotate(stored)
    assert "rotation" not in (deployment(stored) or {})
    assert readable(stored, OLD) == ALL


def test_a_database_of_version_0_1_is_rotated_too(stored: Database[Any]) -> None:
    stored["deployment"].drop()
    with pytest.raises(WrongSecretKeyError):
        rotate(stored, old=THIRD)
    assert rotate(stored) == len(ALL)


def test_a_worker_of_the_old_secret_goes_on_with_what_it_has_and_stores_nothing(
    stored: Database[Any],
) -> None:
    cipher = KeyCipher(OLD)
    watch, keys = SecretKeyWatch(stored, OLD, cipher), ProviderKeyStore(stored, cipher)
    assert watch.look()
    assert watch.state == OK
    before = [key.secret for key in keys.list()]
    states = []
    SecretRotation(stored, OLD, NEW).run(NOW, lambda _s: watch.follow() or states.append(watch.state), print)
    watch.follow()
    assert [*states, watch.state] == [ROTATING, ROTATED]
    assert [key.secret for key in keys.list()] == before
    with pytest.raises(StoreUnavailable):
        keys.add("k3", "sk-upstream-0003", now=NOW)
    assert readable(stored, NEW) == ALL
