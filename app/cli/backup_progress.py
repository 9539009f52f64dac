"""How far a backup or a restore is, on standard error; nothing where that is no terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

_Documents = Callable[[str, int], object]


@contextmanager
def document_progress(doing: str, total: int) -> Iterator[_Documents]:
    """Show progress; yields what is to be told a collection's name and how many more documents are done."""
    with _bar(MofNCompleteColumn()) as bar:
        task = bar.add_task(doing, total=total)

        def note(name: str, count: int) -> None:
            bar.update(task, advance=count, description=f"{doing} {name}")

        yield note


@contextmanager
def byte_progress(doing: str, total: int) -> Iterator[Callable[[int], object]]:
    """Show progress; yields what is to be told how many more bytes are done."""
    with _bar(DownloadColumn()) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda count: bar.advance(task, count)


def _bar(amount: DownloadColumn | MofNCompleteColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        amount,
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
