"""Whole histories of a worker on a simulated disk: requests, batches, crashes, in any order.

The number of histories can be raised with WEIR_JOURNAL_HISTORIES.
"""

import logging
import os
from collections.abc import Iterator

import pytest

from tests.support.journal_histories import run_histories

HISTORIES = int(os.environ.get("WEIR_JOURNAL_HISTORIES", "10000"))  # noqa: TID251  how many, not what


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Every history's damage is logged, and capturing that takes longer than the history."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_killed_processes_lose_and_double_nothing() -> None:
    run_histories(HISTORIES // 5)


@pytest.mark.parametrize("part", range(5))
def test_power_losses_lose_and_double_nothing_that_was_synced(part: int) -> None:
    count = HISTORIES // 5
    run_histories(count, first=part * count, loses_power=True)


def test_a_flipped_bit_costs_no_more_than_the_frame_it_is_in() -> None:
    run_histories(HISTORIES // 20, has_bit_rot=True)
