"""When the upstream charges more than it should: what is said, and what is not worth a word."""

from decimal import Decimal

import pytest

from app.common.money import NANO
from app.pricing.ledger_findings import Told, of_key, of_model

CENT = NANO // 100


@pytest.mark.parametrize(
    ("told", "names"),
    [
        (Told(NANO, NANO, NANO), []),
        (Told(NANO, 2 * NANO, NANO), []),  # a margin by the multiplier, and no drift
        (Told(NANO, NANO // 2, NANO), ["margin:m"]),  # a user's price factor is too low
        (Told(NANO, 2 * NANO, 2 * NANO), ["drift:m"]),  # a discount that the table does not know
        (Told(2 * NANO, NANO, NANO), ["margin:m", "drift:m"]),
        (Told(104 * CENT, 100 * CENT, 100 * CENT), ["margin:m"]),  # within the share
        (Told(CENT - 1, 0, 0), []),
        (Told(0, NANO, NANO), ["drift:m"]),
        (Told(0, 0, 0), []),
    ],
)
def test_what_is_wrong_with_a_model(told, names) -> None:
    assert [finding.name for finding in of_model("m", told, Decimal("0.05"))] == names


def test_findings_are_one_line_with_both_sums() -> None:
    margin, drift = of_model("gpt", Told(3 * NANO, NANO, 2 * NANO), Decimal("0.05"))
    assert "charged $3.00 today for what was charged $1.00" in margin.text
    assert "$3.00" in drift.text
    assert "$2.00 by the model table (+33.3 per cent)" in drift.text
    key = of_key("env-1", NANO, 2 * NANO)
    assert "$1.00 for the key env-1 yesterday, and $2.00 was booked (-50.0 per cent)" in key.text
    assert not any("\n" in part for finding in (margin, drift, key) for part in finding)
