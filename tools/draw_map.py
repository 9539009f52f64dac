"""`make map`: draw which room of `app` may know which, and does, from the code (docs/images/rooms.svg).

Rooms are rows and columns in the order of the import contract. A dot says that the room of its row imports
the one of its column; it may only be one further down, so every dot is above the diagonal. The picture
changes only when a room comes to know another, or does not any more.
"""

import ast
import re
import sys
import tomllib
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "rooms.svg"

_ROW, _CELL = 22, 20
_NAME_X, _PURPOSE_X, _FIRST_X = 12, 140, 560
_TOP = 108
_LONGEST = 72  # characters of a purpose that fit beside a name


def layers() -> list[list[str]]:
    """Return the rooms' names by layer, highest first, as the import contract in pyproject.toml has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (rooms,) = [contract for contract in contracts if contract.get("containers") == ["app"]]
    return [[room.strip() for room in layer.split("|")] for layer in rooms["layers"]]


def imports() -> set[tuple[str, str]]:
    """Return the pairs of rooms of which the first imports something of the second."""
    graph = grimp.build_graph("app", cache_dir=None)
    pairs = {
        (_room(module), _room(imported))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    }
    return {(importer, imported) for importer, imported in pairs if importer != imported}


def purposes(rooms: list[str]) -> dict[str, str]:
    """Return the first sentence of what each room says of itself."""
    found = {}
    for room in rooms:
        path = ROOT / "app" / room
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        doc = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        sentence = re.split(r"[.;]\s", doc.splitlines()[0] + " ")[0].rstrip(" .")
        found[room] = sentence if len(sentence) <= _LONGEST else sentence.split(":")[0]
    return found


def svg() -> str:
    """Draw the picture."""
    by_layer, known = layers(), imports()
    rooms = [room for layer in by_layer for room in layer]
    said = purposes(rooms)
    row = {room: index for index, room in enumerate(rooms)}
    right = _FIRST_X + len(rooms) * _CELL
    parts: list[str] = []
    top = 0
    for number, layer in enumerate(by_layer):
        place = f'y="{_TOP + top * _ROW}" height="{len(layer) * _ROW}"'
        shade = "#f4f5f7" if number % 2 else "#e9ecf1"
        parts.append(f'<rect x="0" {place} width="{right + 12}" fill="{shade}"/>')
        top += len(layer)
    for room in rooms:
        x, y = _center(row[room], row[room])
        parts.append(f'<text x="{_NAME_X}" y="{y + 4}">{escape(room)}</text>')
        parts.append(f'<text x="{_PURPOSE_X}" y="{y + 4}" class="said">{escape(said[room])}</text>')
        parts.append(f'<text transform="translate({x + 4} {_TOP - 8}) rotate(-60)">{escape(room)}</text>')
        parts.append(f'<rect x="{x - 4}" y="{y - 4}" width="8" height="8" fill="#9aa3b2"/>')
    for importer, imported in sorted(known):
        if importer not in row or imported not in row:
            continue  # the package itself, and files that any room may read
        x, y = _center(row[imported], row[importer])
        parts.append(f'<circle cx="{x}" cy="{y}" r="5"><title>{importer} imports {imported}</title></circle>')
    height = _TOP + len(rooms) * _ROW + 12
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 60} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#1c2430">'
        "<title>The rooms of app: a dot says that the room of its row imports the one of its column</title>"
        "<style>circle{fill:#2f5fd0;fill-opacity:.8}.said{font-size:11px;fill:#5d6675}</style>"
        f'<rect width="{right + 60}" height="{height}" fill="#fff"/>'
    )
    return "\n".join((head, *parts, "</svg>", ""))


def _center(column: int, row: int) -> tuple[float, float]:
    return _FIRST_X + (column + 0.5) * _CELL, _TOP + (row + 0.5) * _ROW


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def main() -> int:
    """Draw it, or with `--check` say whether the picture there is what would be drawn."""
    drawn = svg()
    if sys.argv[1:] == ["--check"]:
        if PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == drawn:
            return 0
        print(f"{PICTURE.relative_to(ROOT)} is not what the code is: make map", file=sys.stderr)
        return 1
    PICTURE.write_text(drawn, encoding="utf-8")
    print(f"drawn: {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
