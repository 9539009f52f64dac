"""The table of wire cases and the tests say the same."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT

_HERE = Path(__file__).parent
_ROW = re.compile(r"\| (\d+) \| .+ \| .+ \| `(test_\w+\.py)::(test_\w+)` \|")


def _tests_of(path: Path) -> Iterator[tuple[str, set[int]]]:
    """The test functions of a file with the cases that their marks name."""
    spec = importlib.util.spec_from_file_location(f"table_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, function in vars(module).items():
        if name.startswith("test_"):
            yield name, set(_numbers(getattr(function, "pytestmark", [])))


def _numbers(marks: list[pytest.Mark]) -> Iterator[int]:
    for mark in marks:
        if mark.name == "wire":
            yield mark.args[0]
        elif mark.name == "parametrize":
            for value in mark.args[1]:
                yield from _numbers(getattr(value, "marks", []))


def test_every_case_has_the_test_the_table_names() -> None:
    rows = [_ROW.fullmatch(line) for line in (ROOT / "docs" / "wire-cases.md").read_text().splitlines()]
    table = [(int(row[1]), row[2], row[3]) for row in rows if row]
    tests = {
        (path.name, name): numbers
        for path in _HERE.glob("test_*.py")
        if path != Path(__file__)
        for name, numbers in _tests_of(path)
    }
    assert [number for number, _, _ in table] == list(range(1, 74))
    assert [(number, name) for number, file, name in table if number not in tests.get((file, name), ())] == []
