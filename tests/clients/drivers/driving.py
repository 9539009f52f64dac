"""What the drivers of Python libraries share. It imports nothing that does not come with Python.

A driver is run as `python DRIVER.py ASK` with `WEIR_URL`, `WEIR_KEY` and `WEIR_MODEL` set; it prints the
answer, or ends with whatever its library raises.
"""

import os
import sys
from collections.abc import Callable, Iterator

URL, KEY, MODEL = (os.environ[f"WEIR_{name}"] for name in ("URL", "KEY", "MODEL"))
"""Where Weir is, without a path; the client key; the model to ask for."""
ENDPOINT = os.environ.get("WEIR_ENDPOINT", "")
"""Which endpoint to use, where a library has several."""
PROMPT = os.environ["WEIR_PROMPT"]
QUESTION = [{"role": "user", "content": PROMPT}]


def look(query: str, limit: int = 5, exact: bool = True) -> str:
    """Look into the note."""
    return f"{query}: {open('note.txt').read().strip()}"


LOOK = {
    "type": "object",
    "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}, "exact": {"type": "boolean"}},
    "required": ["query"],
}
"""The JSON schema of its arguments."""


def drive(plain: Callable[[], str], streamed: Callable[[], Iterator[str]], tool: Callable[[], str]) -> None:
    """Do what the command line asks for."""
    ask = sys.argv[1]
    if ask in ("plain", "tool"):
        print(plain() if ask == "plain" else tool())
        return
    pieces = streamed()
    for piece in pieces:
        print(piece, end="", flush=True)
        if ask == "cancel" and piece:
            pieces.close()  # type: ignore[attr-defined]  they are generators: their streams are closed
            print("\nstopped")
            return
    print()
