"""`make matrix`: which interpreters are tried out, and what the table says of them."""

import sys
from pathlib import Path

import pytest

from tools.matrix import SUPPORTED, Interpreter, Row, candidates, not_found, probe, summary, supported, table

DEBIAN = Interpreter("3.11.2", Path("/usr/bin/python3.11"))
NEWER = Interpreter("3.13.0", Path("/opt/python3.13"))


def test_supported_interpreters_are_tried_once_each_the_oldest_first() -> None:
    old = Interpreter("3.10.13", Path("/usr/bin/python3.10"))
    last = Interpreter("3.11.10", Path("/opt/python3.11"))
    assert supported([NEWER, last, DEBIAN, None, old, DEBIAN]) == [DEBIAN, last, NEWER]


def test_versions_that_are_not_there_are_said() -> None:
    assert not_found([DEBIAN, NEWER]) == [
        "3.12: not on this machine, not tested",
        "3.14: not on this machine, not tested",
    ]


def test_every_place_of_the_path_is_looked_at_and_every_version_of_pyenv(tmp_path: Path) -> None:
    for version in ("3.12.1", "3.11.7"):
        (tmp_path / "versions" / version / "bin").mkdir(parents=True)
        (tmp_path / "versions" / version / "bin" / "python").touch()
    found = list(candidates("/first:/second:", tmp_path))
    assert {Path("/first/python3.11"), Path("/second/python3.14"), Path("/usr/bin/python3.12")} <= set(found)
    assert found[-2:] == [tmp_path / f"versions/{version}/bin/python" for version in ("3.11.7", "3.12.1")]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("...\n3 failed, 10 passed, 1 skipped in 1.20s\n", "3 failed, 10 passed, 1 skipped"),
        ("4101 passed, 2 skipped in 783.34s (0:13:03)\n", "4101 passed, 2 skipped"),
        ("make: *** no rule\n", ""),
    ],
)
def test_what_pytest_says_at_its_end_is_what_the_table_says(output: str, said: str) -> None:
    assert summary(output) == said


def test_the_table_has_a_line_for_each_interpreter() -> None:
    failed = Row(DEBIAN, "23.0.1", {"set-up": "ok", "tests": "FAILED"}, 61.6)
    untouched = Row(NEWER, steps={"tests": "by make check"})
    assert table([failed, untouched]).splitlines() == [
        "Python  pip     set-up  tests          demo  seconds",
        "3.11.2  23.0.1  ok      FAILED         -     62",
        "3.13.0  -       -       by make check  -     0",
    ]
    assert (failed.failed, untouched.failed) == (True, False)


def test_a_program_that_is_no_python_is_passed_over() -> None:
    assert probe(Path("/bin/false")) is None
    assert probe(Path("/nowhere/python3.11")) is None


def test_the_interpreter_of_a_virtual_environment_is_the_one_behind_it() -> None:
    found = probe(Path(sys.executable))
    assert found is not None
    assert found.minor in SUPPORTED
    assert found == probe(found.path)
