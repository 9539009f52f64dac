"""The comparison of what tests reach with the least that each part has to have."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools import coverage_floors
from tools.coverage_floors import FLOORS, lines_of, parts_of

ROOT = Path(__file__).parents[3]


def report(**files: tuple[int, int, int, int]) -> dict[str, Any]:
    """Return coverage's report of files with so many statements, branches, and how many of each ran."""
    names = ("num_statements", "num_branches", "covered_lines", "covered_branches")
    return {
        "files": {
            name.replace("__", "/") + ".py": {"summary": dict(zip(names, numbers, strict=True))}
            for name, numbers in files.items()
        }
    }


def test_lines_and_branches_of_a_part_are_added_up() -> None:
    (part,) = parts_of(report(app__a=(8, 2, 8, 1), app__b=(10, 0, 10, 0)), {"app/": 95.0})
    assert (part.total, part.reached, part.percent, part.is_below) == (20, 19, 95.0, False)


def test_a_part_below_its_floor_is_named() -> None:
    parts = parts_of(report(app__a=(1000, 0, 949, 0)), {"app/": 95.0})
    assert parts[0].is_below
    assert "BELOW ITS FLOOR" in next(iter(lines_of(parts)))


def test_a_file_belongs_to_the_longest_prefix() -> None:
    files = report(app__core__a=(10, 0, 0, 0), app__cli=(10, 0, 10, 0))
    core, app = parts_of(files, {"app/core/": 0.0, "app/": 100.0})
    assert (core.total, core.reached, app.total, app.reached) == (10, 0, 10, 10)


def test_a_file_without_a_prefix_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"^'?workers/a.py: no prefix"):
        parts_of(report(workers__a=(1, 0, 1, 0)), {"app/": 1.0})


def test_a_floor_that_has_been_left_behind_can_be_raised() -> None:
    low, high = parts_of(report(a__a=(1000, 0, 959, 0), b__b=(1000, 0, 960, 0)), {"a/": 95.0, "b/": 95.0})
    assert [line.endswith("can be raised") for line in lines_of([low, high])] == [False, True]


def test_every_prefix_is_of_something_and_every_file_has_one() -> None:
    files = [str(path.relative_to(ROOT)) for top in ("app", "workers") for path in (ROOT / top).rglob("*.py")]
    for prefix in FLOORS:
        assert any(path.startswith(prefix) for path in files), prefix
    assert [path for path in files if not any(path.startswith(prefix) for prefix in FLOORS)] == []


@pytest.mark.parametrize(("covered", "status"), [(9, 1), (10, 0)])
def test_the_exit_status_says_whether_all_floors_are_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], covered: int, status: int
) -> None:
    def run(command: list[Any], **_: Any) -> None:
        Path(command[-1]).write_text(json.dumps(report(app__a=(10, 0, covered, 0))))

    monkeypatch.setattr(coverage_floors, "FLOORS", {"app/": 100.0})
    monkeypatch.setattr(coverage_floors.subprocess, "run", run)
    assert coverage_floors.main([]) == status
    assert capsys.readouterr().out.startswith("app/")
