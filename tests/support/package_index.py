"""A package index on disk that is ahead of a lock: every package as locked, and a newer release of each.

The packages are empty, but declare what the real ones of this environment declare, so that a resolver has the
same work with them.
"""

import hashlib
import io
import re
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.markers import Marker

NEWER = "9999.0"
_ENTRY = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?P<marker> ; .*?)?(?: \\)?$", re.MULTILINE)
_DECLARED = ("Requires-Python", "Provides-Extra", "Requires-Dist")


@dataclass(frozen=True)
class Pin:
    """An entry of a lock."""

    name: str
    version: str
    marker: str


def pins(lock: str) -> list[Pin]:
    """The entries of a lock's text."""
    return [Pin(found["name"], found["version"], found["marker"] or "") for found in _ENTRY.finditer(lock)]


def here(lock: str) -> list[Pin]:
    """The entries that are for this platform and this Python."""
    return [pin for pin in pins(lock) if not pin.marker or Marker(pin.marker.removeprefix(" ; ")).evaluate()]


class PackageIndex:
    """Packages in a directory, as pip looks for them at an index URL."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def url(self) -> str:
        return self._directory.as_uri()

    def offer(self, lock: str) -> str:
        """Have everything that a lock names, and newer; the lock with the hashes of what is here."""
        return "".join(
            f"{pin.name}=={pin.version}{pin.marker} --hash={self._offer(pin)}\n" for pin in pins(lock)
        )

    def _offer(self, pin: Pin) -> str:
        page = self._directory / pin.name
        page.mkdir(parents=True, exist_ok=True)
        wheels = {
            _wheel_name(pin.name, version): _wheel(pin.name, version) for version in (pin.version, NEWER)
        }
        for name, content in wheels.items():
            (page / name).write_bytes(content)
        (page / "index.html").write_text("".join(f'<a href="{name}">{name}</a>\n' for name in wheels))
        return f"sha256:{hashlib.sha256(wheels[_wheel_name(pin.name, pin.version)]).hexdigest()}"


def _wheel_name(name: str, version: str) -> str:
    return f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


def _wheel(name: str, version: str) -> bytes:
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{_declarations(name)}",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    dist_info = f"{name.replace('-', '_')}-{version}.dist-info"
    files["RECORD"] = "".join(f"{dist_info}/{file},,\n" for file in (*files, "RECORD"))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file, text in files.items():
            archive.writestr(zipfile.ZipInfo(f"{dist_info}/{file}"), text)
    return content.getvalue()


def _declarations(name: str) -> str:
    try:
        declared = metadata(name)
    except PackageNotFoundError:  # for another platform
        return ""
    return "".join(f"{field}: {value}\n" for field in _DECLARED for value in declared.get_all(field) or [])
