"""What a scenario found, and how it is shown."""

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

_MOST_PROBLEMS = 20
_COLUMNS = ("requests", "whole", "records", "kills", "interrupted", "lost", "duplicated")


@dataclass(slots=True)
class Findings:
    """The figures of one scenario; it passed if there are no `problems`.

    `lost` counts requests without a record (also those the product itself counted as lost), `duplicated`
    records that there should not be, `drained_per_s` records per second after an outage.
    """

    scenario: str
    kills: int = 0
    requests: int = 0
    whole: int = 0
    records: int = 0
    interrupted: int = 0
    lost: int = 0
    duplicated: int = 0
    drained_per_s: float | None = None
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    not_tried: str | None = None

    @property
    def result(self) -> str:
        """In a word or two."""
        if self.not_tried is not None:
            return "not tried"
        return f"{self.problem_count} problems" if self.problem_count else "ok"

    def problem(self, text: str) -> None:
        """Note a disagreement; only the first ones are kept in words."""
        self.problem_count += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(text)

    def expect(self, condition: object, text: str) -> None:
        """Note `text` as a disagreement unless the condition holds."""
        if not condition:
            self.problem(text)

    def absorb(self, other: "Findings") -> None:
        """Add the figures of a part."""
        for name in ("kills", "requests", "whole", "records", "interrupted", "lost", "duplicated"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.figures |= other.figures
        self.problem_count += other.problem_count
        self.problems += other.problems[: _MOST_PROBLEMS - len(self.problems)]


class NotTried(Exception):
    """A scenario that this machine does not allow; the text says why."""


class Console:
    """Progress, line by line, on standard output."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        sys.stdout.write(f"{time.monotonic() - self._began:7.1f} s  {text}\n")
        sys.stdout.flush()

    def table(self, all_findings: Iterable[Findings], seed: int) -> None:
        """Print the final table and, below it, every disagreement."""
        rows = list(all_findings)
        lines = [_row("scenario", [*_COLUMNS, "drained/s", "seconds"], "result")]
        for row in rows:
            drained = "–" if row.drained_per_s is None else f"{row.drained_per_s:.0f}"
            cells = [str(getattr(row, name)) for name in _COLUMNS] + [drained, f"{row.seconds:.0f}"]
            lines.append(_row(row.scenario, cells, row.result))
        for row in rows:
            lines += [f"{row.scenario}: {name} = {value}" for name, value in row.figures.items()]
        for row in rows:
            lines += [f"✗ {row.scenario}: {problem}" for problem in row.problems]
            if row.problem_count > len(row.problems):
                lines.append(f"✗ {row.scenario}: … and {row.problem_count - len(row.problems)} more")
        failed = sum(row.problem_count for row in rows)
        lines.append(f"seed {seed}: " + (f"{failed} disagreements" if failed else "everything agrees"))
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
        sys.stdout.flush()


def as_json(all_findings: Iterable[Findings], *, seed: int, level: str, seconds: float) -> str:
    """Return the report for programs, as JSON."""
    rows = [asdict(findings) for findings in all_findings]
    is_good = not any(row["problem_count"] for row in rows)
    document = {
        "level": level,
        "seed": seed,
        "seconds": round(seconds, 1),
        "agrees": is_good,
        "scenarios": rows,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _row(name: str, cells: Iterable[str], result: str) -> str:
    return f"{name:<18}" + "".join(f"{cell:>12}" for cell in cells) + f"  {result}"
