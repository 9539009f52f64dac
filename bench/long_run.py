"""An hour's worth of requests in minutes, or hours at half load: does the memory of master and workers stay?

Plain answers, whole streams, streams the client leaves, requests the upstream refuses and wrong keys, all at
once: as fast as they go, or half as often as that. The memory of each process is read every second.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from statistics import fmean, linear_regression

from bench.machine import private_bytes
from bench.native import Aim, BenchTrouble, Reading, Shape, run_load
from bench.run import Book, Results, Row, Site
from bench.shapes import (
    LATE_MODEL,
    LATE_MS,
    PLAIN_MODEL,
    REFUSED_MODEL,
    SLOW_MS,
    SLOW_STREAM_MODEL,
    STREAM_CHUNKS,
    STREAM_MODEL,
)
from bench.weir import WeirTarget
from simulator.launcher import Overdue, resident_bytes, wait_until

FIGURE, HALF_LOAD = "long run", "long run, half load"
HOUR_S = 3600
_WORKERS = 2
_SAMPLE_S = 1.0
_WARM = 0.1
"""The part of the run in which caches and pools fill."""
_BOOKING_S = 120.0
_POINTS = 120
_MIB, _KIB = 1024 * 1024, 1024

Mix = Sequence[tuple[str, Shape, bool]]
"""What each load is, its shape, and whether the caller is known."""

_CALIBRATION_S = 5.0
_LEFT_AFTER = 3

_MIX: Mix = (
    ("plain", Shape(PLAIN_MODEL, 16, 0, warmup_s=0.0), True),
    ("streams", Shape(STREAM_MODEL, 24, 0, warmup_s=0.0, chunks=STREAM_CHUNKS), True),
    ("left", Shape(STREAM_MODEL, 8, 0, warmup_s=0.0, chunks=STREAM_CHUNKS, abort_after=_LEFT_AFTER), True),
    ("refused", Shape(REFUSED_MODEL, 2, 0, warmup_s=0.0, status=400), True),
    ("wrong key", Shape(PLAIN_MODEL, 1, 0, warmup_s=0.0, status=401), False),
)


# The same kinds where the upstream takes its time, and for how long each takes a connection (seconds).
_SLOW: Mapping[str, tuple[str, float]] = {
    "plain": (LATE_MODEL, LATE_MS / 1000),
    "streams": (SLOW_STREAM_MODEL, STREAM_CHUNKS * SLOW_MS / 1000),
    "left": (SLOW_STREAM_MODEL, _LEFT_AFTER * SLOW_MS / 1000),
}


@dataclass(slots=True)
class Curve:
    """Memory of one process: seconds from the start, requests booked by then, bytes, bytes of its own."""

    seconds: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    private: list[float] = field(default_factory=list)

    def summary(self) -> Row:
        """Compare the quarters of what comes after the warm-up, and give the slope by requests."""
        values = self.private[int(len(self.private) * _WARM) :]
        requests = self.requests[-len(values) :]
        quarter = max(len(values) // 4, 1)
        first, last = fmean(values[:quarter]), fmean(values[-quarter:])
        slope = linear_regression(requests, values).slope if len(set(requests)) > 1 else 0.0
        return {
            "first_mib": first / _MIB,
            "last_mib": last / _MIB,
            "growth": last / first,
            "slope": 1000 * slope / _KIB,
            "resident_mib": self.resident[-1] / _MIB,
        }


def measure(site: Site, seconds: float, results: Results, *, figure: str = FIGURE) -> Mapping[str, Curve]:
    """Run the mix for so long, or half of it; the curves, by process."""
    target = WeirTarget(
        site.upstream.port,
        site.directory / figure.replace(", ", "-").replace(" ", "-"),
        (site.proxy_core, site.load_core),
        site.load_core,
        {"WEB_CONCURRENCY": str(_WORKERS)},
    )
    target.name = f"weir, {figure}"
    with ExitStack() as stack:
        stack.callback(target.stop)
        target.start()
        before, mix = target.records(), _MIX
        sent = 0
        if figure == HALF_LOAD:
            readings = _loaded(site, target, _CALIBRATION_S, mix)
            sent = _booked(mix, readings)
            mix = half(readings)
            site.say(f"half load: {', '.join(f'{shape.connections} × {what}' for what, shape, _ in mix)}")
        curves, readings = _run(site, target, seconds, before, mix)
        book = results.books.setdefault(target.name, Book())
        book.sent = sent + _booked(mix, readings)
        behind = book.sent - (target.records() - before)
        with suppress(Overdue):  # then the report says what is missing
            wait_until(lambda: target.records() - before >= book.sent, _BOOKING_S, "the records")
        book.records = target.records() - before
    failed = sum(reading.figures["failed"] for reading in readings)
    results.figures[figure] = {name: curve.summary() for name, curve in curves.items()}
    counts = {what: reading.figures["answered"] for (what, _, _), reading in zip(mix, readings, strict=True)}
    total = sum(counts.values())
    rate = {"requests": float(total), "requests_per_s": total / seconds, "failed": float(failed)}
    rate["behind"] = float(behind)
    results.figures[figure]["weir"] = rate | {f"requests, {what}": float(n) for what, n in counts.items()}
    said = ", ".join(f"{what} {number:,}" for what, number in counts.items())
    site.say(f"{total:,} requests, as many as an hour at {total / HOUR_S:.0f} a second: {said}")
    return curves


def half(readings: Sequence[Reading]) -> Mix:
    """Return a mix that asks half as often as these readings of `_MIX` tell that could be answered.

    Each connection is busy for as long as the upstream takes, so that their number says how often they ask.
    Refusals, which nobody takes time for, are left out.
    """
    mix = []
    for (what, shape, is_known), reading in zip(_MIX, readings, strict=True):
        model, takes_s = _SLOW.get(what, (shape.model, 0.0))
        rate = reading.figures["answered"] / reading.figures["seconds"]
        if takes_s:
            mix.append(
                (what, replace(shape, model=model, connections=max(1, round(rate * takes_s / 2))), is_known)
            )
    return mix


def _booked(mix: Mix, readings: Sequence[Reading]) -> int:
    """Count what has to be on record: of unknown callers there is nothing."""
    return sum(
        reading.figures["answered"]
        for (_, _, is_known), reading in zip(mix, readings, strict=True)
        if is_known
    )


def _loaded(site: Site, target: WeirTarget, seconds: float, mix: Mix) -> list[Reading]:
    """Put the whole mix on it for so long."""
    with ThreadPoolExecutor(len(mix)) as threads:
        return [load.result() for load in _loads(threads, site, target, seconds, mix)]


def _loads(
    threads: ThreadPoolExecutor, site: Site, target: WeirTarget, seconds: float, mix: Mix
) -> list[Future[Reading]]:
    return [
        threads.submit(
            run_load,
            site.programs,
            target.aim if is_known else Aim(target.aim.port, "sk-wrong"),
            replace(shape, seconds=seconds),
            site.load_core,
        )
        for _, shape, is_known in mix
    ]


def _run(
    site: Site, target: WeirTarget, seconds: float, before: int, mix: Mix
) -> tuple[dict[str, Curve], list[Reading]]:
    pids = {"master": target.pids()[0]} | {
        f"worker {number}": pid for number, pid in enumerate(target.workers(), 1)
    }
    curves = {name: Curve() for name in pids}
    began = time.monotonic()
    with ThreadPoolExecutor(len(mix)) as threads:
        loads = _loads(threads, site, target, seconds, mix)
        while not all(load.done() for load in loads):
            _sample(curves, pids, time.monotonic() - began, target.records() - before)
            time.sleep(_SAMPLE_S)
        readings = [load.result() for load in loads]
    if sorted(pids.values()) != sorted([target.pids()[0], *target.workers()]):
        raise BenchTrouble("a worker was replaced during the long run")
    return curves, readings


def _sample(curves: Mapping[str, Curve], pids: Mapping[str, int], at: float, requests: int) -> None:
    for name, curve in curves.items():
        curve.seconds.append(at)
        curve.requests.append(requests)
        curve.resident.append(resident_bytes(pids[name]))
        curve.private.append(private_bytes(pids[name]))


def points(curve: Curve) -> Iterable[tuple[float, float]]:
    """Yield thousands of requests, and MiB; as many points as can be told apart."""
    every = max(len(curve.requests) // _POINTS, 1)
    found = [(n / 1000, size / _MIB) for n, size in zip(curve.requests, curve.private, strict=True)]
    return found[::every]
