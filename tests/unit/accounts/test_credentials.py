import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.accounts.credentials import (
    CredentialProblem,
    extract_credential,
    hash_client_key,
    is_key_id,
    mask,
    new_client_key,
    public_key_id,
)


@pytest.mark.wire(71)
@pytest.mark.parametrize(
    ("authorization", "api_key", "expected"),
    [
        ("Bearer sk-1", None, "sk-1"),
        ("bearer sk-1", None, "sk-1"),
        ("BEARER   sk-1  ", None, "sk-1"),
        (None, "sk-1", "sk-1"),
        (None, " sk-1 ", "sk-1"),
        ("Bearer sk-1", "sk-1", "sk-1"),
        ("Bearer sk-1", "sk-2", CredentialProblem.CONFLICT),
        ("Bearer sk-1", "", "sk-1"),
        ("Bearer ", "sk-1", "sk-1"),
        ("Basic dTpw", "sk-1", "sk-1"),
        ("Basic dTpw", None, CredentialProblem.MISSING),
        ("Bearer", None, CredentialProblem.MISSING),
        ("sk-1", None, CredentialProblem.MISSING),
        ("", "", CredentialProblem.MISSING),
        (None, None, CredentialProblem.MISSING),
    ],
)
def test_one_credential_comes_out_of_two_headers(
    authorization: str | None, api_key: str | None, expected: object
) -> None:
    assert extract_credential(authorization, api_key) == expected


def test_new_keys_are_long_and_differ() -> None:
    keys = {new_client_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("sk-weir-") and len(key) == 48 and key.isascii() for key in keys)


def test_a_key_id_is_stable_and_does_not_hold_the_key() -> None:
    key = new_client_key()
    assert hash_client_key(key) == hash_client_key(key)
    assert is_key_id(hash_client_key(key))
    assert key[8:] not in hash_client_key(key)


def test_an_older_key_is_shown_under_a_derived_id() -> None:
    assert public_key_id("sk-troll-abc") == hash_client_key("sk-troll-abc")
    assert public_key_id("wk_0123") == "wk_0123"


def test_a_long_secret_shows_its_first_eight_and_last_four() -> None:
    assert mask("sk-weir-" + "x" * 36 + "last") == "sk-weir-...last"


@given(st.text(st.characters(exclude_characters=".", codec="utf-8"), max_size=80))
def test_never_more_than_a_third_is_shown(secret: str) -> None:
    head, dots, tail = mask(secret).partition("...")
    assert dots
    assert secret.startswith(head)
    assert secret.endswith(tail)
    assert len(head) + len(tail) <= min(12, len(secret) / 3)
