"""Two and four workers beside one, and two hosts beside one: how much more they answer, at what cost each.

On two cores the load has none to itself while several workers run. So beside the plain ratio there is one
that leaves the load out: what they would answer with a core each to themselves, by CPU time.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from bench.machine import pinned
from bench.native import Programs, Reading, Shape, run_load
from bench.run import Figure, Results, Site, measure_by_turns
from bench.shapes import Level, burst, plain
from bench.weir import WeirTarget
from drill.processes import Weir
from simulator.launcher import process_tree

PLAIN, BURST = "workers, plain", "workers, burst"
HOSTS_PLAIN, HOSTS_BURST = "hosts, plain", "hosts, burst"
WORKERS = (1, 2, 4)
# Enough that however the kernel spreads them over the workers, none waits.
_CONNECTIONS = 64
_SHARED = {"SECRET_KEY": "bench-secret-key-bench-secret-key", "ADMIN_TOKEN": "bench-admin-token"}


class TwoHosts(WeirTarget):
    """Two masters with a data directory each, as on two hosts, on one MongoDB; each gets half of the load."""

    name = "weir, 2 hosts"

    def __init__(self, site: Site, cores: Sequence[int]) -> None:
        directory = site.directory / "hosts-2"
        super().__init__(site.upstream.port, directory, tuple(cores), site.load_core, _SHARED)
        self.second: Weir | None = None

    def start(self) -> None:
        """Start the first with its database, then the second."""
        super().start()
        assert self.proxy is not None
        directory = self._directory / "second"
        directory.mkdir()
        theirs = {
            name: value
            for name, value in self.proxy.environment.items()
            if name not in ("PORT", "DATA_DIR", "PROXY_API_KEY")
        }
        self.second = Weir(directory, self._upstream, theirs)
        with pinned(*self._cores):
            self._stack.enter_context(self.second)
            self.second.start()

    def run_load(self, programs: Programs, shape: Shape, core: int | None) -> Reading:
        """Put half of the load on each host, at once."""
        assert self.second is not None
        half = replace(shape, connections=shape.connections // 2)
        aims = (self.aim, replace(self.aim, port=self.second.port))
        with ThreadPoolExecutor(len(aims)) as threads:
            first, second = threads.map(lambda aim: run_load(programs, aim, half, core), aims)
        return both(first, second)

    def pids(self) -> list[int]:
        """Masters and workers of both."""
        other = process_tree(self.second.pid) if self.second and self.second.is_running else []
        return super().pids() + other

    def workers(self) -> list[int]:
        """Return the workers of both."""
        return super().workers() + (self.second.worker_pids() if self.second else [])


def both(first: Reading, second: Reading) -> Reading:
    """Add up what two load clients measured at the same time; of two percentiles the worse one counts."""
    return Reading(
        {name: _both(value, second.figures[name]) for name, value in first.figures.items()}
        | {"seconds": max(first.figures["seconds"], second.figures["seconds"])},
        first.load_cpu_s + second.load_cpu_s,
        max(first.wall_s, second.wall_s),
    )


def _both(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return {name: max(value, other.get(name, value)) for name, value in one.items()}
    return one or other if isinstance(one, str) else one + other


def measure(site: Site, level: Level, results: Results) -> None:
    """Measure one worker on the proxies' core, two and four on both."""
    targets = [_target(site, workers) for workers in WORKERS]
    measure_by_turns(site, level, results, targets, _figures(PLAIN, BURST))


def measure_hosts(site: Site, level: Level, results: Results) -> None:
    """Measure one host with a worker on the proxies' core, and two such hosts on both."""
    one = _target(site, 1)
    one.name = "weir, 1 host"
    targets = [one, TwoHosts(site, (site.proxy_core, site.load_core))]
    measure_by_turns(site, level, results, targets, _figures(HOSTS_PLAIN, HOSTS_BURST))


def _figures(plain_name: str, burst_name: str) -> list[Figure]:
    return [Figure(plain_name, _wide(plain)), Figure(burst_name, _wide(burst))]


def _target(site: Site, workers: int) -> WeirTarget:
    target = WeirTarget(
        site.upstream.port,
        site.directory / f"workers-{workers}",
        (site.proxy_core,) if workers == 1 else (site.proxy_core, site.load_core),
        site.load_core,
        {"WEB_CONCURRENCY": str(workers)},
    )
    target.name = f"weir, {workers}"
    return target


def _wide(shape: Callable[[Level], Shape]) -> Callable[[Level], Shape]:
    return lambda level: replace(shape(level), connections=_CONNECTIONS)
