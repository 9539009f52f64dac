"""Where clients are installed: each into an environment of its own, exactly as its lock says."""

import hashlib
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from simulator.launcher import ROOT
from tools.environment import SetUpError, installed_at_last, make_environment

PLACE = ROOT / ".clients"
"""Everything that is installed; git ignores it."""

_LOCKS = Path(__file__).parent
_INSTALL_S = 900.0
_MACHINE = {"x86_64": "x64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class PythonEnvironment:
    """A virtual environment with what `python/NAME.lock` pins."""

    name: str

    @property
    def directory(self) -> Path:
        """Where it is."""
        return PLACE / "python" / self.name

    @property
    def lock(self) -> Path:
        """What says what it has."""
        return _LOCKS / "python" / f"{self.name}.lock"

    def make(self) -> None:
        """Install it unless it is there; raises `SetUpError`."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        make_environment(self.directory, [self.lock])

    def program(self, name: str = "python") -> str:
        """The path of something it has installed."""
        return str(self.directory / "bin" / name)


@dataclass(frozen=True, slots=True)
class NodeEnvironment:
    """A directory with what `NAME/package-lock.json` pins; no install script of a package is run."""

    name: str
    locks: Path = _LOCKS / "node"

    @property
    def directory(self) -> Path:
        """Where it is."""
        return PLACE / "node" / self.name

    @property
    def lock(self) -> Path:
        """What says what it has."""
        return self.locks / self.name / "package-lock.json"

    def make(self) -> None:
        """Install it unless it is there; raises `SetUpError`."""
        stamp = self.directory / ".installed"
        digest = hashlib.sha256(self.lock.read_bytes()).hexdigest()
        if stamp.exists() and stamp.read_text() == digest:
            return
        npm = shutil.which("npm")
        if npm is None:
            raise SetUpError("there is no npm: apt install npm")
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(self.lock.with_name(name), self.directory / name)
        print(f"installing node/{self.name} ...", flush=True)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        said: list[str] = []

        def install() -> bool:
            done = subprocess.run(
                command, cwd=self.directory, capture_output=True, text=True, check=False, timeout=_INSTALL_S
            )
            said[:] = (done.stderr or done.stdout).strip().splitlines() or ["npm failed"]
            return done.returncode == 0

        try:
            is_installed = installed_at_last(install)
        except subprocess.TimeoutExpired:
            raise SetUpError(f"npm did not end within {_INSTALL_S:.0f} s") from None
        if not is_installed:
            raise SetUpError(f"npm could not install {self.name}: {said[0]}")
        stamp.write_text(digest)

    def program(self, path: str) -> str:
        """The path of a file below `node_modules`; `{machine}` in it is this one's, as packages call it."""
        return str(self.directory / "node_modules" / path.format(machine=machine()))


NODE = NodeEnvironment("runtime")
"""The Node.js that runs clients which need one newer than distributions have."""


def node() -> str:
    """The path of its program."""
    return NODE.program("node-linux-{machine}/bin/node")


def machine() -> str:
    """The architecture as npm calls it."""
    return _MACHINE.get(platform.machine(), platform.machine())
