"""The command line: `python -m bench [--level LEVEL] [--targets …] [--figures …] [--json FILE]`."""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from bench import cors, growth, long_run, machine, pages, report, streams, volume, windows, workers
from bench.chart import draw, draw_memory
from bench.long_run import Curve
from bench.native import BenchTrouble, LoadUpstream, compile_programs
from bench.peers import Ferro, FerroLog, LiteLLM, Portkey, Shepherd
from bench.run import FIGURES, MEMORY, Bench, Results, Site
from bench.shapes import LEVELS, MODELS, Level
from bench.targets import Direct, Nginx, Peer, Target
from bench.weir import WeirAlways, WeirOff, WeirTarget

_PEERS: tuple[tuple[type[Peer], str], ...] = (
    (Nginx, "not installed (apt install nginx-light)"),
    (LiteLLM, "not installed (make bench-peers)"),
    (Portkey, "not installed (make bench-peers, needs npm)"),
    (Ferro, "not installed (make bench-peers)"),
    (FerroLog, "not installed (make bench-peers)"),
    (Shepherd, "not installed (make bench-peers)"),
)
_WEIRS = (WeirTarget, WeirAlways, WeirOff)
TARGETS = ("direct", *(kind.name for kind, _ in _PEERS), *(weir.name for weir in _WEIRS))
CORS, GROWTH, KEYS, WORKERS, HOSTS = "cors", "growth", "upstream-keys", "workers", "hosts"
STREAMS, WINDOWS, VOLUME, PAGES = "streams", "windows", "volume", "pages"
LONG_RUN, HALF_LOAD = "long-run", "half-load"
OWN: dict[str, Callable[[Site, Level, Results, Path], object]] = {
    CORS: lambda site, level, results, _: cors.measure(site, level, results),
    GROWTH: growth.measure,
    KEYS: growth.measure_pools,
    WORKERS: lambda site, level, results, _: workers.measure(site, level, results),
    HOSTS: lambda site, level, results, _: workers.measure_hosts(site, level, results),
    STREAMS: lambda site, level, results, _: streams.measure(site, level, results),
    WINDOWS: lambda site, level, results, _: windows.measure(site, level, results),
    VOLUME: volume.measure,
    PAGES: pages.measure,
    LONG_RUN: lambda site, level, results, _: long_run.measure(site, level.long_run_s, results),
    HALF_LOAD: lambda site, level, results, _: long_run.measure(
        site, level.half_load_s, results, figure=long_run.HALF_LOAD
    ),
}
"""What is measured of this proxy alone, all but `cors` only when asked for; the path is for databases."""
EXIT_PROBLEM, EXIT_TROUBLE, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0: done, 1: something was lost or failed, 2: it could not be measured, 130: interrupted."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="weir-bench-"))
    try:
        with ExitStack() as stack:
            results = _run(arguments, directory, stack)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BenchTrouble as trouble:
        sys.stderr.write(f"bench: {trouble}\n")
        return EXIT_TROUBLE
    finally:
        if arguments.keep:
            sys.stdout.write(f"kept: {directory}\n")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    document = report.document(results, arguments.level)
    if arguments.add_to and arguments.add_to.exists():
        document = report.merged(report.read(arguments.add_to), document)
    sys.stdout.write(report.table(document))
    for path in {arguments.json, arguments.add_to} - {None}:
        report.write(document, path)
    if arguments.history:
        report.remember(document, arguments.history)
        draw(document, arguments.history.with_suffix(".svg"))
    problems = report.problems(document)
    for problem in problems:
        sys.stdout.write(f"✗ {problem}\n")
    return EXIT_PROBLEM if problems else 0


def _run(arguments: argparse.Namespace, directory: Path, stack: ExitStack) -> Results:
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.1f} s  {text}\n")
        sys.stdout.flush()

    proxy_core, load_core = machine.cores()
    if proxy_core == load_core:
        say("there is one core only: proxy and load share it, and no figure is worth much")
    programs = compile_programs(directory)
    upstream = stack.enter_context(LoadUpstream(programs, directory, load_core, MODELS))
    site = Site(programs, upstream, directory, proxy_core, load_core, say)
    results = Results()
    if set(arguments.figures) & {*FIGURES, MEMORY}:
        with ExitStack() as targets:
            _compare(arguments, site, results, targets)
    _measure_alone(arguments, site, results)
    return results


def _measure_alone(arguments: argparse.Namespace, site: Site, results: Results) -> None:
    """Measure what is asked of this proxy only, of those figures that were chosen."""
    level, data = LEVELS[arguments.level], arguments.data or site.directory
    for name in OWN:
        if name not in arguments.figures:
            continue
        found = OWN[name](site, level, results, data)
        if name == LONG_RUN and arguments.history:
            draw_memory(cast("Mapping[str, Curve]", found), arguments.history.with_name("long-run.svg"))


def _compare(arguments: argparse.Namespace, site: Site, results: Results, stack: ExitStack) -> None:
    targets, left_out = _targets(arguments, site)
    results.left_out |= left_out
    for target in list(targets):
        stack.callback(target.stop)
        try:
            target.start()
        except BenchTrouble as trouble:
            if not isinstance(target, Peer):
                raise
            # One that does not start here is no reason not to measure the others.
            results.left_out[target.name] = f"did not start: {trouble}"
            targets.remove(target)
    site.say("measured: " + ", ".join(f"{target.name} {target.version()}".strip() for target in targets))
    results.versions = {target.name: target.version() for target in targets if target.version()}
    bench = Bench(site, targets, results)
    level = LEVELS[arguments.level]
    bench.measure([FIGURES[name] for name in arguments.figures if name in FIGURES], level)
    if MEMORY in arguments.figures:
        bench.measure_memory()
    bench.close_books()


def _targets(arguments: argparse.Namespace, site: Site) -> tuple[list[Target], dict[str, str]]:
    """Return the targets that were asked for and are there, and the others with the reason."""
    port, core = site.upstream.port, site.proxy_core
    targets: list[Target] = []
    left_out: dict[str, str] = {}
    if "direct" in arguments.targets:
        targets.append(Direct(port))
    for kind, reason in _PEERS:
        if kind.name not in arguments.targets:
            continue
        if kind.where() is None:
            left_out[kind.name] = reason
        else:
            targets.append(kind(port, site.directory / kind.name, core))
    targets.extend(
        weir(port, site.directory / weir.name, (core,), site.load_core)
        for weir in _WEIRS
        if weir.name in arguments.targets
    )
    return targets, left_out


def _list_of(names: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(name.strip() for name in text.split(",") if name.strip())
        unknown = [name for name in chosen if name not in names]
        if unknown or not chosen:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown) or 'nothing'}: choose from {', '.join(names)}"
            )
        return chosen

    return parse


def _parser() -> argparse.ArgumentParser:
    usual = (*FIGURES, MEMORY, CORS)
    figures = (*FIGURES, MEMORY, *OWN)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures this proxy, with everything on, beside others that can be installed.",
        epilog="What the figures mean: docs/performance.md",
    )
    parser.add_argument("--level", choices=LEVELS, default="default", help="how long (default: %(default)s)")
    parser.add_argument(
        "--targets", type=_list_of(TARGETS), default=TARGETS, metavar="A,B", help=", ".join(TARGETS)
    )
    parser.add_argument(
        "--figures",
        type=_list_of(figures),
        default=usual,
        metavar="A,B",
        help=f"{', '.join(usual)} (those are the default); of this proxy alone: {', '.join(OWN)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--add-to", type=Path, metavar="FILE", help="add the figures to those of an earlier part of a run"
    )
    parser.add_argument(
        "--history", type=Path, metavar="FILE", help="append a line to it, and draw its last run beside it"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="keep the databases of `growth` there, for the next time"
    )
    parser.add_argument("--keep", action="store_true", help="keep the data directory")
    return parser
