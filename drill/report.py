"""What a scenario found, and how it is shown."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
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

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=asdict))
        return found

    def absorb(self, other: "Findings") -> None:
        """Add the figures of a part."""
        for name in ("kills", "requests", "whole", "records", "interrupted", "lost", "duplicated"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.figures |= other.figures
        self.problem_count += other.problem_count
        self.problems += other.problems[: _MOST_PROBLEMS - len(self.problems)]


def add_up(parts: Sequence[Findings]) -> Findings:
    """Add up the parts of one scenario: counts are sums, the rest of the figures is put `together`."""
    if len(parts) == 1:
        return parts[0]
    total = Findings(parts[0].scenario)
    for part in parts:
        total.absorb(part)
        total.seconds += part.seconds
    plain = [part.plain()["figures"] for part in parts]
    names = dict.fromkeys(name for figures in plain for name in figures)
    total.figures = {
        name: together([figures[name] for figures in plain if name in figures]) for name in names
    }
    total.figures["parts"] = len(parts)
    rates = [part.drained_per_s for part in parts if part.drained_per_s is not None]
    total.drained_per_s = min(rates, default=None)
    reasons = [part.not_tried for part in parts if part.not_tried is not None]
    if len(reasons) == len(parts):
        total.not_tried = reasons[0]
    elif reasons:
        total.figures["parts not tried"] = len(reasons)
    return total


def together(values: Sequence[Any]) -> Any:
    """Put the values of one figure together: whole numbers are summed, others told from least to most.

    Of figures that have members, each member by itself. What cannot be put together is told part by part.
    """
    first = values[0]
    if all(isinstance(value, int) for value in values):
        return sum(values)
    if all(isinstance(value, int | float) for value in values):
        return first if len(set(values)) == 1 else f"{min(values)} to {max(values)}"
    if all(isinstance(value, dict) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        return {name: together([value[name] for value in values if name in value]) for name in names}
    if all(isinstance(value, list) and len(value) == len(first) for value in values):
        return [together(column) for column in zip(*values, strict=True)]
    return first if all(value == first for value in values) else list(values)


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
        if len(rows) > 1:
            sums = [str(sum(getattr(row, name) for row in rows)) for name in _COLUMNS]
            lines.append(_row("all", [*sums, "–", f"{sum(row.seconds for row in rows):.0f}"], ""))
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


def as_json(
    all_findings: Iterable[Findings], *, seed: int, level: str, seconds: float, code: Sequence[str]
) -> str:
    """Return the report for programs, as JSON; `code` are the versions that were run."""
    rows = [findings.plain() for findings in all_findings]
    is_good = not any(row["problem_count"] for row in rows)
    document = {
        "level": level,
        "seed": seed,
        "code": list(code),
        "seconds": round(seconds, 1),
        "agrees": is_good,
        "scenarios": rows,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def duration(seconds: float) -> str:
    """Say a time in hours and minutes, or seconds if it is short."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _row(name: str, cells: Iterable[str], result: str) -> str:
    return f"{name:<18}" + "".join(f"{cell:>12}" for cell in cells) + f"  {result}"
