"""Two workers beside one: how much more two answer, and what a request costs each.

On two cores the load has none to itself while two workers run. So beside the plain ratio there is one that
leaves the load out: what two would answer with a core each to themselves, by the CPU time of a request.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from bench.native import Shape
from bench.run import Bench, Figure, Results, Site
from bench.shapes import Level, burst, plain
from bench.weir import WeirTarget

PLAIN, BURST = "workers, plain", "workers, burst"
# Enough that however the kernel spreads them over two workers, neither waits.
_CONNECTIONS = 64


def measure(site: Site, level: Level, results: Results) -> None:
    """Measure one worker on the proxies' core, two on both."""
    targets = [_target(site, 1, (site.proxy_core,)), _target(site, 2, (site.proxy_core, site.load_core))]
    with ExitStack() as stack:
        for target in targets:
            stack.callback(target.stop)
            target.start()
        bench = Bench(site, targets, results)
        bench.measure([Figure(PLAIN, _wide(plain)), Figure(BURST, _wide(burst))], level)
        bench.close_books()


def _target(site: Site, workers: int, cores: Sequence[int]) -> WeirTarget:
    target = WeirTarget(
        site.upstream.port,
        site.directory / f"workers-{workers}",
        tuple(cores),
        site.load_core,
        {"WEB_CONCURRENCY": str(workers)},
    )
    target.name = f"weir, {workers}"
    return target


def _wide(shape: Callable[[Level], Shape]) -> Callable[[Level], Shape]:
    return lambda level: replace(shape(level), connections=_CONNECTIONS)
