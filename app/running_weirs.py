"""Which other Weirs run on this machine, as far as this user may see: for messages only."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_PROC = Path("/proc")
_DB_SUFFIX = "/mongodb/db"


@dataclass(frozen=True, slots=True)
class RunningWeir:
    """A Weir's master process, or the mongod of one; `has_uri` is whether it was given MONGODB_URI."""

    pid: int
    data_dir: str
    has_uri: bool

    def __str__(self) -> str:
        kind = "MONGODB_URI" if self.has_uri else "its embedded MongoDB"
        return f"DATA_DIR={self.data_dir} and {kind} (process {self.pid})"


def running_weirs(proc: Path = _PROC) -> list[RunningWeir]:
    """Find every Weir of this user's, or of all users for root: one for each data directory."""
    commands = {pid: command for pid in _own_processes(proc) if (command := _command(proc, pid))}
    masters = {pid for pid, command in commands.items() if _is_master(command)}
    found = [
        _by_environment(proc, pid) for pid in sorted(masters) if _parent(proc, pid) not in masters
    ]  # a worker looks like its master
    found += [
        RunningWeir(pid, path.removesuffix(_DB_SUFFIX), has_uri=False)
        for pid, command in commands.items()
        if (path := _database_path(command)) is not None
    ]
    by_directory: dict[str, RunningWeir] = {}
    for weir in found:  # masters first: they know more than their mongod
        if weir is not None:
            by_directory.setdefault(weir.data_dir, weir)
    return list(by_directory.values())


def _own_processes(proc: Path) -> Iterator[int]:
    user = os.geteuid()
    for path in proc.iterdir():
        if not path.name.isdigit() or int(path.name) == os.getpid():
            continue
        try:
            if user in (0, path.stat().st_uid):
                yield int(path.name)
        except OSError:
            continue  # it has ended


def _command(proc: Path, pid: int) -> list[str]:
    return _read(proc / str(pid) / "cmdline")


def _is_master(command: list[str]) -> bool:
    """Return whether this is gunicorn with Weir, however it was started."""
    names = [Path(word).name for word in command[:4]]
    if "gunicorn" in names:
        return any(word.endswith("wsgi:app") for word in command)
    return any(pair in (("weir", "run"), ("app", "run")) for pair in pairwise(names))


def _database_path(command: list[str]) -> str | None:
    """Return the `--dbpath` of a mongod that a Weir has started."""
    if "--dbpath" not in command[:-1] or Path(command[0]).name.startswith("python"):
        return None
    path = command[command.index("--dbpath") + 1]
    return path if path.endswith(_DB_SUFFIX) else None


def _by_environment(proc: Path, pid: int) -> RunningWeir | None:
    environment = dict(item.partition("=")[::2] for item in _read(proc / str(pid) / "environ"))
    try:
        directory = Path((proc / str(pid) / "cwd").readlink())
    except OSError:
        return None
    data_dir = directory / (environment.get("DATA_DIR", "").strip() or "var")
    has_uri = any(environment.get(name, "").strip() for name in ("MONGODB_URI", "MONGODB_URI_FILE"))
    return RunningWeir(pid, os.path.normpath(data_dir), has_uri)


def _parent(proc: Path, pid: int) -> int | None:
    try:
        stat = (proc / str(pid) / "stat").read_text()
        return int(stat.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _read(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []
