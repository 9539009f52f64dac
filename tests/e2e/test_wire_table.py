"""The table of wire cases and the tests say the same."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator.launcher import ROOT

_HERE = Path(__file__).parent
_ROW = re.compile(r"\| ([A-Z]?\d+) \| .+ \| .+ \| `(test_\w+\.py)::(test_\w+)` \|")


def _tests_of(path: Path) -> Iterator[tuple[str, set[str]]]:
    """The test functions of a file with the cases that their marks name."""
    spec = importlib.util.spec_from_file_location(f"table_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, function in vars(module).items():
        if name.startswith("test_"):
            yield name, set(_numbers(getattr(function, "pytestmark", [])))


def _numbers(marks: list[pytest.Mark]) -> Iterator[str]:
    for mark in marks:
        if mark.name == "wire":
            yield str(mark.args[0])
        elif mark.name == "parametrize":
            for value in mark.args[1]:
                yield from _numbers(getattr(value, "marks", []))


def test_every_case_has_the_test_the_table_names() -> None:
    sections = (ROOT / "docs" / "wire-cases.md").read_text().split("\n## ")
    tables = [[row for line in part.splitlines() if (row := _ROW.fullmatch(line))] for part in sections]
    table = [(row[1], row[2], row[3]) for rows in tables for row in rows]
    tests = {
        (path.name, name): numbers
        for path in _HERE.glob("test_*.py")
        if path != Path(__file__)
        for name, numbers in _tests_of(path)
    }
    for rows in tables:
        places = [_place(row[1]) for row in rows]
        for letter in {letter for letter, _ in places}:
            numbers = [number for of, number in places if of == letter]
            assert numbers == sorted(set(numbers))
    assert [(number, name) for number, file, name in table if number not in tests.get((file, name), ())] == []


def _place(number: str) -> tuple[str, int]:
    """Which letter a case has, if any, and its number: in each table those of a letter stand in order."""
    letter = number.rstrip("0123456789")
    return letter, int(number.removeprefix(letter))
