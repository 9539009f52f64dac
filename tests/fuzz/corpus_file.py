"""The kept corpus of a target: one input a line, each byte a character of a JSON string, shortest first."""

import json
from collections.abc import Iterable
from pathlib import Path

KEPT = Path(__file__).parent / "corpus"
MAX_BYTES = 60_000
"""What a target's corpus takes in the repository at most."""


def kept(name: str, directory: Path = KEPT) -> list[bytes]:
    """The inputs that are kept for a target."""
    path = directory / f"{name}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line).encode("latin-1") for line in path.read_text(encoding="ascii").splitlines()]


def keep(name: str, inputs: Iterable[bytes], directory: Path = KEPT) -> int:
    """Keep these inputs in the place of others, the shortest first and as many as fit; how many that are."""
    lines: list[str] = []
    left = MAX_BYTES
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        line = json.dumps(data.decode("latin-1")) + "\n"
        left -= len(line)
        if left < 0:
            break
        lines.append(line)
    (directory / f"{name}.jsonl").write_text("".join(lines), encoding="ascii")
    return len(lines)
