"""Make a virtual environment that holds what a lock says.

`python3 tools/environment.py .venv requirements.lock`; every `make` does it first. Nothing but the standard
library is imported: this runs before anything is installed.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036  whoever has an older one is to read this and not a traceback
    sys.exit(f"weir: Python 3.11 or newer is needed, {sys.executable} is older: set PYTHON=python3.11 or so")

PIP_INSTALL = (
    *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
    "--no-deps",  # a lock is complete: nothing is resolved, so nothing released since can matter
    "--require-hashes",
    *("--only-binary", ":all:"),  # nothing is built: what a build needs is pinned nowhere
    "--no-user",  # some have `user = true` in their pip.conf, which an environment cannot follow
)
"""How a lock is installed: exactly, on any day, by any pip since that of Python 3.11.0."""

THIS_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

# It fails if the interpreter is gone or is not the version whose packages are there, and says if the scripts
# are another directory's; a script with a long path starts with /bin/sh and tells nothing.
_PROBE = """
import os, pip, sys
place = os.path.dirname(sys.executable)
with open(os.path.join(place, "pip")) as script:
    interpreter = script.readline()[2:].strip()
in_place = interpreter == "/bin/sh" or os.path.samefile(os.path.dirname(interpreter), place)
print("%d.%d" % sys.version_info[:2] if in_place else "moved")
"""


_PAUSES_S = (3, 15)
"""How long is waited before what was broken off is downloaded again, in seconds."""


class SetUpError(Exception):
    """The environment cannot be made; the message is one line that says what to do."""


def make_environment(directory: Path, locks: Sequence[Path], *, this_version: bool = False) -> None:
    """See that `directory` is an environment that runs and holds what the locks say; raise `SetUpError`.

    It stays as it is where that is so already, and is made anew where it does not run, or is one of another
    version of Python than this and `this_version` is asked for. Of several at once, one makes it.
    """
    with _alone(directory.parent):
        if reason := _unusable(directory, this_version):
            _create(directory, reason)
        missing = [lock for lock in locks if not _is_installed(directory, lock)]
        if missing:
            _install(directory, missing)


def machine_problem() -> str | None:
    """Say what this Python lacks for making environments at all, in one line; None: nothing."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        return f"{sys.executable} cannot make virtual environments: apt install python3-venv"
    return None


@contextmanager
def _alone(parent: Path) -> Iterator[None]:
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _unusable(directory: Path, this_version: bool) -> str | None:
    if not os.path.lexists(directory / "bin" / "python"):
        return "making"
    try:
        probe = [str(directory / "bin" / "python"), "-I", "-c", _PROBE]
        version = subprocess.run(probe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "its Python is gone or is another one now: making"
    if version == "moved":
        return "it was made in another place: making"
    if this_version and version != THIS_VERSION:
        return f"it has Python {version}, not {THIS_VERSION}: making"
    return None


def _create(directory: Path, reason: str) -> None:
    if problem := machine_problem():
        raise SetUpError(problem)
    _say(f"{reason} {directory.name}, with {sys.executable}")
    done = None
    try:
        done = subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=False)
    finally:
        if done is None or done.returncode != 0:  # an interrupted one must not look like one that is there
            shutil.rmtree(directory, ignore_errors=True)
    if done.returncode != 0:
        raise SetUpError(f"{directory} cannot be made: see above")


def _install(directory: Path, locks: Sequence[Path]) -> None:
    names = " and ".join(lock.name for lock in locks)
    _say(f"installing {names} into {directory.name} ...")
    options = [option for lock in locks for option in ("-r", str(lock))]
    command = [str(directory / "bin" / "python"), *PIP_INSTALL, *options]
    if not installed_at_last(lambda: subprocess.run(command, check=False).returncode == 0):
        raise SetUpError(f"pip could not install {names} into {directory}: see above")
    check = [str(directory / "bin" / "python"), "-m", "pip", "check", "--disable-pip-version-check"]
    checked = subprocess.run(check, capture_output=True, text=True, check=False)
    if checked.returncode != 0:
        said = "; ".join((checked.stdout or checked.stderr).splitlines())
        raise SetUpError(f"{directory} does not fit together ({said}): remove it and try again")
    for lock in locks:
        _stamp(directory, lock).write_text(_digest(lock))


def installed_at_last(install: Callable[[], bool]) -> bool:
    """Return whether it could be installed, at once or after another try: a download may break off."""
    for pause_s in _PAUSES_S:
        if install():
            return True
        _say(f"trying again in {pause_s} s ...")
        time.sleep(pause_s)
    return install()


def _is_installed(directory: Path, lock: Path) -> bool:
    stamp = _stamp(directory, lock)
    return stamp.exists() and stamp.read_text() == _digest(lock)


def _stamp(directory: Path, lock: Path) -> Path:
    return directory / f".installed-{lock.name}"


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Make the environment that the command line names."""
    parser = argparse.ArgumentParser(description="make a virtual environment that holds what a lock says")
    parser.add_argument("directory", type=Path)
    parser.add_argument("locks", type=Path, nargs="+", metavar="lock")
    parser.add_argument("--this-version", action="store_true", help="with this version of Python")
    given = parser.parse_args()
    try:
        make_environment(given.directory.absolute(), given.locks, this_version=given.this_version)
    except (SetUpError, OSError) as error:
        sys.exit(f"weir: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
