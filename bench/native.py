"""The two C programs of `native/`: compiling them, running the upstream, asking the client for figures."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.machine import cpu_seconds, pinned
from simulator.launcher import Child

_SOURCE = Path(__file__).with_name("native")
_COMPILERS = ("cc", "gcc", "clang")


class BenchTrouble(Exception):
    """Something cannot be measured; the text is for whoever runs the benchmark."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the compiled programs are."""

    load: Path
    upstream: Path


def compile_programs(directory: Path) -> Programs:
    """Compile both; takes a second. Raises `BenchTrouble` without a compiler."""
    compiler = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise BenchTrouble("no C compiler: install one (apt install gcc libc6-dev) to run the benchmark")
    programs = Programs(directory / "load", directory / "upstream")
    for program in (programs.load, programs.upstream):
        source = _SOURCE / f"{program.name}.c"
        done = subprocess.run(
            [compiler, "-O2", "-o", str(program), str(source)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchTrouble(f"{source.name} does not compile:\n{done.stderr}")
    return programs


class LoadUpstream:
    """The simulated upstream, on the load's core; it lists `models` to whoever asks for a list."""

    def __init__(self, programs: Programs, directory: Path, core: int, models: Sequence[str] = ()) -> None:
        self._models = models
        self._program = programs.upstream
        self._directory = directory
        self._core = core
        self._child: Child | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pids(self) -> list[int]:
        """Its process."""
        return [self._child.pid] if self._child else []

    def __enter__(self) -> Self:
        ready = self._directory / "upstream.port"
        with pinned(self._core):
            child = Child(
                [str(self._program), str(ready), *self._models], {}, self._directory / "upstream.log"
            )
        self._child = child
        child.wait_for(lambda: ready.exists() and ready.read_text().strip(), "port of the upstream", 10)
        self.port = int(ready.read_text())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.stop(2.0)


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of load. Times in seconds; `chunks` 0: plain answers; `ramp_s` is how long the start takes.

    `path` is another than a target's chat completions, if it is told.
    A stream is left after `abort_after` chunks (0: never); `status` is what all answers are expected to have.
    """

    model: str
    connections: int
    seconds: float
    warmup_s: float = 1.0
    ramp_s: float = 0.0
    chunks: int = 0
    abort_after: int = 0
    status: int = 200
    path: str = ""


@dataclass(frozen=True, slots=True)
class Aim:
    """Where load goes, and with which credential.

    With `users`, each request is another one's: the last eight characters of `key` become their number, which
    goes through all of them before one comes again; `from_request` says where in that order to begin.
    """

    port: int
    key: str = "none"
    path: str = "/v1/chat/completions"
    headers: tuple[str, ...] = ()
    users: int = 0
    from_request: int = 0


@dataclass(slots=True)
class Reading:
    """What the load client measured, and what it cost: CPU seconds of client, and the wall clock."""

    figures: dict[str, Any]
    load_cpu_s: float
    wall_s: float


def run_load(programs: Programs, aim: Aim, shape: Shape, core: int | None) -> Reading:
    """Run the load client on this core (None: any); raises `BenchTrouble` if the target is out of reach."""
    began = time.monotonic()
    with pinned(*([core] if core is not None else os.sched_getaffinity(0))):
        process = subprocess.Popen(
            _command(programs, aim, shape), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    # Its own CPU time is read while the process has not been waited for.
    used_s = cpu_seconds([process.pid])
    errors = process.communicate()[1]
    if process.returncode or not line:
        raise BenchTrouble(f"the load client failed: {errors.strip()}")
    return Reading(json.loads(line), used_s, time.monotonic() - began)


class HeldStreams:
    """Streams that are open and idle, for as long as the block lasts."""

    def __init__(self, programs: Programs, aim: Aim, shape: Shape, core: int) -> None:
        self._command = [*_command(programs, aim, shape), "--hold"]
        self._core = core
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        with pinned(self._core):
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
            )
        assert self._process.stdout is not None
        if "open" not in self._process.stdout.readline():
            raise BenchTrouble("not all streams could be opened")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.communicate()


def _command(programs: Programs, aim: Aim, shape: Shape) -> list[str]:
    options: dict[str, object] = {
        "port": aim.port,
        "path": shape.path or aim.path,
        "key": aim.key,
        "model": shape.model,
        "connections": shape.connections,
        "seconds": shape.seconds,
        "warmup": shape.warmup_s,
        "ramp": shape.ramp_s,
        "status": shape.status,
        "users": aim.users,
        "from": aim.from_request,
        "abort": shape.abort_after,
    }
    if shape.chunks:
        options["chunks"] = shape.chunks
    command = [str(programs.load)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    for line in aim.headers:
        command += ["--header", line]
    return command
