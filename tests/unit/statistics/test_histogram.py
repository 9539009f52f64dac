import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.statistics.histogram import (
    BOUNDS,
    LONGEST_MS,
    bucket_key,
    count,
    count_times,
    percentile_ms,
    representative_ms,
)


def test_the_bounds_never_change_because_databases_hold_them():
    assert len(BOUNDS) == 151
    assert hashlib.sha256(repr(BOUNDS).encode()).hexdigest()[:16] == "f123dec39bb4333c"


def test_every_bucket_is_represented_within_five_per_cent():
    for low, high in pairwise(BOUNDS):
        for duration in {low + 1, high}:
            shown = representative_ms(bucket_key(duration))
            assert abs(shown - duration) <= 0.05 * duration, duration


@pytest.mark.parametrize("duration", range(21))
def test_short_durations_are_exact(duration):
    assert representative_ms(bucket_key(duration)) == duration


def test_durations_out_of_range_are_counted_at_the_ends():
    assert bucket_key(-5) == bucket_key(0) == "b0"
    assert bucket_key(10 * LONGEST_MS) == bucket_key(LONGEST_MS) == f"b{len(BOUNDS) - 1}"


@given(st.lists(st.integers(0, LONGEST_MS), min_size=1), st.sampled_from([1, 50, 95, 99, 100]))
def test_percentiles_are_the_nearest_rank_within_five_per_cent(durations, percent):
    rank = -(-percent * len(durations) // 100)
    exact = sorted(durations)[rank - 1]
    shown = percentile_ms(count(durations), percent)
    assert shown is not None
    assert abs(shown - exact) <= 0.05 * exact


def test_an_empty_histogram_has_no_percentile():
    assert percentile_ms({}, 50) is None
    assert percentile_ms({"b3": 0}, 50) is None


def test_unknown_buckets_are_left_out():
    assert percentile_ms({"b3": 1, "x": 9, "b9999": 9}, 99) == 3


@given(st.lists(st.tuples(st.integers(0, LONGEST_MS), st.integers(1, 5))))
def test_a_duration_met_several_times_counts_as_often(durations):
    one_by_one = [duration for duration, times in durations for _ in range(times)]
    assert count_times(durations) == count(one_by_one)
