"""`weir backup FILE`: the whole database as one file, while the proxy runs."""

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from types import FrameType
from typing import Any

import click

from app import __version__
from app.backup.copying import collections_in_order, copy_database
from app.backup.format import BackupWriter
from app.cli.backup_progress import document_progress
from app.cli.base import Command, current_settings, fail, json_option
from app.cli.output import print_json
from app.cli.store import open_store
from app.common.clock import now_ms
from app.settings import Settings

Write = Callable[[bytes], object]

_STDOUT = "-"
_MODE = 0o600


@click.command("backup", cls=Command)
@click.argument("file", type=click.Path(path_type=str))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@json_option
def command(file: str, force: bool, as_json: bool) -> None:
    """Write the whole database into FILE (- is standard output), while the proxy runs or not.

    Keep SECRET_KEY (or DATA_DIR/secret-key), ADMIN_TOKEN and the model table as well: they are not in it.
    docs/backup.md says how consistent a backup is, and how to restore it.
    """
    if file == _STDOUT and as_json:
        raise click.UsageError("--json prints to standard output, and so does the backup to -: give a FILE")
    if file == _STDOUT and sys.stdout.isatty():
        raise click.UsageError("the backup is not printed on a terminal: give a FILE, or a pipe to -")
    settings = current_settings()
    started = time.monotonic()
    with _stopped_by_term(), _target(file, force=force) as write:
        writer, header = _copy(settings, write)
    seconds = time.monotonic() - started
    records, documents = writer.counts["request_logs"], sum(writer.counts.values())
    if as_json:
        print_json(
            {
                "file": file,
                "database": header["database"],
                "bytes": writer.size,
                "documents": dict(writer.counts),
                "seconds": round(seconds, 3),
            }
        )
    else:
        where = "" if file == _STDOUT else f" in {file}"
        click.echo(
            f"Backup of database {header['database']}{where}: {records:,} records and "
            f"{documents - records:,} other documents, {writer.size:,} bytes, {seconds:.1f} s.",
            err=file == _STDOUT,
        )


def _copy(settings: Settings, write: Write) -> tuple[BackupWriter, dict[str, Any]]:
    writer = BackupWriter(write)
    with open_store(settings, reads_only=True) as db:
        names = collections_in_order(db)
        total = sum(db[name].estimated_document_count() for name in names)
        header = {"weirVersion": __version__, "database": db.name}
        with document_progress("copying", total) as progress:
            copy_database(db, writer, header, now_ms, progress)
    return writer, header


@contextmanager
def _target(file: str, *, force: bool) -> Iterator[Write]:
    """Open where the backup goes; what was begun is taken away when it does not come to its end."""
    if file == _STDOUT:
        with _to_stdout() as write:
            yield write
        return
    path = Path(file).resolve()
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            fail(f"{file} is no regular file: give the name of a file to be made, or - for standard output")
        if not force:
            fail(f"{file} exists: give another name, or --force to replace it")
    draft = path.with_name(f".{path.name}.{token_hex(4)}.part")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    except OSError as error:
        fail(f"{path.parent}: {error.strerror}")
    try:
        with os.fdopen(handle, "wb", buffering=0) as out:
            yield lambda content: _write_all(out.fileno(), content)
            os.fsync(out.fileno())
        if force:
            draft.replace(path)
        else:
            os.link(draft, path)
    except FileExistsError:
        fail(f"{file} was made by somebody else meanwhile: give another name")
    except OSError as error:
        if error.filename is None or error.filename == str(draft):
            fail(f"{file} was not written: {error.strerror or error}")
        raise
    finally:
        draft.unlink(missing_ok=True)
    _sync_directory(path.parent)


@contextmanager
def _to_stdout() -> Iterator[Write]:
    sys.stdout.flush()
    try:
        yield lambda content: _write_all(sys.stdout.fileno(), content)
    except BrokenPipeError:
        fail("standard output was closed before the backup was complete")
    except OSError as error:
        if error.filename is None:
            fail(f"standard output: {error.strerror or error}")
        raise


def _write_all(handle: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _sync_directory(path: Path) -> None:
    with suppress(OSError):  # not every file system can
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _stopped_by_term() -> Iterator[None]:
    """Let SIGTERM end the command in order, with nothing left behind."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        fail("stopped before the backup was complete")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
