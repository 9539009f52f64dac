"""Looks over files to be committed: whitespace, size, private keys. `python -m tests.support.tidy FILE…`"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_BYTES = 500_000
RAW_SUFFIXES = frozenset((".sse", ".http", ".bin", ".png"))
"""Bytes as they were on the wire, or no text at all: their whitespace is theirs."""
VENDORED = "vendor"
"""Where files lie that are as their package has them."""

_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{20}")


def problems(path: Path) -> Iterator[str]:
    """What is wrong with a file, in words."""
    data = path.read_bytes()
    if len(data) > MAX_BYTES:
        yield f"is larger than {MAX_BYTES // 1000} kB"
    if _PRIVATE_KEY.search(data):
        yield "holds a private key"
    if path.suffix in RAW_SUFFIXES or VENDORED in path.parts or not data:
        return
    if b"\r" in data:
        yield "has carriage returns"
    for number, line in enumerate(data.splitlines(), start=1):
        if line.rstrip(b" \t") != line:
            yield f"line {number} ends in whitespace"
    if not data.endswith(b"\n") or data.endswith(b"\n\n"):
        yield "does not end in one line end"


def main(names: list[str]) -> int:
    """Print what is wrong; 1 if anything is."""
    found = [
        f"{name}: {problem}" for name in names if Path(name).is_file() for problem in problems(Path(name))
    ]
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
