"""The wheel, as its user meets it: complete, pinned, at work in an empty environment far from its source."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from hashlib import sha256
from importlib.metadata import distribution
from pathlib import Path

import pytest
import requests
from packaging.requirements import Requirement

from app import __version__
from app.lock_file import requirements_in
from app.settings import ROOT
from simulator.launcher import Child, children_of, command_line, group_members, wait_until

PACKAGES = ("app", "workers", "simulator")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
_LISTENING = re.compile(r'Weir .*answers on (http://[^ ;,"]+)')


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution, the wheel made from it, and below `tree` the wheel made from the repository."""
    directory = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "weir"
    # What is committed or about to be, without what lies about beside it.
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(lambda name: name and (ROOT / name).is_file(), listed):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    (source / "var").mkdir()
    (source / "var" / "secret-key").write_text("not for others")
    build(source, directory)
    build(source, directory / "tree", "--wheel")
    return directory


def build(source: Path, target: Path, *options: str) -> None:
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        str(target),
        *options,
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_every_file_that_is_needed_and_no_other(wheel: Path) -> None:
    needed = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    }
    needed |= {"wsgi.py", "app/gunicorn.conf.py", "app/models.toml"}
    assert {name for name in members(wheel) if ".dist-info/" not in name} == needed
    assert any(name.endswith(".html") for name in needed)
    assert f"weir-{__version__}.dist-info/licenses/LICENSE" in members(wheel)


def test_the_source_distribution_is_enough_for_the_same_wheel(dist: Path, wheel: Path) -> None:
    """`build` makes the wheel from the unpacked source distribution; the other one comes from the tree."""
    with tarfile.open(dist / f"weir-{__version__}.tar.gz") as archive:
        tops = {name.split("/")[1] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "requirements.lock", "hatch_build.py", *PACKAGES} <= tops
    assert not {"tests", "var", ".venv"} & tops
    (other,) = (dist / "tree").glob("*.whl")
    assert sha256(wheel.read_bytes()).digest() == sha256(other.read_bytes()).digest()


def test_it_requires_exactly_what_the_lock_file_pins(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = message_from_bytes(archive.read(f"weir-{__version__}.dist-info/METADATA"))
    required = {str(Requirement(text)) for text in metadata.get_all("Requires-Dist", [])}
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert required == {str(Requirement(text)) for text in requirements_in(lock)}
    assert len(required) == len(re.findall(r"^[a-z0-9].*==", lock, re.MULTILINE))
    assert all(re.search(r"==[0-9][^*]*$", text.partition(";")[0].strip()) for text in required)
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("Apache-2.0", ">=3.11")


def test_the_build_is_pinned_as_the_lock_file_of_the_tools_is() -> None:
    pinned = requirements_in((ROOT / "requirements-dev.lock").read_text(encoding="utf-8"))
    assert set(PROJECT["build-system"]["requires"]) <= set(pinned)


@dataclass
class Installed:
    """Weir in an environment of its own, and a directory with misleading names to call it from."""

    programs: Path
    elsewhere: Path

    def weir(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self.programs / "weir", *arguments],
            cwd=self.elsewhere,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def left_behind(self) -> set[str]:
        return {path.name for path in self.elsewhere.iterdir()} - {*PACKAGES, "wsgi.py", *MISLEADING}


MISLEADING = ("gunicorn.conf.py", "models.toml")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    install = [
        "install",
        "--quiet",
        "--no-compile",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        str(wheel),
    ]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    # What it requires is here already: that it is all there on the day is pip's affair.
    (packages,) = environment.glob("lib/python*/site-packages")
    locked = map(Requirement, requirements_in((ROOT / "requirements.lock").read_text(encoding="utf-8")))
    names = [item.name for item in locked if item.marker is None or item.marker.evaluate()]
    places = {str(distribution(name).locate_file("")) for name in names}
    (packages / "required.pth").write_text("\n".join(places))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in PACKAGES:
        (elsewhere / name).mkdir()
        (elsewhere / name / "__init__.py").write_text(f"raise SystemExit('the wrong {name}')\n")
    for name in ("wsgi.py", *MISLEADING):
        (elsewhere / name).write_text("raise SystemExit('the wrong one')\n")
    return Installed(environment / "bin", elsewhere)


def test_the_installed_command_tells_its_version_and_leaves_nothing(installed: Installed) -> None:
    before = installed.left_behind()
    for arguments in (("--version",), ("--help",), ("licenses",), ("users", "--help")):
        done = installed.weir(*arguments)
        assert done.returncode == 0, done.stderr
    assert installed.left_behind() == before
    assert installed.weir("--version").stdout.startswith(f"weir {__version__} ")


def test_the_installed_demo_shows_everything(installed: Installed, tmp_path: Path) -> None:
    before = installed.left_behind()
    done = installed.weir("demo", "--once", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('outcome           "ok"') == 6
    assert installed.left_behind() == before
    assert list(tmp_path.iterdir()) == []


def test_the_installed_proxy_serves_reloads_and_stops(installed: Installed, tmp_path: Path) -> None:
    program = [str(installed.programs / "weir"), "run", "--pid", "weir.pid"]
    environment = {"PORT": "0", "LOG_FORMAT": "json"}
    child = Child(program, environment, tmp_path / "log", cwd=installed.elsewhere)
    try:
        url = child.wait_for_line(lambda line: found[1] if (found := _LISTENING.search(line)) else None)
        wait_until(lambda: answers(url), what="an answer")
        assert int((installed.elsewhere / "weir.pid").read_text()) == child.pid, "something stands in between"
        written = child.log.splitlines(keepends=True)
        said = [json.loads(line)["message"] for line in written if line.endswith("\n")]
        assert any(message.startswith(f"Weir {__version__} answers on ") for message in said)
        assert requests.get(f"{url}/health", timeout=90).json()["version"] == __version__
        assert requests.get(f"{url}/admin/login", timeout=90).ok
        assert requests.get(f"{url}/admin/static/weir.css", timeout=90).ok
        assert requests.get(f"{url}/api/docs", timeout=90).ok
        added = installed.weir("users", "add", "ann", "--json")
        assert added.returncode == 0, added.stderr
        headers = {"Authorization": f"Bearer {json.loads(added.stdout)['apiKey']}"}
        offered = requests.get(f"{url}/v1/models", headers=headers, timeout=90).json()["data"]
        assert "gpt-5" in {model["id"] for model in offered}
        before = workers_of(child)
        os.kill(child.pid, signal.SIGHUP)
        wait_until(lambda: workers_of(child) and not workers_of(child) & before, what="other workers")
        child.terminate()
        assert child.wait() == 0, child.log
        assert group_members(child.pid) == []
    finally:
        child.kill_tree()
    assert "Traceback" not in child.log
    assert installed.left_behind() == {"var"}, "the default of DATA_DIR is not where the user is"


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/ready", timeout=90).ok
    except (requests.ConnectionError, requests.Timeout):
        return False


def workers_of(child: Child) -> set[int]:
    return {pid for pid in children_of(child.pid) if b"/weir\0run" in command_line(pid)}
