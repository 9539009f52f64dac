"""`make coverage`: compare what tests reach, lines and branches, with the least that each part has to have.

A file belongs to the longest prefix of `FLOORS` that its path begins with. Floors only go up: what is
measured may be raised into them, and a change that takes tests away has to say so here.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLOORS: Mapping[str, float] = {
    "app/accounts/": 58.0,
    "app/admin/": 62.0,
    "app/api/": 60.0,
    "app/backup/": 37.0,
    "app/cli/": 5.0,
    "app/common/": 90.0,
    "app/credit/": 58.0,
    "app/exchange/": 99.0,
    "app/journal/": 86.0,
    "app/keys/": 78.0,
    "app/logs/": 98.0,
    "app/management/": 50.0,
    "app/metrics/": 94.0,
    "app/migration/": 0.0,  # contract and integration tests alone
    "app/persistence/": 36.0,
    "app/pricing/": 98.0,
    "app/pricing/price_versions.py": 0.0,  # contract tests alone
    "app/records/": 80.0,
    "app/server/": 90.0,
    "app/statistics/": 54.0,
    "app/store/": 32.0,
    "app/upstream/": 83.0,
    "app/verify/": 40.0,
    "app/wires/": 98.0,
    "app/": 78.0,
    "workers/": 58.0,
}
"""Percent of lines and branches that unit tests reach; contract and integration tests reach more."""

_ROOM = 1.0
"""Percent above its floor from which a part's floor is worth raising."""


@dataclass(slots=True)
class Part:
    """The files below one prefix: how many lines and branches they have, and how many of them ran."""

    prefix: str
    floor: float
    total: int = 0
    reached: int = 0

    @property
    def percent(self) -> float:
        """The part reached, in percent; 100 of nothing."""
        return 100 * self.reached / self.total if self.total else 100.0

    @property
    def is_below(self) -> bool:
        """Whether it misses its floor."""
        return self.percent < self.floor


def parts_of(report: Mapping[str, Any], floors: Mapping[str, float]) -> list[Part]:
    """Add up coverage's JSON report by prefix; raises `LookupError` for a file that no prefix covers."""
    parts = {prefix: Part(prefix, floor) for prefix, floor in floors.items()}
    for path, file in report["files"].items():
        prefix = max((prefix for prefix in floors if path.startswith(prefix)), key=len, default=None)
        if prefix is None:
            raise LookupError(f"{path}: no prefix in FLOORS covers it")
        summary, part = file["summary"], parts[prefix]
        part.total += summary["num_statements"] + summary["num_branches"]
        part.reached += summary["covered_lines"] + summary["covered_branches"]
    return list(parts.values())


def lines_of(parts: Iterable[Part]) -> Iterable[str]:
    """Say for each part how it stands."""
    for part in parts:
        note = ""
        if not part.total:
            note = "  nothing there: take it out of FLOORS"
        elif part.is_below:
            note = "  BELOW ITS FLOOR"
        elif part.percent >= part.floor + _ROOM:
            note = "  its floor can be raised"
        yield f"{part.prefix:<28}{part.percent:7.1f} %  floor {part.floor:5.1f} %{note}"


def main(arguments: list[str] | None = None) -> int:
    """Read `.coverage`; return 1 if a part is below its floor or a prefix has no files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument(
        "--missed", metavar="PREFIX", help="name the lines below this prefix that did not run"
    )
    options = parser.parse_args(arguments)
    coverage = [sys.executable, "-m", "coverage"]
    if options.missed is not None:
        return subprocess.call([*coverage, "report", "--show-missing", "--include", f"{options.missed}*"])
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "coverage.json"
        subprocess.run([*coverage, "json", "--quiet", "-o", path], check=True)
        parts = parts_of(json.loads(path.read_text()), FLOORS)
    sys.stdout.writelines(f"{line}\n" for line in lines_of(parts))
    return int(any(part.is_below or not part.total for part in parts))


if __name__ == "__main__":
    sys.exit(main())
