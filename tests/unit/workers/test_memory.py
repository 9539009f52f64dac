"""Freed memory goes back to the system."""

import sys
from pathlib import Path

import pytest

from workers.memory import trimmer

_MIB = 1024 * 1024


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_blocks_below_one_in_use_are_given_back() -> None:
    trim = trimmer()
    if trim is None:
        pytest.skip("not glibc")
    blocks = [bytearray(2000) for _ in range(20_000)]  # too large for Python's own pools, too small for pages
    kept = blocks[::500]
    held = resident()
    del blocks
    trim()
    assert held - resident() > 20 * _MIB
    assert len(kept) == 40
