"""`make matrix`: set-up, unit and contract tests and the demo on every supported Python of this machine.

Each gets a new environment with the pip that it brings. What the steps printed is in files beside it.
"""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
PLACE = ROOT / ".venv-matrix"
STEPS = ("set-up", "tests", "demo")
FAILED = "FAILED"
# For one step: a busy machine takes a sixth of that.
_STEP_TIMEOUT_S = 3600.0
_PROBE_TIMEOUT_S = 120.0

_PROBE = (
    "import platform as p, sys; print(p.python_implementation(), p.python_version(), sys._base_executable)"
)
_SUMMARY = re.compile(r"((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s")


@dataclass(frozen=True)
class Interpreter:
    """A CPython that has been seen running."""

    version: str  # such as 3.11.2
    path: Path

    @property
    def minor(self) -> str:
        """The part of the version that is supported or not: 3.11 of 3.11.2."""
        return ".".join(self.version.split(".")[:2])


@dataclass
class Row:
    """What was seen of one interpreter: a line of the table."""

    interpreter: Interpreter
    pip: str = "-"
    steps: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether a step did not end well."""
        return FAILED in self.steps.values()


def candidates(path: str, pyenv: Path) -> Iterator[Path]:
    """Yield everything that may be a supported Python: on PATH, in the usual places, and what pyenv has."""
    for place in (*filter(None, path.split(os.pathsep)), "/usr/bin", "/usr/local/bin"):
        yield from (Path(place) / f"python{minor}" for minor in SUPPORTED)
    yield from sorted(pyenv.glob("versions/*/bin/python"))


def supported(seen: Iterable[Interpreter | None]) -> list[Interpreter]:
    """Return the interpreters that are supported, each once, the oldest first."""
    each = {found.path: found for found in seen if found is not None and found.minor in SUPPORTED}
    return sorted(each.values(), key=lambda found: [int(part) for part in re.findall(r"\d+", found.version)])


def not_found(present: Iterable[Interpreter]) -> list[str]:
    """Return a line for each supported version that this machine does not have."""
    there = {found.minor for found in present}
    return [f"{minor}: not on this machine, not tested" for minor in SUPPORTED if minor not in there]


def summary(output: str) -> str:
    """Return what pytest says at its end, such as `10 passed, 1 skipped`; "" if it says nothing like that."""
    found = _SUMMARY.findall(output)
    return found[-1] if found else ""


def table(rows: Sequence[Row]) -> str:
    """Write the rows with a head, in columns."""
    lines = [["Python", "pip", *STEPS, "seconds"]]
    for row in rows:
        steps = [row.steps.get(step, "-") for step in STEPS]
        lines.append([row.interpreter.version, row.pip, *steps, f"{row.seconds:.0f}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def probe(path: Path) -> Interpreter | None:
    """Return the interpreter behind this path, also if it is a shim or of an environment; None: none runs."""
    try:
        command = [str(path), "-I", "-c", _PROBE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    implementation, version, executable = done.stdout.strip().split(" ", 2)
    return Interpreter(version, Path(executable).resolve()) if implementation == "CPython" else None


def try_out(interpreter: Interpreter) -> Row:
    """Go through the steps with an environment of its own; the first that fails is the last."""
    row, directory, began = Row(interpreter), PLACE / interpreter.version, time.monotonic()
    shutil.rmtree(directory, ignore_errors=True)
    for step, command in steps_with(interpreter, directory).items():
        row.steps[step] = _go(command, PLACE / f"{interpreter.version}-{step}.log")
        if row.failed:
            break
    row.pip = _pip_of(directory)
    row.seconds = time.monotonic() - began
    return row


def steps_with(interpreter: Interpreter, directory: Path) -> dict[str, list[str]]:
    """Return the command of each step."""
    make = ["make", "--no-print-directory", f"PYTHON={interpreter.path}", f"VENV={directory}"]
    python = str(directory / "bin" / "python")
    # What differs between interpreters shows with few examples, too.
    examples = "--hypothesis-profile=mutants"
    return {
        "set-up": [*make, "setup"],
        "tests": [python, "-m", "pytest", "-q", "-n", "2", examples, "tests/unit", "tests/contract"],
        "demo": [*make, "demo", "ARGS=--once"],
    }


def _go(command: Sequence[str], log: Path) -> str:
    """Run a step, its output into the log, and say how it went; of one that failed the end is shown."""
    # This runs within make, whose variables are not to reach another make.
    variables = os.environ.items()  # noqa: TID251  handed on to the processes it starts
    environment = {name: value for name, value in variables if not name.startswith(("MAKE", "MFLAGS"))}
    with log.open("w") as output:
        try:
            subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=output,
                timeout=_STEP_TIMEOUT_S,
                check=True,
            )
            is_well = True
        except subprocess.SubprocessError as error:
            output.write(f"\n{error}\n")
            is_well = False
    printed = log.read_text(errors="replace")
    if is_well:
        return summary(printed) or "ok"
    _say(f"{' '.join(command)} failed ({log}):\n{printed[-3000:]}")
    return FAILED


def _pip_of(directory: Path) -> str:
    """Return the version of an environment's pip."""
    found = [path.name.split("-")[1] for path in directory.glob("lib/python*/site-packages/pip-*.dist-info")]
    return found[0].removesuffix(".dist") if found else "-"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _named(name: str) -> Interpreter:
    found = probe(Path(shutil.which(name) or name))
    if found is None or found.minor not in SUPPORTED:
        sys.exit(f"weir: {name} is not a CPython {SUPPORTED[0]}-{SUPPORTED[-1]} that runs")
    return found


def _present() -> list[Interpreter]:
    environ = os.environ  # noqa: TID251  where other software is
    pyenv = Path(environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return supported(map(probe, candidates(environ.get("PATH", ""), pyenv)))


def main() -> None:
    """Try out every interpreter; exit with 1 if something failed."""
    parser = argparse.ArgumentParser(prog="make matrix", description="try out every supported Python here")
    parser.add_argument("interpreters", nargs="*", type=_named, help="instead of those that are found")
    parser.add_argument("--without", metavar="PYTHON", type=_named, help="one that `make check` has tested")
    given = parser.parse_args()
    found = supported(given.interpreters) or _present()
    PLACE.mkdir(exist_ok=True)
    # Not the directory: whoever makes an environment in it locks that.
    busy = os.open(PLACE / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("weir: another make matrix runs here")
    rows = []
    for interpreter in found:
        if interpreter == given.without:
            rows.append(Row(interpreter, steps={"tests": "by make check"}))
            continue
        _say(f"trying {interpreter.version}, {interpreter.path}")
        rows.append(try_out(interpreter))
    _say("\n".join([table(rows), *([] if given.interpreters else not_found(found))]))
    sys.exit(any(row.failed for row in rows))


if __name__ == "__main__":
    main()
