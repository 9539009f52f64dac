"""The command line: `python -m drill [--level LEVEL] [--seed N] [--only SCENARIO] [--json FILE]`."""

import argparse
import logging
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from drill import progress
from drill.levels import FULL, LEVELS
from drill.parts import Part, plan
from drill.processes import Upstream
from drill.progress import Asked, DrillTrouble, Progress
from drill.report import Console, Findings, NotTried, add_up, as_json, duration
from drill.scenarios import IN_SHORT, SCENARIOS
from drill.stage import Drill
from simulator.launcher import ROOT

EXIT_PROBLEM, EXIT_TROUBLE, EXIT_INTERRUPTED = 1, 2, 130

_PREFIX = "weir-drill-"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios: 0: everything agrees, 1: not, 2: it cannot begin or go on, 130: interrupted."""
    arguments = _parser().parse_args(argv)
    # A closed terminal or `kill` ends the drill as Ctrl-C does: nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    console = Console()
    kept_in = _kept_in(arguments)
    run: Progress | None = None
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
    with ExitStack() as stack:
        # The deaths of the drill's own MongoDB are no news.
        deaths = logging.getLogger("app.store.embedded_mongo")
        stack.callback(deaths.setLevel, deaths.level)
        deaths.setLevel(logging.CRITICAL)
        if not arguments.keep:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
        try:
            if kept_in is not None:
                stack.enter_context(progress.owned(kept_in))
            run, parts = _begun(arguments, kept_in, console)
            console.say(f"level {run.level}, seed {run.seed}, data in {directory}")
            _run(run, parts, directory, kept_in, console, keep=arguments.keep)
        except DrillTrouble as trouble:
            sys.stderr.write(f"drill: {trouble}\n")
            return EXIT_TROUBLE
        except KeyboardInterrupt:
            console.say("interrupted" + _where(run, kept_in))
            return EXIT_INTERRUPTED
    by_scenario = groupby(run.findings(), lambda findings: findings.scenario)
    all_findings = [add_up(list(group)) for _, group in by_scenario]
    console.table(all_findings, run.seed)
    if arguments.json:
        text = as_json(all_findings, seed=run.seed, level=run.level, seconds=run.seconds, code=run.code)
        arguments.json.write_text(text)
    return EXIT_PROBLEM if any(findings.problem_count for findings in all_findings) else 0


def _kept_in(arguments: argparse.Namespace) -> Path | None:
    """Return the file in which the run is kept; None if it is not: the shorter levels are run in one go."""
    if arguments.state is not None:
        path: Path = arguments.state
        return path.absolute()
    if arguments.level == FULL.name or arguments.resume or arguments.fresh:
        return ROOT / "var" / f"drill-{arguments.level}.json"
    return None


def _begun(
    arguments: argparse.Namespace, kept_in: Path | None, console: Console
) -> tuple[Progress, list[Part]]:
    """Return the run that goes on, or another one, with all its parts."""
    asked = Asked(
        arguments.level,
        arguments.seed,
        tuple(arguments.only or ()),
        arguments.rate,
        arguments.whole,
        arguments.resume,
        arguments.fresh,
    )
    kept = None if kept_in is None or asked.is_fresh else progress.read(kept_in)
    if kept_in is not None and progress.goes_on(kept, asked, kept_in) and kept is not None:
        parts = _plan(kept)
        progress.check_parts(kept, [part.name for part in parts], kept_in)
        console.say(f"goes on: {kept.described()}, {duration(kept.seconds)} so far ({kept_in})")
        _clear(kept.directory)
        return kept, parts
    seed = secrets.randbelow(10**6) if asked.seed is None else asked.seed
    run = Progress(asked.level, seed, list(asked.only), asked.rate, asked.is_whole, [])
    parts = _plan(run)
    run.parts = [part.name for part in parts]
    return run, parts


def _plan(run: Progress) -> list[Part]:
    level = LEVELS[run.level]
    if run.rate:
        level = replace(level, rate=run.rate)
    names = run.only or (IN_SHORT if run.level == "short" else tuple(SCENARIOS))
    return plan(names, level, is_whole=run.is_whole or run.level != FULL.name)


def _run(
    run: Progress,
    parts: Sequence[Part],
    directory: Path,
    kept_in: Path | None,
    console: Console,
    *,
    keep: bool,
) -> None:
    """Run the parts that are left, and keep what each has found."""
    left = [part for part in parts if part.name not in run.done]
    if not left:
        return
    run.directory = str(directory)
    run.code += [code] if (code := _code()) not in run.code else []
    if len(run.code) > 1:
        console.say(f"parts of this run were of other code: {', '.join(run.code)}")
    if kept_in is not None:
        progress.write(run, kept_in)
    with Upstream() as upstream:
        for part in left:
            place = directory / str(parts.index(part) + 1)
            place.mkdir()
            drill = Drill(part.level, part.random(run.seed), place, upstream, console)
            console.say(f"{part.name}: begins")
            findings = _findings_of(part.scenario, drill)
            if not keep:
                shutil.rmtree(place, ignore_errors=True)
            run.note(part.name, findings)
            if kept_in is not None:
                progress.write(run, kept_in)
            console.say(
                f"{part.name}: {findings.result}, {findings.requests} requests, {findings.seconds:.0f} s"
            )
            if len(parts) > 1 and not run.is_over:
                console.say(_told(run, parts))


def _told(run: Progress, parts: Sequence[Part]) -> str:
    """Return how far the run is; the rest takes as much longer than was guessed as what is over did."""
    guessed = {part.name: part.seconds for part in parts}
    over = sum(guessed[name] for name in run.done)
    left = sum(seconds for name, seconds in guessed.items() if name not in run.done)
    about = left * run.seconds / over if over else left
    return (
        f"{len(run.done)} of {len(parts)} parts done in {duration(run.seconds)}, about {duration(about)} left"
    )


def _where(run: Progress | None, kept_in: Path | None) -> str:
    if run is None or kept_in is None:
        return ""
    return (
        f"; {len(run.done)} of {len(run.parts)} parts are kept in {kept_in}: the same command goes on there"
    )


def _clear(left_behind: str) -> None:
    """Remove the data of a part that was killed; nobody else uses it, for the run is ours."""
    path = Path(left_behind)
    if path.name.startswith(_PREFIX) and path.parent == Path(tempfile.gettempdir()):
        shutil.rmtree(path, ignore_errors=True)


def _code() -> str:
    """Return which version of the code this is, as Git names it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _findings_of(name: str, drill: Drill) -> Findings:
    """Run a scenario; one that cannot go on is a disagreement, and does not keep the others from running."""
    began = time.monotonic()
    try:
        findings = SCENARIOS[name](drill)
    except NotTried as reason:
        findings = Findings(name, not_tried=str(reason))
    except Exception as error:  # noqa: BLE001  whatever it is, it belongs into the report
        findings = Findings(name)
        findings.problem("".join(traceback.format_exception(error)))
    findings.seconds = time.monotonic() - began
    return findings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m drill",
        description="Breaks the product under load and compares every book there is of what happened.",
        epilog="What the figures mean: docs/durability.md",
    )
    parser.add_argument("--level", choices=LEVELS, default="default", help="how much (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="repeats the choices of an earlier run")
    parser.add_argument(
        "--only", action="append", choices=SCENARIOS, metavar="SCENARIO", help="; ".join(SCENARIOS)
    )
    parser.add_argument(
        "--rate", type=float, metavar="N", help="requests per second during outages, for a slow machine"
    )
    parser.add_argument(
        "--whole", action="store_true", help="the level full in one part a scenario: an outage of an hour"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--keep", action="store_true", help="keep the data directory")
    kept = parser.add_argument_group(
        "a run that goes on",
        "A run of the level full is kept, part by part, and goes on where it was; these keep any level's.",
    )
    either = kept.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="go on with the kept run, as it was begun")
    either.add_argument("--fresh", action="store_true", help="begin anew, and forget the kept run")
    kept.add_argument(
        "--state", type=Path, metavar="FILE", help="where it is kept (default: var/drill-LEVEL.json)"
    )
    return parser
