"""Environments: one that runs is left alone, one that does not is made anew, and trouble is one line."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from app.settings import ROOT
from tools.environment import SetUpError, make_environment


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """One that looks like any other, but has no pip behind its name."""
    directory = tmp_path / ".venv"
    venv.create(directory, symlinks=True)
    [packages] = directory.glob("lib/python*/site-packages")
    (packages / "pip.py").touch()
    (directory / "bin" / "pip").write_text(f"#!{directory}/bin/python\n")
    return directory


@pytest.fixture
def broken_venv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making an environment fails, so that an attempt is seen."""
    monkeypatch.setattr("sys.executable", "/bin/false")


@pytest.mark.usefixtures("broken_venv")
def test_an_environment_that_runs_is_left_alone(environment: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_environment(environment, [], this_version=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("broken_venv")
def test_one_whose_python_is_gone_is_made_anew(environment: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (environment / "bin" / "python").unlink()
    (environment / "bin" / "python").symlink_to("/nowhere/python3.11")
    with pytest.raises(SetUpError, match="cannot be made"):
        make_environment(environment, [])
    assert "its Python is gone or is another one now: making .venv" in capfd.readouterr().out


@pytest.mark.usefixtures("broken_venv")
def test_one_that_was_moved_is_made_anew(environment: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (environment / "bin" / "pip").write_text("#!/usr/bin/python3\n")
    with pytest.raises(SetUpError):
        make_environment(environment, [])
    assert "it was made in another place: making .venv" in capfd.readouterr().out


@pytest.mark.usefixtures("broken_venv")
def test_another_version_is_made_only_where_it_was_asked_for(
    environment: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    had = f"{sys.version_info.major}.{sys.version_info.minor}"
    monkeypatch.setattr("tools.environment.THIS_VERSION", "3.99")
    make_environment(environment, [])
    with pytest.raises(SetUpError):
        make_environment(environment, [], this_version=True)
    assert f"it has Python {had}, not 3.99: making .venv" in capfd.readouterr().out


@pytest.mark.usefixtures("broken_venv")
def test_an_environment_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(SetUpError, match=r"\.venv cannot be made: see above"):
        make_environment(tmp_path / ".venv", [])
    assert list(tmp_path.iterdir()) == []


def test_a_python_without_venv_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetUpError, match="cannot make virtual environments: apt install python3-venv"):
        make_environment(tmp_path / ".venv", [])
    assert list(tmp_path.iterdir()) == []


def test_a_python_that_is_too_old_is_one_line() -> None:
    older = "import runpy, sys; sys.version_info = (3, 9, 2); runpy.run_path('tools/environment.py')"
    done = subprocess.run([sys.executable, "-c", older], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("weir: Python 3.11 or newer is needed, ")
