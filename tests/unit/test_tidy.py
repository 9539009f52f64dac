"""The repository's files, and links between its documents."""

import re
import subprocess
from pathlib import Path

import pytest

from app.settings import ROOT
from tests.support.tidy import MAX_BYTES, problems


def committed(pattern: str = "") -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", *filter(None, [pattern])], cwd=ROOT, capture_output=True, text=True
    )
    return [ROOT / name for name in names.stdout.splitlines() if (ROOT / name).is_file()]


def test_every_file_is_tidy() -> None:
    found = {str(path.relative_to(ROOT)): list(problems(path)) for path in committed()}
    assert len(found) > 100
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"x \n", "line 1 ends in whitespace"),
        (b"x", "does not end in one line end"),
        (b"x\n\n", "does not end in one line end"),
        (b"x\r\n", "has carriage returns"),
        (b"-----BEGIN " + b"PRIVATE KEY-----\n" + b"A" * 64 + b"\n", "holds a private key"),
        (b"x" * MAX_BYTES + b"\n", "is larger than 500 kB"),
    ],
)
def test_what_is_not_is_found(data: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_bytes(data)
    assert problem in list(problems(path))


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        (str(path.relative_to(ROOT)), target)
        for path in committed("*.md")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert broken == []
