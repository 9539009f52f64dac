"""Figures with units, thousands, and the digits that matter."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Undefined

from app.admin import formats

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FOREIGN = st.one_of(st.none(), st.booleans(), st.text(), st.floats(), st.integers(), st.lists(st.integers()))


@pytest.mark.parametrize(
    ("nano", "shown"),
    [
        (0, "$0.00"), (1, "$0.000000001"), (615_000, "$0.000615"), (216_250, "$0.0002163"),
        (10_000_000, "$0.01"), (123_456_789, "$0.1235"), (999_999_999, "$1.00"),
        (1_234_567_890_000, "$1,234.57"), (-5_000_000_000, "-$5.00"), (None, "–"),
    ],
)  # fmt: skip
def test_money_has_four_significant_digits_and_whole_cents(nano, shown):
    assert formats.usd(nano) == shown


@given(st.integers(-(10**18), 10**18))
def test_exact_money_loses_nothing(nano):
    shown = formats.usd_exact(nano).replace("$", "").replace(",", "")
    whole, _, rest = shown.lstrip("-").partition(".")
    assert (-1 if shown.startswith("-") else 1) * int(whole + rest.ljust(9, "0")) == nano


@given(st.floats(0, 99.999))
def test_a_rate_below_all_never_reads_all(rate):
    assert not formats.percent(rate).startswith("100")


def test_rates_are_written_with_as_few_digits_as_they_need():
    assert formats.percent(100.0) == "100\N{NO-BREAK SPACE}%"
    assert formats.percent(99.999) == "99.99\N{NO-BREAK SPACE}%"
    assert formats.percent(None) == "–"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 ms"), (999, "999 ms"), (1000, "1 s"), (12_345, "12.3 s"), (59_999, "60 s"),
        (65_000, "1 min 5 s"), (3_600_000, "1 h"), (3_660_000, "1 h 1 min"), (90_000_000, "1 d 1 h"),
        (None, "–"),
    ],
)  # fmt: skip
def test_durations_are_in_their_two_largest_units(value, shown):
    assert formats.milliseconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (999, "999 B"), (4_731, "4.7 kB"), (123_456, "123 kB"), (4_294_967_296, "4.3 GB"),
     (5e15, "5,000.0 TB")],
)  # fmt: skip
def test_sizes_are_in_thousands(value, shown):
    assert formats.byte_count(value) == shown


def test_times_are_those_of_the_zone_and_say_how_far_away_they_are():
    assert formats.moment("2026-11-23T20:00:00Z", ZoneInfo("Asia/Ho_Chi_Minh")) == "2026-11-24 03:00:00"
    assert formats.moment(datetime(2026, 11, 23, 20, 0), UTC) == "2026-11-23 20:00:00"  # noqa: DTZ001
    assert formats.distance(NOW + timedelta(minutes=2), NOW) == "in 2 min"
    assert formats.distance(NOW - timedelta(hours=3), NOW) == "3 h ago"
    assert formats.distance(NOW, NOW) == "now"
    assert formats.moment(datetime.max.replace(tzinfo=UTC), UTC) == "–"


@pytest.mark.parametrize(
    ("away", "shown"),
    [
        (timedelta(seconds=59), "59 s"),
        (timedelta(minutes=2, seconds=19), "2 min"),
        (timedelta(minutes=100), "2 h"),
        (timedelta(hours=23, minutes=10), "23 h"),
        (timedelta(days=27, hours=3), "27 d"),
    ],
)
def test_how_far_away_a_time_is_takes_one_unit_so_that_it_fits_a_card(away, shown):
    assert formats.distance(NOW - away, NOW) == f"{shown} ago"
    assert formats.distance(NOW + away, NOW) == f"in {shown}"


@given(FOREIGN)
def test_whatever_a_record_holds_can_be_written(value):
    for write in (formats.number, formats.milliseconds, formats.byte_count):
        assert isinstance(write(value), str)
    assert isinstance(formats.moment(value, UTC), str)
    assert isinstance(formats.distance(value, NOW), str)


@pytest.mark.parametrize(
    ("nano", "digits", "written"),
    [
        (20_310_000_000, 4, ("$20.31", "00")),
        (155_000, 6, ("$0.00", "0155")),
        (-1_234_567_890_000, 2, ("-$1,234.57", "")),
        (0, 4, ("$0.00", "00")),
    ],
)
def test_money_of_a_column_has_the_same_decimals(nano, digits, written):
    assert formats.usd_fixed(nano, digits) == written


@pytest.mark.parametrize(
    ("amounts", "digits"),
    [([], 2), ([None, 0], 2), ([20_310_000_000, 1_120_000_000], 2), ([20_310_000_000, 200_400_000], 2),
     ([20_310_000_000, 4_000_000], 4), ([155], 6)],
)  # fmt: skip
def test_a_column_has_as_many_decimals_as_its_smallest_amount_needs(amounts, digits):
    assert formats.money_digits(amounts) == digits


def test_a_small_line_goes_from_the_left_to_the_right_and_from_0_to_its_largest():
    assert formats.spark_path([0, 2, 1]) == "M0.0 19.0L50.0 1.0L100.0 10.0"
    assert formats.spark_path([]) == ""
    assert formats.spark_path([0]) == "M0.0 19.0"


@pytest.mark.parametrize("stored", [None, Undefined(), "much", True, float("nan"), 10**400])
def test_what_is_no_amount_is_shown_as_nothing(stored):
    assert formats.usd(stored) == formats.usd_exact(stored) == formats.usd(None)
    assert formats.money_digits([stored, 10**9]) == formats.money_digits([10**9])
