"""One scenario of the drill in short, with all books compared; `make check` runs the others, too."""

import os
import subprocess
import sys

import pytest

from drill.scenarios import IN_SHORT
from simulator.launcher import ROOT

SCENARIO = "reloads"
"""No answer suffers, no record is lost."""


@pytest.mark.slow
def test_the_drill_finds_no_disagreement() -> None:
    assert SCENARIO not in IN_SHORT, "it is run once"
    done = subprocess.run(
        [sys.executable, "-m", "drill", "--level", "short", "--only", SCENARIO, "--seed", "20261123"],
        cwd=ROOT,
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything agrees" in done.stdout
