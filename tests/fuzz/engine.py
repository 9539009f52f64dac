"""Run one target under atheris: `python -m tests.fuzz.engine TARGET [libFuzzer's options] DIRECTORY…`."""

import shlex
import sys

import atheris

with atheris.instrument_imports(include=["app", "workers", "gunicorn.http"]):
    from tests.fuzz.targets import TARGETS


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer ends the process."""
    _, name, *options = arguments
    target = TARGETS[name]
    # For merging, libFuzzer has a shell run what it is called by.
    itself = f"{shlex.quote(sys.executable)} -m tests.fuzz.engine {name}"
    atheris.Setup([itself, f"-max_len={target.max_bytes}", *options], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
