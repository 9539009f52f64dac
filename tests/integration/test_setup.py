"""Set-up installs what the locks say, with an old pip, whatever has been released since."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from app.settings import ROOT
from tests.support.package_index import PackageIndex, here

OLD_PIP = "pip==22.3 --hash=sha256:1daab4b8d3b97d1d763caeb01a4640a2250a0ea899e257b1e44b9eded91e15ab"
"""The one that Python 3.11.0 brings, the oldest that can come along."""


LOCKS = ("requirements.lock", "requirements-dev.lock")


@pytest.fixture(scope="module")
def old_pip() -> Path:
    """Its wheel, downloaded once."""
    kept = ROOT / ".venv-old-pip"
    kept.mkdir(exist_ok=True)
    if not list(kept.glob("*.whl")):
        wanted = kept / "wanted.txt"
        wanted.write_text(OLD_PIP)
        options = ("--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(kept))
        command = [sys.executable, "-m", "pip", "download", *options, "-r", str(wanted)]
        subprocess.run(command, check=True, timeout=550)
    return next(kept.glob("*.whl"))


class Checkout:
    """What set-up reads, beside an index that is ahead of the locks and a .venv with an old pip."""

    def __init__(self, directory: Path, old_pip: Path) -> None:
        self.directory = directory
        self.python = directory / ".venv" / "bin" / "python"
        index = PackageIndex(directory / "index")
        shutil.copy(ROOT / "Makefile", directory)
        for name in ("tools", "deploy"):
            shutil.copytree(ROOT / name, directory / name)
        for name in ("requirements.txt", "constraints.txt"):
            shutil.copy(ROOT / name, directory)
        for name in LOCKS:
            (directory / name).write_text(index.offer((ROOT / name).read_text()))
        self.environment = {
            "PATH": os.environ["PATH"],  # noqa: TID251  where make is
            "HOME": str(directory),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": index.url,
            "PIP_NO_COMPILE": "1",
        }
        venv.create(directory / ".venv", with_pip=False, symlinks=True)
        [self.packages] = directory.glob(".venv/lib/python*/site-packages")
        zipfile.ZipFile(old_pip).extractall(self.packages)
        (self.python.parent / "pip").write_text(f"#!{self.python}\n")

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=550
        )

    def pip(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return self.run(str(self.python), "-m", "pip", *command)

    def installed(self) -> set[tuple[str, str]]:
        found = {(each.name, each.version) for each in distributions(path=[str(self.packages)])}
        assert ("pip", "22.3") in found
        return found - {("pip", "22.3")}


@pytest.fixture
def checkout(tmp_path: Path, old_pip: Path) -> Checkout:
    return Checkout(tmp_path, old_pip)


def locked(name: str) -> set[tuple[str, str]]:
    return {(pin.name, pin.version) for pin in here((ROOT / name).read_text())}


def test_set_up_installs_the_locks_though_everything_has_newer_releases(checkout: Checkout) -> None:
    done = checkout.run("make", "setup")
    assert done.returncode == 0, done.stdout + done.stderr
    assert checkout.installed() == locked("requirements-dev.lock")


def test_a_set_up_that_resolves_is_ended_by_a_newer_release(checkout: Checkout) -> None:
    script = checkout.directory / "tools" / "environment.py"
    script.write_text(script.read_text().replace('"--no-deps",', ""))
    done = checkout.run("make", "setup")
    assert "all requirements must have their versions pinned" in done.stderr
    assert done.returncode != 0


def test_the_runtime_can_be_installed_without_a_lock_though_everything_has_newer_releases(
    checkout: Checkout,
) -> None:
    done = checkout.pip("install", "-r", "requirements.txt")
    assert done.returncode == 0, done.stdout + done.stderr
    assert checkout.installed() == locked("requirements.lock")
