"""Every dependency is pinned with hashes, all files of pins agree, and every licence is one that fits."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from app.cli.licenses import licence_in
from app.settings import ROOT
from tests.support.package_index import here

LOCKS = {
    "requirements.txt": "requirements.lock",
    "requirements-dev.txt": "requirements-dev.lock",
    "requirements-old-sdks.txt": "requirements-old-sdks.lock",
    "requirements-tools.txt": "requirements-tools.lock",
    "requirements-fuzz.txt": "requirements-fuzz.lock",
    "requirements-mutants.txt": "requirements-mutants.lock",
} | {
    str(path.relative_to(ROOT)): str(path.relative_to(ROOT).with_suffix(".lock"))
    for path in sorted((ROOT / "tests" / "clients" / "python").glob("*.txt"))
}
STALE = "run `make lock` and commit what it changes"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;\\]+)", re.MULTILINE)
_ENTRY = re.compile(r"^(?=[a-z0-9])", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")

PERMISSIVE = re.compile(
    r"\b(MIT|MIT-0|BSD|BSD-[23]-Clause|Apache|Apache-2\.0|ISC|PSF-2\.0|ZPL-2\.1|MPL-2\.0|MPL 2\.0)\b"
)


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


def wanted_by(path: Path) -> list[Requirement]:
    """What a requirements file names, and those it includes."""
    wanted = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            wanted += wanted_by(path.parent / line[3:])
        elif _PIN.match(line):
            wanted.append(Requirement(line.partition(" #")[0]))
    return wanted


def needs(name: str, extras: set[str]) -> Iterator[Requirement]:
    """What an installed distribution with these extras requires on this machine."""
    for text in requires(name) or []:
        requirement = Requirement(text)
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        ):
            yield requirement


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_a_lock_has_everything_that_what_it_has_requires(name: str) -> None:
    """Which is why set-up may install it without resolving anything."""
    locked = {pin.name: pin.version for pin in here((ROOT / f"{name}.lock").read_text(encoding="utf-8"))}
    asked = wanted_by(ROOT / f"{name}.txt")
    asked += [Requirement(f"{found}=={pinned}") for found, pinned in locked.items()]
    extras: dict[str, set[str]] = {}
    unmet = set()
    while asked:
        requirement = asked.pop()
        package = normalised(requirement.name)
        if package not in locked or locked[package] not in requirement.specifier:
            unmet.add(str(requirement))
        elif package not in extras or not requirement.extras <= extras[package]:
            extras[package] = extras.get(package, set()) | requirement.extras
            asked += needs(package, extras[package])
    assert unmet == set()


def test_the_environment_has_what_the_lock_says() -> None:
    locked = here((ROOT / "requirements-dev.lock").read_text(encoding="utf-8"))
    assert {pin.name: version(pin.name) for pin in locked} == {pin.name: pin.version for pin in locked}


def test_what_is_shipped_has_a_licence_that_fits() -> None:
    others = {}
    for name, _ in sorted(pins(ROOT / "requirements.lock")):
        try:
            licence = licence_in(metadata(name))
        except PackageNotFoundError:
            continue  # for another platform
        if not PERMISSIVE.search(licence) or re.search(r"\b[AL]?GPL", licence):
            others[name] = licence
    assert others == {}
