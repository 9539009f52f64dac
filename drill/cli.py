"""The command line: `python -m drill [--level LEVEL] [--seed N] [--only SCENARIO] [--json FILE]`."""

import argparse
import logging
import secrets
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from drill.levels import LEVELS
from drill.processes import Upstream
from drill.report import Console, Findings, NotTried, as_json
from drill.scenarios import IN_SHORT, SCENARIOS
from drill.stage import Drill


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios; exit status 0 if everything agrees, 1 if not, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    # A closed terminal or `kill` ends the drill as Ctrl-C does: nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    # The deaths of the drill's own MongoDB are no news.
    logging.getLogger("app.store.embedded_mongo").setLevel(logging.CRITICAL)
    directory = Path(tempfile.mkdtemp(prefix="weir-drill-"))
    console = Console()
    console.say(f"level {arguments.level}, seed {seed}, data in {directory}")
    all_findings: list[Findings] = []
    began = time.monotonic()
    try:
        _run(arguments, seed, directory, console, all_findings)
    except KeyboardInterrupt:
        console.say("interrupted")
        return 130
    finally:
        if not arguments.keep:
            shutil.rmtree(directory, ignore_errors=True)
    console.table(all_findings, seed)
    if arguments.json:
        text = as_json(all_findings, seed=seed, level=arguments.level, seconds=time.monotonic() - began)
        arguments.json.write_text(text)
    return 1 if any(findings.problem_count for findings in all_findings) else 0


def _run(
    arguments: argparse.Namespace, seed: int, directory: Path, console: Console, all_findings: list[Findings]
) -> None:
    level = LEVELS[arguments.level]
    if arguments.rate:
        level = replace(level, rate=arguments.rate)
    names = arguments.only or (IN_SHORT if arguments.level == "short" else tuple(SCENARIOS))
    with Upstream() as upstream:
        for name in names:
            # Each scenario has its own sequence, so that `--only` repeats what the whole drill did.
            random = Random(f"{seed}/{name}")  # noqa: S311  not for secrets
            drill = Drill(level, random, directory, upstream, console)
            console.say(f"{name}: begins")
            findings = _findings_of(name, drill)
            all_findings.append(findings)
            console.say(f"{name}: {findings.result}, {findings.requests} requests, {findings.seconds:.0f} s")


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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--keep", action="store_true", help="keep the data directory")
    return parser
