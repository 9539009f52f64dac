"""OhMyGPT's management API, read defensively: its shapes are known by hearsay."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.keys.key_account import KeyAccount
from app.ohmygpt.account import AccountError, Balance, Token, match, read_balance, read_tokens
from app.ohmygpt.readings import account_document, accounts_of, balance_of

ONE, OTHER = "sk-abcd0123456789wxyz", "sk-abcd9876543210wxyz"


def answer(data: object, status: object = 200) -> bytes:
    return json.dumps({"statusCode": status, "message": "m", "data": data}).encode()


def account_of(**fields: object) -> KeyAccount:
    (token,) = read_tokens(answer([{"key": ONE, **fields}]))
    return token.account


def test_a_balance_is_read_exactly() -> None:
    told = read_balance(answer({"balance": "8217.00", "free_balance": "0.10"}))
    assert told == Balance(Decimal("8217.00"), Decimal("0.10"))
    assert read_balance(answer({"balance": 5})) == Balance(Decimal(5), None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (answer(None, 401), "statusCode 401"),
        (answer(None, "Unauthorized, key sk-x"), "statusCode Unauthoriz"),
        (answer(None), "no data"),
        (answer({"balance": "much"}), "no balance"),
        (answer({"balance": "NaN"}), "no balance"),
        (answer({"balance": "1e99"}), "no balance"),
        (answer({"balance": True}), "no balance"),
        (b"<html>", "not JSON"),
        (b"[]", "no object"),
    ],
)
def test_what_is_no_balance_is_refused_in_one_line(body: bytes, said: str) -> None:
    with pytest.raises(AccountError, match=said) as caught:
        read_balance(body)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, KeyAccount()),
        ({"used_fee": "12.5", "max_fee": 100}, KeyAccount(Decimal("12.5"), Decimal(100))),
        ({"used_fee": None, "max_fee": 0}, KeyAccount()),
        ({"max_fee": -1}, KeyAccount()),
        ({"max_fee": "unlimited", "used_fee": []}, KeyAccount()),
        ({"is_disabled": 1}, KeyAccount(is_disabled=True)),
        ({"expired_at": "2026-12-01T00:00:00Z"}, KeyAccount(expires_at=datetime(2026, 12, 1, tzinfo=UTC))),
        ({"expired_at": "2026-12-01"}, KeyAccount(expires_at=datetime(2026, 12, 1, tzinfo=UTC))),
        ({"expired_at": 1796083200}, KeyAccount(expires_at=datetime(2026, 12, 1, tzinfo=UTC))),
        ({"expired_at": 1796083200000}, KeyAccount(expires_at=datetime(2026, 12, 1, tzinfo=UTC))),
        ({"expired_at": 0}, KeyAccount()),
        ({"expired_at": "never"}, KeyAccount()),
        ({"expired_at": 1e300}, KeyAccount()),
    ],
)
def test_a_keys_facts_are_read_one_by_one(fields: dict[str, object], expected: KeyAccount) -> None:
    assert account_of(**fields) == expected


def test_the_list_may_stand_anywhere_in_the_data() -> None:
    for data in ([{"key": ONE}, {"key": 5}, 7], {"total": 1, "tokens": [{"key": ONE}]}):
        assert [token.key for token in read_tokens(answer(data))] == [ONE]
    with pytest.raises(AccountError):
        read_tokens(answer({"total": 0}))


@pytest.mark.parametrize(
    ("used", "cap", "expected"), [(5, 5, True), (6, 5, True), (4, 5, False), (9, 0, False)]
)
def test_a_key_is_capped_when_its_cap_is_used_up(used: int, cap: int, expected: bool) -> None:
    assert account_of(used_fee=used, max_fee=cap).is_capped is expected


@pytest.mark.parametrize(
    ("listed", "owner"),
    [
        (ONE, "one"),
        (ONE.removeprefix("sk-"), "one"),
        ("sk-abcd0123****wxyz", "one"),
        ("abcd0123…wxyz", "one"),
        ("sk-abcd9...wxyz", "other"),
        ("sk-abcd****wxyz", None),  # both look so
        ("sk-*****", None),
        ("sk-abcd0123****xyz", None),
        (ONE + "x", None),
        ("****", None),
    ],
)
def test_a_listed_key_is_known_by_itself_or_by_an_unmistakable_mask(listed: str, owner: str | None) -> None:
    token = Token(listed, KeyAccount(Decimal(1)))
    found = match([token], {"one": ONE, "other": OTHER})
    assert found == ({} if owner is None else {owner: token.account})
    assert listed not in repr(token)


NAMES = ("data", "key", "max_fee", "used_fee", "expired_at", "balance", "statusCode")
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
)


@given(DOCUMENTS)
def test_any_answer_is_read_or_refused(document: object) -> None:
    for body in (json.dumps(document).encode(), answer(document), answer([document])):
        for read in (read_balance, read_tokens):
            try:
                read(body)
            except AccountError:
                continue


def test_a_reading_is_stored_and_read_back_exactly() -> None:
    keys = {
        "env:1": KeyAccount(Decimal("1E+3"), Decimal("0.10"), datetime(2026, 12, 1, tzinfo=UTC), True),
        "pool-1": KeyAccount(),
    }
    stored = account_document(Balance(Decimal("5.00")), keys, 3)
    assert accounts_of(stored) == keys
    assert balance_of(stored) == Balance(Decimal("5.00"))
    assert accounts_of({}) == {}
    assert balance_of({}) == Balance()
