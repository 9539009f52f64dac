"""Duration histograms: fixed integer buckets, sparse counts, percentiles within five per cent.

The buckets are kept in the database, so their bounds must never change: adding a new scheme means adding a
new field. Bounds are whole milliseconds, computed with integers only, so that every machine agrees on them.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate

LONGEST_MS = 3_600_000
"""Durations beyond an hour are counted as an hour."""


def _bounds() -> tuple[int, ...]:
    """Return the largest duration of each bucket: 0, 1, … 20, then growing by a tenth, up to `LONGEST_MS`."""
    bounds = [0]
    while bounds[-1] < LONGEST_MS:
        bounds.append(min(LONGEST_MS, max(bounds[-1] + 1, bounds[-1] * 11 // 10)))
    return tuple(bounds)


BOUNDS = _bounds()

_KEYS = tuple(f"b{index}" for index in range(len(BOUNDS)))
_INDEX = {key: index for index, key in enumerate(_KEYS)}


def bucket_key(duration_ms: int) -> str:
    """Name the bucket a duration is counted in; a letter comes first, so that it is safe in a field path."""
    return _KEYS[bisect_left(BOUNDS, min(max(duration_ms, 0), LONGEST_MS))]


def representative_ms(key: str) -> int:
    """Return the duration standing for a bucket: at most five per cent off anything counted in it."""
    index = _INDEX[key]
    if index == 0:
        return 0
    low, high = BOUNDS[index - 1] + 1, BOUNDS[index]
    # The harmonic mean is off by the same fraction at either end: (high - low) / (high + low) <= 1/21.
    return round(2 * low * high / (low + high))


def count(durations_ms: Iterable[int]) -> dict[str, int]:
    """Return the sparse histogram of some durations."""
    return count_times((duration, 1) for duration in durations_ms)


def count_times(durations_ms: Iterable[tuple[int, int]]) -> dict[str, int]:
    """Return the sparse histogram of some durations, each given with how many times it was met."""
    histogram: dict[str, int] = {}
    for duration, times in durations_ms:
        key = bucket_key(duration)
        histogram[key] = histogram.get(key, 0) + times
    return histogram


def percentile_ms(histogram: Mapping[str, int], percent: float) -> int | None:
    """Return the nearest-rank percentile; None for an empty histogram.

    Buckets this version does not know (a damaged document) are left out.
    """
    known = sorted((_INDEX[key], number) for key, number in histogram.items() if key in _INDEX and number > 0)
    total = sum(number for _, number in known)
    if total == 0:
        return None
    return _at_rank(known, max(1, math.ceil(percent / 100 * total)))


def _at_rank(counts: list[tuple[int, int]], rank: int) -> int:
    """Return the duration of the `rank`-th smallest value, counting from 1 up to the sum of all counts."""
    reached = accumulate(number for _, number in counts)
    index = next(index for (index, _), so_far in zip(counts, reached, strict=True) if so_far >= rank)
    return representative_ms(_KEYS[index])
