"""Fuzz for some minutes: `python -m tests.fuzz --minutes 60 [TARGET …]`, in turns; print what came of it.

An interrupted run is resumed: what was found to be of use, what broke a target, and the figures are in
`--work`. `--keep` then puts the smallest inputs that reach all that was reached into the repository.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from app.settings import ROOT
from tests.fuzz.corpus_file import keep, kept
from tests.fuzz.targets import TARGETS

TURN_S = 120
"""How long one target runs before the next one does."""
SLOW_S = 25
"""An input that takes longer is a finding too, on a machine that does something else meanwhile."""
_RUNS = re.compile(r"^(?:stat::number_of_executed_units:\s+|#)(\d+)", re.MULTILINE)
"""How many executions there have been, in libFuzzer's last words and in all before, should it be killed."""
_FINDING = re.compile(r"Test unit written to (\S+)")


@dataclass
class Figures:
    """What a target has cost and brought so far."""

    executions: int = 0
    seconds: float = 0.0
    findings: int = 0


class Workshop:
    """Where the fuzzers work: a corpus, findings and figures of each target."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def corpus(self, name: str) -> Path:
        """The directory of what was found to be of use, with the seeds and what is kept."""
        place = self._directory / "corpus" / name
        if not place.exists():
            place.mkdir(parents=True)
            for number, data in enumerate((*TARGETS[name].seeds(), *kept(name))):
                (place / f"seed-{number:04}").write_bytes(data)
        return place

    def findings(self, name: str) -> Path:
        """The directory of what broke the target."""
        place = self._directory / "findings" / name
        place.mkdir(parents=True, exist_ok=True)
        return place

    def words(self, name: str) -> list[str]:
        """The option that names libFuzzer's dictionary, if there is one."""
        path = self._directory / f"{name}.dict"
        escaped = ["".join(f"\\x{byte:02x}" for byte in word) for word in TARGETS[name].words]
        path.write_text("".join(f'"{word}"\n' for word in escaped))
        return [f"-dict={path}"] if escaped else []

    def figures(self) -> dict[str, Figures]:
        """The figures of all targets."""
        path = self._directory / "figures.json"
        told = json.loads(path.read_text()) if path.exists() else {}
        return {name: Figures(**told.get(name, {})) for name in TARGETS}

    def note(self, figures: dict[str, Figures]) -> None:
        """Write the figures down."""
        told = {name: asdict(item) for name, item in figures.items()}
        (self._directory / "figures.json").write_text(json.dumps(told, indent=1))


def engine(name: str, *options: str) -> tuple[str, str]:
    """Run libFuzzer on a target: what Python says, and what libFuzzer does."""
    command = [sys.executable, "-m", "tests.fuzz.engine", name, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    return done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def turn(workshop: Workshop, name: str, seconds: int, figures: Figures) -> None:
    """Let one target run, and add to its figures."""
    began = time.monotonic()
    raised, said = engine(
        name,
        f"-max_total_time={seconds}",
        f"-timeout={SLOW_S}",
        *workshop.words(name),
        f"-artifact_prefix={workshop.findings(name)}/",
        "-print_final_stats=1",
        "-rss_limit_mb=2048",
        str(workshop.corpus(name)),
    )
    runs, finding = _RUNS.findall(said), _FINDING.search(said)
    if not runs and finding is None:
        sys.exit(f"{name} did not run:\n{said[-3000:]}")
    figures.executions += max(map(int, runs), default=0)
    figures.seconds += time.monotonic() - began
    if finding:
        figures.findings += 1
        say(f"{name}: broken by {finding[1]}\n{raised[:3000] or said[-2000:]}")


def minimise(workshop: Workshop, name: str) -> None:
    """Keep the smallest inputs of a target that reach all that its corpus reaches."""
    with tempfile.TemporaryDirectory() as place:
        engine(name, "-merge=1", place, str(workshop.corpus(name)))
        inputs = [path.read_bytes() for path in Path(place).iterdir()]
    if not inputs:
        sys.exit(f"nothing was left of the corpus of {name}")
    say(f"{name}: {keep(name, inputs)} of {len(inputs)} inputs are kept")


def table(workshop: Workshop, figures: dict[str, Figures]) -> str:
    """The figures of all that has run, as lines."""
    lines = [f"{'target':16}{'executions':>12}{'minutes':>9}{'corpus':>8}{'findings':>10}"]
    total = Figures()
    for name, item in figures.items():
        if item.seconds:
            size = len(list(workshop.corpus(name).iterdir()))
            lines.append(f"{name:16}{item.executions:12,}{item.seconds / 60:9.1f}{size:8}{item.findings:10}")
            total.executions += item.executions
            total.seconds += item.seconds
            total.findings += item.findings
    lines.append(f"{'all':16}{total.executions:12,}{total.seconds / 60:9.1f}{'':8}{total.findings:10}")
    return "\n".join(lines)


def say(text: str) -> None:
    """Print at once: a run takes an hour."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="fuzz the readers, in turns")
    parser.add_argument("targets", nargs="*", metavar="target", help=", ".join(TARGETS))
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=60.0, help="of all targets together (60)")
    length.add_argument(
        "--each", type=float, help="until each target has had so many minutes, also in earlier runs"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "var" / "fuzz", help="where an hour's work is kept"
    )
    parser.add_argument("--keep", action="store_true", help="put what is of use into the repository")
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    given.work.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(given.work)
    figures = workshop.figures()
    findings = sum(figures[name].findings for name in names)
    end = time.monotonic() + 60 * given.minutes
    while True:
        # Whoever has had the least time, so that an interrupted run goes on where it was.
        name = min(names, key=lambda name: figures[name].seconds)
        left = end - time.monotonic() if given.each is None else 60 * given.each - figures[name].seconds
        if left < 1:
            break
        turn(workshop, name, max(1, int(min(TURN_S, left))), figures[name])
        workshop.note(figures)
    for name in names if given.keep else ():
        minimise(workshop, name)
    say(table(workshop, figures))
    sys.exit(1 if sum(figures[name].findings for name in names) > findings else 0)


if __name__ == "__main__":
    main()
