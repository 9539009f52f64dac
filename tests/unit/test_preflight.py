"""`python -m app.preflight COMMAND…`: one line for what cannot work, else the command takes over."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import ROOT

SHOW = ("-c", "import os; print(os.getpid(), 'WEB_CONCURRENCY' in os.environ)")


def start(*command: str, **environment: str) -> "tuple[subprocess.Popen[str], str, str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "app.preflight", *command],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate(timeout=240)
    return process, out, err


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"WEB_CONCURRENCY": "many"}, "weir: WEB_CONCURRENCY: "),
        ({"WEB_CONCURRENCY": "0"}, "weir: WEB_CONCURRENCY: "),
        ({"MONGODB_URI": "http://nowhere"}, "weir: MONGODB_URI: takes mongodb://"),
        ({"DATA_DIR": "/etc"}, "weir: DATA_DIR: /etc is open to other users"),
        ({"MODELS_FILE": "/nowhere.toml"}, "weir: MODELS_FILE: cannot read /nowhere.toml"),
    ],
)
def test_what_cannot_work_is_one_line_and_nothing_is_started(
    environment: dict[str, str], line: str, tmp_path: Path
) -> None:
    trace = tmp_path / "started"
    process, out, err = start("touch", str(trace), **environment)
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(line)
    assert not trace.exists()


def test_the_command_takes_the_place_of_the_check_and_sees_no_empty_variable() -> None:
    process, out, err = start(sys.executable, *SHOW, WEB_CONCURRENCY=" ")
    assert (process.returncode, out, err) == (0, f"{process.pid} False\n", "")


def test_a_command_that_does_not_exist_is_one_line() -> None:
    process, _, err = start("no-such-program")
    assert (process.returncode, err) == (1, "weir: no-such-program: No such file or directory\n")
