"""Every dependency is pinned with hashes, all files of pins agree, and every licence is one that fits."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

from app.settings import ROOT

LOCKS = {
    "requirements.txt": "requirements.lock",
    "requirements-dev.txt": "requirements-dev.lock",
    "requirements-old-sdks.txt": "requirements-old-sdks.lock",
}
STALE = "run `make lock` and commit what it changes"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;\\]+)", re.MULTILINE)
_ENTRY = re.compile(r"^(?=[a-z0-9])", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")

PERMISSIVE = re.compile(
    r"\b(MIT|MIT-0|BSD|BSD-[23]-Clause|Apache|Apache-2\.0|ISC|PSF-2\.0|ZPL-2\.1|MPL-2\.0|MPL 2\.0)\b"
)

UNMODIFIED_LIBRARIES = {"pygal": "LGPL"}
"""Under a licence that asks for nothing as long as they are used as they are, and can be replaced."""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path) -> set[tuple[str, str]]:
    return {(normalised(name), version) for name, version in _PIN.findall(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_pinned_and_in_its_lock_file(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line.strip() and not line.startswith(("#", "-"))]
    assert [line for line in wanted if not _PIN.match(line)] == []
    assert pins(ROOT / name) - pins(ROOT / LOCKS[name]) == set(), STALE


@pytest.mark.parametrize("name", LOCKS.values())
def test_every_entry_of_a_lock_file_has_a_version_and_hashes(name: str) -> None:
    _, *entries = _ENTRY.split((ROOT / name).read_text(encoding="utf-8"))
    assert entries
    assert [entry.split()[0] for entry in entries if not (_PIN.match(entry) and _HASH.search(entry))] == []


def test_the_constraints_say_what_the_lock_files_say() -> None:
    constraints = pins(ROOT / "constraints.txt")
    assert constraints == pins(ROOT / "requirements-dev.lock"), STALE
    assert pins(ROOT / "requirements.lock") <= constraints, STALE


def licence_of(name: str) -> str:
    found = metadata(name)
    classifiers = [text for text in found.get_all("Classifier") or [] if text.startswith("License ::")]
    # Some put the whole text of their licence into this field; its first line names it.
    field = (found.get("License") or "").partition("\n")[0]
    return " ".join(filter(None, [found.get("License-Expression"), field, *classifiers]))


def test_what_is_shipped_has_a_licence_that_fits() -> None:
    others = {}
    for name, _ in sorted(pins(ROOT / "requirements.lock")):
        try:
            licence = licence_of(name)
        except PackageNotFoundError:
            continue  # for another platform
        if UNMODIFIED_LIBRARIES.get(name, "-") in licence:
            continue
        if not PERMISSIVE.search(licence) or re.search(r"\b[AL]?GPL", licence):
            others[name] = licence
    assert others == {}
