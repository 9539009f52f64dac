"""Measuring: every target in turn, round after round, so that all of them see the same machine."""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import cpu_seconds
from bench.native import HeldStreams, LoadUpstream, Programs, Shape
from bench.shapes import CHUNKS_PER_SECOND, Level, burst, embeddings, idle, paced, plain, responses
from bench.targets import Target
from simulator.launcher import Overdue, resident_bytes, wait_until

Row = dict[str, float]
"""Figures of one target by name."""

_BOOKING_S = 60.0
_REST_S = 1.5
_IDLE_STREAMS = 1000
_MIB, _KIB = 1024 * 1024, 1024


@dataclass(frozen=True, slots=True)
class Figure:
    """One kind of measurement: its load, and how many chunks a second a target must master for it."""

    name: str
    shape: Callable[[Level], Shape]
    needs_chunks_per_s: float = 0.0


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("plain", plain),
        Figure("burst", burst),
        Figure("responses", responses),
        Figure("embeddings", embeddings),
        Figure("paced-200", lambda level: paced(level, 200), 200 * CHUNKS_PER_SECOND),
        Figure("paced-1000", lambda level: paced(level, 1000), 1000 * CHUNKS_PER_SECOND),
    )
}
MEMORY = "memory"


@dataclass(slots=True)
class Book:
    """What was sent to a target that keeps records, and what it has left: they must agree."""

    sent: int = 0
    records: int = 0

    @property
    def lost(self) -> int:
        """Requests without a record."""
        return self.sent - self.records


@dataclass(slots=True)
class Results:
    """Medians by figure and target, all rounds behind them, the books, and what was left out and why."""

    figures: dict[str, dict[str, Row]] = field(default_factory=dict)
    rounds: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    books: dict[str, Book] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    records: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of each target, where it leaves records and what these survive."""


@dataclass(frozen=True, slots=True)
class Site:
    """What every measurement needs: the load's programs, cores, a directory, and whom to tell progress."""

    programs: Programs
    upstream: LoadUpstream
    directory: Path
    proxy_core: int
    load_core: int
    say: Callable[[str], None]


class Bench:
    """Measures targets that have been started, and adds to the results."""

    def __init__(self, site: Site, targets: Sequence[Target], results: Results) -> None:
        self._programs = site.programs
        self._upstream = site.upstream
        self._targets = targets
        self._load_core = site.load_core
        self._say = site.say
        self._error = ""
        self.results = results
        self._before = {target.name: target.records() for target in targets if target.keeps_books}
        self._failures: dict[tuple[str, str], str] = {}
        results.records |= {
            target.name: {"recorded": target.recorded, "survives": target.survives} for target in targets
        }

    def measure(
        self, figures: Sequence[Figure], level: Level, targets: Sequence[Target] | None = None
    ) -> None:
        """Measure all rounds of these figures, interleaved; of some targets only, if they are given."""
        for figure in figures:
            for number in range(level.rounds):
                for target in targets or self._targets:
                    self._one(figure, target, level, number)
            self._summarise(figure)

    def measure_memory(self) -> None:
        """Measure a worker's memory now, and with idle streams open; once, since it hardly varies."""
        rows = self.results.figures.setdefault(MEMORY, {})
        for target in self._targets:
            if not target.pids():
                continue
            before, records = _memory(target), target.records()
            with HeldStreams(self._programs, target.aim, idle(_IDLE_STREAMS), self._load_core):
                time.sleep(_REST_S)
                during = _memory(target)
            if target.keeps_books:
                # Cut by the client, and recorded as such.
                book = self.results.books.setdefault(target.name, Book())
                book.sent += _IDLE_STREAMS
                self._wait_booked(target, records + _IDLE_STREAMS)
            rows[target.name] = {
                "memory_mib": before / _MIB,
                "kib_per_stream": (during - before) / _IDLE_STREAMS / _KIB,
            }
            self._say(f"memory: {target.name}: {_told(rows[target.name])}")
            time.sleep(_REST_S)

    def close_books(self) -> None:
        """Count the records that targets with books have left."""
        for target in self._targets:
            if target.keeps_books:
                book = self.results.books[target.name]
                book.records = target.records() - self._before[target.name]

    def _one(self, figure: Figure, target: Target, level: Level, number: int) -> None:
        reason = self._failures.get((figure.name, target.name)) or self._too_slow(figure, target)
        if reason:
            self._failures[figure.name, target.name] = reason
            self.results.left_out[f"{target.name}, {figure.name}"] = reason
            return
        row = self._read(figure, target, level)
        self._say(f"{figure.name} {number + 1}/{level.rounds}: {target.name}: {_told(row)}")
        if not _is_usable(row):
            reason = f"most of its answers were no answers: {self._error}"
            self._failures[figure.name, target.name] = reason
            self.results.left_out[f"{target.name}, {figure.name}"] = reason
        # What a peer cannot do is said, and is no figure; failures of this proxy are to be seen in the table.
        if _is_usable(row) or target.name.startswith("weir"):
            self.results.rounds.setdefault(figure.name, {}).setdefault(target.name, []).append(row)

    def _too_slow(self, figure: Figure, target: Target) -> str:
        mastered = self.results.figures.get("burst", {}).get(target.name, {}).get("chunks_per_s")
        if mastered is None or not figure.needs_chunks_per_s or mastered >= figure.needs_chunks_per_s / 2:
            return ""
        return f"{figure.needs_chunks_per_s:.0f} chunks/s are asked for, it does {mastered:.0f} at most"

    def _read(self, figure: Figure, target: Target, level: Level) -> Row:
        shape = figure.shape(level)
        target.prepare()
        records = target.records()
        pids, database = target.pids(), target.database_pids()
        before, store_before = cpu_seconds(pids), cpu_seconds(database)
        upstream_before = cpu_seconds(self._upstream.pids)
        began = time.monotonic()
        reading = target.run_load(self._programs, shape, self._load_core)
        took = time.monotonic() - began
        load_s = reading.load_cpu_s + cpu_seconds(self._upstream.pids) - upstream_before
        busy_s = cpu_seconds(pids) - before
        figures, lost = reading.figures, 0
        self._error = figures["error"]
        if figures["error"]:
            self._say(f"{figure.name}: {target.name}: {figures['failed']} failed, first: {figures['error']}")
        if target.keeps_books:
            book = self.results.books.setdefault(target.name, Book())
            book.sent += figures["answered"]
            lost = self._wait_booked(target, records + figures["answered"])
        else:
            time.sleep(0.1)
        row = _row(figures, shape, cpu_seconds(pids) - before, cpu_seconds(database) - store_before)
        row["load_busy"] = 100 * load_s / took
        row["proxy_busy"] = 100 * busy_s / took
        if target.keeps_books:
            row["lost_records"] = float(lost)
        return row

    def _wait_booked(self, target: Target, expected: int) -> int:
        """Wait for what a target still writes down, which belongs to the cost of what it answered.

        Return how many records are missing in the end.
        """
        try:
            wait_until(lambda: target.records() >= expected, _BOOKING_S, f"the records of {target.name}")
        except Overdue:
            missing = expected - target.records()
            self._say(f"{target.name} has left {missing} requests without a record")
            return missing
        return 0

    def _summarise(self, figure: Figure) -> None:
        by_target = self.results.rounds.get(figure.name, {})
        self.results.figures[figure.name] = {
            name: {key: statistics.median(row[key] for row in rows if key in row) for key in rows[0]}
            for name, rows in by_target.items()
        }
        for name, rows in by_target.items():
            if "lost_records" in rows[0]:
                self.results.figures[figure.name][name]["lost_records"] = sum(
                    row["lost_records"] for row in rows
                )
        direct = self.results.figures[figure.name].get("direct", {})
        for row in self.results.figures[figure.name].values():
            for key in [key for key in row if key.endswith("_ms") and key in direct]:
                row[f"added_{key}"] = row[key] - direct[key]


def measure_by_turns(
    site: Site, level: Level, results: Results, targets: Sequence[Target], figures: Sequence[Figure]
) -> None:
    """Start these targets, measure the figures of all of them by turns, count their records, stop them."""
    with ExitStack() as stack:
        for target in targets:
            stack.callback(target.stop)
            target.start()
        bench = Bench(site, targets, results)
        bench.measure(figures, level)
        bench.close_books()


def _row(figures: dict[str, Any], shape: Shape, cpu_s: float, store_cpu_s: float) -> Row:
    """Return what one reading says, under the names of the report."""
    answered = max(figures["answered"], 1)
    row: Row = {"failed": float(figures["failed"])}
    if not shape.chunks:
        row["requests_per_s"] = figures["measured"] / figures["seconds"]
        row |= _percentiles(figures, "latency_ms", "latency")
        row["cpu_us_per_request"] = 1e6 * cpu_s / answered
        row["store_cpu_us_per_request"] = 1e6 * store_cpu_s / answered
        return row
    row["chunks_per_s"] = figures["chunks"] / figures["seconds"]
    row["cpu_us_per_chunk"] = 1e6 * cpu_s / answered / shape.chunks
    row["lost_chunks"] = float(figures["lost"] + figures["unfinished"])
    row["reordered_chunks"] = float(figures["reordered"])
    if shape.ramp_s:
        row |= _percentiles(figures, "first_byte_ms", "first_byte")
        row |= _percentiles(figures, "delay_ms", "chunk")
        row |= _percentiles(figures, "gap_ms", "gap")
    return row


def _percentiles(figures: dict[str, Any], source: str, name: str) -> Row:
    samples = figures[source]
    return {f"{name}_{share}_ms": samples[share] for share in ("p50", "p99") if share in samples}


def _is_usable(row: Row) -> bool:
    return bool(row.get("requests_per_s") or row.get("chunks_per_s"))


def _memory(target: Target) -> float:
    return float(sum(resident_bytes(pid) for pid in target.workers()))


def _told(row: Row) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items() if value or name != "failed")
