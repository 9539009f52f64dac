"""What a run found: as a table for people, as JSON for programs, as a line in the history."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.run import FIGURES, Results

Document = dict[str, Any]

_COLUMNS: dict[str, tuple[tuple[str, str, int], ...]] = {
    # figure → (key of the row, heading, digits behind the point)
    "plain": (
        ("requests_per_s", "requests/s", 0),
        ("added_latency_p50_ms", "added p50 ms", 2),
        ("added_latency_p99_ms", "added p99 ms", 2),
        ("cpu_us_per_request", "CPU µs/request", 1),
        ("store_cpu_us_per_request", "MongoDB µs", 1),
    ),
    "burst": (("chunks_per_s", "chunks/s", 0), ("cpu_us_per_chunk", "CPU µs/chunk", 2)),
    "responses": (("chunks_per_s", "chunks/s", 0), ("cpu_us_per_chunk", "CPU µs/chunk", 2)),
    "embeddings": (
        ("requests_per_s", "requests/s", 0),
        ("added_latency_p50_ms", "added p50 ms", 2),
        ("added_latency_p99_ms", "added p99 ms", 2),
        ("cpu_us_per_request", "CPU µs/request", 1),
    ),
    "cors": (
        ("requests_per_s", "requests/s", 0),
        ("latency_p50_ms", "p50 ms", 2),
        ("latency_p99_ms", "p99 ms", 2),
        ("cpu_us_per_request", "CPU µs/request", 1),
    ),
    "volume": (
        ("ms", "median ms", 1),
        ("most_ms", "slowest ms", 1),
        ("bytes", "bytes a record", 0),
        ("index_bytes", "indexes", 0),
    ),
    "pages": (
        ("requests", "requests", 0),
        ("kib", "KiB", 1),
        ("again_kib", "KiB again", 1),
        ("document_kib", "document KiB", 1),
        ("server_ms", "server ms", 1),
        ("paint_ms", "first paint ms", 0),
        ("content_ms", "largest paint", 0),
        ("interactive_ms", "interactive ms", 0),
        ("loaded_ms", "loaded ms", 0),
        ("blocked_ms", "blocked ms", 0),
        ("nodes", "nodes", 0),
    ),
    "memory": (("memory_mib", "worker MiB", 0), ("kib_per_stream", "KiB/open stream", 1)),
    "workers": (
        ("requests_per_s", "requests/s", 0),
        ("cpu_us_per_request", "CPU µs/request", 0),
        ("store_cpu_us_per_request", "MongoDB µs", 0),
        ("chunks_per_s", "chunks/s", 0),
        ("cpu_us_per_chunk", "CPU µs/chunk", 2),
    ),
    "hosts": (
        ("requests_per_s", "requests/s", 0),
        ("latency_p50_ms", "p50 ms", 2),
        ("latency_p99_ms", "p99 ms", 2),
        ("cpu_us_per_request", "CPU µs/request", 0),
        ("store_cpu_us_per_request", "MongoDB µs", 0),
        ("chunks_per_s", "chunks/s", 0),
        ("cpu_us_per_chunk", "CPU µs/chunk", 2),
    ),
    "windows": (
        ("requests_per_s", "requests/s", 0),
        ("latency_p50_ms", "p50 ms", 2),
        ("latency_p99_ms", "p99 ms", 2),
        ("cpu_us_per_request", "CPU µs/request", 1),
        ("store_cpu_us_per_request", "MongoDB µs", 1),
    ),
    "long run": (
        ("requests", "requests", 0),
        ("requests_per_s", "requests/s", 0),
        ("behind", "behind at end", 0),
        ("first_mib", "1st quarter MiB", 1),
        ("last_mib", "last quarter MiB", 1),
        ("growth", "last/first", 3),
        ("slope", "KiB/1,000 req.", 1),
    ),
    "growth": (
        ("requests_per_s", "requests/s", 0),
        ("latency_p50_ms", "p50 ms", 1),
        ("latency_p99_ms", "p99 ms", 1),
        ("cpu_us_per_request", "CPU µs/request", 0),
        ("store_cpu_us_per_request", "MongoDB µs", 0),
        ("writer_us, ten users", "ten: writer µs", 1),
        ("store_us, ten users", "ten: MongoDB µs", 1),
        ("writer_us, each another", "each: writer µs", 1),
        ("store_us, each another", "each: MongoDB µs", 1),
        ("start_s", "start s", 1),
        ("memory_mib", "worker MiB", 0),
        ("idle_cpu", "idle CPU %", 1),
        ("store_idle_cpu", "idle MongoDB %", 1),
    ),
}
_PACED = (
    ("chunks_per_s", "chunks/s", 0),
    ("added_first_byte_p50_ms", "first byte +p50", 2),
    ("added_first_byte_p99_ms", "first byte +p99", 2),
    ("added_chunk_p50_ms", "chunk +p50", 2),
    ("added_chunk_p99_ms", "chunk +p99", 2),
    ("gap_p99_ms", "gap p99 ms", 1),
    ("cpu_us_per_chunk", "CPU µs/chunk", 1),
    ("lost_chunks", "lost", 0),
    ("reordered_chunks", "reordered", 0),
)
_BUSY = (("proxy_busy", "proxy busy %", 0), ("load_busy", "load busy %", 0))
_RATES = {
    "plain": "requests_per_s",
    "burst": "chunks_per_s",
    "responses": "chunks_per_s",
    "embeddings": "requests_per_s",
}
"""What ratios are made of."""

_COMPARED = ("growth", "windows", "cors", "hosts")
"""Figures that begin so have a row for each size, the smallest first: ratios are of the last to the first."""

_WORKERS = {"workers, plain": "cpu_us_per_request", "workers, burst": "cpu_us_per_chunk"}
"""Of one worker and of more: and what those would be worth with a core each to themselves, by CPU time."""

_STREAMS, _MOST_P99_MS, _FULL = "streams, ", 30.0, 95.0
"""How late chunks may be, and from which percentage on a core is full."""

_NAME = 14

# A load core busier than this (percent) may have been what was measured.
_LOAD_BOUND = 90.0


def document(results: Results, level: str) -> Document:
    """Return everything a run found."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "level": level,
        "machine": machine.describe(),
        "versions": results.versions,
        "figures": results.figures,
        "rounds": results.rounds,
        "ratios": ratios(results.figures),
        "records": results.records,
        "books": {name: asdict(book) | {"lost": book.lost} for name, book in results.books.items()},
        "left_out": results.left_out,
    }


def merged(earlier: Document, later: Document) -> Document:
    """Merge two parts of a run; of a figure in both, the later targets are laid over the earlier ones."""
    both = dict(later)
    for part in ("figures", "rounds"):
        both[part] = {
            name: {**earlier[part].get(name, {}), **later[part].get(name, {})}
            for name in {**earlier[part], **later[part]}
        }
    both["records"] = {**earlier.get("records", {}), **later["records"]}
    both["versions"] = {**earlier["versions"], **later["versions"]}
    both["left_out"] = {**earlier["left_out"], **later["left_out"]}
    both["books"] = {
        name: {
            key: earlier["books"].get(name, {}).get(key, 0) + later["books"].get(name, {}).get(key, 0)
            for key in ("sent", "records", "lost")
        }
        for name in {**earlier["books"], **later["books"]}
    }
    both["ratios"] = ratios(both["figures"])
    return both


def ratios(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Compare this proxy with each target, by figure; `weir/weir-off`: what is left with everything on.

    Of growth and windows, compare the largest number with the smallest.
    """
    found = {}
    for figure, rows in figures.items():
        columns = _columns(figure)
        if len(rows) > 1 and (figure.startswith(_COMPARED) or figure in _WORKERS):
            for key, heading, _ in columns:
                having = [(name, row[key]) for name, row in rows.items() if row.get(key)]
                if len(having) > 1:
                    (first, least), *_, (last, most) = having
                    found[f"{figure}: {last}/{first}: {heading}"] = most / least
            if figure in _WORKERS:
                one, *_ = (row[_WORKERS[figure]] for row in rows.values())
                found |= {
                    f"{figure}: {name}: on cores of their own": number * one / row[_WORKERS[figure]]
                    for name, row in rows.items()
                    if (number := int(name.rpartition(" ")[2])) > 1
                }
    found |= _streams(figures)
    for figure, key in _RATES.items():
        rows = figures.get(figure, {})
        own = rows.get("weir", {}).get(key)
        for name, row in rows.items():
            if own and name != "weir" and row.get(key):
                found[f"{figure}: weir/{name}"] = own / row[key]
    return found


def _streams(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Return up to how many streams the added p99 stays low, and from how many on the core is full."""
    rows = {
        int(figure.removeprefix(_STREAMS)): by_target["weir"]
        for figure, by_target in figures.items()
        if figure.startswith(_STREAMS) and "weir" in by_target
    }
    good = [number for number, row in rows.items() if row.get("added_chunk_p99_ms", 0.0) <= _MOST_P99_MS]
    full = [number for number, row in rows.items() if row["proxy_busy"] >= _FULL]
    found = {"streams: most with a chunk's added p99 of 30 ms": float(max(good))} if good else {}
    return found | ({"streams: fewest that fill the core": float(min(full))} if full else {})


def problems(document: Document) -> list[str]:
    """List what must not be: lost records, lost or reordered chunks, failed requests of this proxy."""
    found = [
        f"{name}: {book['lost']} of {book['sent']} requests left no record"
        for name, book in document["books"].items()
        if book["lost"] and name.startswith("weir")
    ]
    for figure, rows in document["figures"].items():
        for key in ("failed", "lost_chunks", "reordered_chunks"):
            found += [
                f"{figure}: {name}: {row[key]:.0f} {key.replace('_', ' ')}"
                for name, row in rows.items()
                if row.get(key) and name.startswith("weir")
            ]
    return found


def table(document: Document) -> str:
    """Return the table for a terminal; docs/performance.md shows it, too."""
    lines = ["", " · ".join(f"{name} {value}" for name, value in document["machine"].items())]
    for figure, rows in document["figures"].items():
        columns = [
            column for column in (*_columns(figure), *_BUSY) if any(column[0] in row for row in rows.values())
        ]
        lines += ["", figure] if "," in figure else [""]
        records = document.get("records", {}) if figure in FIGURES else {}
        headings = [heading for _, heading, _ in columns] + (
            ["records", "survive", "lost"] if records else []
        )
        width = max(_NAME, *(len(name) + 1 for name in rows), 0)
        lines += [_line("" if "," in figure else figure, headings, width)]
        for name, row in rows.items():
            cells = [_cell(row, key, digits) for key, _, digits in columns]
            if records:
                kept = records.get(name, {})
                cells += [kept.get("recorded") or "–", kept.get("survives") or "–"]
                cells += [_cell(row, "lost_records", 0)]
            lines.append(_line(name, cells, width))
            if row.get("load_busy", 0) > _LOAD_BOUND and name != "direct":
                lines[-1] += "  (the load side may be the limit)"
    if document["ratios"]:
        lines += ["", "ratios"]
        width = max(map(len, document["ratios"])) + 1
        lines += [f"  {name:<{width}}{value:8.2f}" for name, value in document["ratios"].items()]
    for name, book in document["books"].items():
        lines += ["", f"{name}: {book['sent']} requests, {book['records']} records, {book['lost']} lost"]
    lines += [f"left out: {name}: {reason}" for name, reason in document["left_out"].items()]
    return "\n".join(lines) + "\n"


def read(path: Path) -> Document:
    """Read an earlier run."""
    found: Document = json.loads(path.read_text())
    return found


def write(document: Document, path: Path) -> None:
    """Write the document for programs, and for `--add-to`."""
    path.write_text(json.dumps(_rounded(document), indent=1, ensure_ascii=False) + "\n")


def remember(document: Document, path: Path) -> None:
    """Append the run, without its single rounds, to a file with a run on each line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = {name: value for name, value in document.items() if name != "rounds"}
    with path.open("a") as file:
        file.write(json.dumps(_rounded(line), ensure_ascii=False) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(member) for name, member in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _columns(figure: str) -> tuple[tuple[str, str, int], ...]:
    """Return the columns of this figure, or of its kind: `growth, one user` is one of `growth`."""
    return _COLUMNS.get(figure) or _COLUMNS.get(figure.partition(",")[0], _PACED)


def _cell(row: Mapping[str, float], key: str, digits: int) -> str:
    return f"{row[key]:,.{digits}f}" if key in row else "–"


def _line(name: str, cells: Iterable[str], width: int) -> str:
    return f"{name:<{width}}" + "".join(f"{cell:>17}" for cell in cells)
