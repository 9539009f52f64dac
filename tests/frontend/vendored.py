"""What the dashboard's `static/vendor` says it has."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from simulator.launcher import ROOT

VENDOR = ROOT / "app" / "admin" / "static" / "vendor"


@dataclass(frozen=True, slots=True)
class Vendored:
    """A package, and which of its files are here under which name."""

    name: str
    version: str
    integrity: str
    license: str
    files: Mapping[str, str]
    sha256: Mapping[str, str]


def vendored() -> list[Vendored]:
    """Return what `vendor.json` lists."""
    return [Vendored(**package) for package in json.loads((VENDOR / "vendor.json").read_text())["packages"]]
