"""OhMyGPT's books beside the own ones: what agrees, what differs, and what cannot be compared."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.common.money import NANO
from app.ohmygpt.used_fees import (
    KeyBook,
    Snapshot,
    Verdict,
    compare,
    read_snapshot,
    snapshot_document,
)
from app.pricing.told_cost import LEAST_NANO, drift_of, is_beyond

START = datetime(2026, 11, 29, 0, 3, tzinfo=UTC)
UNITS, MOST = Decimal(241_400), Decimal("0.05")


def snapshots(before: KeyBook | None, now: KeyBook) -> tuple[Snapshot, Snapshot]:
    first = {} if before is None else {"k": before}
    return Snapshot(START, first), Snapshot(START + timedelta(days=1), {"k": now})


def book(usd: float | None, own_usd: float, key_id: str = "env-1") -> KeyBook:
    return KeyBook(key_id, None if usd is None else Decimal(str(usd)) * UNITS, round(own_usd * NANO))


@pytest.mark.parametrize(
    ("before", "now", "verdict", "drift"),
    [
        (book(10, 1), book(15, 6), Verdict.AGREES, 0.0),
        (book(10, 1), book(15.2, 6), Verdict.AGREES, 0.038462),
        (book(10, 1), book(16, 6), Verdict.DIFFERS, 0.166667),
        (book(10, 1), book(14, 6), Verdict.DIFFERS, -0.2),
        (book(0, 0), book(1, 0), Verdict.DIFFERS, 1.0),  # used elsewhere only
        (book(0, 0), book(0, 1), Verdict.DIFFERS, -1.0),
        (book(3, 1), book(3, 1), Verdict.AGREES, 0.0),
        (book(0, 0), book(0.009, 0), Verdict.AGREES, 1.0),  # less than a cent
        (None, book(1, 1), Verdict.UNKNOWN, None),
        (book(0, 0, "env-2"), book(1, 1), Verdict.UNKNOWN, None),  # records called another key so
        (book(None, 0), book(1, 1), Verdict.UNKNOWN, None),
        (book(1, 0), book(None, 1), Verdict.UNKNOWN, None),
        (book(5, 0), book(1, 1), Verdict.RESET, None),
    ],
)
def test_a_key_is_judged(before, now, verdict, drift) -> None:
    (key,) = compare(*snapshots(before, now), UNITS, MOST).keys
    assert (key.key_id, key.verdict, key.drift) == ("env-1", verdict, drift)


def test_without_a_currency_fees_are_told_and_not_compared() -> None:
    fees = compare(*snapshots(book(1, 1), book(3, 2)), None, MOST)
    (key,) = fees.keys
    assert (key.verdict, key.used_fee, key.upstream_nano) == (Verdict.UNCONVERTED, 2 * UNITS, None)
    assert (fees.total, fees.agree) == (None, False)


def test_all_that_can_be_compared_is_summed_up() -> None:
    first = Snapshot(START, {"a": book(0, 0, "env-1"), "b": book(0, 0, "env-2"), "c": book(9, 0, "env-3")})
    last = Snapshot(START, {"a": book(1, 1, "env-1"), "b": book(2, 2, "env-2"), "c": book(1, 9, "env-3")})
    fees = compare(first, last, UNITS, MOST)
    assert fees.total is not None
    assert (fees.total.upstream_nano, fees.total.own_nano, fees.agree) == (3 * NANO, 3 * NANO, True)
    assert [key.verdict for key in fees.keys] == [Verdict.AGREES, Verdict.AGREES, Verdict.RESET]


def test_a_drift_of_one_key_is_not_hidden_by_another() -> None:
    first = Snapshot(START, {"a": book(0, 0, "env-1"), "b": book(0, 0, "env-2")})
    last = Snapshot(START, {"a": book(2, 1, "env-1"), "b": book(1, 2, "env-2")})
    fees = compare(first, last, UNITS, MOST)
    assert fees.total is not None
    assert (fees.total.verdict, fees.agree) == (Verdict.AGREES, False)


amounts = st.integers(0, 10**15)


@given(amounts, amounts)
def test_a_drift_is_a_share_of_the_larger_and_has_two_sides(upstream: int, own: int) -> None:
    drift = drift_of(upstream, own)
    assert -1 <= drift <= 1
    assert drift == -drift_of(own, upstream)
    assert not is_beyond(upstream, own, MOST) or abs(upstream - own) >= LEAST_NANO
    assert is_beyond(upstream, own, MOST) == is_beyond(own, upstream, MOST)


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.builds(KeyBook, st.text(), st.none() | st.decimals(0, 10**18, allow_nan=False), amounts),
    )
)
def test_a_snapshot_is_kept_exactly(keys: dict[str, KeyBook]) -> None:
    snapshot = Snapshot(START, keys)
    assert read_snapshot(snapshot_document(snapshot)) == snapshot
