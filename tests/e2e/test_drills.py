"""The drill's scenarios about upstream keys, crowds and reloads, in short: `make drill` has the full size."""

import os
import subprocess
import sys

import pytest

from tests.support.processes import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario",
    [
        "key-chaos",  # no request fails while one key is good, and no key is asked while it cools down
        "key-limits",  # limits of keys hold over four workers
        "spare-keys",  # hundreds of failures at once on two hosts use exactly one spare key
        "slow-clients",  # hundreds of held sockets of four kinds: the healthy are served as before
        "strangers",  # thousands of unknown keys: counted exactly, nothing grows
        "reloads",  # no answer suffers, no record is lost
    ],
)
def test_the_drill_finds_no_disagreement(scenario: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drill", "--level", "short", "--only", scenario, "--seed", "20261123"],
        cwd=ROOT,
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything agrees" in done.stdout
