"""An interpreter with the old SDKs, made at first need (or by `python -m tests.support.old_sdks`)."""

import fcntl
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.processes import ROOT

_VENV = ROOT / ".venv-old-sdks"
_REQUIREMENTS = ROOT / "requirements-old-sdks.lock"
_PIP = (
    "-m",
    "pip",
    "install",
    "--quiet",
    "--disable-pip-version-check",
    "--require-hashes",
    "-r",
    str(_REQUIREMENTS),
)


def python_with_old_sdks() -> Path:
    """The interpreter; `RuntimeError` with what pip said if it cannot be had.

    A stamp in the environment tells which requirements it was made for, and a lock keeps two test runs from
    making it at once.
    """
    python, stamp = _VENV / "bin" / "python", _VENV / "installed"
    wanted = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()
    with (Path(tempfile.gettempdir()) / "weir-old-sdks.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            _run([sys.executable, "-m", "venv", "--clear", str(_VENV)])
            _run([str(python), *_PIP])
            stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(
            f"the old SDKs of {_REQUIREMENTS.name} cannot be installed into {_VENV.name} "
            f"({' '.join(command)}):\n{done.stdout}{done.stderr}"
        )


if __name__ == "__main__":
    sys.stdout.write(f"{python_with_old_sdks()}\n")
