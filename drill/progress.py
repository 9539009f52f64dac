"""A run that is kept in a file, part by part, so that one that was stopped goes on where it was."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from drill.report import Findings

_FORMAT = 1


class DrillTrouble(Exception):
    """A run cannot begin, or cannot go on; the text says why and what to do."""


@dataclass(slots=True)
class Progress:
    """What a run was asked for, which parts it has, and what those that are over have found.

    `code` names each version of the code that has run a part. `directory` is where the part under way has its
    data: a run that was killed has left it behind.
    """

    level: str
    seed: int
    only: list[str]
    rate: float | None
    is_whole: bool
    parts: list[str]
    code: list[str] = field(default_factory=list)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    directory: str = ""

    @property
    def is_over(self) -> bool:
        """Whether there is no part left."""
        return len(self.done) == len(self.parts)

    def note(self, part: str, findings: Findings) -> None:
        """Add what a part has found, now that it is over."""
        self.done[part] = findings.plain()
        self.seconds += findings.seconds

    def findings(self) -> list[Findings]:
        """Return what the parts have found, in the order of the plan."""
        return [Findings(**self.done[part]) for part in self.parts if part in self.done]

    def described(self) -> str:
        """Return what the run is, in words."""
        words = [f"seed {self.seed}", *(f"--only {name}" for name in self.only)]
        words += [f"--rate {self.rate:g}"] if self.rate else []
        words += ["--whole"] if self.is_whole else []
        return f"level {self.level}, {', '.join(words)}, {len(self.done)} of {len(self.parts)} parts done"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks of a run; None: nothing was said."""

    level: str
    seed: int | None = None
    only: Sequence[str] = ()
    rate: float | None = None
    is_whole: bool = False
    resumes: bool = False
    is_fresh: bool = False


def goes_on(kept: Progress | None, asked: Asked, path: Path) -> bool:
    """Return whether the kept run is to go on; False: another one begins.

    Raises `DrillTrouble` where that is not clear: figures of two runs are never mixed, and none are thrown
    away unless somebody says so.
    """
    if asked.is_fresh:
        return False
    if kept is None:
        if asked.resumes:
            raise DrillTrouble(f"there is no run to resume in {path}")
        return False
    if kept.is_over and not asked.resumes:
        return False
    differs = (
        kept.level != asked.level
        or (asked.seed is not None and asked.seed != kept.seed)
        or (list(asked.only) != kept.only and (asked.only or not asked.resumes))
        or (asked.rate != kept.rate and (asked.rate is not None or not asked.resumes))
        or (asked.is_whole != kept.is_whole and (asked.is_whole or not asked.resumes))
    )
    if differs:
        raise DrillTrouble(
            f"{path} has another run, not finished: {kept.described()}. "
            f"--resume alone goes on with it, --fresh begins anew, --state FILE keeps this one elsewhere"
        )
    return True


def check_parts(kept: Progress, parts: Sequence[str], path: Path) -> None:
    """Raise `DrillTrouble` if a kept run was planned otherwise, by another version of the drill."""
    if kept.parts != list(parts):
        raise DrillTrouble(f"the run in {path} has other parts than it would have now: --fresh begins anew")


def read(path: Path) -> Progress | None:
    """Read a kept run; None if there is none. Raises `DrillTrouble` for a file that is no such thing."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    try:
        document = json.loads(text)
        if document.pop("format") != _FORMAT:
            raise DrillTrouble(f"{path} is of another version of the drill: --fresh begins anew")
        known = {member.name for member in fields(Progress)}
        return Progress(**{name: value for name, value in document.items() if name in known})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DrillTrouble(f"{path} cannot be read as a run of the drill: --fresh begins anew") from None


def write(progress: Progress, path: Path) -> None:
    """Replace the file as a whole, on disk before this returns: a power cut leaves the one or the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": _FORMAT} | asdict(progress), indent=1, ensure_ascii=False)
    new = path.with_name(f"{path.name}.new")
    with new.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def owned(path: Path) -> Iterator[None]:
    """Keep other drills away from this file meanwhile. Raises `DrillTrouble` if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DrillTrouble(f"another drill is running, and keeps itself in {path}") from None
        yield
