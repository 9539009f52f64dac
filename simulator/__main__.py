"""``python -m simulator``: the upstream simulator as a process."""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import threading
from pathlib import Path

from simulator.catalog import DEFAULT_MODELS
from simulator.runner import Simulator
from simulator.tally import Tally


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; exit status 0, 1 when the port cannot be had, 2 for wrong use."""
    arguments = _parser().parse_args(argv)
    try:
        keys = dict(_key_state(item) for item in arguments.key)
        simulator = Simulator(
            arguments.host,
            arguments.port,
            models=arguments.model or DEFAULT_MODELS,
            keys=keys,
            seed=arguments.seed,
            tally=Tally(keep_entries=arguments.keep_entries),
        )
    except ValueError as error:
        sys.stderr.write(f"simulator: {error}\n")
        return 2
    # Each connection is an open file, and most systems allow 1024 unless a process asks for more.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    try:
        simulator.start()
    except OSError as error:
        sys.stderr.write(f"simulator: cannot listen on {arguments.host}:{arguments.port}: {error}\n")
        return 1
    sys.stdout.write(f"{simulator.url}\n")
    sys.stdout.flush()
    if arguments.ready_file:
        _write_whole(arguments.ready_file, f"{simulator.url}\n")
    over.wait()
    simulator.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="Plays OhMyGPT: chat completions and messages, plain and streamed, with scripted faults.",
        epilog="The grammar of model names, the faults and the control endpoints: simulator/README.md",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--ready-file", type=Path, help="gets the URL once connections are accepted")
    parser.add_argument("--model", action="append", help="a model to list; repeatable")
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY=STATE",
        help="state of an upstream key (* for all others); repeatable",
    )
    parser.add_argument("--seed", type=int, default=0, help="for flaky keys (default %(default)s)")
    parser.add_argument(
        "--keep-entries",
        type=int,
        default=50_000,
        help="tally entries to keep (default %(default)s)",
    )
    return parser


def _key_state(item: str) -> tuple[str, str]:
    key, _, state = item.partition("=")
    return key, state or "ok"


def _write_whole(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader never sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
