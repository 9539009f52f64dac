import pytest

from app.store.key_cipher import KeyCipher, KeyCipherError


def test_what_was_encrypted_is_read_back() -> None:
    cipher = KeyCipher("secret")
    stored = cipher.encrypt("sk-upstream")
    assert stored.startswith("enc:v1:")
    assert "sk-upstream" not in stored
    assert KeyCipher("secret").decrypt(stored) == "sk-upstream"


def test_the_same_key_is_stored_differently_each_time() -> None:
    cipher = KeyCipher("secret")
    assert cipher.encrypt("sk-upstream") != cipher.encrypt("sk-upstream")


def test_plain_values_of_an_existing_database_are_accepted() -> None:
    assert KeyCipher("secret").decrypt("sk-plain") == "sk-plain"


@pytest.mark.parametrize("damage", [lambda s: s[:-4] + "AAAA", lambda s: "enc:v1:", lambda s: s + "é"])
def test_damaged_values_are_an_error_that_tells_nothing(damage) -> None:
    stored = damage(KeyCipher("secret").encrypt("sk-upstream"))
    with pytest.raises(KeyCipherError, match="another SECRET_KEY"):
        KeyCipher("secret").decrypt(stored)


def test_another_secret_cannot_read_it() -> None:
    with pytest.raises(KeyCipherError):
        KeyCipher("other").decrypt(KeyCipher("secret").encrypt("sk-upstream"))
