"""An interpreter with the old SDKs, made at first need (or by `python -m tests.support.old_sdks`)."""

import sys
from pathlib import Path

from simulator.launcher import ROOT
from tools.environment import make_environment

_VENV = ROOT / ".venv-old-sdks"
_LOCK = ROOT / "requirements-old-sdks.lock"


def python_with_old_sdks() -> Path:
    """The interpreter, of the version that runs the tests; `SetUpError` if it cannot be had."""
    make_environment(_VENV, [_LOCK], this_version=True)
    return _VENV / "bin" / "python"


if __name__ == "__main__":
    sys.stdout.write(f"{python_with_old_sdks()}\n")
