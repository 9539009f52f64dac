"""How many streams one worker passes on, a chunk every 20 ms in each, until its core is full."""

from functools import partial

from bench.run import Figure, Results, Site, measure_by_turns
from bench.shapes import Level, paced
from bench.targets import Direct, Nginx, Target
from bench.weir import WeirTarget

_SETTINGS = {"WORKER_CONNECTIONS": "12000"}


def measure(site: Site, level: Level, results: Results) -> None:
    """Measure the level's numbers of streams, one after the other, with nginx (if it is there) beside."""
    port, core = site.upstream.port, site.proxy_core
    weir = WeirTarget(port, site.directory / "streams", (core,), site.load_core, _SETTINGS)
    targets: list[Target] = [Direct(port), weir]
    if Nginx.where() is not None:
        targets.insert(1, Nginx(port, site.directory / "nginx-streams", core))
    figures = [Figure(f"streams, {streams}", partial(paced, streams=streams)) for streams in level.streams]
    measure_by_turns(site, level, results, targets, figures)
