"""Grants and withdrawals: exact, never losing a charge, each with its line in the ledger."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.accounts.users import GRANTED, UserStore
from app.common.cursor import PageCursor
from app.credit.credit_ledger import (
    KEYS,
    PENDING,
    REF_CREDITS,
    CreditLedger,
    InsufficientCreditError,
    KeyReusedError,
    LedgerNote,
)
from app.persistence.booking import Booking
from tests.contract.booking_world import sequenced
from tests.support.credit import NOTE

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=3)


@pytest.fixture
def users(database) -> UserStore:
    return UserStore(database)


@pytest.fixture
def ledger(database) -> CreditLedger:
    store = CreditLedger(database)
    store.ensure_indexes()
    return store


def lines(database, username="alice"):
    return list(database.credit_ledger.find({"username": username}).sort("_id", 1))


@pytest.mark.parametrize("amount", ["0.0000000001", "1000001", "NaN", "Infinity"])
def test_amounts_that_cannot_be_kept_exactly_are_refused(users, ledger, database, amount) -> None:
    users.add("alice", now=NOW)
    for change in (ledger.add, ledger.set):
        with pytest.raises(ValueError, match="takes an amount in USD"):
            change("alice", Decimal(amount), NOTE)
    assert lines(database) == []


def test_a_balance_is_not_set_below_zero(users, ledger) -> None:
    users.add("alice", now=NOW)
    with pytest.raises(ValueError, match="0 or more"):
        ledger.set("alice", Decimal(-1), NOTE)


AMOUNTS = st.lists(
    st.decimals(min_value=-1000, max_value=100_000, places=9, allow_nan=False), min_size=1, max_size=12
)


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(amounts=AMOUNTS)
def test_credit_is_exact_to_the_nano_dollar_and_every_line_says_so(users, ledger, database, amounts) -> None:
    database.usersNew.delete_many({})
    database.credit_ledger.delete_many({})
    users.add("alice", now=NOW)
    left = Decimal(0)
    for amount in amounts:
        if left + amount < 0:
            with pytest.raises(InsufficientCreditError) as refused:
                ledger.add("alice", amount, NOTE)
            assert refused.value.left_nano == int(left * 10**9)
            continue
        done = ledger.add("alice", amount, NOTE)
        assert (done.before_nano, done.after_nano) == (int(left * 10**9), int((left + amount) * 10**9))
        left += amount
    document = database.usersNew.find_one({"_id": "alice"})
    assert users.get("alice").credits_nano == document[GRANTED] == int(left * 10**9)
    kept = lines(database)
    assert sum(line["amountNanoUsd"] for line in kept) == int(left * 10**9)
    for line, following in itertools.pairwise(kept):
        assert line["balanceAfterNanoUsd"] == following["balanceBeforeNanoUsd"]


def test_credit_starts_from_nothing_where_the_field_is_missing(ledger, database) -> None:
    database.usersNew.insert_one({"_id": "old"})
    assert ledger.add("old", Decimal("0.1"), NOTE).after_nano == 100_000_000
    assert GRANTED not in database.usersNew.find_one({"_id": "old"})


def test_an_unknown_user_has_no_ledger(ledger, database) -> None:
    assert ledger.add("nobody", Decimal(1), NOTE) is None
    assert ledger.add("nobody", Decimal(-1), NOTE) is None
    assert ledger.set("nobody", Decimal(1), NOTE) is None
    assert database.credit_ledger.count_documents({}) == 0


def test_a_line_says_who_when_how_much_and_why(users, ledger, database) -> None:
    users.add("alice", now=NOW, credits_usd=Decimal(5))
    ledger.set("alice", Decimal("2.5"), LedgerNote(LATER, "root", "api", "gift", "req-1"))
    (line,) = lines(database)
    del line["_id"]
    assert line == {
        "username": "alice",
        "at": LATER,
        "purse": "credits",
        "change": "set",
        "by": "root",
        "via": "api",
        "reason": "gift",
        "requestId": "req-1",
        "amountNanoUsd": -2_500_000_000,
        "balanceBeforeNanoUsd": 5_000_000_000,
        "balanceAfterNanoUsd": 2_500_000_000,
    }
    assert database.usersNew.find_one({"_id": "alice"})[PENDING] == []


def test_setting_the_credit_is_in_the_log_of_resets_that_old_readers_know(users, ledger, database) -> None:
    users.add("alice", now=NOW, credits_usd=Decimal(5))
    ledger.add("alice", Decimal(1), NOTE)
    ledger.set("alice", Decimal(1), LedgerNote(LATER, "root", "api", "month"), purse=REF_CREDITS)
    ledger.set("alice", Decimal(1), LedgerNote(LATER, "root", "api", "month"))
    (reset,) = database.creditsResetLogs.find({}, {"_id": False})
    assert reset == {
        "username": "alice",
        "creditsBefore": 6.0,
        "resetAt": LATER,
        "resetBy": "admin",
        "note": "month",
    }


def test_referral_credit_counts_as_granted_too(users, ledger, database) -> None:
    users.add("alice", now=NOW, credits_usd=Decimal(5))
    ledger.add("alice", Decimal("0.25"), NOTE, purse=REF_CREDITS)
    user = users.get("alice")
    assert (user.credits_nano, user.ref_credits_nano) == (5_000_000_000, 250_000_000)
    assert database.usersNew.find_one()[GRANTED] == 5_250_000_000


def test_what_a_process_that_died_left_pending_is_moved_by_the_next_look(users, ledger, database) -> None:
    users.add("alice", now=NOW, credits_usd=Decimal(5), more={PENDING: ledger.opening(Decimal(5), NOTE)})
    assert lines(database) == []
    # One that died after the first line had been moved.
    pending = database.usersNew.find_one()[PENDING]
    database.credit_ledger.insert_one({**pending[0], "username": "alice"})
    page, following = ledger.page("alice", 10)
    assert [line["change"] for line in page] == ["opening"]
    assert following is None
    assert database.usersNew.find_one()[PENDING] == []


def test_the_ledger_is_paged_newest_first(users, ledger) -> None:
    users.add("alice", now=NOW)
    for number in range(1, 6):
        ledger.add("alice", Decimal(number), NOTE)
    seen, cursor = [], None
    while True:
        page, text = ledger.page("alice", 2, cursor)
        seen += [line["amountNanoUsd"] // 10**9 for line in page]
        if text is None:
            break
        cursor = PageCursor.decode(text)
    assert seen == [5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("fields", "expires"),
    [
        pytest.param({}, None, id="never expires"),
        pytest.param({"expiresAt": NOW}, LATER + timedelta(days=7), id="nothing says since when"),
        pytest.param(
            {"purchasedAt": NOW - timedelta(days=30), "expiresAt": NOW},
            LATER + timedelta(days=30),
            id="as long as it was",
        ),
        pytest.param({"purchasedAt": LATER, "expiresAt": NOW}, LATER + timedelta(days=7), id="nonsense"),
        pytest.param({"expiresAt": "soon"}, "soon", id="no date"),
    ],
)
def test_validity_begins_anew_for_as_long_as_it_was(ledger, database, fields, expires) -> None:
    database.usersNew.insert_one({"_id": "alice", "credits": 1.0, **fields})
    ledger.add("alice", Decimal(1), NOTE)
    assert database.usersNew.find_one().get("expiresAt") == fields.get("expiresAt")
    ledger.add("alice", Decimal(1), LedgerNote(LATER, "root", "api"), renews=True)
    assert database.usersNew.find_one().get("expiresAt") == expires


def test_no_grant_and_no_charge_is_lost_when_all_happen_at_once(users, ledger, database) -> None:
    users.add("alice", now=NOW, credits_usd=Decimal(1000))
    booking = Booking(database, "w1")

    def charge() -> None:
        for seq in range(1, 41):
            booking.apply([sequenced(seq, user_id="alice", cost_nano_usd=1_000_000_007)])

    def grant(_number: int) -> None:
        for _ in range(10):
            ledger.add("alice", Decimal("0.100000001"), NOTE)

    with ThreadPoolExecutor(5) as pool:
        charging = pool.submit(charge)
        list(pool.map(grant, range(4)))
        charging.result()
    document = database.usersNew.find_one({"_id": "alice"})
    left = 1000 * 10**9 + 40 * 100_000_001 - 40 * 1_000_000_007
    assert users.get("alice").credits_nano == left
    assert document[GRANTED] == 1000 * 10**9 + 40 * 100_000_001
    assert len(lines(database)) == 40
    assert document[PENDING] == []


KEYED = replace(NOTE, key="invoice-7")


@pytest.mark.parametrize("change", ["add", "set"])
def test_a_change_with_a_key_is_made_once_and_says_the_same_again(users, ledger, database, change) -> None:
    users.add("alice", now=NOW, credits_usd=Decimal(1))
    make = ledger.add if change == "add" else ledger.set
    first = make("alice", Decimal(5), KEYED)
    ledger.add("alice", Decimal(-2), NOTE)
    again = make("alice", Decimal(5), KEYED)
    assert (again.before_nano, again.after_nano) == (first.before_nano, first.after_nano)
    assert again.user.credits_nano == first.after_nano - 2 * 10**9
    assert [line.get("idempotencyKey") for line in lines(database)] == ["invoice-7", None]


def test_a_key_is_not_used_for_anything_else(users, ledger, database) -> None:
    users.add("alice", now=NOW)
    users.add("bob", now=NOW)
    ledger.add("alice", Decimal(5), KEYED)
    for change in (
        lambda: ledger.add("alice", Decimal(6), KEYED),
        lambda: ledger.set("alice", Decimal(5), KEYED),
        lambda: ledger.add("alice", Decimal(5), KEYED, purse=REF_CREDITS),
    ):
        with pytest.raises(KeyReusedError):
            change()
    assert ledger.add("bob", Decimal(6), KEYED).after_nano == 6 * 10**9
    assert len(lines(database)) == 1


def test_attempts_at_once_and_attempts_that_come_late_count_once(users, ledger, database) -> None:
    users.add("alice", now=NOW)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: ledger.add("alice", Decimal(5), KEYED), range(8)))
    assert {made.after_nano for made in done} == {5 * 10**9}
    # An attempt that had looked before there was a line arrives only now: the update itself refuses it.
    late = ledger._change({"_id": "alice"}, "credits", 99.0, "set", KEYED, renews=False)
    assert late is None
    assert len(lines(database)) == 1
    assert users.get("alice").credits_nano == 5 * 10**9


def test_a_key_whose_line_is_not_moved_yet_is_found(users, ledger, database) -> None:
    users.add("alice", now=NOW)
    ledger.add("alice", Decimal(5), KEYED)
    (line,) = lines(database)
    database.credit_ledger.delete_many({})
    database.usersNew.update_one({"_id": "alice"}, {"$set": {PENDING: [line]}})
    assert ledger.add("alice", Decimal(5), KEYED).after_nano == 5 * 10**9
    assert users.get("alice").credits_nano == 5 * 10**9


def test_keys_in_a_users_document_are_bounded_and_older_ones_are_known_by_the_ledger(
    users, ledger, database
) -> None:
    users.add("alice", now=NOW)
    for number in range(105):
        ledger.add("alice", Decimal(1), replace(NOTE, key=f"key-{number}"))
    assert len(database.usersNew.find_one({"_id": "alice"})[KEYS]) == 100
    ledger.add("alice", Decimal(1), replace(NOTE, key="key-0"))
    assert users.get("alice").credits_nano == 105 * 10**9
